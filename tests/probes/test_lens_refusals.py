"""What is refused of TransformerLens: all whose numbers cannot be known."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.lens.layer import LayerTensors, layer_trace
from ontogeny.probes.capture.routing import AskedOfLayer
from tests.models import tiny, token_ids

pytestmark = pytest.mark.skipif(find_spec("transformer_lens") is None, reason="needs pip install ontogeny[lens]")

LENGTH = 24
PROJECTION = torch.nn.Linear(8, 8)
FAMILIES = ["gpt2", "gpt_neox", "llama", "mistral", "gemma2"]


def test_padding_that_the_model_sees_as_tokens_is_refused(boot):
    bridge = boot(tiny("llama", vocab_size=257))
    with ontogeny.capture(bridge), pytest.raises(OntogenyError, match="masks padding on the left only"):
        bridge(["one", "another text"], padding_side="right")
    _, cache = bridge.run_with_cache(["one", "another text"], padding_side="right")
    with pytest.raises(OntogenyError, match="masks padding on the left only"):
        ontogeny.trace_of(cache)


def test_a_release_that_does_not_tell_whether_it_folded_is_refused(boot):
    bridge = boot(tiny("llama"))
    del bridge._weights_processed
    with pytest.raises(OntogenyError, match="does not tell whether it has folded"), ontogeny.capture(bridge):
        pass


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


def plain_layer(**changes):
    torch.manual_seed(0)
    scores = torch.randn(1, 2, 6, 6).masked_fill(torch.ones(6, 6).triu(1) > 0, torch.finfo(torch.float32).min)
    v, pattern = torch.randn(1, 6, 1, 4), scores.softmax(-1)
    z = (pattern @ v.transpose(1, 2)).transpose(1, 2)
    return LayerTensors(**{"v": v, "scores": scores, "pattern": pattern, "z": z, **changes})


def test_a_plain_layer_is_measured():
    trace, valid = layer_trace("layer 0", plain_layer(), AskedOfLayer(keep_map=True), PROJECTION)
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
        layer_trace("layer 0", plain_layer(**changes), AskedOfLayer(), PROJECTION)


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


@pytest.mark.parametrize("options", [{"impl": "blocked"}, {"output": "sdpa"}, {"impl": "nonsense"}])
def test_a_bridge_takes_no_implementation(boot, options):
    bridge = boot(tiny("llama"))
    with (
        pytest.raises(OntogenyError, match="a TransformerBridge computes its attention itself"),
        ontogeny.capture(bridge, **options),
    ):
        pass
