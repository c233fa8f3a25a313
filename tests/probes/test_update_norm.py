"""||W_O v|| behind the output projection: against explicit products, and not measured where it cannot be seen."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import capture, run_pass
from ontogeny.probes.capture.projection import UpdateNorms, update_norm
from tests.models import FAMILIES, tiny, tiny_falcon, token_ids
from tests.probes.plain import (
    FLOATS,
    HEADS,
    LAYERS,
    LENGTH,
    SEQUENCES,
    WIDTH,
    close,
    in_dtype,
    measured,
    measured_of,
    plain_of,
)


@cache
def update_norms(family):
    """||W_O v|| (N, L, H, T), a product for every key."""
    plain = plain_of(family)
    norms = np.empty((SEQUENCES, LAYERS, HEADS, LENGTH))
    for n, layer, head, key in np.ndindex(norms.shape):
        part = plain.projections[layer][:, head * WIDTH : (head + 1) * WIDTH]
        norms[n, layer, head, key] = np.linalg.norm(part @ plain.values[n, layer, head, key])
    return norms


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_update_norms_equal_products_with_each_heads_part_of_the_projection(family, dtype):
    found = measured_of(family, dtype)
    norms = update_norms(family)
    close(found.update_norm, (norms / norms.mean(-1, keepdims=True)).mean(0), family, dtype)
    assert found.attrs["update_norm"] == "captured"
    # It is another number than the value's own norm.
    assert abs(found.update_norm / found.value_norm - 1).max() > 0.05


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_traces_norms_are_not_relative(dtype):
    trace = run_pass(in_dtype("llama", dtype), token_ids(SEQUENCES, LENGTH))
    found = torch.stack([layer.update_norm for layer in trace.layers], 1)
    close(found, update_norms("llama"), "llama", dtype)


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.03), (torch.float16, 4e-3)])
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2", "opt", "bert"])
def test_half_precision_comes_near(family, dtype, near):
    found = run_pass(tiny(family).to(dtype), token_ids(SEQUENCES, LENGTH)).layers[0].update_norm
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, update_norms(family)[:, 0], rtol=near)


def test_values_are_not_squared_out_of_range():
    """In float32 squares of 1e30 overflow, and those of 1e-30 vanish."""
    projection = nn.Linear(8, 5, bias=False)
    value = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    plain = update_norm(projection, value, 2)
    for scale in (1e30, 1e-30):
        torch.testing.assert_close(update_norm(projection, value * scale, 2) / scale, plain)


def test_under_autocast_the_norms_are_those_of_the_values_in_its_precision():
    model, ids = tiny("llama"), token_ids(SEQUENCES, LENGTH)
    with torch.autocast("cpu", torch.bfloat16), capture(model) as trace:
        model(ids)
    assert trace.updates == "captured"
    np.testing.assert_allclose(trace.layers[0].update_norm, update_norms("llama")[:, 0], rtol=0.03)


def test_a_users_inference_mode_changes_no_number():
    model, ids = tiny("gpt2"), token_ids(2, LENGTH)
    plain = run_pass(model, ids)
    with torch.inference_mode():
        inside = run_pass(model, ids)
    assert inside.updates == "captured"
    for one, other in zip(inside.layers, plain.layers, strict=True):
        torch.testing.assert_close(one.update_norm, other.update_norm, rtol=0, atol=0)


def between(model, layer, change):
    """Put `change`, of the attention's output, between the attention of a layer and its projection."""
    projection = model.model.layers[layer].self_attn.o_proj
    projection.register_forward_pre_hook(lambda _m, args: (change(args[0]),))
    return model


