"""What to cite for a dataset: the works that its variables name as their sources, as BibTeX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import resources

import xarray as xr

from ontogeny.dataset import HasDataset
from ontogeny.errors import UsageError
from ontogeny.version import __version__

ARXIV_ID = re.compile(r"(?<![\d.])\d{2}(?:0[1-9]|1[0-2])\.\d{4,5}(?!\d)")
_AUTHOR_AND_YEAR = re.compile(r"\b([A-ZÀ-Þ][^\W\d_]+)(?: and [^\W\d_]+| et al\.)? ((?:19|20)\d{2})\b")
_ENTRY = re.compile(r"^@\w+\{([^,\s]+),.*?^\}$", re.MULTILINE | re.DOTALL)
_EPRINT = re.compile(r"^\s*eprint = \{([\d.]+)\}", re.MULTILINE)


def citations(dataset: xr.Dataset | HasDataset) -> str:
    """BibTeX of Ontogeny and of every work that `dataset` rests on, in the order of their keys.

    `dataset` is that of a scan, of `measure` or of `fit`, or a scan itself. A comment above each entry names the
    variables and attributes that rest on it. A work that is not on record has an entry without title and authors, with
    a note that says so; a source that names no work is listed in a comment. The version is that which measured.

    Raises UsageError for what is no dataset.
    """
    found = dataset if isinstance(dataset, xr.Dataset) else getattr(dataset, "dataset", None)
    if not isinstance(found, xr.Dataset):
        raise UsageError(f"expected a dataset, or a scan that carries one, got {type(dataset).__name__}")
    entries: dict[str, str] = {}
    resting: dict[str, list[str]] = {}
    unnamed = []
    for name, source in _sources(found):
        works = dict(_entry(work) for work in works_named(source))
        entries |= works
        for key in works:
            resting.setdefault(key, []).append(name)
        if not works:
            unnamed.append(_comment(f"no work is named as the source of {name}: {source}"))
    parts = [_ontogeny(str(found.attrs.get("ontogeny_version", __version__)))]
    parts += [f"{_comment(', '.join(resting[key]))}\n{entries[key]}" for key in sorted(entries)]
    return "\n\n".join(parts + unnamed) + "\n"


def works_named(source: str) -> list[str]:
    """The works that a `source` names: arXiv ids, and keys such as `johnson1984` for a first author and a year."""
    named = _AUTHOR_AND_YEAR.findall(source)
    return ARXIV_ID.findall(source) + [f"{author.lower()}{year}" for author, year in named]


@cache
def references() -> dict[str, tuple[str, str]]:
    """The works on record: key and entry of each, under its key and, where it has one, its arXiv id."""
    text = resources.files("ontogeny").joinpath("data", "references.bib").read_text(encoding="utf-8")
    found = {}
    for match in _ENTRY.finditer(text):
        eprint = _EPRINT.search(match[0])
        for name in (match[1], eprint[1]) if eprint else (match[1],):
            found[name] = (match[1], match[0])
    return found


def _sources(dataset: xr.Dataset) -> Iterator[tuple[str, str]]:
    """Names of variables, and of attributes, with the sources that they state.

    The attribute `source` of a dataset is where its checkpoints come from, which is no work.
    """
    for name in sorted(dataset.variables, key=str):
        source = dataset.variables[name].attrs.get("source")
        if source:
            yield str(name), str(source)
    for name, value in sorted(dataset.attrs.items(), key=str):
        if str(name).endswith("_source"):
            yield f"the attribute {name}", str(value)
    if "mechanism" in dataset.attrs:
        yield _mechanism(str(dataset.attrs["mechanism"]))


def _mechanism(described: str) -> tuple[str, str]:
    from ontogeny.kernels.mechanisms import MECHANISMS  # it takes torch, which nothing else here does

    known = MECHANISMS.get(described.split(" ")[0])
    return f"the mechanism {described}", f"arXiv:{known.source}" if known else "(a mechanism that is not known here)"


def _entry(work: str) -> tuple[str, str]:
    """Key and entry of a work; without title and authors, where they are not on record."""
    if work in references():
        return references()[work]
    if not ARXIV_ID.fullmatch(work):
        return work, f"@misc{{{work},\n  note = {{Named in the dataset; title and authors are not recorded}},\n}}"
    key = f"arxiv{work}"
    fields = (f"eprint = {{{work}}}", "archiveprefix = {arXiv}", "note = {Title and authors are not recorded}")
    return key, f"@misc{{{key},\n" + "".join(f"  {field},\n" for field in fields) + "}"


def _ontogeny(version: str) -> str:
    note = f"Python package, version {_escaped(version)}"
    return (
        f"{_comment('what measured')}\n@misc{{ontogeny,\n  author = {{{{The Ontogeny developers}}}},\n"
        f"  title = {{Ontogeny}},\n  note = {{{note}}},\n}}"
    )


def _comment(text: str) -> str:
    """Lines that BibTeX passes over, which it does between entries: an entry begins with an at sign."""
    plain = " ".join(text.replace("@", "(at)").split())
    return textwrap.fill(plain, 110, initial_indent="% ", subsequent_indent="% ", break_on_hyphens=False)


def _escaped(text: str) -> str:
    """Text as BibTeX takes it inside braces: TeX's special characters escaped, braces and backslashes left out."""
    return re.sub(r"([&%$#_])", r"\\\1", re.sub(r"[{}\\^~]", "", text))
