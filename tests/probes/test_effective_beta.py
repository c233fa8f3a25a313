"""Effective betas: against plain loops, on planted logits, from whole maps, and where there is nothing to measure."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import LOGITS, logits, run_pass
from ontogeny.probes.capture.logits import EnteringStates
from ontogeny.probes.capture.residual import ResidualRecorder
from tests.models import GPT2_SIZES, tiny, tiny_falcon, token_ids
from tests.probes.plain import HEADS, LAYERS, LENGTH, SEQUENCES, in_dtype, measured, plain_of
from tests.probes.sources import arrays_of

few = settings(derandomize=True, deadline=None, max_examples=25, database=None)
needs_lens = pytest.mark.skipif(find_spec("transformer_lens") is None, reason="needs pip install ontogeny[lens]")
SELECTIONS = ("all", "without_sinks")


def exactly(family, **changes):
    model = tiny(family, **changes).double()
    if family == "gpt_oss":
        model.set_experts_implementation("eager")  # its grouped product knows no float64
    return model


def betas(source, *given, **more):
    return ontogeny.measure(source, *given, probes="effective_beta", **more)


def fitted(logit, states, chosen):
    """Slope and r2 of one head on one sequence by a line in each row; `logit` (T, T) is NaN where nothing is seen."""
    units = [state / math.sqrt(sum(state**2)) for state in states]
    xx = xy = yy = 0.0
    for i in chosen:
        keys = [j for j in chosen if j != i and not math.isnan(logit[i, j])]
        if len(keys) < 2:
            continue
        x, y = [float(sum(units[i] * units[j])) for j in keys], [logit[i, j] for j in keys]
        x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
        for a, b in zip(x, y, strict=True):
            xx, xy, yy = xx + (a - x_mean) ** 2, xy + (a - x_mean) * (b - y_mean), yy + (b - y_mean) ** 2
    return xy / xx, xy**2 / (xx * yy)


def without_sinks(states):
    norms = [math.sqrt(sum(state**2)) for state in states]
    median = sorted(norms)[(len(norms) - 1) // 2]
    return [i for i in range(1, len(states)) if norms[i] <= 5 * median]


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "gemma2", "bert"])
def test_slopes_are_those_of_plain_loops_over_eager_maps(family):
    """The logarithm of an eager softmax is the logit but for a row's constant, a window and a soft-cap included."""
    found, single = (measured(in_dtype(family, dtype), ["effective_beta"]) for dtype in (torch.float64, torch.float32))
    plain = plain_of(family)
    with np.errstate(divide="ignore"):
        logit = np.where(plain.maps > 0, np.log(plain.maps), np.nan)
    for layer, head in np.ndindex(LAYERS, HEADS):
        for selection in SELECTIONS:
            lines = []
            for n in range(SEQUENCES):
                states = plain.states[n, layer]
                chosen = range(LENGTH) if selection == "all" else without_sinks(states)
                lines.append(fitted(logit[n, layer, head], states, chosen))
            at = {"selection": selection, "layer": layer, "head": head}
            for dataset, near in ((found, 1e-7), (single, 1e-4)):
                got = [float(dataset[name].sel(at)) for name in ("effective_beta", "effective_beta_r2")]
                assert got == pytest.approx(np.mean(lines, axis=0), rel=near, abs=near / 10)
    assert found.effective_beta.dims == ("selection", "layer", "head") and found.attrs["outlier_norm"] == 5
    assert abs(found.effective_beta).max() > 0.04
    assert abs(found.effective_beta[0] - found.effective_beta[1]).max() > 1e-3


def directions(*shape, seed=0):
    states = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return states / states.norm(dim=-1, keepdim=True)


