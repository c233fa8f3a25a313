"""Attention of other kinds in transformers models: same as sdpa where it is softmax, trainable, and measurable."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.kernels import MECHANISMS
from ontogeny.kernels.masks import sliding_window
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.routing import route_of
from tests.models import tiny, token_ids

LENGTH = 24
CAUSAL = torch.ones(LENGTH, LENGTH).tril()


def untrained(family="llama", **changes):
    """A model of small weights that learns, with gradients on."""
    torch.manual_seed(0)
    random = tiny(family, **changes)
    return type(random)(random.config).requires_grad_(True)


def loss_and_gradients(model, ids, mask):
    model.zero_grad()
    loss = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def padded():
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, :5] = 0
    return mask


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "mistral"])
def test_softmax_is_what_the_model_computes_anyway(family):
    model, ids, mask = untrained(family), token_ids(3, LENGTH), padded()
    loss, gradients = loss_and_gradients(model, ids, mask)
    with ontogeny.attending(model, "softmax"):
        same, twins = loss_and_gradients(model, ids, mask)
    torch.testing.assert_close(same, loss)
    assert gradients.keys() == twins.keys() and len(gradients) == len(list(model.parameters()))
    for name, gradient in gradients.items():
        torch.testing.assert_close(twins[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_model_learns_with_any_mechanism(mechanism):
    model, ids = untrained(), token_ids(4, LENGTH)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    with ontogeny.attending(model, mechanism):
        for _ in range(25):
            optimiser.zero_grad()
            loss = model(ids, labels=ids).loss
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    for name in ("q_proj", "k_proj", "v_proj"):
        gradient = getattr(model.model.layers[0].self_attn, name).weight.grad
        assert gradient.isfinite().all() and gradient.abs().sum() > 0, name


def test_a_sink_of_ones_own_is_trained():
    model, ids = untrained(), token_ids(2, LENGTH)
    sinks = torch.nn.Parameter(torch.zeros(4))
    with ontogeny.attending(model, "softmax_sink", sinks=sinks):
        model(ids, labels=ids).loss.backward()
    assert (sinks.grad != 0).all()


def test_every_layer_may_have_sinks_of_its_own():
    model, ids = untrained(), token_ids(2, LENGTH)
    sinks = torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    with ontogeny.attending(model, sinks=sinks):
        model(ids, labels=ids).loss.backward()
        found = run_pass(model, ids)
    assert sinks.grad.shape == (3, 4) and (sinks.grad != 0).all()
    for layer in range(3):
        with ontogeny.attending(model, sinks=sinks[layer]):
            alike = run_pass(model, ids)
        for other in range(layer + 1):
            # Layer i is like that of a model whose layers up to i all have its sinks only where these are the same.
            same = torch.allclose(found.layers[other].column_mass, alike.layers[other].column_mass)
            assert same == (layer == other == 0)
    with ontogeny.attending(model, sinks=sinks[:1].expand(3, 4)):
        expanded = run_pass(model, ids)
    with ontogeny.attending(model, sinks=sinks[0]):
        alike = run_pass(model, ids)
    for one, other in zip(expanded.layers, alike.layers, strict=True):
        assert torch.equal(one.column_mass, other.column_mass)


@pytest.mark.parametrize("mechanism", ["sigmoid", "sparsemax", "relu"])
def test_a_capture_inside_measures_the_same_attention(mechanism):
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with torch.no_grad(), ontogeny.attending(model, mechanism):
        plain = model(ids).logits
        with ontogeny.capture(model, maps=[0]) as trace:
            captured = model(ids).logits
        again = model(ids).logits
    torch.testing.assert_close(captured, plain, rtol=0, atol=1e-5 * plain.abs().max().item())
    assert torch.equal(plain, again)
    with torch.no_grad():
        states = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids))
        scores = first_scores(model, states)
    expected = {
        "sigmoid": (scores - torch.tensor(LENGTH).log()).sigmoid() * CAUSAL,
        "relu": scores.relu() * CAUSAL / LENGTH,
    }
    kept = trace.layers[0].map
    if mechanism in expected:
        torch.testing.assert_close(kept, expected[mechanism], rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(kept.sum(-1), torch.ones(2, 4, LENGTH))
        assert (kept == 0).sum() > 2 * 4 * LENGTH * (LENGTH - 1) / 2
    torch.testing.assert_close(trace.layers[0].column_mass, kept.sum(-2))


def first_scores(model, states):
    """Scores of the first layer from its own projections and rotation."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    layer = model.model.layers[0].self_attn
    q, k = (project(states).view(2, LENGTH, -1, 8).transpose(1, 2) for project in (layer.q_proj, layer.k_proj))
    q, k = apply_rotary_pos_emb(q, k, *model.model.rotary_emb(states, torch.arange(LENGTH)[None]))
    return q @ k.repeat_interleave(2, 1).transpose(-1, -2) * layer.scaling


