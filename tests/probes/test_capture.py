"""Capture against plain transformers: the maps that `eager` returns in float64, and the unhooked logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import transformers
from torch import nn

from ontogeny.bench.memory import peak_bytes
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import ATTENTION, RESIDUAL, capture, run_pass
from ontogeny.probes.capture.support import sampled_rows, support_size
from tests.models import FAMILIES, tiny, tiny_falcon, token_ids

pytestmark = pytest.mark.usefixtures("finite_eager_masks")

LENGTH = 24


def padding(side):
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    if side == "left":
        mask[0, :5], mask[1, :11] = 0, 0
    if side == "right":
        mask[0, -5:], mask[1, -11:] = 0, 0
    return mask


def eager(model, ids, mask):
    """Maps (L, B, H, T, T) with padded rows and columns zeroed, hidden states and logits, in float64."""
    model = model.double()
    model.set_attn_implementation("eager")
    if model.config.model_type == "gpt_oss":
        model.set_experts_implementation("eager")  # its grouped product knows no float64
    with torch.inference_mode():
        out = model(
            input_ids=ids, attention_mask=mask, output_attentions=True, output_hidden_states=True, use_cache=False
        )
    valid = mask.bool()
    seen = valid[:, None, :, None] & valid[:, None, None, :]
    maps = torch.where(seen, torch.stack(out.attentions)[..., : ids.shape[1]], 0)
    return maps, out.hidden_states, out.logits


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_equal_those_of_eager_maps(family, side):
    ids, mask = token_ids(3, LENGTH), padding(side)
    trace = run_pass(tiny(family), ids, None if side is None else mask)
    maps, hidden, _ = eager(tiny(family), ids, mask)
    valid = mask.bool()
    rows = valid.sum(1)[:, None]
    assert len(trace.layers) == 3
    for layer, a in zip(trace.layers, maps, strict=True):
        visible = (a > 0).sum(-2)
        torch.testing.assert_close(layer.visible_rows.long(), visible)
        score = a.sum(-2) / visible.clamp_min(1)
        torch.testing.assert_close(
            (layer.column_mass / layer.visible_rows.clamp_min(1)).double(), score, rtol=1e-5, atol=1e-5
        )
        if family != "gpt_oss":  # its rows also hold a sink logit, which eager does not return
            entropy = torch.special.entr(a).sum(-1).sum(-1) / rows
            torch.testing.assert_close(layer.entropy.double(), entropy, rtol=1e-5, atol=1e-5)
            participation = torch.where(valid[:, None], 1 / a.square().sum(-1), 0).sum(-1) / rows
            torch.testing.assert_close(layer.participation.double(), participation, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.row_max.double(), a.amax(-1).sum(-1) / rows, rtol=1e-5, atol=1e-5)
        apart = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
        torch.testing.assert_close(layer.distance.double(), (a * apart).sum((-1, -2)) / rows, rtol=1e-5, atol=1e-4)
    assert len(trace.depths) == 4
    for depth in range(3):  # the last hidden state that transformers returns is after the final norm
        magnitude = hidden[depth].abs() * valid[..., None]
        torch.testing.assert_close(
            trace.depths[depth].top_activation.double(), magnitude.flatten(1).topk(3).values, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_hooked_model_gives_the_same_logits(family, side, dtype):
    """To 1e-5 in float64; in float32, where these logits reach hundreds, to 1e-5 of the largest."""
    model, ids, mask = tiny(family).to(dtype), token_ids(3, LENGTH), padding(side)
    if family == "gpt_oss":
        model.set_experts_implementation("eager")
    with torch.inference_mode():
        plain = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    with capture(model) as trace:
        hooked = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert len(trace.layers) == 3
    valid = mask.bool()
    allowed = 1e-5 if dtype == torch.float64 else 1e-5 * plain.abs().max().item()
    torch.testing.assert_close(hooked[valid], plain[valid], rtol=0, atol=allowed)


def test_raw_outputs_of_blocks_are_measured_before_the_final_norm():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    outputs = []
    handle = model.model.layers[-1].register_forward_hook(lambda _m, _a, out: outputs.append(out))
    trace = run_pass(model, ids)
    handle.remove()
    torch.testing.assert_close(trace.depths[-1].top_activation[:, 0], outputs[0].abs().amax((1, 2)))


def test_places_and_medians_of_the_residual_stream():
    model, ids = tiny("gpt2"), token_ids(2, LENGTH)
    states = []
    handle = model.transformer.h[0].register_forward_pre_hook(lambda _m, args: states.append(args[0].clone()))
    first = run_pass(model, ids).depths[0]
    handle.remove()
    for b in range(2):
        size = states[0][b].abs()
        for rank in range(3):
            p, d = first.top_position[b, rank], first.top_dimension[b, rank]
            assert size[p, d] == first.top_activation[b, rank]
        ordered = size.flatten().sort().values
        assert first.median_activation[b] == ordered[(ordered.numel() - 1) // 2]


def test_support_is_taken_on_the_sampled_rows():
    ids = token_ids(2, LENGTH)
    trace = run_pass(tiny("gpt_neox"), ids)
    maps, _, _ = eager(tiny("gpt_neox"), ids, padding(None)[:2])
    for layer, a in zip(trace.layers, maps, strict=True):
        for slot, row in enumerate(sampled_rows(LENGTH)):
            ordered = a[:, :, row].sort(-1, descending=True).values.cumsum(-1)
            torch.testing.assert_close(layer.support[:, :, slot].long(), (ordered < 0.9 - 1e-6).sum(-1) + 1)
            assert (layer.row_length[..., slot] == row + 1).all()


@pytest.mark.parametrize(
    ("length", "first", "count"), [(1, 0, 1), (5, 0, 5), (64, 0, 16), (255, 0, 16), (256, 127, 16)]
)
def test_sampled_rows_are_fixed_distinct_and_reach_the_end(length, first, count):
    rows = sampled_rows(length)
    assert len(set(rows)) == count and rows[0] == first and rows[-1] == length - 1


@pytest.mark.parametrize(
    ("row", "keys"),
    [([1.0, 0, 0, 0], 1), ([0.5, 0.4, 0.1, 0.0], 2), ([0.1] * 10, 9), ([0.0, 0.0], 0), ([0.2, 0.2, 0.05], 3)],
)
def test_support_size_by_hand(row, keys):
    assert support_size(torch.tensor(row)).item() == keys


def test_attention_outside_the_interface_leaves_the_residual_stream():
    trace = run_pass(tiny_falcon(), token_ids(2, LENGTH))
    assert trace.layers == ()
    assert trace.attention == "unavailable: FalconModel computes its attention without transformers' AttentionInterface"
    assert len(trace.depths) == 4


def test_only_what_is_needed_is_recorded():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    residual = run_pass(model, ids, needs=frozenset({RESIDUAL}))
    assert residual.layers == () and residual.attention == "not asked for"
    assert run_pass(model, ids, needs=frozenset({ATTENTION})).depths == ()


def silent(hidden_states, **_):
    return torch.zeros_like(hidden_states), None


def test_a_model_that_declares_attention_but_never_calls_the_interface(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr("transformers.models.llama.modeling_llama.create_causal_mask", lambda **_: None)
    for layer in model.model.layers:
        monkeypatch.setattr(layer.self_attn, "forward", silent)
    trace = run_pass(model, token_ids(1, 8))
    assert trace.layers == () and len(trace.depths) == 4
    assert trace.attention.startswith("unavailable: LlamaModel computes its attention without")


def test_a_model_that_asks_for_a_mask_and_runs_none_of_its_attention_fails(monkeypatch):
    model = tiny("llama")
    for layer in model.model.layers:
        monkeypatch.setattr(layer.self_attn, "forward", silent)
    with pytest.raises(OntogenyError, match=r"seen 0 times .*3 of 3 layers"):
        run_pass(model, token_ids(1, 8))


def test_a_layer_that_drops_the_mask_is_refused(monkeypatch):
    model = tiny("llama")
    layer = model.model.layers[1].self_attn
    monkeypatch.setattr(layer, "forward", partial(_without_mask, layer.forward))
    with pytest.raises(OntogenyError, match="was handed no mask though its model made one"):
        run_pass(model, token_ids(1, 8))


def _without_mask(forward, *args, **kwargs):
    return forward(*args, **{**kwargs, "attention_mask": None})


def test_a_config_that_returns_tuples_is_captured():
    model = tiny("llama")
    model.config.return_dict = False
    assert len(run_pass(model, token_ids(1, 8)).layers) == 3


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_model_that_builds_more_masks_than_it_uses(layers):
    model = tiny("gemma2", num_hidden_layers=layers)
    assert len(run_pass(model, token_ids(1, 24)).layers) == layers


def test_a_mask_of_the_models_own_making_is_refused(monkeypatch):
    model = tiny("llama")
    layer = model.model.layers[0].self_attn
    original = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a, **k: original(*a, **{**k, "attention_mask": torch.ones(1, 8)}))
    with pytest.raises(OntogenyError, match="mask of its model's own making"):
        run_pass(model, token_ids(1, 8))


def test_a_layer_that_is_not_seen_fails_the_capture():
    model = tiny("llama")
    layer = model.model.layers[1].self_attn
    layer.forward = silent
    with pytest.raises(OntogenyError, match="attention of layer 1 was seen 0 times"):
        run_pass(model, token_ids(1, 8))


def test_packed_sequences_are_refused(monkeypatch):
    model, ids = tiny("llama"), token_ids(1, 8)
    original = model.model.forward

    def packed(input_ids, attention_mask, **options):
        positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
        return original(input_ids=input_ids, position_ids=positions, **options)

    monkeypatch.setattr(model.model, "forward", packed)
    with pytest.raises(OntogenyError, match="packed sequences"):
        run_pass(model, ids)


def test_a_window_that_the_attention_is_not_told_of_is_refused(monkeypatch):
    model = tiny("mistral")
    for layer in model.model.layers:
        original = layer.self_attn.forward
        monkeypatch.setattr(layer.self_attn.config, "sliding_window", 5)
        monkeypatch.setattr(
            layer.self_attn, "forward", lambda *a, _f=original, **k: _f(*a, **{**k, "is_causal": False})
        )
    with pytest.raises(OntogenyError, match="handed the mask of a window of 5 but runs as bidirectional"):
        run_pass(model, token_ids(1, 16))


def test_an_argument_that_alters_scores_is_refused(monkeypatch):
    model = tiny("llama")
    layer = model.model.layers[0].self_attn
    original = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a, **k: original(*a, **{**k, "position_bias": torch.zeros(1)}))
    with pytest.raises(OntogenyError, match="hands `position_bias` to its attention"):
        run_pass(model, token_ids(1, 8))


def test_activations_that_are_not_finite_are_refused():
    model = tiny("gpt_neox")
    nn.init.constant_(model.gpt_neox.layers[1].mlp.dense_4h_to_h.bias, float("inf"))
    with pytest.raises(OntogenyError, match="not finite"):
        run_pass(model, token_ids(1, 8))


def test_encoder_decoders_are_refused():
    config = transformers.T5Config(vocab_size=60, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=48)
    with pytest.raises(OntogenyError, match="encoder-decoder"):
        run_pass(transformers.T5Model(config).eval(), token_ids(1, 8))


def test_peak_memory_does_not_hold_a_map_per_layer():
    """The largest tensors alive at once, at two lengths: linear in T, and no multiple of layers times T squared."""
    model = tiny("gpt_neox", num_hidden_layers=8, max_position_embeddings=2048)
    peaks = {length: peak_bytes(partial(run_pass, model, token_ids(1, length))) for length in (512, 1024)}
    maps = 8 * 4 * 1024**2 * 4
    assert peaks[1024] < maps / 4
    assert peaks[1024] < 2.6 * peaks[512]