EDITS = {
    "a gate": lambda output: output * torch.linspace(0.5, 1, output.shape[-1]),
    "a gate in place": lambda output: output.mul_(0.5),
    "a gate in place on a view": lambda output: output.view(-1).mul_(0.5).view(output.shape),
    "a norm": lambda output: nn.functional.rms_norm(output, output.shape[-1:]),
    "one half of it": lambda output: torch.cat([output[..., 16:], output[..., :16]], dim=-1),
    "a gate in another precision": lambda output: (output * 0.3).double().float(),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("edit", EDITS)
def test_what_is_edited_before_it_is_projected_is_not_measured(edit, inference):
    model = between(tiny("llama"), 1, EDITS[edit])
    with torch.inference_mode(inference):
        trace = run_pass(model, token_ids(2, LENGTH))
    assert trace.updates == (
        "unavailable: in layer 1, no linear map read the attention's output as it is, expected one"
    )
    assert all(layer.update_norm is None for layer in trace.layers)
    found = ontogeny.measure(trace)
    assert "update_norm" not in found.data_vars and "value_norm" in found
    assert found.attrs["update_norm"] == trace.updates


def test_what_is_transposed_is_read_otherwise_though_it_is_the_same_memory():
    """As many tokens as there are inputs, so that tokens could be taken for them."""
    model = between(tiny("llama"), 1, lambda output: output.transpose(1, 2))
    assert run_pass(model, token_ids(2, 32)).updates.startswith("unavailable: in layer 1, no linear map")


class Adapted(nn.Module):
    """A linear map with a low-rank one beside it, as adapters are; `dtype` is that of the latter."""

    def __init__(self, base, dtype):
        super().__init__()
        self.base, self.dtype = base, dtype
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=dtype)

    def forward(self, given):
        return self.base(given) + self.up(self.down(given.to(self.dtype))).to(given.dtype)


@pytest.mark.parametrize("adapter", [torch.float32, torch.float64, torch.bfloat16])
def test_an_adapter_beside_the_projection_makes_two_of_it(adapter):
    model = tiny("llama")
    model.model.layers[2].self_attn.o_proj = Adapted(model.model.layers[2].self_attn.o_proj, adapter)
    trace = run_pass(model, token_ids(2, LENGTH))
    assert trace.updates == (
        "unavailable: in layer 2, 2 linear maps read the attention's output as it is, expected one"
    )


def test_an_output_that_is_cast_to_the_projections_precision_is_measured():
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.o_proj.to(torch.float64)
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _m, args: (args[0].double(),))
        layer.self_attn.o_proj.register_forward_hook(lambda _m, _a, out: out.float())
    found = run_pass(model, token_ids(SEQUENCES, LENGTH))
    assert found.updates == "captured"
    np.testing.assert_allclose(found.layers[2].update_norm, update_norms("llama")[:, 2], rtol=2e-5)


class Scaled(nn.Linear):
    """A linear map that does more than its weight says."""

    def forward(self, given):
        return super().forward(given) * 0.5


class Whole(nn.Linear):
    """A linear map whose weight is whole numbers, as those of quantised ones are."""

    def __init__(self):
        super().__init__(32, 32, bias=False)
        self.weight = nn.Parameter((self.weight * 100).to(torch.int8), requires_grad=False)

    def forward(self, given):
        return given @ (self.weight.T.float() * 0.01)


class Eight(Whole):
    """The same in eight bits of floating point, with a scale beside."""

    def __init__(self):
        nn.Linear.__init__(self, 32, 32, bias=False)
        self.weight = nn.Parameter(self.weight.to(torch.float8_e4m3fn), requires_grad=False)


class Weighty(torch.Tensor):
    """A tensor of a class of its own, whose numbers may mean anything."""


@pytest.mark.parametrize("kind", ["scaled", "whole", "eight", "weighty", "patched"])
def test_a_projection_that_is_more_than_its_matrix_is_not_measured(kind):
    model = tiny("llama")
    attention = model.model.layers[0].self_attn
    if kind in ("scaled", "whole", "eight"):
        attention.o_proj = {"scaled": lambda: Scaled(32, 32, bias=False), "whole": Whole, "eight": Eight}[kind]()
    elif kind == "weighty":
        weight = attention.o_proj.weight.detach().as_subclass(Weighty)
        attention.o_proj.weight = nn.Parameter(weight, requires_grad=False)
    else:
        original = attention.o_proj.forward
        attention.o_proj.forward = lambda given: original(given) * 2
    trace = run_pass(model.requires_grad_(False), token_ids(2, LENGTH))
    assert trace.updates == (
        f"unavailable: in layer 0, the output projection is a {type(attention.o_proj).__name__} without a plain "
        "matrix of 32 columns"
    )


