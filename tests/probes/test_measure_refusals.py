"""What `measure` refuses of each source, and models of which only a part can be measured."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaModel

import ontogeny
from ontogeny.errors import OntogenyError, UsageError
from tests.models import FAMILIES, GROUPED, tiny, tiny_falcon, token_ids
from tests.probes.sources import arrays_of

LENGTH = 24
needs_lens = pytest.mark.skipif(find_spec("transformer_lens") is None, reason="needs pip install ontogeny[lens]")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "input_ids: expected token ids"),
        (
            {"input_ids": [[3, 4, 5], [3, 4]]},
            r"input_ids: expected sequences of one length: cut them.*pad on the right",
        ),
        ({"input_ids": [3, 4, 5]}, r"input_ids: expected token ids, whole numbers of shape \(N, T\), got int64"),
        ({"input_ids": []}, r"input_ids: expected token ids, whole numbers of shape \(N, T\)"),
        ({"input_ids": torch.zeros(2, 0).long()}, r"input_ids: expected token ids.*of shape \(2, 0\)"),
        ({"input_ids": torch.rand(2, 5)}, "input_ids: expected token ids, whole numbers.*got float32"),
        ({"input_ids": [["a", "b"]]}, r"input_ids\[0\]: expected a tensor or an array of numbers, got list"),
        ({"input_ids": "text"}, r"input_ids: expected a tensor or an array of numbers, got str"),
        ({"input_ids": {"input_ids": [[3]]}}, r"input_ids: expected token ids \(N, T\), got a mapping"),
        ({"input_ids": [[3, 60]]}, "input_ids: expected ids from 0 to 59, got 3 to 60"),
        ({"input_ids": [[-1, 3]]}, "input_ids: expected ids from 0 to 59, got -1 to 3"),
        (
            {"input_ids": [[3, 4]], "attention_mask": [[1]]},
            r"attention_mask: expected 1 at tokens and 0 at padding, of shape \(1, 2\)",
        ),
        ({"input_ids": [[3, 4]], "attention_mask": [[1, 2]]}, "attention_mask: expected 1 at tokens"),
        ({"input_ids": [[3, 4]], "attention_mask": [[0, 0]]}, "attention_mask: expected at least one token"),
    ],
)
def test_token_ids_that_are_none_are_refused(given, message):
    with pytest.raises(OntogenyError, match=message):
        ontogeny.measure(tiny("llama"), **given)


def test_longer_sequences_than_learned_positions_are_refused():
    with pytest.raises(OntogenyError, match="input_ids: expected sequences of at most 8 tokens, got 9"):
        ontogeny.measure(tiny("gpt2", n_positions=8), token_ids(1, 9))


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_batch_sizes_that_make_no_sense_are_refused(size):
    with pytest.raises(UsageError, match="batch_size: expected a whole number of sequences"):
        ontogeny.measure(tiny("llama"), token_ids(1, 9), batch_size=size)


def test_other_sources_are_refused_with_the_names_of_the_arrays():
    model, ids = tiny("llama"), token_ids(1, 9)
    output = model(ids, output_hidden_states=True)
    with pytest.raises(OntogenyError, match=r"a mapping of arrays \(attention.*got a CausalLM.*name what you have"):
        ontogeny.measure(output)
    with pytest.raises(OntogenyError, match=r"expected arrays among attention, values.*got attentions, logits"):
        ontogeny.measure({"attentions": [], "logits": [], "input_ids": ids})
    for other in ("pythia", None, model.config, nn.Linear(2, 2), [torch.ones(1, 1, 2, 2)]):
        with pytest.raises(OntogenyError, match=f"or a mapping of arrays.*got {type(other).__name__}"):
            ontogeny.measure(other, ids)


def test_what_belongs_to_a_model_is_refused_beside_other_sources():
    model, ids = tiny("llama"), token_ids(1, 9)
    with ontogeny.capture(model) as trace:
        model(ids)
    arrays = arrays_of(model, ids)
    for source in (trace, arrays):
        for given in ({"input_ids": ids}, {"attention_mask": ids}, {"batch_size": 2}):
            with pytest.raises(OntogenyError, match=f"{next(iter(given))}: expected with a model alone"):
                ontogeny.measure(source, **given)


def attention(batch=2, heads=4, length=6):
    torch.manual_seed(0)
    scores = torch.randn(2, batch, heads, length, length).masked_fill(
        torch.ones(length, length).triu(1) > 0, -torch.inf
    )
    return scores.softmax(-1)


def changed(tensor, at, value):
    tensor = tensor.clone()
    tensor[at] = value
    return tensor


GIVEN = {
    "attention": attention(),
    "values": torch.ones(2, 2, 2, 6, 3),
    "hidden_states": torch.ones(3, 2, 6, 5),
    "output_projections": torch.ones(2, 5, 12),
    "input_ids": torch.ones(2, 6, dtype=torch.long),
    "mask": torch.ones(2, 6),
}
WINDOW = (torch.arange(6)[:, None] - torch.arange(6) < 3).tril()


def test_arrays_that_fit_are_measured():
    assert ontogeny.trace_of_arrays(**GIVEN).available == {"attention", "values", "residual"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention": changed(attention(), (1, 0, 2, 3, 1), -0.1)},
            "attention, layer 1: expected attention, which is no",
        ),
        (
            {"attention": changed(attention(), (0, 0, 2, 3, 1), torch.nan)},
            "attention, layer 0: expected finite numbers",
        ),
        ({"attention": attention()[0]}, r"attention: expected a sequence of arrays of 4 dim.*shape \(2, 4, 6, 6\)"),
        ({"attention": attention()[..., :5]}, r"attention, layer 0: expected shape \(2, 4, 6, 6\), got shape"),
        ({"attention": [attention()[0], attention(heads=2)[1]]}, r"attention, layer 1: expected shape \(2, 4, 6, 6\)"),
        ({"attention": [attention()[0], attention(batch=3)[1]]}, r"attention, layer 1: expected shape \(2, 4, 6, 6\)"),
        ({"attention": attention() > 0}, r"attention\[0\]: expected floating-point numbers in 4 dimensions, got bool"),
        ({"attention": []}, "attention: expected at least one layer, got none"),
        ({"attention": "maps"}, "attention: expected an array, or a sequence"),
        ({"attention": attention().flip(2)[:1], "causal": True}, None),
        ({"values": torch.ones(3, 2, 2, 6, 3)}, "values: expected an array for each of the 2 layers"),
        ({"values": torch.ones(2, 2, 3, 6, 3)}, "values, layer 0: expected a number of heads that divides the 4"),
        ({"values": torch.ones(2, 2, 2, 7, 3)}, r"values, layer 0: expected shape \(2, any, 6, any\), got shape"),
        ({"values": torch.ones(2, 1, 2, 6, 3)}, r"values, layer 0: expected shape \(2, any, 6, any\)"),
        ({"values": torch.full((2, 2, 2, 6, 3), torch.inf)}, "values, layer 0: expected finite numbers"),
        ({"hidden_states": torch.ones(2, 2, 6, 5)}, "hidden_states: expected 3 arrays, one more than layers.*got 2"),
        ({"hidden_states": torch.ones(3, 2, 7, 5)}, r"hidden_states, depth 0: expected shape \(2, 6, 5\)"),
        ({"hidden_states": torch.ones(3, 1, 6, 5)}, r"hidden_states, depth 0: expected shape \(2, 6, 5\)"),
        (
            {"hidden_states": changed(torch.ones(3, 2, 6, 5), (2, 0, 0, 0), torch.nan)},
            "hidden_states, depth 2: expected finite",
        ),
        ({"output_projections": torch.ones(2, 12, 5)}, r"output_projections, layer 0: expected shape \(any, 12\)"),
        ({"output_projections": torch.ones(1, 5, 12)}, "output_projections: expected an array for each of the 2"),
        ({"values": None}, "output_projections: expected `values` with them"),
        ({"attention": None}, "values: expected `attention` with it"),
        ({"input_ids": torch.ones(2, 7, dtype=torch.long)}, r"input_ids: expected token ids of shape \(2, 6\)"),
        ({"input_ids": torch.ones(2, 6)}, "input_ids: expected token ids, whole numbers"),
        ({"mask": torch.ones(6)}, r"mask: expected 1 at tokens and 0 at padding, of shape \(2, 6\)"),
        ({"mask": changed(torch.ones(2, 6), 1, 0)}, "mask: expected at least one token in each"),
        ({"mask": changed(torch.ones(2, 6), (0, 0), 0)}, "attention, layer 0: expected 0 on every key that its query"),
        ({"causal": "yes"}, "causal: expected True, False or None, got 'yes'"),
        ({"causal": True, "visible": WINDOW}, "causal: expected either `causal` or `visible`, got both"),
        ({"visible": WINDOW}, "attention, layer 0: expected 0 on every key that its query cannot see"),
        (
            {"visible": WINDOW.int()},
            r"visible, layer 0: expected bool of shape \(6, 6\) or \(2, 4, 6, 6\), got torch.int32",
        ),
        ({"visible": WINDOW[:5]}, r"visible, layer 0: expected bool of shape \(6, 6\)"),
        ({"visible": [WINDOW]}, "visible: expected one array, or one for each of the 2 layers.*got 1"),
        (
            {"attention": attention() * WINDOW},
            "visible: layer 0 of `attention` is 0 on every key more than 2 from its q",
        ),
        ({"attention": [attention()[0], torch.ones(2, 4, 6, 6)]}, "visible: expected it with maps of which some"),
        (
            {"sink_share": torch.full((2, 2, 4, 6), -0.1)},
            "sink_share, layer 0: expected shares of a row, none negative",
        ),
        ({"sink_share": torch.ones(2, 2, 3, 6)}, r"sink_share, layer 0: expected shape \(2, 4, 6\)"),
        ({"needs": "keys"}, "needs: expected some of attention, "),
        ({"hidden_states": torch.ones(3, 2, 6, 0)}, r"hidden_states\[0\]: expected floating-point numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(changes, message):
    given = {name: one for name, one in {**GIVEN, **changes}.items() if one is not None}
    if message is None:
        given, message = (
            {"attention": torch.rand(1, 1, 2, 3, 3), "causal": True},
            "attention, layer 0: expected 0 on ev",
        )
    with pytest.raises(OntogenyError, match=message):
        ontogeny.trace_of_arrays(**given)


def test_neither_maps_nor_states_or_too_few_numbers_are_refused():
    with pytest.raises(OntogenyError, match="arrays: expected `attention`, `hidden_states` or both, got neither"):
        ontogeny.measure({"input_ids": torch.ones(1, 3).long()})
    with pytest.raises(OntogenyError, match="hidden_states: expected at least 3 numbers in a sequence"):
        ontogeny.measure({"hidden_states": torch.ones(2, 1, 2, 1)})
    with pytest.raises(OntogenyError, match="no probe is left: walks needs walks; capture with more"):
        ontogeny.measure({"attention": attention()}, probes="walks")


def test_a_window_that_is_told_of_counts_the_rows_that_see_a_key():
    windowed = attention() * WINDOW
    trace = ontogeny.trace_of_arrays(attention=windowed, visible=WINDOW)
    assert trace.layers[0].visible_rows[0, 0].tolist() == [3, 3, 3, 3, 2, 1]
    whole = ontogeny.trace_of_arrays(attention=windowed, visible=torch.ones(6, 6).tril().bool())
    assert whole.layers[0].visible_rows[0, 0].tolist() == [6, 5, 4, 3, 2, 1]
    every = WINDOW.expand(2, 2, 4, 6, 6)
    assert torch.equal(
        ontogeny.trace_of_arrays(attention=windowed, visible=every).layers[1].visible_rows, trace.layers[1].visible_rows
    )


def test_read_only_numpy_arrays_are_taken():
    maps = attention().numpy().astype(">f4")
    maps.setflags(write=False)
    assert ontogeny.measure({"attention": maps}).sink_score.equals(
        ontogeny.measure({"attention": attention()}).sink_score
    )


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_head_one_layer_and_two_tokens_give_a_dataset(family, length):
    """Warnings are errors here: nothing divides by zero, and what cannot be said is NaN, -1 or undefined."""
    sizes = {"n_layer": 1, "n_head": 1} if family == "gpt2" else {"num_hidden_layers": 1, "num_attention_heads": 1}
    grouped = {"num_key_value_heads": 1} if "num_key_value_heads" in FAMILIES[family][1] else {}
    model = tiny(family, **sizes, **grouped)
    found = ontogeny.measure(model, token_ids(1, length))
    assert found.sizes["layer"] == found.sizes["head"] == 1 and found.sizes["position"] == length
    assert (found.top_sink_position == -1).all() and found.top_sink_score.isnull().all()
    assert (found.head_class == 0).all() and (found.waiver_rate == 0).all()
    for name in ("sink_score", "value_norm", "update_norm", "attention_entropy", "massive_ratio"):
        assert np.isfinite(found[name]).all(), name
    assert (found.secondary_position == -1).all() or length == 2
    more = ontogeny.measure(model, [[5, 6][:length]], probes=["contexts", "walks"])
    assert more.context_distance.isnull().all() and (more.context_sequences == 0).all()
    assert np.isfinite(more.walk_entropy).all()


class BlocksUnknown(LlamaModel):
    """Two lists are as long as there are layers, and the class does not say which is the blocks."""

    _can_record_outputs = {"attentions": LlamaAttention}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.beside = nn.ModuleList(nn.Identity() for _ in range(config.num_hidden_layers))


class NothingKnown(BlocksUnknown):
    _can_record_outputs = {}  # noqa: RUF012


def unknown(kind):
    torch.manual_seed(0)
    model = kind(transformers.LlamaConfig(**GROUPED)).eval().requires_grad_(False)
    model.load_state_dict(tiny("llama").model.state_dict())
    return model


def test_attention_is_measured_where_the_blocks_are_not_known():
    ids = token_ids(2, LENGTH)
    found, expected = ontogeny.measure(unknown(BlocksUnknown), ids), ontogeny.measure(tiny("llama"), ids)
    reason = "unavailable: BlocksUnknown does not say which of its modules are its 3 blocks, and has 2 lists"
    assert found.attrs["residual"].startswith(reason) and found.attrs["attention"] == "captured"
    assert found.attrs["massive"].startswith("unavailable: it needs residual (unavailable: BlocksUnknown")
    assert "massive_ratio" not in found and found.attrs["update_norm"] == "captured"
    for name in found.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    with ontogeny.attending(model := unknown(BlocksUnknown), "sigmoid"), ontogeny.capture(model, maps=[2]) as trace:
        model(ids)
    assert trace.depths == () and trace.layers[2].map is not None and trace.notes == {"mechanism": "sigmoid"}


def test_where_neither_can_be_had_that_is_an_error():
    ids = token_ids(2, LENGTH)
    with pytest.raises(OntogenyError, match=r"nothing can be captured.*NothingKnown does not say.*AttentionInterface"):
        ontogeny.measure(unknown(NothingKnown), ids)
    with pytest.raises(OntogenyError, match=r"nothing can be captured.*attention is not asked for"):
        ontogeny.measure(unknown(BlocksUnknown), ids, probes="massive")
    with pytest.raises(OntogenyError, match=r"FalconModel computes its attention without.*ask for the probe massive"):
        ontogeny.measure(tiny_falcon(), ids, probes="sinks")
    falcon = ontogeny.measure(tiny_falcon(), ids)
    assert falcon.attrs["sinks"].startswith("unavailable: it needs attention (unavailable: FalconModel")


class Gated(nn.Module):
    """An output projection behind a gate."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, attended):
        return self.linear(attended * torch.sigmoid(attended))


