"""The audit of a series of 154 revisions, laid out as pythia-2.8b is, of a stand-in for the Hub."""

from __future__ import annotations

import json
from time import perf_counter

import pytest

import ontogeny
from ontogeny.dynamics.audit import gather
from ontogeny.dynamics.sources.hub import open_hub
from tests.hub_server import Fault, Repository, serve

pytestmark = pytest.mark.usefixtures("online")

ID = "EleutherAI/pythia-2.8b"
STEPS = [0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)]
LAST = {*STEPS[:11], *range(1000, 54_000, 1000), 55_000, 60_000, 65_000, 70_000, 80_000, 90_000}
LAST |= {100_000, 103_000, 110_000, 120_000, 130_000, 140_000}
LATE = {54_000, 56_000, 57_000, 58_000, 59_000, 61_000, 62_000, 63_000, 64_000, 143_000}
CONFIG = json.dumps(
    {"model_type": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
).encode()


def files(weights: bytes) -> dict[str, bytes]:
    """A revision; the `.bin` beside safetensors is another everywhere, and is not what is loaded."""
    return {"config.json": CONFIG, "model.safetensors": weights, "pytorch_model.bin": b"other"}


def repository() -> Repository:
    served = {step: b"last" if step in LAST else b"late" if step in LATE else b"%4d" % (step // 1000) for step in STEPS}
    return Repository({"main": files(b"last"), **{f"step{step}": files(served[step]) for step in STEPS}})


def test_one_listing_a_revision_eight_at_a_time_and_no_weights(tmp_path) -> None:
    assert (len(STEPS), len(LAST), len(LATE)) == (154, 76, 10)
    with serve({ID: repository()}) as hub:
        hub.faults.append(Fault("/tree/", status=None, times=155, delay=0.02))
        series = open_hub(ID, endpoint=hub.endpoint, cache_dir=tmp_path)
        before, start = len(hub.requests), perf_counter()
        found = ontogeny.audit(series)
        seconds = perf_counter() - start
    assert seconds < 10
    assert all("/tree/" in request for request in hub.requests[before:])
    assert len(hub.listings()) == len(set(hub.listings())) == 155  # 154 steps and main; one of them on opening
    assert 5 <= hub.most_at_once <= 8
    assert hub.downloaded() == {"config.json"}
    bad = {f"step{step}" for step in LAST | LATE}
    assert set(found.flags) == bad and len(bad) == 86
    assert {found.verdict(name) for name in bad} == {"duplicate"}
    assert {found.verdict(f"step{step}") for step in set(STEPS) - LAST - LATE} == {"ok"}
    assert found.reason("step143000") == "the same weights as step64000 and 8 more"
    assert found.findings == (
        "differs from main: the weights of the last step, step143000, are not those of main, which holds those of "
        "step0, step1, step2 and 73 more",
    )


def test_a_listing_that_fails_is_reported_and_not_guessed(tmp_path) -> None:
    with serve({ID: repository()}) as hub:
        series = open_hub(ID, endpoint=hub.endpoint, cache_dir=tmp_path)
        hub.faults.append(Fault(f"/tree/{hub.repositories[ID].sha('step66000')}", times=99))
        hub.faults.append(Fault(f"/tree/{hub.repositories[ID].sha('step67000')}", times=2))
        found = ontogeny.audit(series)
    [lost] = found.evidence.unlisted()
    assert lost.name == "step66000" and lost.digest is None
    assert lost.problem.startswith(f"not listed: the Hub could not be asked for {ID}")
    assert found.verdict("step66000") == "unaudited" and found.verdict("step67000") == "ok"


def test_folders_of_main_share_its_listing(tmp_path) -> None:
    inside = {f"step{step}/{name}": text for step in range(5) for name, text in files(b"%d" % (step // 2)).items()}
    with serve({ID: Repository({"main": inside})}) as hub:
        evidence = gather(open_hub(ID, endpoint=hub.endpoint, cache_dir=tmp_path))
        assert len(hub.listings()) == 1
    assert [entry.size for entry in evidence.entries] == [1] * 5
    assert [evidence.entries[place].digest == evidence.entries[0].digest for place in range(5)] == [True, True] + 3 * [
        False
    ]
    assert evidence.main is None and not list(evidence.unlisted())  # beside its folders it holds no weights
