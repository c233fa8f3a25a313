"""The probes against plain implementations: whole maps and hidden states, float64, loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes import EXPERIMENTS, PROBES, ProbeSettings, make_probes
from ontogeny.probes.capture import Pass, Trace, run_pass
from ontogeny.probes.capture.support import sampled_rows
from ontogeny.probes.massive import is_massive
from ontogeny.probes.probe import lower_median, mean_where
from ontogeny.probes.scores import rows_needed, sink_scores
from ontogeny.probes.sinks import EPSILONS, head_classes
from tests.models import tiny, tiny_falcon, token_ids
from tests.probes.plain import LENGTH, SEQUENCES, measured


def eager_maps(model, length=LENGTH):
    """Maps (N, L, H, T, T) and the raw residual stream (N, L + 1, T, d), float64."""
    model = model.double()
    model.set_attn_implementation("eager")
    states = []
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    handles = [blocks[0].register_forward_pre_hook(lambda _m, a: states.append(a[0]))]
    handles += [b.register_forward_hook(lambda _m, _a, o: states.append(o)) for b in blocks]
    with torch.inference_mode():
        out = model(token_ids(SEQUENCES, length), output_attentions=True, use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(out.attentions, 1).numpy(), torch.stack(states, 1).numpy()


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "bert", "opt"])
def test_sinks_equal_loops_over_maps(family):
    found = measured(tiny(family))
    maps, _ = eager_maps(tiny(family))
    rows_seeing = [LENGTH if family == "bert" else LENGTH - k for k in range(LENGTH)]
    eligible = [k for k in range(LENGTH) if rows_seeing[k] >= 16]
    for layer in range(3):
        for head in range(4):
            scores = np.array([[m[layer, head, :, k].sum() / rows_seeing[k] for k in range(LENGTH)] for m in maps])
            at = {"layer": layer, "head": head}
            np.testing.assert_allclose(found.sink_score.sel(at), scores[:, :16].mean(0), rtol=1e-5)
            for epsilon in EPSILONS:
                rate = (scores[:, :16] > epsilon).mean(0)
                np.testing.assert_array_equal(found.sink_rate.sel(at).sel(epsilon=epsilon), rate)
            top = [max(eligible, key=lambda k, s=s: s[k]) for s in scores]
            np.testing.assert_array_equal(found.top_sink_position.sel(at), top)
            best = [s[k] for s, k in zip(scores, top, strict=True)]
            np.testing.assert_allclose(found.top_sink_score.sel(at), best, rtol=1e-5)
            rows = [m[layer, head, i] for m in maps for i in range(LENGTH)]
            entropy = np.mean([-sum(p * math.log(p) for p in row if p > 0) for row in rows])
            assert float(found.attention_entropy.sel(at)) == pytest.approx(entropy, rel=1e-5)
            assert float(found.attention_max.sel(at)) == pytest.approx(np.mean([r.max() for r in rows]), rel=1e-5)
            participation = np.mean([1 / (row**2).sum() for row in rows])
            assert float(found.participation_ratio.sel(at)) == pytest.approx(participation, rel=1e-5)
            far = np.mean([sum(p * abs(i % LENGTH - j) for j, p in enumerate(row)) for i, row in enumerate(rows)])
            assert float(found.attention_distance.sel(at)) == pytest.approx(far, rel=1e-4)
            sizes = sorted(support(m[layer, head, i]) for m in maps for i in sampled_rows(LENGTH))
            assert int(found.support_90.sel(at)) == sizes[(len(sizes) - 1) // 2]
    assert (found.head_class == 0).all()


def support(row):
    total = 0.0
    for count, p in enumerate(sorted(row, reverse=True), 1):
        total += p
        if total >= 0.9 - 1e-6:
            return count
    raise AssertionError(row.sum())


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
def test_massive_equals_loops_over_the_residual_stream(family):
    found = measured(tiny(family))
    _, states = eager_maps(tiny(family))
    for n in range(SEQUENCES):
        for depth in range(4):
            size = np.abs(states[n, depth])
            places = sorted(np.ndindex(size.shape), key=lambda place: -size[place])[:3]
            at = {"sequence": n, "depth": depth}
            np.testing.assert_allclose(found.top_activation.sel(at), [size[p] for p in places], rtol=1e-5)
            np.testing.assert_array_equal(found.top_position.sel(at), [p[0] for p in places])
            np.testing.assert_array_equal(found.top_dimension.sel(at), [p[1] for p in places])
            ordered = np.sort(size.ravel())
            median = ordered[(ordered.size - 1) // 2]
            assert float(found.median_activation.sel(at)) == pytest.approx(median, rel=1e-5)
            assert float(found.massive_ratio.sel(at)) == pytest.approx(ordered[-1] / median, rel=2e-5)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "bert"])
def test_waivers_equal_loops_over_values(family, monkeypatch):
    monkeypatch.setattr("ontogeny.probes.waivers.WAIVER_EPSILON", 0.05)
    monkeypatch.setattr("ontogeny.probes.waivers.WAIVER_VALUE", 0.9)
    found = measured(tiny(family), names=("waivers", "sinks"), positions=None)
    maps, _ = eager_maps(tiny(family))
    norms = value_norms(tiny(family).double())
    waivers = np.zeros((3, 4, LENGTH))
    for layer in range(3):
        for head in range(4):
            relative = np.array([n[layer][head] / n[layer][head].mean() for n in norms])
            at = {"layer": layer, "head": head}
            np.testing.assert_allclose(found.value_norm.sel(at), relative.mean(0), rtol=1e-5)
            for n, a in enumerate(maps):
                seeing = np.array([LENGTH if family == "bert" else LENGTH - k for k in range(LENGTH)])
                alpha = a[layer, head].sum(0) / seeing
                waivers[layer, head] += (seeing >= 16) & (alpha > 0.05) & (relative[n] < 0.9)
    np.testing.assert_allclose(found.waiver_rate, waivers / SEQUENCES)
    assert 0 < found.waiver_rate.mean() < 1


def value_norms(model):
    """Norms (N, L, H, T) of the values, read off the projections' outputs; a shared value stands at all its heads."""
    outputs = []
    names = ("query_key_value", "v_proj", "attention.self.value")
    for name, module in model.named_modules():
        if name.endswith(names):
            module.register_forward_hook(lambda _m, _a, out: outputs.append(out))
    with torch.inference_mode():
        model(token_ids(SEQUENCES, LENGTH))
    layers = []
    for out in outputs:
        if out.shape[-1] == 96:  # GPT-NeoX: each head's query, key and value side by side
            out = out.view(SEQUENCES, LENGTH, 4, 3, 8)[..., 2, :].flatten(2)
        norm = out.view(SEQUENCES, LENGTH, -1, 8).norm(dim=-1).transpose(1, 2)
        layers.append(norm.repeat_interleave(4 // norm.shape[1], dim=1))
    return torch.stack(layers, 1).numpy()


def test_massive_needs_both_the_size_and_the_multiple():
    largest, median = np.array([101.0, 100.0, 5000.0, 2000.0]), np.array([0.1, 0.01, 6.0, 2.0])
    assert is_massive(largest, median).tolist() == [True, False, False, True]


def test_massive_rate_is_the_share_of_sequences():
    model = tiny("gpt2")
    model.transformer.wte.weight[7, 3] = 90_000.0
    ids = token_ids(SEQUENCES, LENGTH)
    expected = (ids == 7).any(1).double().mean().item()
    assert 0 < expected < 1
    assert float(measured(model).massive_rate.sel(depth=0)) == pytest.approx(expected)


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_batches_do_not_change_the_numbers(batch_size, family):
    one, other = (measured(tiny(family), names=tuple(PROBES), batch_size=size) for size in (2, batch_size))
    assert {"walk_entropy", "context_distance", "secondary_sinks", "update_norm"} <= set(one.data_vars)
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-5, err_msg=name)


def test_positions_are_kept_as_asked():
    assert measured(tiny("llama"), positions=3).sizes["position"] == 3
    assert measured(tiny("llama"), positions=None).sizes["position"] == LENGTH
    whole, first = measured(tiny("llama"), positions=None), measured(tiny("llama"), positions=3)
    np.testing.assert_array_equal(whole.sink_score[..., :3], first.sink_score)


def test_below_sixteen_tokens_no_key_may_be_the_top_sink():
    found = measured(tiny("llama"), length=15)
    assert (found.top_sink_position == -1).all() and found.top_sink_score.isnull().all()


@pytest.mark.parametrize(("length", "rows"), [(64, 16), (65, 17), (1000, 250), (20, 16)])
def test_rows_that_a_top_sink_needs(length, rows):
    assert rows_needed(torch.tensor([length])).tolist() == [rows]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.6, 1), (0.5, 2), (0.2, 2), (0.125, 3), (0.05, 3), (1 / 32, 4), (0.001, 4)]
)
def test_head_classes_by_their_bounds(share, expected):
    assert head_classes(np.full((2, 1, 1, 16), share), length=256).tolist() == [[expected]]
    assert head_classes(np.full((2, 1, 1, 16), share), length=255).tolist() == [[0]]


