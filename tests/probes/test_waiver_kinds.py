"""By what sinks are chosen: planted truths, an independent computation, and what cannot be told is not told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import ontogeny
from ontogeny.errors import OntogenyError
from ontogeny.probes import ProbeSettings, make_probes, waiver_kinds
from ontogeny.probes.batches import Batches
from ontogeny.probes.capture import attending, run_pass
from ontogeny.probes.exchange import Encodings, find_exchange
from ontogeny.probes.experiment import UnavailableError
from ontogeny.probes.waiver_kinds import (
    CAUSAL_ORDER,
    FEATURE,
    FOLLOWED,
    INCONCLUSIVE,
    NONE,
    NOT_TRIED,
    POSITIONAL,
    STAYED,
    UNDETERMINED,
    WaiverKindsExperiment,
    decide,
    most_frequent,
    slot_of,
)
from tests.models import FAMILIES, SIZES, tiny, tiny_falcon, token_ids
from tests.probes.planted_sinks import (
    MARK,
    plant_causal,
    plant_feature,
    plant_joint,
    plant_positional,
    previous_token_model,
)
from tests.scans import Count
from tests.trainings import train, trainee

SEEDS = range(30)
DECODERS = ("gpt2", "gpt_neox", "llama", "opt")


def run(model, ids, batch_size=8):
    experiment = WaiverKindsExperiment(ProbeSettings(ids.shape[1]))
    return experiment.run(model, Batches(ids, batch_size, torch.device("cpu")))


def assert_planted(planted, kind):
    """The planted head's kind is found in every sequence, no other head has a sink."""
    found = run(planted.model, planted.ids)
    at = {"layer": planted.layer, "head": planted.head}
    assert found.waiver_kind.sel(at) == kind
    assert found.waiver_kind_confidence.sel(at) == 1
    assert found.waiver_kind_sequences.sel(at) == len(planted.ids)
    assert (found.waiver_kind != NONE).sum() == 1
    assert found.waiver_kind_of_model == kind and found.waiver_kind_of_model_confidence == 1
    return found.waiver_kind_share.sel(at)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sink_that_follows_its_token(seed):
    share = assert_planted(plant_feature(DECODERS[seed % 4], seed), FEATURE)
    assert share.sel(outcome="followed").values.tolist() == [1, 0, 1]
    assert share.sel(outcome="stayed").values.tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sink_that_follows_its_positions_encoding(seed):
    share = assert_planted(plant_positional(DECODERS[seed % 4], seed), POSITIONAL)
    assert share.sel(outcome="followed").values.tolist() == [0, 1, 1]
    assert share.sel(outcome="stayed").values.tolist() == [1, 0, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sink_that_is_where_no_predecessor_is(seed):
    family = ("gpt2", "gpt_neox", "opt")[seed % 3]
    share = assert_planted(plant_causal(family, seed), CAUSAL_ORDER)
    assert share.sel(outcome="stayed").values.tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_without_encodings_the_token_alone_decides(seed):
    family = ("gpt2", "opt")[seed % 2]
    share = assert_planted(plant_causal(family, seed, encodings=False), CAUSAL_ORDER)
    assert share.sel(swap="token", outcome="stayed") == 1
    assert share.sel(swap=["position", "both"]).isnull().all()


@pytest.mark.parametrize("seed", SEEDS)
def test_encoders(seed):
    assert_planted(plant_feature("bert", seed), FEATURE)
    assert_planted(plant_positional("bert", seed), POSITIONAL)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_choice_of_token_and_position_jointly_is_undetermined_and_moves_with_both(family):
    share = assert_planted(plant_joint(family, 0), UNDETERMINED)
    assert share.sel(outcome="followed").values.tolist() == [0, 0, 1]
    assert share.sel(outcome="inconclusive").values.tolist() == [1, 1, 0]


def test_exchanging_equal_tokens_tells_nothing():
    planted = plant_causal("gpt2", 0)
    slot = slot_of(planted.ids.shape[1])
    planted.ids[:2, slot] = planted.ids[:2, 0]
    found = run(planted.model, planted.ids).sel(layer=planted.layer, head=planted.head)
    share = found.waiver_kind_share
    assert share.sel(outcome="inconclusive").values.tolist() == [0.5, 0, 0]
    assert found.waiver_kind == UNDETERMINED and found.waiver_kind_sequences == 4  # two of each: a tie
    assert found.waiver_kind_confidence == 0.5


def test_a_slot_that_draws_attention_before_anything_is_exchanged_tells_nothing():
    planted = plant_joint("gpt2", 0)
    rival = 0
    planted.ids[:2, slot_of(planted.ids.shape[1])] = rival
    planted.model.transformer.wte.weight[rival, MARK] = 0.75  # where the joint sink is broken up, all look here
    found = run(planted.model, planted.ids).sel(layer=planted.layer, head=planted.head)
    assert found.waiver_kind_sequences == 4
    assert found.waiver_kind == UNDETERMINED and found.waiver_kind_confidence == 1
    share = found.waiver_kind_share
    assert share.sel(outcome="followed").values.tolist() == [0, 0, 0.5]
    assert share.sel(outcome="inconclusive").values.tolist() == [1, 1, 0.5]


def test_without_sinks_there_are_no_kinds():
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(**SIZES)
    found = run(transformers.GPTNeoXForCausalLM(config).eval(), token_ids(3, 32))
    assert (found.waiver_kind == NONE).all() and (found.waiver_kind_sequences == 0).all()
    assert found.waiver_kind_confidence.isnull().all() and found.waiver_kind_share.isnull().all()
    assert found.waiver_kind_of_model == NONE and np.isnan(found.waiver_kind_of_model_confidence)


@pytest.mark.parametrize("length", [17, 24, 64])
def test_a_head_that_looks_at_the_previous_token_has_no_sink(length):
    model, ids = previous_token_model(length), torch.randint(0, 29, (3, length))
    trace = run_pass(model, ids, maps=[0])
    assert float(trace.layers[0].map.diagonal(-1, 2, 3).min()) > 0.99
    seen = ontogeny.measure(trace, positions=None)
    assert float(seen.sink_score.sel(position=length - 2).min()) > 0.3  # one of two rows looks at it
    assert float(seen.top_sink_score.max()) < 0.3
    found = run(model, ids)
    assert (found.waiver_kind == NONE).all() and (found.waiver_kind_sequences == 0).all()


def test_a_window_that_leaves_too_few_rows_leaves_no_kind(monkeypatch):
    monkeypatch.setattr(waiver_kinds, "WAIVER_EPSILON", 0.01)
    found = run(tiny("mistral", sliding_window=20), token_ids(3, 40))  # 12 rows see both keys
    assert (found.waiver_kind_sequences == 0).all()
    assert (run(tiny("mistral", sliding_window=24), token_ids(3, 40)).waiver_kind_sequences > 0).any()


# What becomes of outcomes.

OUTCOMES_AND_KINDS = [
    ((FOLLOWED, STAYED, FOLLOWED), FEATURE),
    ((FOLLOWED, INCONCLUSIVE, FOLLOWED), FEATURE),
    ((FOLLOWED, STAYED, INCONCLUSIVE), FEATURE),
    ((FOLLOWED, STAYED, STAYED), UNDETERMINED),  # the joint move contradicts
    ((STAYED, FOLLOWED, FOLLOWED), POSITIONAL),
    ((STAYED, FOLLOWED, STAYED), UNDETERMINED),
    ((FOLLOWED, FOLLOWED, FOLLOWED), UNDETERMINED),
    ((STAYED, STAYED, FOLLOWED), UNDETERMINED),  # jointly
    ((STAYED, STAYED, INCONCLUSIVE), UNDETERMINED),
    ((STAYED, INCONCLUSIVE, STAYED), UNDETERMINED),
    ((STAYED, STAYED, STAYED), CAUSAL_ORDER),
    ((INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE), UNDETERMINED),
]


def decided(outcomes, encodings, causal=True):
    arrays = np.array(outcomes, dtype=np.int8)[None, :, None, None]
    return decide(arrays, encodings, np.array([causal])).item()


@pytest.mark.parametrize(("outcomes", "kind"), OUTCOMES_AND_KINDS)
def test_outcomes_decide_the_kind(outcomes, kind):
    assert decided(outcomes, Encodings.EXCHANGED) == kind
    bidirectional = UNDETERMINED if kind == CAUSAL_ORDER else kind
    assert decided(outcomes, Encodings.EXCHANGED, causal=False) == bidirectional


@pytest.mark.parametrize(
    ("token", "absent", "fixed"),
    [
        (FOLLOWED, FEATURE, FEATURE),
        (STAYED, CAUSAL_ORDER, UNDETERMINED),
        (INCONCLUSIVE, UNDETERMINED, UNDETERMINED),
    ],
)
def test_where_encodings_cannot_be_exchanged_the_token_decides(token, absent, fixed):
    outcomes = (token, NOT_TRIED, NOT_TRIED)
    assert decided(outcomes, Encodings.ABSENT) == absent
    assert decided(outcomes, Encodings.FIXED) == fixed
    assert decided(outcomes, Encodings.ABSENT, causal=False) == (UNDETERMINED if token == STAYED else absent)


def test_the_most_frequent_kind_ties_and_nobody():
    kinds = np.array([[1, 1, 0, 0], [1, 2, 0, 4], [3, 0, 0, 4], [0, 0, 0, 1]])
    kind, share, total = most_frequent(kinds)
    assert kind.tolist() == [FEATURE, UNDETERMINED, NONE, UNDETERMINED]
    np.testing.assert_allclose(share, [2 / 3, 0, np.nan, 2 / 3])
    assert total.tolist() == [3, 2, 0, 3]


# What can be done with a model's encodings is found by trying.


@pytest.mark.parametrize("spread", [1.0, 1 / 6])  # 1/6: as transformers initialises
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_honours_position_ids(family, spread):
    model = tiny(family)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.mul_(spread)
    exchange, encodings = find_exchange(model, token_ids(1, 40), 8)
    assert encodings is Encodings.EXCHANGED and exchange.first == 0


def test_a_model_whose_positions_do_not_begin_at_0():
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**{**SIZES, "pad_token_id": 1, "max_position_embeddings": 42})
    model = transformers.RobertaForMaskedLM(config).eval()
    exchange, encodings = find_exchange(model, token_ids(1, 40), 8)
    assert encodings is Encodings.EXCHANGED and exchange.first == 2