def planted(beta, sequences=3, length=17, width=6, layers=2, causal=True):
    """Arrays whose logits are exactly beta <x_i, x_j> and a constant of the row; `beta` (H,), states of any length."""
    maps, states, draw = [], [], torch.Generator().manual_seed(1)
    for layer in range(layers + 1):
        unit = directions(sequences, length, width, seed=layer)
        states.append(unit * torch.rand(sequences, length, 1, dtype=torch.float64, generator=draw).add(0.5))
        scores = torch.tensor(beta, dtype=torch.float64)[:, None, None] * (unit @ unit.mT)[:, None]
        scores = scores + torch.randn(*scores.shape[:3], 1, dtype=torch.float64, generator=draw)
        hidden = torch.ones(length, length).triu(1).bool() if causal else torch.zeros(length, length).bool()
        maps.append(scores.masked_fill(hidden, -torch.inf).softmax(-1))
    return {"attention": maps[:-1], "hidden_states": states}


@pytest.mark.parametrize("causal", [True, False])
def test_planted_slopes_are_found_in_arrays(causal):
    beta = [4.0, 0.3, -7.0, 25.0]
    found = betas(planted(beta, causal=causal))
    np.testing.assert_allclose(found.effective_beta, np.broadcast_to(beta, (2, 2, 4)), rtol=1e-6)
    np.testing.assert_allclose(found.effective_beta_r2, 1, rtol=1e-6)


def test_sinks_are_left_out_as_queries_and_as_keys():
    """The first token, and one by its norm; what they attend to and who attends to them is of another making."""
    arrays = planted([4.0, -2.0], causal=False)
    for states, maps in zip(arrays["hidden_states"], arrays["attention"], strict=False):
        states[:, 6] *= 40
        scores = maps.log()
        draw = torch.Generator().manual_seed(2)
        for sink in (0, 6):
            scores[..., sink, :] += torch.randn(17, dtype=torch.float64, generator=draw)
            scores[..., sink] += torch.randn(17, dtype=torch.float64, generator=draw)
        maps.copy_(scores.softmax(-1))
    found = betas(arrays)
    np.testing.assert_allclose(found.effective_beta.sel(selection="without_sinks"), [[4, -2]] * 2, rtol=1e-6)
    np.testing.assert_allclose(found.effective_beta_r2.sel(selection="without_sinks"), 1, rtol=1e-6)
    assert (found.effective_beta_r2.sel(selection="all") < 0.95).all()


def test_planted_slopes_are_found_in_a_model_and_each_block_reads_the_states_that_enter_it():
    """GPT-2 with one head, whose normalised input is sqrt(d) x, x the state's direction, and whose q and k are it.

    Each block moves every state by a vector of its own, so that the states of another depth give another slope.
    """
    gains, width = (0.5, 1.0, -1.5), 32
    config = transformers.GPT2Config(**{**GPT2_SIZES, "n_head": 1, "layer_norm_epsilon": 1e-14})
    model = transformers.GPT2LMHeadModel(config).double().eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    body = model.transformer
    body.wpe.weight.zero_()
    body.wte.weight.copy_(torch.randn(body.wte.weight.shape, dtype=torch.float64, generator=draw))
    body.wte.weight.sub_(body.wte.weight.mean(-1, keepdim=True))
    for block, gain in zip(body.h, gains, strict=True):
        block.attn.c_attn.weight.zero_()
        block.attn.c_attn.weight[:, :width], block.attn.c_attn.weight[:, width : 2 * width] = (
            gain * torch.eye(width),
            torch.eye(width),
        )
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()
        step = 2 * torch.randn(width, dtype=torch.float64, generator=draw)
        block.mlp.c_proj.bias.copy_(step - step.mean())
    found = betas(model, token_ids(4, 20))
    expected = np.broadcast_to(np.array(gains)[:, None] * math.sqrt(width), (2, 3, 1))
    np.testing.assert_allclose(found.effective_beta, expected, rtol=1e-6)
    np.testing.assert_allclose(found.effective_beta_r2, 1, rtol=1e-6)