@pytest.mark.parametrize(("length", "last"), [(64, 48), (65, 48), (20, 4), (100, 75)])
def test_the_last_key_that_may_be_a_sink_has_just_rows_enough(length, last):
    scores = sink_scores(run_pass(tiny("llama", max_position_embeddings=128), token_ids(1, length)))
    assert scores.eligible[0, 0, 0].nonzero().max() == last
    assert scores.visible[0, 0, 0, last] == rows_needed(torch.tensor(length))


@pytest.mark.parametrize(("tokens", "last"), [(64, 48), (20, 4), (100, 75)])
def test_padding_does_not_count_among_the_rows_that_a_sink_needs(tokens, last):
    mask = torch.zeros(2, 128, dtype=torch.long)
    mask[0, :tokens], mask[1, -tokens:] = 1, 1
    trace = run_pass(tiny("llama", max_position_embeddings=128), token_ids(2, 128), mask)
    eligible = sink_scores(trace).eligible[:, 0, 0]
    assert eligible[0].nonzero()[:, 0].tolist() == list(range(last + 1))
    assert eligible[1].nonzero()[:, 0].tolist() == list(range(128 - tokens, 128 - tokens + last + 1))


def test_rows_that_see_no_key_are_in_no_median():
    model = tiny("llama", max_position_embeddings=300)
    model.model.layers[0].self_attn.q_proj.weight.zero_()
    with ontogeny.attending(model, mask_mod=lambda b, h, i, j: i < 160):
        found = ontogeny.measure(run_pass(model, token_ids(2, 256)))
    assert (found.head_class.sel(layer=0) == 1).all() and (found.support_90.sel(layer=0) > 100).all()


