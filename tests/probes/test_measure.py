"""The dataset of a capture by hand is that of a scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.dynamics.audit.verdicts import PROJECTION
from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.kernels.masks import sliding_window
from ontogeny.probes import DEFINITIONS, ProbeSettings, make_probes
from ontogeny.probes.capture import Trace, run_pass
from ontogeny.probes.capture.wanted import EVERYTHING
from tests.models import tiny, tiny_falcon, token_ids

SEQUENCES, LENGTH = 6, 40


def scanned(model, batch_size):
    corpus = Corpus("random", token_ids(SEQUENCES, LENGTH).numpy(), "auto")
    probes = make_probes(None, ProbeSettings(LENGTH, 16))
    return measure_checkpoint(model, corpus, probes, batch_size, Progress()).drop_vars("batch_size")


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
    assert set(found.data_vars) == set(scan.data_vars) - {PROJECTION}
    for name in found.data_vars:
        np.testing.assert_array_equal(found[name], scan[name], err_msg=name)


def padded(ids, left, right):
    """Tokens with padding around them, as a call of the model has them: the tokens' positions count from 0."""
    length = ids.shape[1]
    mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
    positions = (torch.arange(left + length + right) - left).clamp(0, length - 1)[None]
    return {"input_ids": torch.nn.functional.pad(ids, (left, right)), "attention_mask": mask, "position_ids": positions}


