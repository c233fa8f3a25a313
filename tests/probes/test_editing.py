"""Maps and states that are changed on their way: what the model computes, and that it is left as it was."""

from __future__ import annotations

import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.editing import editing, editing_stream
from ontogeny.probes.capture.routing import route_of
from tests.models import tiny, tiny_falcon, token_ids

LENGTH = 24
FAMILIES = ["gpt_neox", "llama", "gpt2", "mistral", "gemma2", "opt", "bert", "gpt_oss"]


def unchanged(_place, values):
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_that_are_left_alone_change_nothing(family):
    model, ids, seen = tiny(family), token_ids(2, LENGTH), {}
    plain = model(ids).logits
    with editing(model, lambda layer, one: seen.setdefault(layer, one)):
        edited = model(ids).logits
    torch.testing.assert_close(edited, plain, rtol=0, atol=1e-5 * plain.abs().max().item())
    assert [tuple(seen[layer].shape) for layer in range(3)] == [(2, 4, LENGTH, LENGTH)] * 3
    with editing(model, lambda layer, one: one * (layer != 1)):
        changed = model(ids).logits
    assert (changed - plain).abs().max() > 1e-2 * plain.abs().max()
    assert torch.equal(model(ids).logits, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_between_the_blocks(family):
    model, ids = tiny(family), token_ids(2, LENGTH)
    given = model(ids, output_hidden_states=True)
    seen = {}
    with editing_stream(model, lambda depth, one: seen.setdefault(depth, one)):
        assert torch.equal(model(ids).logits, given.logits)
    assert list(seen) == [0, 1, 2, 3]
    for depth in range(3):  # transformers norms the last one
        torch.testing.assert_close(seen[depth], given.hidden_states[depth], rtol=0, atol=0)
    for at in range(4):
        with editing_stream(model, lambda depth, one, at=at: one.roll(1, 1) if depth == at else one):
            assert not torch.allclose(model(ids).logits, given.logits, rtol=1e-2)
    assert torch.equal(model(ids).logits, given.logits)


@pytest.mark.parametrize("inside", [editing, editing_stream])
def test_a_model_is_left_as_it_was_also_by_an_exception(inside):
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    plain = model(ids).logits
    implementation = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), inside(model, lambda _place, _values: 1 / 0):
        model(ids)
    assert model.config._attn_implementation == implementation and route_of(model.model) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(ids).logits, plain)


def test_inside_attending_maps_are_those_of_its_mechanism():
    model, ids, seen = tiny("llama"), token_ids(2, LENGTH), {}
    with ontogeny.attending(model, "sigmoid"):
        plain = model(ids).logits
        with editing(model, lambda layer, one: seen.setdefault(layer, one)):
            edited = model(ids).logits
        assert torch.equal(model(ids).logits, plain)
    torch.testing.assert_close(edited, plain, rtol=0, atol=1e-5 * plain.abs().max().item())
    assert (seen[0].sum(-1) - 1).abs().max() > 0.1


def test_what_would_not_be_edited_or_measured_is_refused():
    model, ids = tiny("llama"), token_ids(1, LENGTH)
    with pytest.raises(OntogenyError, match="the attention of FalconModel cannot be replaced"):
        editing(tiny_falcon(), unchanged).__enter__()
    with ontogeny.capture(model), pytest.raises(OntogenyError, match="inside another `capture`"):
        editing(model, unchanged).__enter__()
    with editing(model, unchanged):
        with pytest.raises(OntogenyError, match="LlamaModel is inside `editing` already"):
            editing(model, unchanged).__enter__()
        with pytest.raises(OntogenyError, match="inside another `capture`, `attending` or `editing`"):
            ontogeny.attending(model).__enter__()
        with pytest.raises(OntogenyError, match="LlamaModel is inside `editing`, whose maps a capture would not see"):
            ontogeny.capture(model).__enter__()
        model(ids)