@pytest.mark.usefixtures("finite_eager_masks")
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma2", "opt", "bert", "gpt_oss"])
def test_whole_maps_give_the_slopes_of_logits(family):
    ids, mask = token_ids(3, 24), torch.ones(3, 24, dtype=torch.long)
    mask[0, :5], mask[1, -11:] = 0, 0
    arrays = arrays_of(exactly(family), ids, mask)
    if family == "gpt_oss":
        arrays["sink_share"] = [(1 - one.sum(-1)) * mask[:, None] for one in arrays["attention"]]
    found, expected = betas(arrays), betas(exactly(family), ids, attention_mask=mask)
    assert expected.effective_beta.notnull().all()
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_mask_of_ones_own_hides_pairs_from_the_heads_that_it_is_for():
    model, ids = exactly("llama"), token_ids(2, 24)
    plain = betas(model, ids).effective_beta
    with ontogeny.attending(model, mask_mod=lambda b, h, i, j: (h != 2) | (i - j < 6)):
        masked = betas(model, ids).effective_beta
    changed = abs(masked - plain).isel(layer=0, selection=0) > 1e-9
    assert changed.values.tolist() == [False, False, True, False]


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize(("left", "right"), [(7, 0), (0, 7)])
def test_padding_changes_no_slope(family, left, right):
    model, ids = exactly(family), token_ids(2, 20)
    expected = betas(run_pass(model, ids, needs={LOGITS}))
    around = torch.nn.functional.pad(ids, (left, right), value=9)
    places = (torch.arange(left + 20 + right) - left).clamp(0, 19)[None]
    with ontogeny.capture(model, needs={LOGITS}) as trace:
        model(around, attention_mask=torch.nn.functional.pad(torch.ones_like(ids), (left, right)), position_ids=places)
    for name, values in betas(trace).data_vars.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, atol=1e-9, err_msg=name)


@needs_lens
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridge_and_its_cache_give_the_slopes_of_the_model(boot, family):
    ids, mask = token_ids(3, 24), torch.ones(3, 24, dtype=torch.long)
    mask[0, :5] = 0
    if family == "gpt2":  # whose positions a bridge counts from the first token on
        mask = mask.flip(1)
    bridge = boot(tiny(family))
    expected = betas(tiny(family), ids, attention_mask=mask)
    _, cache = bridge.run_with_cache(ids, attention_mask=mask)
    for found in (betas(bridge, ids, attention_mask=mask, batch_size=2), betas(cache)):
        for name in expected.data_vars:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def slopes(scores, states, seen=None):
    """Slope and r2 (B, S, H) of scores (B, H, T, T) on states (B, T, d)."""
    seen = torch.ones(scores.shape[-1], scores.shape[-1]).tril().bool().expand_as(scores) if seen is None else seen
    found = EnteringStates.of(states, None).slopes(lambda i: scores[:, :, i], lambda i: seen[:, :, i], scores.shape[1])
    return found.slope, found.r2


