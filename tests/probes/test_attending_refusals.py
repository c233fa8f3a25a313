"""What `attending` refuses: models that cannot attend otherwise, and models that are not the one in it."""

from __future__ import annotations

import copy

import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError
from tests.models import tiny, tiny_falcon, token_ids

LENGTH = 24
CAUSAL = torch.ones(LENGTH, LENGTH).tril()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sinks": torch.zeros(2, 4)}, r"\(H,\), or \(L, H\) for this model of 3 layers, got shape \(2, 4\)"),
        ({"sinks": torch.zeros(3, 1, 4)}, r"got shape \(3, 1, 4\)"),
        ({"sinks": [0.0] * 4}, "sinks: expected a number or a tensor of logits, got list"),
        ({"mask_mod": 3}, "mask_mod: expected a function of batch, head, query and key indices.*got int"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OntogenyError, match=message), ontogeny.attending(tiny("llama"), **options):
        pass


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_that_shares_its_config_is_not_replaced_with_it(family):
    model, ids = tiny(family), token_ids(2, LENGTH)
    twin = type(model)(model.config).eval()
    message = rf"shares the config \({type(model.config).__name__}\) of the {type(model.base_model).__name__} that is"
    with torch.no_grad():
        before = twin(ids).logits
        with ontogeny.attending(model, "sigmoid"):
            for run in (lambda: twin(ids), lambda: model(ids) and twin(ids)):
                with pytest.raises(OntogenyError, match=f"^a model ran that is not.*{message}"):
                    run()
            with pytest.raises(
                OntogenyError, match=f"Attention ran that.*{message}: give each model a config of its own"
            ):
                attention_alone(twin, model.base_model)
        assert torch.equal(twin(ids).logits, before)


def attention_alone(twin, base):
    """Run a twin's attention in the middle of the pass of a routed model."""
    block, other = (next(m for m in one.modules() if isinstance(m, torch.nn.ModuleList))[0] for one in (base, twin))
    handle = block.register_forward_pre_hook(
        lambda _m, args, options: other(*args, **options) and None, with_kwargs=True
    )
    try:
        base(token_ids(2, LENGTH))
    finally:
        handle.remove()


def test_a_copy_made_inside_is_refused_with_the_way_back():
    model, ids = tiny("llama"), token_ids(1, 8)
    with ontogeny.attending(model, "sigmoid"):
        copied = copy.deepcopy(model)
    with pytest.raises(OntogenyError, match=r"as a copy is that was made inside.*set_attn_implementation\('sdpa'\)"):
        copied(ids)
    copied.set_attn_implementation("sdpa")
    assert torch.equal(copied(ids).logits, model(ids).logits)


def test_a_pass_that_raised_leaves_no_route_behind():
    model = tiny("llama")
    twin = type(model)(model.config).eval()
    with ontogeny.attending(model, "sigmoid"):
        handle = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(token_ids(1, 8))
        handle.remove()
        with pytest.raises(OntogenyError, match=r"^a model ran that is not.*a config of its own"):
            twin(token_ids(1, 8))


def test_masks_of_a_models_own_making_are_refused_with_what_helps_in_training():
    model = tiny("llama")
    with (
        ontogeny.attending(model),
        pytest.raises(OntogenyError, match="mask of its model's own making") as caught,
    ):
        model(token_ids(2, LENGTH), attention_mask=torch.ones(2, 1, LENGTH, LENGTH))
    assert "use_reentrant=False" in str(caught.value) and "--probes" not in str(caught.value)


def test_a_model_is_in_one_attending_at_a_time_and_captured_inside_it_only():
    model = tiny("llama")
    with (
        ontogeny.attending(model),
        pytest.raises(OntogenyError, match="enter `attending` once"),
        ontogeny.attending(model),
    ):
        pass
    with (
        ontogeny.capture(model),
        pytest.raises(OntogenyError, match="`capture` inside it"),
        ontogeny.attending(model.model),
    ):
        pass


def test_attention_dropout_in_training_is_refused_with_the_way_out():
    model = tiny("llama", attention_dropout=0.1).train()
    with ontogeny.attending(model), pytest.raises(OntogenyError, match=r"attention dropout 0.1.*to 0 in the model's"):
        model(token_ids(1, 8))


@pytest.mark.parametrize(
    ("model", "mechanism", "message"),
    [
        (lambda: tiny("llama"), "linear", "mechanism: expected one of softmax"),
        (tiny_falcon, "sigmoid", "the attention of FalconModel cannot be replaced"),
        (lambda: torch.nn.Linear(1, 1), "sigmoid", "expected a transformers PreTrainedModel, got Linear"),
    ],
)
def test_what_cannot_attend_otherwise_is_refused(model, mechanism, message):
    with pytest.raises(OntogenyError, match=message), ontogeny.attending(model(), mechanism):
        pass


def test_sinks_are_given_to_a_model_that_has_none_of_its_own():
    model = tiny("gpt_oss")
    with ontogeny.attending(model, sinks=0.0), pytest.raises(OntogenyError, match="has learned sinks of its own"):
        model(token_ids(1, 8))
