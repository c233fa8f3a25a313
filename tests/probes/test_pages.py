"""Every probe and experiment has a page that names what it measures, and the index lists them all."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.probes import EXPERIMENTS, PROBES, ProbeSettings, make_probes
from ontogeny.probes.registry import DEFAULT
from tests.models import tiny, token_ids

PAGES = Path(__file__).parents[2] / "docs" / "probes"
LENGTH = 40


def page(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


@cache
def measured(name):
    """What the probe or experiment makes of a tiny model."""
    corpus = Corpus("random", token_ids(2, LENGTH).numpy(), "auto")
    found = measure_checkpoint(tiny("llama"), corpus, make_probes([name], ProbeSettings(LENGTH)), 2, Progress())
    assert found.data_vars, found.attrs
    return found


def rows_of(text):
    """The tables' rows as {name in the first cell: the second cell}."""
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", text, re.MULTILINE)
    return {name: cell for names, cell in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("name", [*PROBES, *EXPERIMENTS])
def test_a_page_names_every_variable(name):
    named = set(re.findall(r"`(\w+)`", page(name)))
    assert {str(variable) for variable in measured(name).data_vars} - named == set()


@pytest.mark.parametrize("name", PROBES)
def test_a_probes_table_gives_its_variables_and_their_dimensions_and_no_others(name):
    found = measured(name)
    dimensions = {str(variable): ", ".join(map(str, values.dims)) for variable, values in found.data_vars.items()}
    table = page(name).split("\n## Variables\n")[1].split("\n## ")[0]
    assert rows_of(table) == dimensions


@pytest.mark.parametrize("name", PROBES)
def test_a_probes_page_names_its_source(name):
    sources = {values.attrs["source"].removeprefix("arXiv:") for values in measured(name).data_vars.values()}
    references = page(name).split("\n## References and tests\n")[1]
    assert [one for one in sources if one not in references] == []


def test_the_index_lists_every_page_and_what_runs_by_default():
    index = page("README")
    assert [name for name in (*PROBES, *EXPERIMENTS) if f"[{name}]({name}.md)" not in index] == []
    assert [one.stem for one in PAGES.glob("*.md") if one.stem != "README" and f"({one.name})" not in index] == []
    default = dict(re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \| (yes|no) \|", index, re.MULTILINE))
    assert default == {name: "yes" if name in DEFAULT else "no" for name in PROBES}


@pytest.mark.parametrize("name", ["README", *PROBES])
def test_tests_that_a_page_names_are_there(name):
    root = PAGES.parents[1]
    assert [one for one in re.findall(r"`(tests/[\w/]+\.py)`", page(name)) if not (root / one).is_file()] == []
