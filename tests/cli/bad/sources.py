"""Names, folders and files that are no series, or not one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from tests.cli.bad.row import Row, corpus, neox, nothing, source
from tests.gguf_files import write_llama
from tests.models import tiny
from tests.state_dict_files import save_config


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


def run_twice(first: str, second: str) -> Callable[[Path], object]:
    return lambda tmp: [shutil.copytree(tmp / "run" / "step1", tmp / "two" / name) for name in (first, second)]


def files_twice(tmp: Path) -> None:
    folder = save_config(tmp / "two", tiny("gpt_neox"))
    for name in ("step7.pt", "epoch=3-step=7.ckpt"):
        torch.save(neox(), folder / name)


def cut_gguf(tmp: Path) -> None:
    file = write_llama(tmp / "whole.gguf", tiny("llama"))
    (tmp / "a.gguf").write_bytes(file.read_bytes()[:-500])


SOURCES = [
    Row(
        "folders of one step",
        run_twice("step5", "checkpoint-5"),
        1,
        "checkpoint-5 and step5 in .* both state step 5",
        source("{tmp}/two"),
    ),
    Row(
        "steps that parse to one number",
        run_twice("step5", "step005"),
        1,
        "step005 and step5 in .* both state step 5",
        source("{tmp}/two"),
    ),
    Row(
        "files of one step",
        files_twice,
        1,
        r"epoch=3-step=7\.ckpt and step7\.pt in .* both state step 7",
        source("{tmp}/two"),
    ),
    Row(
        "a name that states no step",
        run_twice("first", "step1"),
        1,
        "first holds a checkpoint but its name states no step",
        source("{tmp}/two"),
    ),
    Row("a step without end", run_twice("step1", "step" + "9" * 40), 1, "its name states no step", source("{tmp}/two")),
    Row("a link to itself", lambda t: loop(t / "loop"), 2, "unknown source .*loop'", source("{tmp}/loop")),
    Row("a link to itself in the series", lambda t: loop(t / "run" / "step3"), 0, "measured step2 .2/2"),
    Row(
        "a link to the series in the series",
        lambda t: (t / "run" / "step3").symlink_to(t / "run"),
        0,
        "measured step2 .2/2",
    ),
    Row(
        "a link to nothing",
        lambda t: (t / "link").symlink_to(t / "gone"),
        2,
        "unknown source .*link'",
        source("{tmp}/link"),
    ),
    Row(
        "a link to nothing in the series",
        lambda t: (t / "run" / "step3").symlink_to(t / "gone"),
        0,
        "measured step2 .2/2",
    ),
    Row("a name that is too long", nothing, 2, "unknown source 'xxx", source("x" * 5000)),
    Row("a name that is misspelt", nothing, 2, "unknown source 'pokcet': expected a Hub id", source("pokcet")),
    Row("an empty name", nothing, 2, "unknown source ''", source("")),
    Row("a file of another kind", corpus("a.txt", "text"), 2, r"unknown source .*a\.txt'", source("{tmp}/a.txt")),
    Row(
        "an empty folder",
        lambda t: (t / "empty").mkdir(),
        1,
        "empty holds no checkpoint: expected config.json",
        source("{tmp}/empty"),
    ),
    Row(
        "an empty .gguf", corpus("a.gguf", b""), 1, r"a\.gguf has a header that cannot be read", source("{tmp}/a.gguf")
    ),
    Row(
        "a .gguf cut short", cut_gguf, 1, r"a\.gguf is cut short: expected \d+ bytes, found \d+", source("{tmp}/a.gguf")
    ),
    Row(
        "a .gguf that is something else",
        corpus("a.gguf", b"PK\x03\x04" * 99),
        1,
        "does not begin with the letters GGUF",
        source("{tmp}/a.gguf"),
    ),
    Row(
        "an empty .pt",
        lambda t: (save_config(t / "e", tiny("gpt_neox")), (t / "e" / "step1.pt").touch()),
        1,
        r"step1\.pt cannot be read",
        source("{tmp}/e/step1.pt"),
    ),
]
