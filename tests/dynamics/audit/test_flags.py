"""The flags, from evidence made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ontogeny.dynamics.audit import Entry, Evidence, examine
from ontogeny.errors import OntogenyError

STEPS = (0, 1, 2, 4, 8, 16)


def entry(step: int, **known: object) -> Entry:
    return replace(Entry(f"step{step}", step, float(step), f"{step:064x}", 1000, "F16"), **known)


def audit(*entries: Entry, main: Entry | None = None, **projections: np.ndarray):
    return examine(Evidence("somewhere", entries, main), projections)


def flagged(*entries: Entry, main: Entry | None = None) -> dict[str, list[str]]:
    return {name: list(flags) for name, flags in audit(*entries, main=main).flags.items()}


def series(**changed: dict[str, object]) -> list[Entry]:
    return [entry(step, **changed.get(f"step{step}", {})) for step in STEPS]


def test_a_sound_series_is_ok() -> None:
    found = audit(*series(), main=entry(16, name="main"))
    assert found.flags == {} and found.findings == ()
    assert {found.verdict(f"step{step}") for step in STEPS} == {"ok"}
    assert found.verdict("step9") == "unaudited"


def test_the_same_files_are_duplicates_and_name_each_other() -> None:
    found = audit(*series(step4={"digest": "a"}, step16={"digest": "a"}))
    assert {name: found.verdict(name) for name in found.flags} == {"step4": "duplicate", "step16": "duplicate"}
    assert found.reason("step4") == "the same weights as step16"
    assert found.reason("step1") == ""


def test_the_last_step_stays_where_it_equals_main() -> None:
    entries = series(step4={"digest": "a"}, step16={"digest": "a"})
    assert flagged(*entries, main=entry(0, name="main", digest="a")) == {"step4": ["duplicate"]}
    assert set(flagged(*entries, main=entry(0, name="main", digest="b"))) == {"step4", "step16"}
    assert set(flagged(*series(step4={"digest": "a"}, step8={"digest": "a"}), main=entry(0, digest="a"))) == {
        "step4",
        "step8",
    }


@pytest.mark.parametrize("steps", [(0, 1), (0, 2), (0, 1, 2)])
def test_steps_before_training_moves_anything_may_be_the_same(steps) -> None:
    found = audit(*series(**{f"step{step}": {"digest": "a"} for step in steps}))
    assert found.flags == {}
    assert "have the same weights" in found.findings[0] and "step0" in found.findings[0]


@pytest.mark.parametrize("steps", [(1, 2), (0, 4), (0, 1, 4)])
def test_others_may_not(steps) -> None:
    assert set(flagged(*series(**{f"step{step}": {"digest": "a"} for step in steps}))) == {f"step{s}" for s in steps}


def test_projections_find_the_same_weights_in_other_files() -> None:
    rng = np.random.default_rng(0)
    made = {f"step{step}": rng.normal(size=64) for step in STEPS}
    made["step8"] = made["step2"] * (1 + 1e-11)
    assert set(audit(*series(), **made).flags) == {"step2", "step8"}
    made["step8"] = made["step2"] * (1 + 1e-6)
    assert audit(*series(), **made).flags == {}
    del made["step8"]
    assert audit(*series(), **made).flags == {}


def test_a_file_of_another_checkpoint_is_found_in_the_set() -> None:
    def parts(step: int, first: str = "") -> dict[str, object]:
        return {"parts": {"model-1": first or f"a{step}", "model-2": f"b{step}", "model-3": "frozen"}}

    entries = series(**{f"step{step}": parts(step) for step in STEPS})
    assert audit(*entries).flags == {}
    entries[3] = entry(4, **parts(4, first="a16"))
    found = audit(*entries, main=entry(16, name="main"))
    assert {name: found.reason(name) for name in found.flags} == {"step4": "shares 1 of 3 weight files with step16"}
    assert set(audit(*entries).flags) == {"step4", "step16"}


def test_tokens_must_grow_with_the_step() -> None:
    assert flagged(*series(step8={"tokens": 1.0})) == {"step8": ["out of order"]}
    assert flagged(*series(step1={"tokens": 50.0})) == {"step1": ["out of order"]}
    assert flagged(*series(step2={"tokens": 1.0}, step4={"tokens": None})) == {}  # rounded, unknown


def test_of_two_that_are_exchanged_nothing_tells_which_is_right() -> None:
    assert set(flagged(*series(step2={"tokens": 4.0}, step4={"tokens": 2.0}))) == {"step2", "step4"}
    assert set(flagged(*series(step0={"tokens": 9.0}, step16={"tokens": -1.0}))) == {"step0", "step16"}


def test_a_trainers_record_of_another_step_is_out_of_order() -> None:
    found = audit(*series(step8={"trained": 80}, step4={"trained": 4}))
    assert {name: found.reason(name) for name in found.flags} == {"step8": "its trainer_state.json states step 80"}


def test_another_dtype_or_twice_the_size() -> None:
    found = audit(*series(step2={"dtype": "F32", "size": 2000}))
    assert {name: found.reason(name) for name in found.flags} == {"step2": "stored in F32, most in F16"}
    unknown = {f"step{step}": {"dtype": None} for step in STEPS}
    assert flagged(*series(**unknown | {"step2": {"dtype": None, "size": 1600}})) == {"step2": ["dtype"]}
    assert flagged(*series(**unknown | {"step2": {"dtype": None, "size": 1400}})) == {}
    assert flagged(*series(**unknown | {"step2": {"dtype": None, "size": 600}})) == {"step2": ["dtype"]}


@pytest.mark.parametrize("steps", [(0, 1, 2), (0, 1), (8, 16)])
def test_a_precision_that_changes_for_good_is_a_finding(steps) -> None:
    found = audit(*series(**{f"step{step}": {"dtype": "F32"} for step in steps}))
    assert found.flags == {}
    assert found.findings == (f"stored in several precisions: F16 ({6 - len(steps)}), F32 ({len(steps)})",)
    sizes = {f"step{step}": {"dtype": None, "size": 2000 if step in steps else 1000} for step in STEPS}
    assert audit(*series(**sizes)).flags == {}


@pytest.mark.parametrize(("many", "are"), [(3, True), (4, False)])
def test_a_few_in_a_row_are_strays_and_more_a_change(many, are) -> None:
    steps = range(1, 13)
    entries = [entry(step, dtype="F32" if 5 <= step < 5 + many else "F16") for step in steps]
    assert set(flagged(*entries)) == {f"step{step}" for step in range(5, 5 + many) if are}


def test_precisions_that_take_turns_have_no_strays() -> None:
    assert flagged(*(entry(step, dtype="F32" if step % 2 else "F16") for step in range(1, 13))) == {}


def test_what_is_the_same_by_files_and_by_weights_is_one_group() -> None:
    rng = np.random.default_rng(0)
    made = {f"step{step}": rng.normal(size=64) for step in STEPS}
    made["step8"] = made["step4"]
    found = audit(*series(step2={"digest": "a"}, step8={"digest": "a"}), **made)
    assert found.reason("step2") == "the same weights as step8, step4"


def test_many_partners_are_counted_and_few_named() -> None:
    few = audit(*series(**{f"step{step}": {"digest": "a"} for step in (2, 4, 8, 16)}))
    assert few.reason("step4") == "the same weights as step16, step8, step2"
    many = audit(*series(**{f"step{step}": {"digest": "a"} for step in (1, 2, 4, 8, 16)}))
    assert many.reason("step4") == "the same weights as step16 and 3 more"


def test_a_last_step_unlike_main_is_a_finding_that_names_who_holds_it() -> None:
    assert audit(*series(), main=entry(99, name="main")).findings == (
        "differs from main: the weights of the last step, step16, are not those of main",
    )
    assert audit(*series(), main=entry(4, name="main")).findings == (
        "differs from main: the weights of the last step, step16, are not those of main, which holds those of step4",
    )
    assert audit(*series(), main=entry(99, name="main", digest=None, problem="not listed: x")).findings == ()


def test_off_trend_is_judged_without_the_duplicates() -> None:
    steps = range(12)
    path = {f"step{step}": np.cumsum(np.random.default_rng(0).normal(size=(12, 64)), axis=0)[step] for step in steps}
    path["step3"] = path["step10"] + 1e-3
    found = audit(*(entry(step) for step in steps), **path)
    assert {name: list(flags) for name, flags in found.flags.items()} == {"step3": ["off trend"]}
    path["step3"] = path["step10"]
    found = audit(*(entry(step) for step in steps), **path)
    assert {name: list(flags) for name, flags in found.flags.items()} == {
        "step3": ["duplicate"],
        "step10": ["duplicate"],
    }


def test_a_checkpoint_without_a_step_is_on_no_path() -> None:
    path = np.cumsum(np.random.default_rng(0).normal(size=(8, 64)), axis=0)
    entries = [entry(-1, name="other"), *(entry(step) for step in range(7))]
    projections = {one.name: place for one, place in zip(entries, path[[7, *range(7)]], strict=True)}
    projections["other"] = path[6] + 1e-3
    assert audit(*entries, **projections).flags == {}


def test_no_path_is_said() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(2, 64))
    there_and_back = {f"step{step}": places[step % 2] + 1e-3 * rng.normal(size=64) for step in range(12)}
    found = audit(*(entry(step) for step in range(12)), **there_and_back)
    assert found.flags == {} and "follow no one path" in found.findings[0]


def test_several_flags_are_joined() -> None:
    found = audit(*series(step4={"trained": 3, "dtype": "F32"}))
    assert found.verdict("step4") == "out of order, dtype"


def test_one_alone_or_without_evidence_is_unaudited() -> None:
    assert audit(entry(4)).verdict("step4") == "unaudited"
    found = audit(*series(step4={"digest": None, "problem": "not listed: x"}))
    assert found.verdict("step4") == "unaudited" and found.verdict("step8") == "ok"
    nothing = [entry(step, digest=None, problem="not listed: x") for step in STEPS]
    assert {audit(*nothing).verdict(f"step{step}") for step in STEPS} == {"unaudited"}


def test_missing_steps_are_a_finding_where_all_are_in_sight() -> None:
    entries = tuple(entry(step) for step in (0, 1, 143_000))
    evidence = Evidence("EleutherAI/pythia-2.8b", entries)
    assert examine(evidence).findings == (
        "missing steps: 2, 4, 8 and 148 more, by the published grid of Pythia (arXiv 2304.01373)",
    )
    assert examine(replace(evidence, whole=False)).findings == ()


def test_evidence_survives_json_and_refuses_another_format() -> None:
    evidence = Evidence("x", tuple(series(step4={"parts": {"a": "b"}})), entry(16, name="main"), whole=False)
    assert Evidence.from_dict(evidence.to_dict()) == evidence
    for spoiled in ({**evidence.to_dict(), "format": 2}, {"format": 1}, {**evidence.to_dict(), "entries": [{}]}):
        with pytest.raises(OntogenyError, match="evidence of an audit"):
            Evidence.from_dict(spoiled)
