"""Folders that a scan cannot be kept in, or that hold a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.bad.row import SMALL, Row, corpus, nothing, options


def scanned(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """A scan that was done before, in `scan`; the caller makes it, `change` spoils it."""

    def make(tmp: Path) -> None:
        import ontogeny

        ontogeny.scan(str(tmp / "run"), tmp / "scan", steps="1", sequences=2, length=20)
        change(tmp / "scan")

    return make


def text(name: str, contents: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(contents)


FIT = ("fit", "{tmp}/scan")
FOLDERS = [
    Row(
        "foreign files in the folder",
        lambda t: ((t / "scan").mkdir(), text("thesis.tex", "")(t / "scan")),
        1,
        r"holds files that are no scan \(thesis\.tex\)",
    ),
    Row("a file for a folder", corpus("scan", "text"), 1, "cannot write to .*scan"),
    Row(
        "a folder in a file",
        corpus("file", "text"),
        1,
        "cannot write to",
        ("scan", "{tmp}/run", "--out", "{tmp}/file/scan", *SMALL),
    ),
    Row(
        "a scan with other settings",
        scanned(lambda f: None),
        1,
        "holds a scan with other settings .sequences 2, not 3",
        options("--sequences", "3"),
    ),
    Row("a scan.json cut short", scanned(text("scan.json", '{"format": 1, "set')), 1, r"scan\.json cannot be read"),
    Row(
        "a scan.json that is a list",
        scanned(text("scan.json", "[]")),
        1,
        r"scan\.json holds a list, expected a JSON object",
    ),
    Row(
        "a scan.json of another format",
        scanned(text("scan.json", '{"format": 99}')),
        1,
        "holds a scan of format 99, this version reads",
    ),
    Row(
        "a scan.json of other settings",
        scanned(text("scan.json", '{"format": 1, "settings": {"a": 1}}')),
        1,
        "settings are those of another version",
    ),
    Row(
        "a failures.json that is damaged",
        scanned(text("failures.json", "{")),
        1,
        r"failures\.json cannot be read .*remove it",
    ),
    Row(
        "a measured checkpoint that is damaged",
        scanned(text("checkpoints/step1/zarr.json", "{")),
        1,
        "the measurements in .*step1 are damaged .*remove that folder",
        options("--steps", "1"),
    ),
    Row(
        "a measured checkpoint that is damaged, with more to measure",
        scanned(text("checkpoints/step1/zarr.json", "{")),
        1,
        "failed: step2: the measurements in .*step1 are damaged",
    ),
    Row("no scan to fit", lambda t: (t / "scan").mkdir(), 1, "scan holds no scan: expected a folder that", FIT),
    Row("a damaged scan to fit", scanned(text("scan.json", "{")), 1, r"scan\.json cannot be read", FIT),
    Row("no scan to report", nothing, 1, "holds no scan", ("report", "{tmp}/scan", "--out", "{tmp}/r.html")),
]
