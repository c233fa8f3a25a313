"""Every source gives the same numbers: a model, a bridge, a cache, arrays, a trace and a scan."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import xarray as xr

import ontogeny
from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.probes import ProbeSettings, make_probes, registry
from tests.models import tiny, token_ids
from tests.probes.sources import arrays_of

LENGTH = 24
PROBES = ["sinks", "secondary", "waivers", "massive", "contexts", "walks", "clusters"]
BRIDGED = ["gpt2", "gpt_neox", "llama", "mistral", "gemma2"]
needs_lens = pytest.mark.skipif(find_spec("transformer_lens") is None, reason="needs pip install ontogeny[lens]")


def double(family, **changes):
    model = tiny(family, **changes).double()
    if family == "gpt_oss":
        model.set_experts_implementation("eager")  # its grouped product knows no float64
    return model


def repeating(sequences=3, length=LENGTH):
    """Token ids in which some tokens come twice, which `contexts` compares."""
    return token_ids(sequences, length) % 20 + 3


def padded():
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, -5:], mask[1, -11:] = 0, 0
    return mask


def assert_same(found, expected, rtol, atol=1e-12):
    assert set(found.data_vars) == set(expected.data_vars) and dict(found.sizes) == dict(expected.sizes)
    for name, variable in expected.data_vars.items():
        if np.issubdtype(variable.dtype, np.floating):
            np.testing.assert_allclose(found[name], variable, rtol=rtol, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], variable, err_msg=name)
        assert found[name].dims == variable.dims and found[name].attrs == variable.attrs


@pytest.mark.parametrize("family", BRIDGED)
def test_a_model_gives_the_numbers_of_a_scan_and_of_a_trace(family):
    ids = repeating()
    found = ontogeny.measure(double(family), ids, probes=PROBES, batch_size=2)
    chosen = make_probes(PROBES, ProbeSettings(LENGTH, 16))
    scanned = measure_checkpoint(double(family), Corpus("random", ids.numpy(), "auto"), chosen, 3, Progress())
    assert_same(found, scanned.drop_vars("batch_size"), 1e-12)
    with ontogeny.capture(
        model := double(family), needs={"attention", "residual", "contexts", "walks", "clusters"}
    ) as trace:
        model(ids)
    assert_same(ontogeny.measure(trace, probes=PROBES), found, 1e-12)
    assert found.attrs["attention"] == found.attrs["residual"] == found.attrs["update_norm"] == "captured"
    assert found.attrs["length"] == LENGTH and "unavailable" not in str(found.attrs)
    assert (found.context_sequences > 0).all() and found.walk_entropy.notnull().all()


@pytest.mark.usefixtures("finite_eager_masks")
@pytest.mark.parametrize("with_padding", [False, True])
@pytest.mark.parametrize("family", [*BRIDGED, "bert", "opt"])
def test_arrays_give_the_numbers_of_the_model(family, with_padding):
    ids, mask = repeating(), padded() if with_padding else None
    expected = ontogeny.measure(double(family), ids, attention_mask=mask, probes=PROBES)
    arrays = arrays_of(double(family), ids, mask)
    assert_same(ontogeny.measure(arrays, probes=PROBES), expected, 1e-10)
    eager = arrays_of(double(family), ids, mask, eager=True)
    assert_same(ontogeny.measure(eager, probes=PROBES), expected, 1e-4)


def test_stacked_numpy_arrays_are_as_good_as_lists_of_tensors():
    arrays = arrays_of(double("gemma2"), repeating())
    stacked = {name: np.stack([np.asarray(one) for one in given]) for name, given in arrays.items()}
    assert_same(ontogeny.measure(stacked, probes=PROBES), ontogeny.measure(arrays, probes=PROBES), 0)


@needs_lens
@pytest.mark.parametrize("family", BRIDGED)
def test_a_bridge_and_its_cache_give_the_numbers_of_the_model(boot, family):
    ids = repeating()
    expected = ontogeny.measure(double(family), ids, probes=PROBES)
    bridge = boot(double(family))
    bridged = ontogeny.measure(bridge, ids, probes=PROBES, batch_size=2)
    assert_same(bridged, expected, 1e-4)
    _, cache = bridge.run_with_cache(ids)
    found = ontogeny.measure(cache, probes=PROBES)
    assert_same(found, expected, 1e-4)
    assert found.attrs == bridged.attrs == expected.attrs


@needs_lens
@pytest.mark.parametrize("family", BRIDGED)
def test_padding_is_the_same_to_a_bridge_its_cache_and_the_model(boot, family):
    """In float32: float64 rows of padding that a window hides all of are NaN in a bridge, which is refused."""
    ids, mask, probes = repeating(), padded(), [name for name in PROBES if name != "walks"]
    expected = ontogeny.measure(tiny(family), ids, attention_mask=mask, probes=probes)
    bridge = boot(tiny(family))
    assert_same(ontogeny.measure(bridge, ids, attention_mask=mask, probes=probes), expected, 1e-4, atol=1e-6)
    _, cache = bridge.run_with_cache(ids, attention_mask=mask)
    assert_same(ontogeny.measure(cache, probes=probes), expected, 1e-4, atol=1e-6)


@needs_lens
def test_a_trace_of_a_cache_has_what_is_asked_for(boot):
    _, cache = boot(double("llama")).run_with_cache(repeating())
    assert ontogeny.trace_of(cache).available == {"attention", "values", "residual"}
    alone = ontogeny.trace_of(cache, needs={"contexts"})
    assert alone.available == {"residual", "contexts"} and alone.attention == "not asked for"
    walks = ontogeny.trace_of(cache, needs={"walks"})
    assert walks.available == {"attention", "values", "walks"} and walks.residual == "not asked for"


def test_a_share_that_a_sink_logit_takes_counts_where_it_is_given():
    model, ids = double("gpt_oss"), repeating()
    expected, arrays = ontogeny.measure(model, ids, probes=PROBES), arrays_of(double("gpt_oss"), ids)
    shares = [1 - one.sum(-1) for one in arrays["attention"]]
    assert_same(ontogeny.measure({**arrays, "sink_share": shares}, probes=PROBES), expected, 1e-6)
    without = ontogeny.measure(arrays, probes=PROBES)
    differing = [name for name in without.data_vars if not np.allclose(without[name], expected[name], equal_nan=True)]
    assert set(differing) == {"attention_entropy", "participation_ratio"}
    row = arrays["attention"][0][0, 0, -1]
    own = row / row.sum()
    trace = ontogeny.trace_of_arrays(attention=arrays["attention"], visible=arrays["visible"])
    entropies = [torch.special.entr(one / one.sum()).sum() for one in arrays["attention"][0][0, 0]]
    assert torch.special.entr(own).sum() == entropies[-1]
    torch.testing.assert_close(trace.layers[0].entropy[0, 0], torch.stack(entropies).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_reduced_in_float32(dtype):
    arrays = arrays_of(tiny("llama"), repeating())
    for name in ("attention", "values", "hidden_states", "output_projections"):
        arrays[name] = [one.to(dtype) for one in arrays[name]]
    trace = ontogeny.trace_of_arrays(**arrays)
    layer, depth = trace.layers[1], trace.depths[1]
    assert {layer.entropy.dtype, layer.update_norm.dtype, depth.median_activation.dtype} == {torch.float32}
    exact = ontogeny.trace_of_arrays(**arrays_of(tiny("llama"), repeating())).layers[1]
    torch.testing.assert_close(layer.column_mass, exact.column_mass, rtol=0.02, atol=0.02)


def test_what_arrays_lack_is_left_out_and_said():
    arrays = arrays_of(tiny("llama"), repeating())
    whole = ontogeny.measure(arrays, probes=PROBES)
    maps = ontogeny.measure({"attention": arrays["attention"]}, probes=PROBES)
    assert maps.sink_score.equals(whole.sink_score) and "value_norm" not in maps and "top_activation" not in maps
    assert maps.attrs["waivers"] == "unavailable: it needs values"
    assert maps.attrs["residual"] == "unavailable: `hidden_states` was not given"
    assert maps.attrs["massive"] == f"unavailable: it needs residual ({maps.attrs['residual']})"
    assert maps.attrs["contexts"] == "unavailable: it needs contexts"
    assert maps.attrs["walks"] == "unavailable: it needs walks" and "sinks" not in maps.attrs
    valued = ontogeny.measure({"attention": arrays["attention"], "values": arrays["values"]})
    assert valued.waiver_rate.equals(whole.waiver_rate) and "update_norm" not in valued
    assert valued.attrs["update_norm"] == "unavailable: `output_projections` was not given"
    states = ontogeny.measure({name: arrays[name] for name in ("hidden_states", "input_ids")}, probes=PROBES)
    assert states.context_distance.equals(whole.context_distance) and "sink_score" not in states
    assert states.attrs["attention"] == "unavailable: `attention` was not given"


def test_bidirectional_and_sigmoid_maps_are_measured_as_they_are():
    torch.manual_seed(0)
    sigmoid = torch.rand(1, 2, 2, 30, 30, dtype=torch.float64)
    found = ontogeny.measure({"attention": sigmoid})
    np.testing.assert_allclose(found.sink_score[0, 0], sigmoid[0, :, 0].mean(-2).mean(0)[:16])
    np.testing.assert_allclose(found.attention_mass[0, 0], sigmoid[0, :, 0].sum(-1).mean())
    causal = ontogeny.measure({"attention": sigmoid.tril()})
    np.testing.assert_allclose(causal.sink_score[0, 0, 10], sigmoid.tril()[0, :, 0, :, 10].sum(-1).mean() / 20)
    told = ontogeny.measure({"attention": sigmoid.tril(), "causal": False})
    np.testing.assert_allclose(told.sink_score[0, 0, 10], sigmoid.tril()[0, :, 0, :, 10].sum(-1).mean() / 30)


def test_rows_at_padding_may_hold_anything():
    arrays, mask = arrays_of(tiny("llama"), repeating(), padded()), padded()
    expected = ontogeny.measure(arrays)
    for name in ("attention", "values", "hidden_states"):
        for one in arrays[name]:
            for row in range(3):
                one[row, ..., int(mask[row].sum()) :, :] = torch.nan
    assert_same(ontogeny.measure(arrays), expected, 0)


def test_batches_and_lists_change_no_number():
    model, ids = double("llama"), repeating()
    expected = ontogeny.measure(model, ids)
    for given in (ids.tolist(), ids.int().numpy(), list(ids)):
        assert_same(ontogeny.measure(model, given, batch_size=2), expected, 1e-12)
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert_same(ontogeny.measure(model, **tokens), expected, 1e-12)


class Counting:
    """An experiment that counts the tokens it is given."""

    def __init__(self, settings):
        self.length = settings.length

    def run(self, model, batches, impl):
        assert not model.training and not torch.is_grad_enabled() and batches.ids.shape[1] == self.length
        counted = sum(batches.each(lambda batch: model(batch).logits.shape[:2].numel()))
        return xr.Dataset({"counted": ((), np.array(counted))})


def test_experiments_run_on_whole_sequences_of_a_transformers_model(monkeypatch):
    monkeypatch.setitem(registry.EXPERIMENTS, "counting", Counting)
    model, ids, names = tiny("llama").train(), repeating(), ["massive", "counting"]
    found = ontogeny.measure(model, ids, probes=names, attention_mask=torch.ones_like(ids))
    assert int(found.counted) == ids.numel() and "massive_ratio" in found and model.training
    assert int(ontogeny.measure(model, ids, probes="counting").counted) == ids.numel()
    padding = ontogeny.measure(model, ids, probes=names, attention_mask=padded())
    assert padding.attrs["counting"].startswith("unavailable: it runs whole sequences without padding")
    with ontogeny.capture(model) as trace:
        model(ids)
    for source in (trace, arrays_of(model, ids)):
        left_out = ontogeny.measure(source, probes=names)
        assert left_out.attrs["counting"].startswith("unavailable: it runs a transformers model again, got a")
        assert "counted" not in left_out and "massive_ratio" in left_out
        alone = ontogeny.measure(source, probes="counting")
        assert not alone.data_vars and alone.attrs["counting"] == left_out.attrs["counting"]


@needs_lens
def test_experiments_do_not_run_a_bridge(boot, monkeypatch):
    monkeypatch.setitem(registry.EXPERIMENTS, "counting", Counting)
    found = ontogeny.measure(boot(tiny("llama")), repeating(), probes=["massive", "counting"])
    assert found.attrs["counting"] == "unavailable: it runs a transformers model again, got a TransformerBridge"