def test_rows_that_are_missing_do_not_count_in_a_heads_class():
    share = np.full((2, 2, 1, 16), np.nan)
    share[0, 0, 0, 5:8] = (0.6, 0.2, 0.05)
    assert head_classes(share, length=256).tolist() == [[2], [0]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_the_lower_median_is_numpys_where_nothing_is_missing(dtype):
    values = np.random.default_rng(0).integers(0, 9, (6, 2, 3, 5)).astype(dtype)
    found = lower_median(values, axis=(0, 3))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.quantile(values, 0.5, axis=(0, 3), method="lower"))


def test_medians_and_means_leave_out_what_is_missing():
    values = np.array([[1.0, np.nan, np.nan], [4.0, 3.0, np.nan], [2.0, 7.0, np.nan], [9.0, np.nan, np.nan]])
    np.testing.assert_array_equal(lower_median(values, axis=(0,)), [2.0, 3.0, np.nan])
    np.testing.assert_array_equal(mean_where(~np.isnan(values), values), [4.0, 5.0, np.nan])


def test_a_uniform_head_is_of_class_one():
    model = tiny("llama", max_position_embeddings=300)
    model.model.layers[0].self_attn.q_proj.weight.zero_()
    found = measured(model, names=("sinks",), length=256)
    assert (found.head_class.sel(layer=0) == 1).all()
    rows = sampled_rows(256)
    assert rows[0] == 127
    middle = sorted(math.ceil(0.9 * (row + 1) - 1e-3) for row in rows)[(len(rows) - 1) // 2]
    assert (found.support_90.sel(layer=0) == middle).all()


def test_variables_say_what_they_are():
    found = measured(tiny("llama"))
    for name, variable in found.data_vars.items():
        assert {"long_name", "units", "source"} <= set(variable.attrs), name
        assert variable.attrs["source"].startswith("arXiv:"), name
    assert found.attention_entropy.attrs["units"] == "nats"
    assert found.attrs["massive_threshold"] == 100.0 and found.attrs["support_rows"] == list(sampled_rows(LENGTH))


def test_where_attention_is_unavailable_the_residual_stream_is_measured_and_it_is_said():
    found = measured(tiny_falcon())
    assert "sink_rate" not in found and "massive_ratio" in found
    assert found.attrs["attention"].startswith("unavailable: FalconModel computes its attention")


def test_where_only_attention_was_asked_for_and_is_unavailable_that_is_an_error():
    with pytest.raises(OntogenyError, match=r"unavailable: FalconModel.*ask for the probe massive alone"):
        measured(tiny_falcon(), names=("sinks",))


def test_a_median_of_zero_gives_an_infinite_ratio_and_no_warning():
    model = tiny("gpt_neox")
    model.gpt_neox.embed_in.weight.zero_()
    model.gpt_neox.embed_in.weight[7, 3] = 1.0
    ratio = measured(model).massive_ratio.sel(depth=0)
    has_token = (token_ids(SEQUENCES, LENGTH) == 7).any(1).numpy()
    assert np.isinf(ratio[has_token]).all() and ratio[~has_token].isnull().all()


def test_layers_with_different_numbers_of_heads_are_refused():
    trace = run_pass(tiny("llama"), token_ids(1, 20))
    layer = trace.layers[0]
    narrow = replace(layer, column_mass=layer.column_mass[:, :2], visible_rows=layer.visible_rows[:, :2])
    uneven = Trace([Pass(trace.length, (narrow, *trace.layers[1:]), trace.depths, trace.attention)])
    for probe in make_probes(["sinks", "waivers"], ProbeSettings(20)).traced.values():
        with pytest.raises(OntogenyError, match="between 2 and 4 heads"):
            probe.reduce(uneven)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "random_tokens"])  # which sees no head
def test_of_layers_with_different_numbers_of_heads_experiments_are_unavailable(name):
    model = tiny("llama")
    attention, width = model.model.layers[0].self_attn, 8
    for projection, heads in ((attention.q_proj, 2), (attention.k_proj, 1), (attention.v_proj, 1)):
        projection.weight = torch.nn.Parameter(projection.weight[: heads * width], requires_grad=False)
    attention.o_proj.weight = torch.nn.Parameter(attention.o_proj.weight[:, : 2 * width], requires_grad=False)
    found = ontogeny.measure(model, token_ids(2, 20), probes=[name])
    assert found.attrs[name].startswith("unavailable: the layers have between 2 and 4 heads")
    assert not found.data_vars


def test_probes_come_in_the_tables_order_and_once():
    assert make_probes(["massive", "sinks", "massive"], ProbeSettings(20)).names == ("sinks", "massive")
    assert make_probes(None, ProbeSettings(20)).names == ("sinks", "secondary", "waivers", "massive")


def test_unknown_probes_are_refused():
    with pytest.raises(UsageError, match="unknown probe waives: expected some of sinks, secondary, waivers, massive"):
        make_probes(["sinks", "waives"], ProbeSettings(64))
