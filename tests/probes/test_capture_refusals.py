"""What a capture by hand refuses, and what a refused pass leaves behind: nothing."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
import transformers

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes.capture import run_pass
from ontogeny.probes.capture.masks import Pattern
from ontogeny.probes.capture.routing import IssuedMasks
from tests.models import tiny, token_ids
from tests.probes.traces import assert_equal_traces

LENGTH = 24


def test_a_pass_of_another_length_is_refused_and_leaves_nothing():
    model = tiny("llama")
    with ontogeny.capture(model) as trace:
        model(token_ids(2, LENGTH))
        with pytest.raises(OntogenyError, match="has 9 tokens a sequence, those captured before have 24"):
            model(token_ids(2, 9))
        assert trace.length == LENGTH and len(trace.layers[0].entropy) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"needs": ()}, "needs: expected some of attention, contexts, logits, residual, values, walks, got"),
        ({"needs": 5}, "needs: expected some of attention, contexts, logits, residual, values, walks, got 5"),
        ({"needs": [5]}, r"needs: expected some of attention, contexts, logits, residual, values, walks, got \[5\]"),
        ({"maps": 3}, r"maps: expected a collection of layers' numbers, such as maps=\[3\], got 3"),
        ({"maps": ["first"]}, r"got \['first'\]"),
        ({"columns": 5}, r"columns: expected a collection of keys, such as columns=\(0, 8\), got 5"),
        ({"columns": ["a"]}, r"columns: expected a collection of keys.*got \['a'\]"),
        ({"needs": {"keys"}}, "needs: expected some of attention, contexts, logits, residual, values, walks, got keys"),
        ({"needs": {"residual"}, "maps": [0]}, "maps: expected `attention` among the needs"),
    ],
)
def test_needs_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OntogenyError, match=message), ontogeny.capture(tiny("llama"), **options):
        pass


def test_a_trace_without_a_pass_says_so():
    with ontogeny.capture(tiny("llama")) as trace:
        assert repr(trace) == "Trace(no pass yet)"
    for name in ("layers", "depths", "attention", "length"):
        with pytest.raises(OntogenyError, match="the trace is empty"):
            getattr(trace, name)


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
    with ontogeny.capture(model) as trace:
        for _ in range(2):
            with pytest.raises(OntogenyError, match=r"of the LlamaModel that is: give each model a config of its own"):
                twin(token_ids(1, 8))
            model(token_ids(1, 8))
    assert len(trace.layers[0].entropy) == 2


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


def test_issued_masks_are_known_for_as_long_as_they_live():
    masks, pattern = IssuedMasks(), Pattern(True, None)
    mask = masks.issue(torch.tensor([[True, False]]), pattern)
    with pytest.raises(OntogenyError, match="was handed no mask though its model made one"):
        masks.padding("Attention", None, pattern)
    masks.begin()
    assert masks.padding("Attention", None, pattern) is None
    assert masks.padding("Attention", mask, pattern) is mask
    with pytest.raises(OntogenyError, match="mask of its model's own making"):
        masks.padding("Attention", mask.clone(), pattern)
    del mask
    assert len(masks) == 0


def test_positions_that_start_anew_are_packed_sequences_and_refused():
    model, ids = tiny("llama"), token_ids(2, LENGTH)
    packed = torch.cat([torch.arange(LENGTH // 2)] * 2)[None].expand(2, -1)
    with ontogeny.capture(model) as trace:
        with pytest.raises(OntogenyError, match="position_ids: they start anew within a sequence"):
            model(ids, position_ids=packed)
        model(ids, position_ids=packed, attention_mask=torch.ones_like(ids))
        assert len(trace.layers[0].entropy) == 2
