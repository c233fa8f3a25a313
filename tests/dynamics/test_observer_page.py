"""The loop in docs/observer.md runs as it stands and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "observer.md"


def test_the_loop_on_the_page_runs(capsys):
    loop = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "import torch" in code)
    exec(compile(loop, str(PAGE), "exec"), {})
    steps, rates = capsys.readouterr().out.splitlines()
    assert f"print(dataset.step.values)  # {steps}\n" in loop
    assert rates.count(".") == 8