def test_a_parametrized_projection_is_measured_by_the_matrix_that_it_computes_with():
    model = tiny("llama")
    plain = run_pass(model, token_ids(2, LENGTH)).layers[0].update_norm

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    nn.utils.parametrize.register_parametrization(model.model.layers[0].self_attn.o_proj, "weight", Double())
    found = run_pass(model, token_ids(2, LENGTH))
    assert found.updates == "captured"
    torch.testing.assert_close(found.layers[0].update_norm, 2 * plain)


def test_a_projection_of_another_width_is_no_projection_of_all_heads():
    assert update_norm(nn.Linear(16, 8), torch.ones(1, 2, 3, 4), 2) == (
        "the output projection is a Linear without a plain matrix of 8 columns"
    )


@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn, "meta"])
def test_a_weight_whose_numbers_are_elsewhere_or_scaled_is_no_matrix(stored):
    projection = nn.Linear(8, 8, bias=False)
    projection.weight = nn.Parameter(projection.weight.to(stored), requires_grad=False)
    assert update_norm(projection, torch.ones(1, 2, 3, 4), 2) == (
        "the output projection is a Linear without a plain matrix of 8 columns"
    )


def test_one_batch_without_norms_makes_a_trace_without_them():
    model = tiny("llama")
    with capture(model) as trace:
        model(token_ids(1, LENGTH))
        handle = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(
            lambda _m, args: (args[0] * 2,), prepend=True
        )
        model(token_ids(1, LENGTH))
        handle.remove()
    assert trace.updates.startswith("unavailable: in layer 1, no linear map")
    assert "update_norm" not in ontogeny.measure(trace)


def test_the_attribute_says_why_nothing_was_seen_or_that_nothing_was_asked():
    assert run_pass(tiny_falcon(), token_ids(1, 8)).updates.startswith("unavailable: FalconModel computes")
    assert run_pass(tiny("llama"), token_ids(1, 8), needs={"residual"}).updates == "not asked for"


def test_blocks_that_share_a_projection_watch_it_once():
    block = nn.Sequential(nn.Linear(8, 8))
    assert UpdateNorms([block, block]).linear == [block[0]]


def test_a_pass_that_raises_leaves_no_norm_and_no_hook_behind():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    expected = run_pass(model, ids)
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), capture(model):
        model(ids)
    assert not any(m._forward_pre_hooks for m in model.modules())
    with capture(model) as trace:
        with pytest.raises(ZeroDivisionError):
            model(ids)
        handle.remove()
        model(ids)
    assert not any(m._forward_pre_hooks for m in model.modules())
    for one, other in zip(trace.layers, expected.layers, strict=True):
        assert torch.equal(one.update_norm, other.update_norm)


def test_padding_has_a_norm_of_its_own_and_changes_no_other():
    """Keys that no row sees count in no mean; the values of padding are whatever the model makes of it."""
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    mask = torch.ones_like(ids)
    mask[1, -11:] = 0
    found = ontogeny.measure(run_pass(model, ids[1:], mask[1:]), positions=None)
    alone = ontogeny.measure(run_pass(model, ids[1:, :-11]), positions=None)
    np.testing.assert_allclose(found.update_norm[..., :-11], alone.update_norm, rtol=1e-5)
    assert found.update_norm[..., -11:].isnull().all()


def test_values_that_are_zero_everywhere_have_no_relative_norm():
    model = tiny("llama")
    model.model.layers[1].self_attn.o_proj.weight.zero_()
    found = measured(model, names=("waivers",))
    assert found.update_norm.sel(layer=1).isnull().all() and found.update_norm.sel(layer=0).notnull().all()


def test_contexts_and_walks_need_token_ids():
    model = tiny("llama")
    embedded = model.get_input_embeddings()(token_ids(2, 8))
    for needs in ("contexts", "walks"):
        with (
            pytest.raises(OntogenyError, match="was given no token ids, which `contexts` and `walks` are about"),
            capture(model, needs={needs}),
        ):
            model(inputs_embeds=embedded)
