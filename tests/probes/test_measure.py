"""The dataset of a capture by hand is that of a scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes import DEFINITIONS, ProbeSettings, make_probes
from ontogeny.probes.capture import Trace, run_pass
from tests.models import tiny, tiny_falcon, token_ids

SEQUENCES, LENGTH = 6, 40


def scanned(model, batch_size):
    corpus = Corpus("random", token_ids(SEQUENCES, LENGTH).numpy(), "auto")
    probes = make_probes(None, ProbeSettings(LENGTH, 16))
    return measure_checkpoint(model, corpus, probes, batch_size, Progress())


def by_hand(model, batch_size, **options):
    with ontogeny.capture(model, **options) as trace:
        for batch in token_ids(SEQUENCES, LENGTH).split(batch_size):
            model(batch)
    return trace


@pytest.mark.parametrize("batch_size", [2, 4, SEQUENCES])
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "opt", "bert"])
def test_the_numbers_are_those_of_the_scan(family, batch_size):
    found = ontogeny.measure(by_hand(tiny(family), batch_size))
    expected = scanned(tiny(family), batch_size)
    assert set(found.data_vars) == set(expected.data_vars) and set(found.coords) == set(expected.coords)
    for name, variable in expected.data_vars.items():
        np.testing.assert_array_equal(found[name], variable, err_msg=name)
        assert found[name].dims == variable.dims and found[name].attrs == variable.attrs
    assert expected.attrs.items() <= found.attrs.items()
    assert found.attrs["length"] == LENGTH and found.attrs["positions"] == 16
    assert found.attrs["definitions"] == DEFINITIONS and found.attrs["attention"] == "captured"


def test_the_numbers_are_those_of_a_scan_of_the_series():
    scan = ontogeny.scan("pocket", steps="1000", sequences=8).dataset.isel(checkpoint=0)
    series = ontogeny.open_series("pocket")
    model = next(one for one in series.checkpoints if one.step == 1000).load()
    with ontogeny.capture(model) as trace:
        model(torch.from_numpy(series.task(8, 64)))
    found = ontogeny.measure(trace)
    assert set(found.data_vars) == set(scan.data_vars)
    for name in scan.data_vars:
        np.testing.assert_array_equal(found[name], scan[name], err_msg=name)


def test_padding_changes_no_number_of_the_tokens():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), ids], dim=1)
    mask, positions = (padded > 0).long(), (torch.arange(LENGTH + 5) - 5).clamp_min(0)[None]
    with ontogeny.capture(model) as trace:
        model(padded, attention_mask=mask, position_ids=positions)
    found, plain = ontogeny.measure(trace, positions=None), ontogeny.measure(run_pass(model, ids), positions=None)
    np.testing.assert_allclose(found.sink_score[..., 5:], plain.sink_score, rtol=1e-4, atol=1e-6)
    assert (found.sink_score[..., :5] == 0).all() and (found.value_norm[..., :5] == 0).all()
    np.testing.assert_allclose(found.value_norm[..., 5:], plain.value_norm, rtol=1e-4)
    for name in ("attention_entropy", "attention_distance", "participation_ratio", "top_activation"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-4, err_msg=name)
    np.testing.assert_array_equal(found.top_position - 5, plain.top_position)


def test_positions_are_kept_as_asked():
    trace = by_hand(tiny("llama"), 3)
    assert ontogeny.measure(trace, positions=3).sizes["position"] == 3
    assert ontogeny.measure(trace, positions=1000).sizes["position"] == LENGTH
    whole = ontogeny.measure(trace, positions=None)
    assert whole.sizes["position"] == LENGTH and whole.attrs["positions"] == "all"
    with pytest.raises(UsageError, match="at least one position, got 0"):
        ontogeny.measure(trace, positions=0)


def test_probes_by_name():
    found = ontogeny.measure(by_hand(tiny("llama"), 3), probes=["massive"])
    assert "massive_ratio" in found and "sink_rate" not in found
    with pytest.raises(UsageError, match="unknown probe waives"):
        ontogeny.measure(by_hand(tiny("llama"), 3), probes=["waives"])


@pytest.mark.parametrize(
    ("needs", "there", "left_out"),
    [("residual", "massive_ratio", "sink_rate"), ("attention", "sink_rate", "massive_ratio")],
)
def test_probes_that_need_what_was_not_captured_are_left_out(needs, there, left_out):
    found = ontogeny.measure(by_hand(tiny("llama"), 3, needs={needs}))
    assert there in found and left_out not in found


def test_where_no_probe_is_left_that_is_an_error():
    trace = by_hand(tiny("llama"), 3, needs={"attention"})
    with pytest.raises(OntogenyError, match="need more than attention: capture with more `needs`"):
        ontogeny.measure(trace, probes=["massive"])


def test_attention_that_is_unavailable_is_said():
    trace = by_hand(tiny_falcon(), 3)
    assert ontogeny.measure(trace).attrs["attention"].startswith("unavailable: FalconModel")
    with pytest.raises(OntogenyError, match="attention is unavailable: FalconModel"):
        ontogeny.measure(trace, probes=["sinks"])


def test_notes_of_a_trace_are_attributes_of_its_dataset():
    model = tiny("llama")
    with ontogeny.capture(model) as trace:
        model(token_ids(1, LENGTH))
    trace.notes["weights_processed"] = "folded"
    assert ontogeny.measure(trace).attrs["weights_processed"] == "folded"


def test_what_is_no_trace_or_an_empty_one_is_refused():
    with pytest.raises(OntogenyError, match="the trace is empty"):
        ontogeny.measure(Trace())
    with pytest.raises(OntogenyError, match="expected a Trace"):
        ontogeny.measure(tiny("llama"))
