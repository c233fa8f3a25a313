"""Capture by hand: what passes leave in the trace."""

from __future__ import annotations

import pytest
import torch
import transformers

import ontogeny
from ontogeny.bench.memory import peak_bytes
from ontogeny.probes.capture import run_pass
from tests.models import FAMILIES, tiny, tiny_falcon, token_ids
from tests.probes.traces import assert_equal_traces

LENGTH = 24


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_or_none_one_batch_or_many_all_give_one_trace(family):
    model, ids, mask = tiny(family), token_ids(6, LENGTH), torch.ones(6, LENGTH, dtype=torch.long)
    mask[1, :7] = 0
    with ontogeny.capture(model) as one:
        model(ids, attention_mask=mask)
    with ontogeny.capture(model) as other:
        model.base_model(ids, attention_mask=mask)
    assert_equal_traces(one, other)
    with ontogeny.capture(model) as many:
        for start in (0, 2, 4):
            model(input_ids=ids[start : start + 2], attention_mask=mask[start : start + 2])
            assert len(many.layers[0].entropy) == start + 2
    for parts, others in ((one.layers, many.layers), (one.depths, many.depths)):
        for part, twin in zip(parts, others, strict=True):
            for name, value in vars(part).items():
                if value is not None:
                    found = getattr(twin, name)
                    torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)


def test_positional_arguments_embeddings_and_tuples_are_understood():
    model, ids, mask = tiny("gpt2"), token_ids(2, LENGTH), torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :5] = 0
    whole = run_pass(model, ids, mask)
    with ontogeny.capture(model) as positional:
        model.transformer(ids, None, mask, return_dict=False)
    with ontogeny.capture(model) as embedded:
        model(inputs_embeds=model.transformer.wte(ids), attention_mask=mask.bool())
    assert_equal_traces(positional, whole)
    assert_equal_traces(embedded, whole)


def test_positions_that_do_not_count_up_are_not_taken_for_packed_sequences():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.capture(model) as trace:
        model(ids, position_ids=torch.arange(LENGTH).clamp_min(3)[None])
    assert (trace.layers[0].visible_rows[0, 0] == torch.arange(LENGTH, 0, -1)).all()


def test_a_pass_that_raised_leaves_nothing():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.capture(model) as trace:
        handle = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(ids)
        handle.remove()
        model(ids)
    assert_equal_traces(trace, run_pass(model, ids))


def test_maps_are_kept_of_the_layers_asked_for_and_no_others():
    model, ids, mask = tiny("llama"), token_ids(2, LENGTH), torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :5] = 0
    trace, plain = run_pass(model, ids, mask, maps=[1]), run_pass(model, ids, mask)
    assert [layer.map is None for layer in trace.layers] == [True, False, True]
    kept = trace.layers[1].map
    assert kept.shape == (2, 4, LENGTH, LENGTH)
    torch.testing.assert_close(kept.sum(-2), trace.layers[1].column_mass)
    for name, value in vars(plain.layers[1]).items():
        if value is not None:
            assert torch.equal(value, getattr(trace.layers[1], name)), name


def test_needs_are_recorded_and_nothing_else():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.capture(model, needs={"residual"}) as trace:
        assert model.config._attn_implementation == "sdpa"
        model(ids)
    assert trace.layers == () and trace.attention == "not asked for" and trace.available == {"residual"}


def test_blocks_are_announced():
    seen = []
    run_pass(tiny("llama"), token_ids(1, 8), on_block=seen.append)
    assert seen == [0, 1, 2]


def test_a_trace_shows_what_it_holds():
    trace = run_pass(tiny("llama"), token_ids(2, LENGTH), needs={"residual"})
    assert repr(trace) == "Trace(2 sequences of 24 tokens, attention: not asked for)"


def test_attention_outside_the_interface_is_named_by_hand_too():
    model = tiny_falcon()
    with ontogeny.capture(model) as trace:
        model(token_ids(2, LENGTH))
    assert trace.attention.startswith("unavailable: FalconModel") and trace.available == {"residual"}


def test_a_vision_model_needs_no_tokens():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).eval()
    with ontogeny.capture(model) as trace:
        model(pixel_values=torch.rand(2, 3, 32, 32))
    assert trace.length == 17 and len(trace.layers) == 2
    assert (trace.layers[0].visible_rows == 17).all()


def test_peak_memory_of_a_capture_by_hand_holds_no_map_per_layer():
    model, ids = tiny("gpt_neox", num_hidden_layers=8, max_position_embeddings=1024), token_ids(1, 1024)

    def run():
        with ontogeny.capture(model) as trace:
            model(ids)
        return trace.layers

    assert peak_bytes(run) < 8 * 4 * 1024**2 * 4 / 4
