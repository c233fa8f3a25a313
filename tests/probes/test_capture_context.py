"""Capture by hand: what passes leave in the trace, what is refused, and that the model is left exactly as it was."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
import transformers

import ontogeny
from ontogeny.bench.memory import peak_bytes
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.masks import Pattern
from ontogeny.probes.capture.routing import NAME, IssuedMasks, Route, routed
from ontogeny.probes.capture.settings import AttentionSettings
from tests.models import FAMILIES, tiny, tiny_falcon, token_ids

LENGTH = 24


def state(model):
    """All that a capture could leave behind in a model, and outside."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
    return {
        "implementations": [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")],
        "hooks": [list(getattr(m, name)) for m in model.modules() for name in hooks],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "own": [sorted(vars(m)) for m in model.modules()],
        "config": model.config.to_dict(),
        "random": torch.get_rng_state().tolist(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def half_in_training(family="llama"):
    """A model whose parts are in different modes, with gradients on some of its parameters and a hook of its own."""
    model = tiny(family)
    model.train()
    model.base_model.get_input_embeddings().eval()
    next(model.parameters()).requires_grad_(True)
    model.base_model.register_forward_hook(lambda *_: None)
    return model


def assert_equal_traces(one, other):
    assert one.attention == other.attention and one.length == other.length
    for parts, others in ((one.layers, other.layers), (one.depths, other.depths)):
        for part, twin in zip(parts, others, strict=True):
            for name, value in vars(part).items():
                assert value is getattr(twin, name) is None or torch.equal(value, getattr(twin, name)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_exactly_as_it_was(family):
    model = half_in_training(family)
    before = state(model)
    with ontogeny.capture(model) as trace:
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
        assert model.config._attn_implementation == NAME
        model(token_ids(2, LENGTH))
    assert state(model) == before
    assert len(trace.layers) == 3 and len(trace.depths) == 4


@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_the_model_is_left_as_it_was_after_an_exception(where):
    model = half_in_training()
    before = state(model)
    with pytest.raises(ZeroDivisionError), ontogeny.capture(model) as trace:
        if where == "within":
            handle = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
            try:
                model(token_ids(2, LENGTH))
            finally:
                handle.remove()
        if where == "after":
            model(token_ids(2, LENGTH))
        _ = 1 / 0
    assert state(model) == before
    if where == "after":
        assert len(trace.layers) == 3
    else:
        with pytest.raises(OntogenyError, match="the trace is empty"):
            _ = trace.layers


def test_a_model_that_cannot_be_captured_is_left_as_it_was():
    model = half_in_training()
    before = state(model)
    with (
        pytest.raises(OntogenyError, match="maps: expected layers from 0 to 2, got 3"),
        ontogeny.capture(model, maps=[3]),
    ):
        pass
    assert state(model) == before


def test_every_config_gets_its_own_implementation_back():
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(image_size=32, patch_size=16, **sizes)
    config = transformers.CLIPConfig(text_config=transformers.CLIPTextConfig(**sizes), vision_config=vision)
    model = transformers.CLIPModel(config)
    config._attn_implementation_internal = "sdpa"
    config.text_config._attn_implementation_internal = "eager"
    config.vision_config._attn_implementation_internal = "sdpa"
    with routed(model, Route(AttentionSettings())):
        assert config.text_config._attn_implementation == config.vision_config._attn_implementation == NAME
    found = [one._attn_implementation for one in (config, config.text_config, config.vision_config)]
    assert found == ["sdpa", "eager", "sdpa"]


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "mistral", "opt", "bert"])
def test_with_output_of_sdpa_the_model_computes_what_it_computes_unhooked(family):
    model, ids = tiny(family), token_ids(2, LENGTH)
    with torch.no_grad():
        before = model(ids).logits
        with ontogeny.capture(model, output="sdpa"):
            inside = model(ids).logits
        after = model(ids).logits
        with ontogeny.capture(model):
            fused = model(ids).logits
    assert torch.equal(before, inside) and torch.equal(before, after)
    torch.testing.assert_close(fused, before, rtol=0, atol=1e-5 * before.abs().max().item())


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
                    torch.testing.assert_close(getattr(twin, name), value, rtol=1e-4, atol=1e-5, msg=name)


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


def test_a_pass_of_another_length_is_refused_and_leaves_nothing():
    model = tiny("llama")
    with ontogeny.capture(model) as trace:
        model(token_ids(2, LENGTH))
        with pytest.raises(OntogenyError, match="has 9 tokens a sequence, those captured before have 24"):
            model(token_ids(2, 9))
        assert trace.length == LENGTH and len(trace.layers[0].entropy) == 2


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
        if name != "map":
            assert torch.equal(value, getattr(trace.layers[1], name)), name


def test_needs_are_recorded_and_nothing_else():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.capture(model, needs={"residual"}) as trace:
        assert model.config._attn_implementation == "sdpa"
        model(ids)
    assert trace.layers == () and trace.attention == "not asked for" and trace.available == {"residual"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"needs": ()}, "needs: expected some of attention, residual, got"),
        ({"needs": {"values"}}, "needs: expected some of attention, residual, got values"),
        ({"needs": {"residual"}, "maps": [0]}, "maps: expected `attention` among the needs"),
    ],
)
def test_needs_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OntogenyError, match=message), ontogeny.capture(tiny("llama"), **options):
        pass