def test_a_mask_function_hides_keys_in_the_model_and_in_its_measurement():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with ontogeny.attending(model, mask_mod=sliding_window(5)), ontogeny.capture(model, maps=[0, 1, 2]) as trace:
        hooked = model(ids).logits
    windowed = tiny("mistral", sliding_window=5)
    windowed.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = windowed(ids).logits
    torch.testing.assert_close(hooked, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    same = run_pass(windowed, ids)
    for layer, twin in zip(trace.layers, same.layers, strict=True):
        assert (layer.map.triu(1) == 0).all() and (layer.map.tril(-5) == 0).all()
        for name, value in vars(twin).items():
            if value is not None:
                torch.testing.assert_close(getattr(layer, name), value, rtol=1e-4, atol=1e-5, msg=name)


def test_rows_that_a_mask_function_leaves_without_a_key_are_in_no_mean():
    model, ids = tiny("llama"), token_ids(2, LENGTH)

    def fewer_rows_for_later_heads(b, h, i, j):
        return (i < 12 - 4 * h) & (h != 2)

    with ontogeny.attending(model, mask_mod=fewer_rows_for_later_heads), ontogeny.capture(model, maps=[0]) as trace:
        model(ids)
    layer = trace.layers[0]
    for head, rows in enumerate((12, 8, 0, 0)):
        entropy = torch.special.entr(layer.map[:, head]).sum(-1).sum(-1) / max(rows, 1)
        torch.testing.assert_close(layer.entropy[:, head], entropy)
        assert layer.row_length[:, head].amax() <= rows and (layer.map[:, head, rows:] == 0).all()


def test_masks_of_passes_gone_by_are_forgotten():
    model, kept = untrained("gemma2"), []
    with ontogeny.attending(model):
        masks = route_of(model.model).masks
        handle = model.model.layers[0].self_attn.register_forward_pre_hook(
            lambda _m, _a, options: kept.append(options["attention_mask"]), with_kwargs=True
        )
        for _ in range(3):
            model(token_ids(1, 16))
            gc.collect()
            assert masks.in_flight == 2 and len(masks) == len(kept)
        kept.clear()
        handle.remove()
        gc.collect()
        assert len(masks) == 0


def checkpoint_blocks(model, reentrant):
    """By the name that transformers has for it now, or by its older one."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_gradient_checkpointing_computes_every_pass_of_a_step_again(family, reentrant):
    model, ids, mask = untrained(family).train(), token_ids(6, LENGTH), torch.cat([padded(), padded().flip(1)])

    def step():
        model.zero_grad()
        parts = zip(ids.split(3), mask.split(3), strict=True)
        loss = sum(model(i, attention_mask=m, labels=i.masked_fill(m == 0, -100)).loss for i, m in parts)
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    with ontogeny.attending(model, "sigmoid"):
        loss, gradients = step()
        checkpoint_blocks(model, reentrant)
        again, twins = step()
    torch.testing.assert_close(again, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(twins[name], gradient, msg=name)


def test_checkpointing_may_compute_again_on_another_thread():
    model, failures = untrained().train(), []
    checkpoint_blocks(model, reentrant=False)

    def backward(loss):
        try:
            loss.backward()
        except OntogenyError as error:
            failures.append(error)

    with ontogeny.attending(model, "sigmoid"):
        ids = token_ids(2, LENGTH)
        thread = threading.Thread(target=backward, args=[model(ids, labels=ids).loss])
        thread.start()
        thread.join()
    assert not failures and all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("mechanism", ["softmax", "sigmoid"])
def test_under_autocast_a_model_learns_as_in_low_precision(mechanism):
    model, ids = untrained(), token_ids(3, LENGTH)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(ids, labels=ids).loss
        with ontogeny.attending(model, mechanism):
            loss = model(ids, labels=ids).loss
    loss.backward()
    assert loss.dtype == plain.dtype and all(p.grad.isfinite().all() for p in model.parameters())
    if mechanism == "softmax":
        assert torch.equal(loss, plain)


def test_under_autocast_whole_maps_are_computed_in_float32():
    model, seen = tiny("llama"), []

    def every_key(b, h, i, j):
        seen.append(torch.is_autocast_enabled("cpu"))
        return (i >= 0) & (j >= 0)

    with torch.autocast("cpu", torch.bfloat16), ontogeny.attending(model, "sigmoid", mask_mod=every_key):
        model(token_ids(1, LENGTH))
    assert seen and not any(seen)


def test_the_model_attends_as_before_on_leaving_also_after_an_exception():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    with torch.no_grad():
        before = model(ids).logits
        with pytest.raises(ZeroDivisionError), ontogeny.attending(model, "sigmoid"):
            assert not torch.allclose(model(ids).logits, before)
            _ = 1 / 0
        assert torch.equal(model(ids).logits, before)
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_model_with_sinks_of_its_own_keeps_them():
    model, ids = tiny("gpt_oss"), token_ids(2, LENGTH)
    before = run_pass(model, ids)
    with ontogeny.attending(model):
        inside = run_pass(model, ids)
    assert torch.equal(before.layers[0].column_mass, inside.layers[0].column_mass)
    assert (inside.layers[0].column_mass.sum(-1) < LENGTH - 1e-3).all()