def test_a_gate_before_the_projection_leaves_the_update_norm_out_and_nothing_else():
    model, plain, ids = tiny("llama"), tiny("llama"), token_ids(2, LENGTH)
    model.model.layers[1].self_attn.o_proj = Gated(model.model.layers[1].self_attn.o_proj)
    found, expected = ontogeny.measure(model, ids), ontogeny.measure(plain, ids)
    assert set(expected.data_vars) - set(found.data_vars) == {"update_norm"}
    assert found.attrs["update_norm"].startswith("unavailable: in layer 1, no linear map read the attention's output")
    np.testing.assert_array_equal(found.value_norm[:2], expected.value_norm[:2])
    assert found.attrs["attention"] == found.attrs["residual"] == "captured"


LATENT = {
    **{name: GROUPED[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 3,
    "n_group": 1,
    "topk_group": 1,
}


@pytest.mark.parametrize("name", ["DeepseekV2", "DeepseekV3"])
def test_latent_attention_is_measured_by_the_values_that_its_heads_mix(name):
    """They are 12 wide beside keys of 16, and made of a latent vector shared by all heads."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**LATENT)
    model = getattr(transformers, f"{name}ForCausalLM")(config).double().eval().requires_grad_(False)
    ids, values, outputs = token_ids(2, LENGTH), [], []
    found = ontogeny.measure(model, ids)
    take = partial(lambda taken, _module, _args, out: taken.append(out), values)
    handles = [layer.self_attn.kv_b_proj.register_forward_hook(take) for layer in model.model.layers]
    states = partial(lambda taken, _module, _args, out: taken.append(out), outputs)
    handles += [layer.register_forward_hook(states) for layer in model.model.layers]
    model.set_attn_implementation("eager")
    maps = model(ids, output_attentions=True, use_cache=False).attentions
    for handle in handles:
        handle.remove()
    arrays = {
        "attention": maps,
        "values": [one[:, 0].unflatten(-1, (4, 20))[..., 8:].transpose(1, 2) for one in values],
        "hidden_states": [model.model.embed_tokens(ids), *outputs],
        "output_projections": [layer.self_attn.o_proj.weight for layer in model.model.layers],
        "input_ids": ids,
    }
    expected = ontogeny.measure(arrays)
    assert set(found.data_vars) == set(expected.data_vars)
    for variable in ("sink_score", "value_norm", "update_norm", "attention_entropy", "top_activation", "head_class"):
        np.testing.assert_allclose(found[variable], expected[variable], rtol=1e-5, err_msg=variable)


@needs_lens
def test_a_cache_without_its_maps_or_its_ids_is_refused(boot):
    bridge, ids = boot(tiny("llama")), token_ids(2, LENGTH)
    _, some = bridge.run_with_cache(ids, names_filter=lambda name: "hook_out" in name)
    with pytest.raises(OntogenyError, match="the cache has no blocks"):
        ontogeny.measure(some)
    _, cache = bridge.run_with_cache(ids)
    del cache.cache_dict["embed.hook_in"]
    assert "top_token" not in ontogeny.measure(cache)
    with pytest.raises(OntogenyError, match="the cached pass was given no token ids"):
        ontogeny.measure(cache, probes="walks")
    with pytest.raises(OntogenyError, match="input_ids: expected with a model alone, got ActivationCache"):
        ontogeny.measure(cache, ids)