def ignoring_positions(model):
    model.base_model.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, {**kwargs, "position_ids": None}), with_kwargs=True
    )
    return model


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bert"])
def test_position_ids_that_do_nothing_are_noticed(family):
    assert find_exchange(ignoring_positions(tiny(family)), token_ids(1, 40), 8)[1] is Encodings.FIXED


def test_a_forward_that_takes_no_position_ids(monkeypatch):
    def forward(self, input_ids=None, attention_mask=None, use_cache=None, return_dict=None):
        return plain(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    plain = transformers.GPT2Model.forward
    monkeypatch.setattr(transformers.GPT2Model, "forward", forward)
    assert find_exchange(tiny("gpt2"), token_ids(1, 40), 8)[1] is Encodings.FIXED
    planted = plant_positional("gpt2", 0)
    found = run(planted.model, planted.ids).sel(layer=planted.layer, head=planted.head)
    assert found.waiver_kind == UNDETERMINED  # it stays for its encoding, not for the causal order
    assert found.waiver_kind_share.sel(swap=["position", "both"]).isnull().all()


def test_encodings_that_are_zero_are_absent():
    model = tiny("gpt2")
    model.transformer.wpe.weight.zero_()
    assert find_exchange(model, token_ids(1, 40), 8)[1] is Encodings.ABSENT


# In a scan, in a training, and where it cannot be had.


def test_the_slot_leaves_rows_enough():
    assert [slot_of(length) for length in (17, 20, 24, 32, 64, 4096)] == [1, 4, 6, 8, 8, 8]
    with pytest.raises(UnavailableError, match="at least 17 tokens, got 16"):
        slot_of(16)


def test_a_scan_keeps_it_on_disk_as_in_memory(tmp_path):
    options = {"steps": "0,10000", "sequences": 6, "probes": ["waiver_kinds"]}
    memory = ontogeny.scan("pocket", **options).dataset
    ontogeny.scan("pocket", out=tmp_path / "scan", **options)
    stored = ontogeny.open_scan(tmp_path / "scan").dataset
    assert stored.outcome.dtype == memory.outcome.dtype == object
    for name in (name for name in memory.data_vars if name.startswith("waiver_kind")):
        np.testing.assert_array_equal(stored[name], memory[name], err_msg=name)
        assert stored[name].attrs == memory[name].attrs and {"long_name", "units", "source"} <= set(memory[name].attrs)
    assert stored.attrs["waiver_kind_slot"] == 8 and stored.attrs["waiver_kind_epsilon"] == 0.3
    last = stored.sel(step=10000)
    assert (stored.waiver_kind.sel(step=0) == NONE).all()
    assert (last.waiver_kind.sel(layer=[1, 2]) == FEATURE).all()
    assert (last.waiver_kind_share.sel(outcome="followed", swap="token", layer=[1, 2]) == 1).all()


def test_sequences_with_a_sink_are_those_of_the_sink_rate():
    found = ontogeny.scan("pocket", steps="1000,10000", sequences=8, probes=["sinks", "waiver_kinds"]).dataset
    rate = found.sink_rate.sel(epsilon=0.3, position=0)
    np.testing.assert_allclose(found.waiver_kind_sequences, rate * 8)
    assert 0 < float(rate.min("checkpoint").max()) < 1 or float(rate.max()) == 1


def test_it_is_measured_during_a_training_which_goes_on_as_if_unseen(tmp_path):
    options = {"sequences": 3, "length": 24, "probes": ["waiver_kinds"]}
    watching = ontogeny.Observer(steps="2", name="tiny", **options)
    model = trainee("gpt2", noisy=False)
    losses = train(model, watching, steps=2)
    assert losses == train(trainee("gpt2", noisy=False), steps=2)
    assert model.config._attn_implementation == "sdpa" and model.training
    model.save_pretrained(tmp_path / "tiny" / "step2")
    scanned = ontogeny.scan(str(tmp_path / "tiny"), **options).dataset
    assert not watching.scan.failures
    for name in (name for name in scanned.data_vars if name.startswith("waiver_kind")):
        np.testing.assert_array_equal(watching.scan.dataset[name], scanned[name], err_msg=name)


def test_memory_that_does_not_suffice_halves_the_batch_and_changes_no_number(monkeypatch):
    planted = plant_feature("llama", 1)
    expected = run(planted.model, planted.ids)

    def short_of_memory(_module, _args, kwargs):
        if len(kwargs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("out of memory")

    planted.model.base_model.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    batches = Batches(planted.ids, 4, torch.device("cpu"))
    found = WaiverKindsExperiment(ProbeSettings(planted.ids.shape[1])).run(planted.model, batches)
    assert batches.size == 1 and found.identical(expected)


def test_what_cannot_be_hooked_is_unavailable_and_the_rest_is_measured(tmp_path):
    with pytest.raises(UnavailableError, match="FalconModel computes its attention without"):
        run(tiny_falcon(), token_ids(2, 32))
    tiny_falcon().save_pretrained(tmp_path / "falcon" / "step5")
    options = {"corpus": "random", "sequences": 2, "length": 32, "probes": ["massive", "waiver_kinds"]}
    dataset = ontogeny.scan(str(tmp_path / "falcon"), progress=Count(), **options).dataset
    assert dataset.attrs["waiver_kinds"].startswith("unavailable: FalconModel")
    assert "massive_ratio" in dataset and "waiver_kind" not in dataset


def test_keys_that_a_function_hides_are_not_judged():
    model = tiny("gpt2")
    with attending(model, mask_mod=lambda b, h, i, j: j != 3), pytest.raises(UnavailableError, match="mask_mod"):
        run(model, token_ids(2, 32))


def test_it_is_an_experiment_that_is_asked_for_by_name():
    assert "waiver_kinds" not in make_probes(None, ProbeSettings(32)).names
    assert make_probes(["waiver_kinds"], ProbeSettings(32)).names == ("waiver_kinds",)
    assert issubclass(UnavailableError, OntogenyError)