@pytest.mark.parametrize(
    ("length", "left", "right"), [(40, 5, 0), (40, 0, 60), (12, 3, 9), (300, 0, 300), (300, 100, 0)]
)
def test_padding_changes_no_number_of_the_tokens(length, left, right):
    model, ids = tiny("llama", max_position_embeddings=600), token_ids(2, length)
    with ontogeny.capture(model, needs=EVERYTHING) as trace:
        model(**padded(ids, left, right))
    found = ontogeny.measure(trace, positions=None)
    plain = ontogeny.measure(run_pass(model, ids, needs=EVERYTHING), positions=None)
    assert {"walk_entropy", "context_distance", "secondary_sinks", "update_norm"} <= set(plain.data_vars)
    assert (plain.support_90 > 0).all() and bool((plain.head_class > 0).all()) == (length == 300)
    for name, expected in plain.data_vars.items():
        got = found[name]
        if "position" in got.dims:
            outside = [*range(left), *range(left + length, left + length + right)]
            assert got.isel(position=outside).isnull().all(), name
            got = got[..., left : left + length]
        elif name in ("top_position", "top_sink_position", "secondary_position"):
            got = got.where(got < 0, got - left)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_sequence_without_a_key_is_in_no_mean_over_it(batch_size):
    """Of three sequences the second and third are padded, on the left and on the right, to a third of the length."""
    model, ids, mask = tiny("llama"), token_ids(3, 45), torch.ones(3, 45, dtype=torch.long)
    mask[1, :30], mask[2, 15:] = 0, 0
    with ontogeny.capture(model) as trace:
        for start in range(0, 3, batch_size):
            model(ids[start : start + batch_size], attention_mask=mask[start : start + batch_size])
    found = ontogeny.measure(trace, positions=None)
    alone = []
    for n in range(3):
        alone.append(ontogeny.measure(run_pass(model, ids[n : n + 1], mask[n : n + 1]), positions=None))
    for name in ("sink_score", "sink_rate", "act_sink_rate", "value_norm", "update_norm", "waiver_rate"):
        for keys, having in ((slice(15), (0, 2)), (slice(15, 30), (0,)), (slice(30, 45), (0, 1))):
            expected = np.mean([alone[n][name].values[..., keys] for n in having], axis=0)
            np.testing.assert_allclose(found[name][..., keys], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    assert found.top_sink_position[0].min() >= 0 and (found.top_sink_position[1:] == -1).all()


def test_a_class_of_heads_needs_256_tokens_that_are_no_padding():
    model, ids, mask = tiny("llama", max_position_embeddings=300), token_ids(2, 300), torch.ones(2, 300).long()
    mask[:, 255:] = 0
    assert (ontogeny.measure(run_pass(model, ids, mask)).head_class == 0).all()
    mask[1, 255] = 1
    some, alone = run_pass(model, ids, mask), run_pass(model, ids[1:, :256])
    np.testing.assert_array_equal(ontogeny.measure(some).head_class, ontogeny.measure(alone).head_class)
    assert (ontogeny.measure(alone).head_class > 0).all()


def test_heads_whose_rows_see_no_key_have_no_numbers():
    model = tiny("llama")
    with ontogeny.attending(model, mask_mod=lambda b, h, i, j: h != 2), ontogeny.capture(model) as trace:
        model(token_ids(2, LENGTH))
    found = ontogeny.measure(trace)
    for name in ("sink_score", "sink_rate", "value_norm", "waiver_rate", "attention_entropy", "attention_distance"):
        assert found[name].sel(head=2).isnull().all() and found[name].drop_sel(head=2).notnull().all(), name
    assert (found.support_90.sel(head=2) == -1).all() and (found.support_90.drop_sel(head=2) > 0).all()
    assert found.support_90.attrs["none"] == -1


def test_positions_are_kept_as_asked():
    trace = by_hand(tiny("llama"), 3)
    assert ontogeny.measure(trace, positions=3).sizes["position"] == 3
    assert ontogeny.measure(trace, positions=1000).sizes["position"] == LENGTH
    whole = ontogeny.measure(trace, positions=None)
    assert whole.sizes["position"] == LENGTH and whole.attrs["positions"] == "all"


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
    with pytest.raises(
        OntogenyError, match=r"no probe is left: massive needs residual \(not asked for\); capture with more `needs`"
    ):
        ontogeny.measure(trace, probes=["massive"])


def test_attention_that_is_unavailable_is_said():
    trace = by_hand(tiny_falcon(), 3)
    assert ontogeny.measure(trace).attrs["attention"].startswith("unavailable: FalconModel")
    with pytest.raises(OntogenyError, match=r"attention is unavailable: FalconModel.*ask for the probe massive"):
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
    with pytest.raises(
        OntogenyError, match="expected a transformers model or a TransformerBridge with input_ids, a Tr"
    ):
        ontogeny.measure("llama")


def test_a_dataset_says_by_what_mechanism_the_model_attended():
    model, ids = tiny("llama"), token_ids(2, 20)
    with ontogeny.attending(model, "sigmoid", mask_mod=sliding_window(4)), ontogeny.capture(model) as trace:
        model(ids)
    dataset = ontogeny.measure(trace)
    assert dataset.attrs["mechanism"] == "sigmoid" and "sliding_window" in dataset.attrs["mask_mod"]
    mass = torch.stack([layer.mass.mean(0) for layer in trace.layers])
    np.testing.assert_allclose(dataset.attention_mass, mass, rtol=1e-6)
    assert (dataset.attention_mass != 1).all()


def test_softmax_gives_all_of_a_rows_attention_to_its_keys_and_a_sink_takes_a_share():
    ids = token_ids(2, 20)
    masses = {}
    for family in ("llama", "gpt_oss"):
        with ontogeny.capture(model := tiny(family)) as trace:
            model(ids)
        masses[family] = ontogeny.measure(trace).attention_mass.values
        assert "mechanism" not in ontogeny.measure(trace).attrs
    np.testing.assert_allclose(masses["llama"], 1, rtol=1e-6)
    assert (masses["gpt_oss"] < 0.999).all()


@pytest.mark.parametrize("positions", [0, 2.5, "all"])
def test_positions_that_make_no_sense_are_refused(positions):
    with ontogeny.capture(model := tiny("llama")) as trace:
        model(token_ids(1, 20))
    with pytest.raises(UsageError, match="positions: expected a whole number"):
        ontogeny.measure(trace, positions=positions)
    assert "massive_ratio" not in ontogeny.measure(trace, probes="sinks")
