"""BibTeX for what was measured: every source has its entry, nothing is made up, and it parses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ontogeny
from ontogeny.bibliography import ARXIV_ID, references, works_named
from ontogeny.errors import UsageError
from ontogeny.probes.capture.wanted import EVERYTHING
from ontogeny.probes.registry import PROBES
from tests.models import tiny, token_ids

ROOT = Path(__file__).parents[1]
RECORD = (ROOT / "ontogeny" / "data" / "references.bib").read_text(encoding="utf-8")
UNKNOWN = "1301.00001"


def parse(text):
    """Entries as {key: (kind, fields, the comment above)}, by brace counting; fails on whatever is not BibTeX."""
    entries, place = {}, 0
    while (start := text.find("@", place)) >= 0:
        head = re.compile(r"@(\w+)\{([\w:.-]+),").match(text, start)
        assert head, text[start : start + 80]
        depth, end = 1, head.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        fields, rest = {}, text[head.end() : end - 1]
        while rest.strip():
            field = re.match(r"\s*(\w+) = \{", rest)
            assert field, rest
            depth, stop = 1, field.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(rest[stop], 0) if rest[stop - 1] != "\\" else 0
                stop += 1
            fields[field[1]] = rest[field.end() : stop - 1]
            assert rest[stop] == ",", rest
            rest = rest[stop + 1 :]
        assert head[2] not in entries, head[2]
        comment = text[place:start].strip().rsplit("\n\n", 1)[-1]
        entries[head[2]] = (head[1], fields, " ".join(line.removeprefix("% ") for line in comment.splitlines()))
        place = end
    assert all(line.startswith("% ") for line in text[place:].split("\n") if line)
    return entries


def dataset_of(sources, **attributes):
    variables = {name: ((), 0.0, {} if source is None else {"source": source}) for name, source in sources.items()}
    return xr.Dataset(variables, attrs=attributes)


@pytest.fixture(scope="module")
def everything():
    """A dataset with the variables of every probe."""
    model = tiny("llama")
    with ontogeny.capture(model, needs=EVERYTHING) as trace:
        model(token_ids(2, 20))
    return ontogeny.measure(trace, probes=list(PROBES))


def written_ids():
    """Every arXiv id that the package's code and the documentation name, with a file that does."""
    files = [*(ROOT / "ontogeny").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    return {one: str(file) for file in files for one in ARXIV_ID.findall(file.read_text(encoding="utf-8"))}


def test_every_id_that_is_named_anywhere_is_on_record():
    ids = written_ids()
    assert len(ids) > 20
    missing = {one: file for one, file in ids.items() if one not in references()}
    assert not missing


def test_the_record_is_whole_sorted_and_escaped():
    entries = parse(RECORD)
    assert list(entries) == sorted(entries) and len(entries) == RECORD.count("@")
    assert set(entries) == {key for key, _ in references().values()}
    assert RECORD.isascii()
    eprints = [fields["eprint"] for _, fields, _ in entries.values() if "eprint" in fields]
    assert len(eprints) == len(set(eprints)) and all(map(ARXIV_ID.fullmatch, eprints))
    for key, (kind, fields, _) in entries.items():
        assert {"author", "title", "year"} <= set(fields), key
        assert key.endswith(fields["year"]) and re.fullmatch(r"(19|20)\d\d", fields["year"]), key
        assert {"inproceedings": "booktitle", "article": "journal", "misc": "eprint"}[kind] in fields, key
        assert not re.search(r"(?<!\\)[&%$#_]", "".join(fields.values())), key


def test_every_variable_stands_above_the_entry_of_its_source(everything):
    entries = parse(ontogeny.citations(everything))
    assert len(everything.data_vars) > 30
    for name, variable in everything.data_vars.items():
        (work,) = works_named(variable.attrs["source"])
        assert name in entries[references()[work][0]][2].split(", "), name
    assert list(entries)[1:] == sorted(list(entries)[1:])
    assert "not recorded" not in ontogeny.citations(everything)


def test_ontogeny_is_named_by_the_version_that_measured(everything):
    entries = parse(ontogeny.citations(everything))
    kind, fields, _ = entries["ontogeny"]
    assert kind == "misc" and set(fields) == {"author", "title", "note"}
    assert fields["author"] == "{The Ontogeny developers}"
    assert fields["note"] == f"Python package, version {ontogeny.__version__}"
    older = parse(ontogeny.citations(everything.assign_attrs(ontogeny_version="0.0.9")))
    assert older["ontogeny"][1]["note"].endswith("version 0.0.9")


def test_a_scan_and_its_fits_are_cited():
    scan = ontogeny.scan("pocket", steps="0,1,2,4,8,16", sequences=2, probes=["massive"])
    entries = parse(ontogeny.citations(scan))
    assert entries == parse(ontogeny.citations(scan.dataset))
    assert {"achlioptas2003", "johnson1984", "sun2024"} < set(entries)
    assert entries["johnson1984"][2] == "weight_projection"
    fitted = parse(ontogeny.citations(ontogeny.fit(scan)))
    assert set(fitted) == {"ontogeny", "gallegofeliciano2025"}
    assert "the attribute curve_source" in fitted["gallegofeliciano2025"][2]


def test_what_is_not_on_record_is_not_made_up():
    entries = parse(ontogeny.citations(dataset_of({"a": f"arXiv:{UNKNOWN}v3", "b": "Nobody and Someone 1999"})))
    assert entries[f"arxiv{UNKNOWN}"] == (
        "misc",
        {"eprint": UNKNOWN, "archiveprefix": "arXiv", "note": "Title and authors are not recorded"},
        "a",
    )
    assert entries["nobody1999"][1] == {"note": "Named in the dataset; title and authors are not recorded"}


def test_a_variable_may_rest_on_several_works():
    sources = {"b": "arXiv:2410.10781, 2402.17762", "a": "Sun et al. 2024, arXiv:2402.17762"}
    text = ontogeny.citations(dataset_of(sources))
    entries = parse(text)
    assert entries["gu2025"][2] == "b" and entries["sun2024"][2] == "a, b"
    assert text == ontogeny.citations(dataset_of({"a": "arXiv:2402.17762", "b": "arXiv:2402.17762 2410.10781"}))


def test_the_series_is_no_work_and_a_source_without_a_work_is_said():
    text = ontogeny.citations(dataset_of({"a": "a letter", "b": None}, source="someone/replica-of-arXiv:2410.10781"))
    assert set(parse(text)) == {"ontogeny"}
    assert text.endswith("% no work is named as the source of a: a letter\n")


def test_the_mechanism_is_cited():
    model = tiny("llama")
    with ontogeny.attending(model, mechanism="sigmoid"), ontogeny.capture(model) as trace:
        model(token_ids(1, 20))
    entries = parse(ontogeny.citations(ontogeny.measure(trace)))
    assert entries["ramapuram2024"][2] == "the mechanism sigmoid"
    assert "(a mechanism that is not known here)" in ontogeny.citations(dataset_of({}, mechanism="hearsay"))


def test_no_name_or_version_breaks_the_entries():
    hostile = "x@misc{y,\n@string{z"
    text = ontogeny.citations(dataset_of({hostile: "arXiv:2410.10781", "n": hostile}, ontogeny_version="1_{2}%\\"))
    assert parse(text)["ontogeny"][1]["note"] == r"Python package, version 1\_2\%"
    assert set(parse(text)) == {"ontogeny", "gu2025"}


@pytest.mark.parametrize("what", [None, "scans/mine", np.zeros(3), xr.DataArray(0.0)])
def test_what_is_no_dataset_is_refused(what):
    with pytest.raises(UsageError, match="expected a dataset, or a scan that carries one, got"):
        ontogeny.citations(what)


def test_the_public_name_is_no_module_of_the_same_name():
    assert callable(ontogeny.citations) and ontogeny.citations is ontogeny.citations
