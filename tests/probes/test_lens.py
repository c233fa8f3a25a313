"""TransformerLens against transformers: the same weights give the same numbers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import ontogeny
from ontogeny.bench.memory import peak_bytes
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.wanted import EVERYTHING
from tests.models import tiny, token_ids

pytestmark = pytest.mark.skipif(find_spec("transformer_lens") is None, reason="needs pip install ontogeny[lens]")

LENGTH = 24
FAMILIES = ["gpt2", "gpt_neox", "llama", "mistral", "gemma2"]


def padded(side="left"):
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, :5], mask[1, :11] = 0, 0
    return mask if side == "left" else mask.flip(1)


def assert_same(trace, expected, mask=None):
    seen = torch.ones(3, 1, LENGTH, dtype=torch.bool) if mask is None else mask.bool()[:, None]
    assert trace.attention == expected.attention == "captured" and trace.length == expected.length
    for layer, twin in zip(trace.layers, expected.layers, strict=True):
        layer, twin = (
            replace(one, value_norm=one.value_norm * seen, update_norm=one.update_norm * seen) for one in (layer, twin)
        )
        for name, value in vars(layer).items():
            if value is not None:
                same = getattr(twin, name).to(value.dtype)
                torch.testing.assert_close(value, same, rtol=1e-4, atol=1e-6, msg=name)
    for depth, twin in zip(trace.depths, expected.depths, strict=True):
        parts = [(depth, twin), (depth.clusters, twin.clusters), (depth.clusters_shuffled, twin.clusters_shuffled)]
        for part, other in parts:
            for name, value in vars(part).items() if part is not None else ():
                if isinstance(value, torch.Tensor):
                    same = getattr(other, name)
                    torch.testing.assert_close(value, same, rtol=1e-4, atol=1e-6, equal_nan=True, msg=name)


@pytest.mark.parametrize(
    ("family", "side"),
    [(family, side) for family in FAMILIES for side in (None, "right", "left") if (family, side) != ("gpt2", "left")],
)
def test_a_bridge_gives_the_numbers_of_transformers(boot, family, side):
    ids, mask = token_ids(3, LENGTH), padded(side) if side else None
    expected = run_pass(tiny(family), ids, mask, maps=[1])
    bridge = boot(tiny(family))
    with ontogeny.capture(bridge, maps=[1]) as trace:
        bridge(ids, attention_mask=mask)
    assert trace.notes == {}
    assert [layer.map is None for layer in trace.layers] == [True, False, True]
    assert_same(trace, expected, mask)
    found, scan = ontogeny.measure(trace), ontogeny.measure(expected)
    assert set(found.data_vars) == set(scan.data_vars) and "weights_processed" not in found.attrs


def test_a_bridge_gives_what_is_asked_for_besides_of_transformers(boot):
    ids, mask = token_ids(3, LENGTH), padded("left")
    expected = run_pass(tiny("llama"), ids, mask, needs=EVERYTHING)
    bridge = boot(tiny("llama"))
    with ontogeny.capture(bridge, needs=EVERYTHING) as trace:
        bridge(ids, attention_mask=mask)
    assert trace.available == expected.available == EVERYTHING and trace.updates == "captured"
    assert_same(trace, expected, mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_activation_cache_gives_the_numbers_of_transformers(boot, family):
    ids = token_ids(3, LENGTH)
    _, cache = boot(tiny(family)).run_with_cache(ids)
    assert_same(ontogeny.trace_of(cache, maps=[2]), run_pass(tiny(family), ids, maps=[2]))
    _, single = boot(tiny(family)).run_with_cache(ids[:1], remove_batch_dim=True)
    assert len(ontogeny.trace_of(single).layers[0].entropy) == 1


def test_positions_of_left_padded_learned_embeddings_are_the_bridges_own(boot):
    ids, mask = token_ids(3, LENGTH), padded()
    bridge, positions = boot(tiny("gpt2")), (mask.cumsum(1) - 1).clamp_min(0)
    with ontogeny.capture(bridge) as trace:
        bridge(ids, attention_mask=mask)
    model = tiny("gpt2")
    with ontogeny.capture(model) as expected:
        model(ids, attention_mask=mask, position_ids=positions)
    assert_same(trace, expected, mask)


def test_texts_padded_on_the_left_are_measured_with_the_bridges_mask(boot):
    bridge = boot(tiny("llama", vocab_size=257))
    with ontogeny.capture(bridge) as trace:
        bridge(["one", "another text"], padding_side="left")
    visible = trace.layers[0].visible_rows[0, 0]
    padding = len("another text") - len("one")
    assert (visible[:padding] == 0).all() and visible[padding] == trace.length - padding


def hook_counts(bridge):
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    modules = [*bridge.modules(), *bridge.original_model.modules()]
    registered = [len(getattr(m, name)) for m in modules for name in hooks]
    points = [len(point.fwd_hooks) for point in bridge.hook_points()]
    return registered, points, [m.training for m in modules]


def test_the_bridge_is_left_as_it_was(boot):
    bridge, ids = boot(tiny("llama")), token_ids(3, LENGTH)
    bridge.add_hook("blocks.0.hook_in", lambda state, hook: state)
    bridge(ids)  # the bridge registers hooks of its own in its first pass
    before, output = hook_counts(bridge), bridge(ids)
    with ontogeny.capture(bridge):
        assert torch.equal(bridge(ids), output)
        assert hook_counts(bridge) != before
    assert hook_counts(bridge) == before and torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), ontogeny.capture(bridge):
        _ = 1 / 0
    assert hook_counts(bridge) == before and torch.equal(bridge(ids), output)


def test_batches_are_joined_and_a_pass_that_raised_leaves_nothing(boot):
    bridge, ids = boot(tiny("llama")), token_ids(3, LENGTH)
    with ontogeny.capture(bridge) as trace:
        bridge(ids[:1])
        bridge(ids[:2], stop_at_layer=2)
        bridge(ids[1:])
    assert_same(trace, run_pass(tiny("llama"), ids))


def test_only_what_is_needed_is_recorded_and_blocks_are_announced(boot):
    seen, bridge, ids = [], boot(tiny("llama")), token_ids(3, LENGTH)
    with ontogeny.capture(bridge, needs={"residual"}, on_block=seen.append) as trace:
        bridge(ids)
    assert seen == [0, 1, 2] and trace.attention == "not asked for" and len(trace.depths) == 4
    with ontogeny.capture(bridge, needs={"attention"}) as trace:
        bridge(ids)
    assert trace.depths == () and trace.length == LENGTH


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_processed_model_is_measured_with_a_warning_and_a_note(boot, family):
    bridge, ids = boot(tiny(family)), token_ids(3, LENGTH)
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.warns(UserWarning, match="folded or centred") as caught, ontogeny.capture(bridge) as trace:
        bridge(ids)
    assert caught[0].filename == __file__
    dataset = ontogeny.measure(trace)
    assert "folded or centred" in dataset.attrs["weights_processed"]
    expected = run_pass(tiny(family), ids)
    torch.testing.assert_close(trace.layers[1].column_mass, expected.layers[1].column_mass, rtol=1e-3, atol=1e-3)
    _, cache = bridge.run_with_cache(ids)
    with pytest.warns(UserWarning, match="folded or centred") as caught:
        assert ontogeny.trace_of(cache).notes == trace.notes
    assert caught[0].filename == __file__


def test_compatibility_without_processing_is_not_taken_for_processed(boot):
    bridge, ids = boot(tiny("llama")), token_ids(3, LENGTH)
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    with ontogeny.capture(bridge) as trace:
        bridge(ids, attention_mask=padded())
    assert_same(trace, run_pass(tiny("llama"), ids, padded()), padded())
    assert trace.notes == {}


def test_low_precision_is_reduced_in_float32(boot):
    ids = token_ids(3, LENGTH)
    bridge = boot(tiny("llama").to(torch.bfloat16))
    with ontogeny.capture(bridge) as trace:
        bridge(ids)
    layer, expected = trace.layers[0], run_pass(tiny("llama"), ids).layers[0]
    assert {value.dtype for value in (layer.entropy, layer.column_mass, layer.value_norm)} == {torch.float32}
    torch.testing.assert_close(layer.column_mass, expected.column_mass, rtol=0.1, atol=0.1)


def test_an_edit_of_what_the_heads_give_out_changes_nothing_about_their_attention(boot):
    bridge, ids = boot(tiny("llama")), token_ids(3, LENGTH)
    bridge.add_hook("blocks.2.attn.hook_z", lambda z, hook: z * 0)
    with ontogeny.capture(bridge) as trace:
        bridge(ids)
    torch.testing.assert_close(trace.layers[2].entropy, run_pass(tiny("llama"), ids).layers[2].entropy)


def test_an_edit_of_the_scores_is_measured(boot):
    bridge, ids = boot(tiny("llama")), token_ids(3, LENGTH)
    bridge.add_hook("blocks.0.attn.hook_attn_scores", lambda scores, hook: scores / 100)
    with ontogeny.capture(bridge) as trace:
        bridge(ids)
    assert (trace.layers[0].entropy > run_pass(tiny("llama"), ids).layers[0].entropy).all()


def test_memory_holds_the_maps_of_one_layer(boot):
    """Beside what the bridge keeps by itself, which is the last pattern of each layer."""
    length, beside = 512, {}
    for layers in (2, 12):
        bridge = boot(tiny("gpt_neox", num_hidden_layers=layers, max_position_embeddings=length))
        ids = token_ids(1, length)

        def plain(bridge=bridge, ids=ids):
            with torch.no_grad():
                bridge(ids)

        def captured(bridge=bridge, ids=ids):
            with ontogeny.capture(bridge) as trace:
                bridge(ids)
            return trace

        plain()
        beside[layers] = peak_bytes(captured) - peak_bytes(plain)
    assert beside[12] - beside[2] < 5 * (4 * length**2 * 4)


def test_transformer_lens_is_not_imported_where_it_is_not_used():
    program = (
        "import sys, torch, ontogeny\nfrom tests.models import tiny, token_ids\n"
        "with ontogeny.capture(tiny('llama')) as trace:\n    pass\n"
        "assert 'transformer_lens' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
