"""A capture leaves the model exactly as it was, and lets it compute inside what it computes outside."""

from __future__ import annotations

import pytest
import torch
import transformers

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.routing import NAME, Route, routed
from ontogeny.probes.capture.settings import AttentionSettings
from tests.models import FAMILIES, tiny, token_ids

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
def test_under_autocast_the_model_computes_what_it_computes_unhooked(family):
    model, ids = tiny(family), token_ids(2, LENGTH)
    mask = torch.ones_like(ids)
    mask[0, 15:] = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(ids, attention_mask=mask).logits
        with ontogeny.capture(model, output="sdpa" if family not in {"gemma2", "gpt_oss"} else "fused") as trace:
            inside = model(ids, attention_mask=mask).logits
    assert inside.dtype == plain.dtype
    if family not in {"gemma2", "gpt_oss"}:
        assert torch.equal(inside[mask.bool()], plain[mask.bool()])
    expected = run_pass(model.to(torch.bfloat16), ids, mask)
    assert trace.layers[0].entropy.dtype == torch.float32
    for one, other in zip(trace.layers, expected.layers, strict=True):
        torch.testing.assert_close(one.column_mass, other.column_mass, rtol=0, atol=0.5)
        torch.testing.assert_close(one.entropy, other.entropy, rtol=0.1, atol=0.1)