def test_blocks_are_announced():
    seen = []
    run_pass(tiny("llama"), token_ids(1, 8), on_block=seen.append)
    assert seen == [0, 1, 2]


def test_a_trace_without_a_pass_says_so():
    with ontogeny.capture(tiny("llama")) as trace:
        assert repr(trace) == "Trace(no pass yet)"
    for name in ("layers", "depths", "attention", "length"):
        with pytest.raises(OntogenyError, match="the trace is empty"):
            getattr(trace, name)


def test_a_trace_shows_what_it_holds():
    trace = run_pass(tiny("llama"), token_ids(2, LENGTH), needs={"residual"})
    assert repr(trace) == "Trace(2 sequences of 24 tokens, attention: not asked for)"


def test_generation_and_caches_are_refused():
    model, ids = tiny("llama"), token_ids(1, 8)
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    with ontogeny.capture(model):
        for run in (partial(model, ids, past_key_values=cache), partial(model.generate, ids, max_new_tokens=3)):
            with pytest.raises(OntogenyError, match=r"key-value cache.*use_cache=False"):
                run()
        assert model(ids).past_key_values is None


def test_generation_without_a_cache_is_refused_at_its_second_pass():
    model = tiny("llama")
    with ontogeny.capture(model), pytest.raises(OntogenyError, match=r"has 9 tokens.*generate\(\) cannot be captured"):
        model.generate(token_ids(1, 8), max_new_tokens=3, use_cache=False)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.ones(2, 1, LENGTH, LENGTH),
            r"expected padding of shape \(2, 24\).*got a tensor of shape \(2, 1, 24, 24\)",
        ),
        (torch.ones(2, 9), r"got a tensor of shape \(2, 9\)"),
        ({"full_attention": None}, "got dict"),
        (torch.zeros(2, LENGTH), "a sequence is padding throughout"),
    ],
)
def test_masks_that_are_no_padding_are_refused(mask, message):
    model = tiny("llama")
    with ontogeny.capture(model), pytest.raises(OntogenyError, match=message):
        model(token_ids(2, LENGTH), attention_mask=mask)


def test_one_capture_of_a_model_at_a_time():
    model, other, ids = tiny("llama"), tiny("gpt2"), token_ids(2, LENGTH)
    with ontogeny.capture(model) as trace:
        with pytest.raises(OntogenyError, match="LlamaModel is being captured already"), ontogeny.capture(model.model):
            pass
        with ontogeny.capture(other) as apart:
            model(ids)
            other(ids)
            model(ids)
        model(ids)
    assert len(trace.layers[0].entropy) == 6
    assert_equal_traces(apart, run_pass(other, ids))
    with ontogeny.capture(model) as again:
        model(ids)
    assert len(again.layers) == 3


def test_a_model_that_another_thread_captures_is_refused_there():
    model, failures = tiny("llama"), []

    def run():
        try:
            model(token_ids(1, 8))
        except OntogenyError as error:
            failures.append(str(error))

    with ontogeny.capture(model):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(failures) == 1 and "captured in another thread" in failures[0]


def test_a_model_that_shares_its_config_with_a_captured_one_is_refused():
    model = tiny("llama")
    twin = transformers.LlamaForCausalLM(model.config).eval()
    with ontogeny.capture(model), pytest.raises(OntogenyError, match="needs a config of its own"):
        twin(token_ids(1, 8))


@pytest.mark.parametrize("change", ["train", "gradients"])
def test_training_inside_a_capture_is_refused(change):
    model = tiny("llama")
    with ontogeny.capture(model), pytest.raises(OntogenyError, match="expected passes in evaluation mode"):
        if change == "train":
            model.train()
        with torch.set_grad_enabled(change == "gradients"):
            model(token_ids(1, 8))


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), "gpt2", None])
def test_what_is_no_model_of_transformers_is_refused(model):
    with pytest.raises(OntogenyError, match="expected a transformers PreTrainedModel"), ontogeny.capture(model):
        pass


def test_a_compiled_model_is_refused_with_the_way_out():
    with (
        pytest.raises(OntogenyError, match=r"before torch\.compile wraps it"),
        ontogeny.capture(torch.compile(tiny("llama"), backend="eager")),
    ):
        pass


def test_weights_that_are_not_finite_fail_the_pass():
    model = tiny("gpt_neox")
    model.gpt_neox.layers[1].mlp.dense_4h_to_h.bias[0] = float("nan")
    with ontogeny.capture(model) as trace, pytest.raises(OntogenyError, match="not finite"):
        model(token_ids(1, 8))
    with pytest.raises(OntogenyError, match="the trace is empty"):
        _ = trace.depths


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


def test_issued_masks_are_of_one_pass():
    masks = IssuedMasks()
    mask = masks.issue(torch.tensor([[True, False]]), Pattern(True, None))
    assert masks.padding("Attention", mask, Pattern(True, None)) is mask
    masks.clear()
    with pytest.raises(OntogenyError, match="mask of its model's own making"):
        masks.padding("Attention", mask, Pattern(True, None))


def test_peak_memory_of_a_capture_by_hand_holds_no_map_per_layer():
    model, ids = tiny("gpt_neox", num_hidden_layers=8, max_position_embeddings=1024), token_ids(1, 1024)

    def run():
        with ontogeny.capture(model) as trace:
            model(ids)
        return trace.layers

    assert peak_bytes(run) < 8 * 4 * 1024**2 * 4 / 4
