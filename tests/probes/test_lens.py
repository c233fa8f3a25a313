"""TransformerLens against transformers: the same weights give the same numbers, and what cannot be known is refused."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import ontogeny
from ontogeny.bench.memory import peak_bytes
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.lens.layer import LayerTensors, layer_trace
from tests.byte_tokenizer import byte_tokenizer
from tests.models import tiny, token_ids

pytestmark = pytest.mark.skipif(find_spec("transformer_lens") is None, reason="needs pip install ontogeny[lens]")

LENGTH = 24
FAMILIES = ["gpt2", "gpt_neox", "llama", "mistral", "gemma2"]


@pytest.fixture(scope="module")
def boot(tmp_path_factory):
    """A function from a transformers model to a bridge around it, made without a network."""
    logger = logging.getLogger("transformers")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import and its loader warn about their own dependencies
        from transformer_lens.model_bridge import TransformerBridge
    logger.setLevel(level)  # its import silences transformers
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, pad_token="<s>")

    def boot_transformers(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"hf_model": model, "device": "cpu", "tokenizer": tokenizer, "dtype": model.dtype}
            return TransformerBridge.boot_transformers("tiny", **options)

    return boot_transformers


def padded(side="left"):
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, :5], mask[1, :11] = 0, 0
    return mask if side == "left" else mask.flip(1)


def assert_same(trace, expected, mask=None):
    seen = torch.ones(3, 1, LENGTH, dtype=torch.bool) if mask is None else mask.bool()[:, None]
    assert trace.attention == expected.attention == "captured" and trace.length == expected.length
    for layer, twin in zip(trace.layers, expected.layers, strict=True):
        twin = replace(twin, value_norm=twin.value_norm * seen)
        for name, value in vars(replace(layer, value_norm=layer.value_norm * seen)).items():
            if value is not None:
                same = getattr(twin, name).to(value.dtype)
                torch.testing.assert_close(value, same, rtol=1e-4, atol=1e-6, msg=name)
    for depth, twin in zip(trace.depths, expected.depths, strict=True):
        for name, value in vars(depth).items():
            torch.testing.assert_close(value, getattr(twin, name), rtol=1e-4, atol=1e-6, msg=name)


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


def test_padding_that_the_model_sees_as_tokens_is_refused(boot):
    bridge = boot(tiny("llama", vocab_size=257))
    with ontogeny.capture(bridge), pytest.raises(OntogenyError, match="masks padding on the left only"):
        bridge(["one", "another text"], padding_side="right")
    _, cache = bridge.run_with_cache(["one", "another text"], padding_side="right")
    with pytest.raises(OntogenyError, match="masks padding on the left only"):
        ontogeny.trace_of(cache)


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


def test_a_release_that_does_not_tell_whether_it_folded_is_refused(boot):
    bridge = boot(tiny("llama"))
    del bridge._weights_processed
    with pytest.raises(OntogenyError, match="does not tell whether it has folded"), ontogeny.capture(bridge):
        pass


def test_low_precision_is_reduced_in_float32(boot):
    ids = token_ids(3, LENGTH)
    bridge = boot(tiny("llama").to(torch.bfloat16))
    with ontogeny.capture(bridge) as trace:
        bridge(ids)
    layer, expected = trace.layers[0], run_pass(tiny("llama"), ids).layers[0]
    assert {value.dtype for value in (layer.entropy, layer.column_mass, layer.value_norm)} == {torch.float32}
    torch.testing.assert_close(layer.column_mass, expected.column_mass, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("family", ["opt", "bert"])
def test_an_architecture_whose_scores_are_not_shown_is_refused(boot, family):
    bridge = boot(tiny(family))
    with ontogeny.capture(bridge), pytest.raises(OntogenyError, match="cannot be known; capture the transformers"):
        bridge(token_ids(3, LENGTH))
    with ontogeny.capture(bridge, needs={"residual"}) as trace:
        bridge(token_ids(3, LENGTH))
    assert len(trace.depths) == 4


@pytest.mark.parametrize(
    ("hook", "message"),
    [("hook_pattern", "the pattern is not the softmax"), ("hook_v", "pattern times values is not what")],
)
def test_an_edit_behind_the_captures_back_is_refused(boot, hook, message):
    """A hook that is added inside the `with` runs after those of the capture, which would not see its edit."""
    bridge = boot(tiny("llama"))
    edit = partial(torch.Tensor.mul, other=0.5) if hook == "hook_v" else torch.Tensor.square
    hooks = [(f"blocks.1.attn.{hook}", lambda tensor, hook: edit(tensor))]
    with ontogeny.capture(bridge), pytest.raises(OntogenyError, match="pattern times values"):
        bridge.run_with_hooks(token_ids(3, LENGTH), fwd_hooks=hooks)
    bridge.add_hook(f"blocks.1.attn.{hook}", lambda tensor, hook: edit(tensor))
    with ontogeny.capture(bridge) as trace:
        if hook == "hook_pattern":
            with pytest.raises(OntogenyError, match=message):
                bridge(token_ids(3, LENGTH))
        else:
            bridge(token_ids(3, LENGTH))
            assert len(trace.layers) == 3


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


def plain_layer(**changes):
    torch.manual_seed(0)
    scores = torch.randn(1, 2, 6, 6).masked_fill(torch.ones(6, 6).triu(1) > 0, torch.finfo(torch.float32).min)
    v, pattern = torch.randn(1, 6, 1, 4), scores.softmax(-1)
    z = (pattern @ v.transpose(1, 2)).transpose(1, 2)
    return LayerTensors(**{"v": v, "scores": scores, "pattern": pattern, "z": z, **changes})


def test_a_plain_layer_is_measured():
    trace, valid = layer_trace("layer 0", plain_layer(), keep_map=True)
    assert valid.all() and (trace.visible_rows[0, 0] == torch.arange(6, 0, -1)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": torch.zeros(1, 2, 6, 5)}, "expected attention of whole sequences"),
        ({"pattern": torch.full((1, 2, 6, 6), 1 / 6)}, "not the softmax of the scores"),
        ({"pattern": plain_layer().pattern * 0.9}, "not the softmax of the scores"),
        ({"z": torch.zeros(1, 6, 2, 4)}, "pattern times values is not"),
        ({"v": torch.full((1, 6, 1, 4), torch.nan)}, "not finite"),
        ({"scores": torch.full((1, 2, 6, 6), -torch.inf)}, "no token that sees itself"),
    ],
)
def test_a_layer_that_is_not_plain_attention_is_refused(changes, message):
    with pytest.raises(OntogenyError, match=message):
        layer_trace("layer 0", plain_layer(**changes), keep_map=False)


def test_weights_that_are_not_finite_are_named_as_such(boot):
    model = tiny("llama")
    model.model.layers[0].self_attn.q_proj.weight[0, 0] = float("nan")
    bridge = boot(model)
    with ontogeny.capture(bridge), pytest.raises(OntogenyError, match="not finite"):
        bridge(token_ids(1, 8))


def test_caches_that_lack_something_are_refused(boot):
    bridge, ids = boot(tiny("llama")), token_ids(3, LENGTH)
    _, some = bridge.run_with_cache(ids, names_filter=lambda name: "pattern" in name)
    with pytest.raises(OntogenyError, match=r"the cache has no blocks\.0\.attn\.hook_v: expected one that"):
        ontogeny.trace_of(some)
    _, cut = bridge.run_with_cache(ids, pos_slice=slice(3, 9))
    with pytest.raises(OntogenyError, match="without pos_slice"):
        ontogeny.trace_of(cut)
    _, whole = bridge.run_with_cache(ids)
    with pytest.raises(OntogenyError, match="maps: expected layers from 0 to 2, got 7"):
        ontogeny.trace_of(whole, maps=[7])
    whole.model = None
    for thing in (whole, {}, None):
        with pytest.raises(OntogenyError, match="expected an ActivationCache that still has its model"):
            ontogeny.trace_of(thing)


def test_generation_is_refused(boot):
    bridge = boot(tiny("llama"))
    with ontogeny.capture(bridge), pytest.raises(OntogenyError, match="use_cache=False"):
        bridge.generate(token_ids(1, 8), max_new_tokens=3, verbose=False)


def test_the_bridge_and_the_model_inside_it_are_one(boot):
    bridge = boot(tiny("llama"))
    with pytest.raises(OntogenyError, match="expected the bridge itself"), ontogeny.capture(bridge.original_model):
        pass
    with (
        ontogeny.capture(bridge),
        pytest.raises(OntogenyError, match="being captured already"),
        ontogeny.capture(bridge),
    ):
        pass


def test_other_models_of_transformer_lens_are_refused(boot):
    from transformer_lens import TransformerBridgeConfig
    from transformer_lens.HookedRootModule import HookedRootModule
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(d_model=8, d_head=4, n_layers=1, n_ctx=8, d_vocab=9)
    for model, message in (
        (HookedRootModule(), "expected a TransformerBridge of TransformerLens 4 or later, got HookedRootModule"),
        (TransformerBridge.boot_native(config), "around a transformers model, got one around NativeModel"),
    ):
        with pytest.raises(OntogenyError, match=message), ontogeny.capture(model):
            pass


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
    subprocess.run([sys.executable, "-c", program], check=True)