@few
@given(st.integers(3, 12), st.integers(1, 5), st.integers(0, 2**31), st.floats(-5, 5), st.floats(1e-3, 1e3))
def test_constants_of_rows_and_the_lengths_of_states_change_no_slope_and_factors_scale_it(T, d, seed, factor, length):
    draw = torch.Generator().manual_seed(seed)
    scores, apart = (torch.randn(2, 3, T, n, dtype=torch.float64, generator=draw) for n in (T, 1))
    states = directions(2, T, d + 1, seed=seed)
    slope, r2 = slopes(scores, states)
    moved = slopes(scores + 100 * apart, states * length)
    torch.testing.assert_close(moved, (slope, r2), rtol=1e-8, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(slopes(scores * factor, states)[0], slope * factor, rtol=1e-8, atol=1e-9, equal_nan=True)
    assert (r2.isnan() | ((r2 >= 0) & (r2 <= 1 + 1e-12))).all()


def test_logits_are_asked_for_a_tile_at_a_time(monkeypatch):
    monkeypatch.setattr(logits, "_LOGITS_AT_ONCE", 2 * 3 * 20 * 4)
    scores, states, asked = torch.randn(2, 3, 20, 20, dtype=torch.float64), directions(2, 20, 5), []
    seen = torch.ones(20, 20).tril().bool().expand_as(scores)
    found = EnteringStates.of(states, None).slopes(
        lambda i: asked.append(i.tolist()) or scores[:, :, i], lambda i: seen[:, :, i], 3
    )
    assert max(map(len, asked)) == 4 and [row for rows in asked for row in rows] == list(range(20))
    monkeypatch.undo()
    torch.testing.assert_close((found.slope, found.r2), slopes(scores, states))


def test_rows_that_see_fewer_than_two_other_keys_count_nothing():
    scores, states = torch.randn(1, 2, 9, 9, dtype=torch.float64), directions(1, 9, 4)
    other = scores.clone()
    other[..., :2, :] = 1e6
    torch.testing.assert_close(slopes(other, states), slopes(scores, states), rtol=0, atol=0)
    assert all(one.isnan().all() for one in slopes(scores[..., :2, :2], states[:, :2]))
    assert slopes(scores[..., :3, :3], states[:, :3])[0][:, 0].isfinite().all()


def test_where_states_or_logits_are_all_equal_there_is_no_slope_or_no_r2():
    states = directions(1, 9, 4).float()
    one = states[:, :1].expand(-1, 9, -1) * torch.linspace(0.1, 3, 9)[:, None]  # one direction, rounded
    scores = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    assert all(found.isnan().all() for found in slopes(scores, one))
    assert all(found.isnan().all() for found in slopes(scores, torch.zeros_like(one)))
    slope, r2 = slopes(torch.full_like(scores, 3.0), states)
    assert (slope == 0).all() and r2.isnan().all()
    mixed = torch.cat([one[:, :6], states[:, 6:]], dim=1)  # rows 2 to 5 see one direction: they are left out
    other = scores.clone()
    other[..., :6, :] += torch.randn(6, 9, dtype=torch.float64)
    torch.testing.assert_close(slopes(other, mixed), slopes(scores, mixed), rtol=0, atol=0)


def test_a_sequence_without_a_slope_is_in_no_mean():
    arrays = planted([2.0, 5.0])
    arrays["hidden_states"][0][1] = arrays["hidden_states"][0][1, :1]
    found = betas(arrays)
    np.testing.assert_allclose(found.effective_beta, np.broadcast_to([2, 5], (2, 2, 2)), rtol=1e-6)
    arrays["hidden_states"][0][:] = 1.0
    assert betas(arrays).effective_beta.sel(layer=0).isnull().all()


def test_maps_that_have_lost_a_logit_or_are_no_softmax_are_not_measured():
    """A weight that underflowed is no logit of minus infinity, and to leave it out would flatten the slope."""
    arrays = planted([2.0, 25.0], sequences=1)
    row = arrays["attention"][0][0, 1, -1]
    assert row.min() < 1e-6
    row[row.argmin()] = 0
    found = betas(arrays).effective_beta
    assert found.sel(layer=0, head=1).isnull().all() and found.notnull().sum() == 6
    arrays["attention"][1][0, 0] *= 0.9
    assert betas(arrays).effective_beta.sel(layer=1, head=0).isnull().all()
    shares = [(1 - one.sum(-1)).clamp_min(0) for one in arrays["attention"]]
    told = betas({**arrays, "sink_share": shares}).effective_beta
    np.testing.assert_allclose(told.sel(layer=1, head=0), 2, rtol=1e-6)


def test_what_is_not_there_is_said():
    for length in (1, 2):
        assert betas(tiny("llama"), token_ids(1, length)).effective_beta.isnull().all()
    with pytest.raises(OntogenyError, match="attention is unavailable: FalconModel computes its attention without"):
        betas(tiny_falcon(), token_ids(1, 9))
    with pytest.raises(OntogenyError, match="no probe is left: effective_beta needs logits"):
        betas({"attention": planted([1.0])["attention"]})
    trace = run_pass(tiny("llama"), token_ids(2, 9))
    assert trace.layers[0].logit_slope is None and LOGITS not in trace.available
    assert LOGITS in run_pass(tiny("llama"), token_ids(2, 9), needs={LOGITS}).available


def test_attention_that_runs_out_of_its_blocks_order_is_refused():
    recorder = ResidualRecorder(keep_entering=True)
    assert recorder.entering(0) is None
    recorder.record(torch.randn(1, 4, 3))
    assert recorder.entering(0).shape == (1, 4, 3)
    with pytest.raises(OntogenyError, match="attention of block 1 ran after 0 block outputs, expected 1"):
        recorder.entering(1)
