"""The loss with and without massive activations and sinks: equal to interventions written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
import xarray as xr

import ontogeny
from ontogeny.dynamics.corpus import Corpus
from ontogeny.dynamics.measure import measure_checkpoint
from ontogeny.dynamics.progress import Progress
from ontogeny.probes import ProbeSettings, loss, make_probes, massive
from ontogeny.probes.ablation import experiment, locate
from ontogeny.probes.ablation.experiment import INTERVENTIONS, common_dimensions
from ontogeny.probes.ablation.interventions import hand_on, means_by_dimension
from ontogeny.probes.ablation.locate import Entries, first_depth
from ontogeny.probes.batches import Batches
from ontogeny.probes.experiment import UnavailableError
from ontogeny.probes.loss import corpus_losses
from ontogeny.probes.measure import joined
from tests.models import SIZES, tiny, tiny_falcon, token_ids
from tests.probes.plain_ablation import double, maps_and_states, plain_losses, score
from tests.trainings import SMALL, train, trainee

SEQUENCES, LENGTH = 5, 24
THRESHOLD, MULTIPLE, EPSILON, ACT = 0.8, 3.5, 0.16, 2.0
FAMILIES = ["gpt_neox", "llama", "gpt2", "mistral", "gemma2", "gpt_oss"]
WINDOWED = ("mistral", "gemma2", "gpt_oss")


@pytest.fixture
def lenient(monkeypatch):
    """Constants that untrained models meet."""
    monkeypatch.setattr(massive, "MASSIVE_THRESHOLD", THRESHOLD)
    monkeypatch.setattr(massive, "MASSIVE_MULTIPLE", MULTIPLE)
    monkeypatch.setattr(locate, "SINK_EPSILON", EPSILON)
    monkeypatch.setattr(locate, "ACT_MULTIPLE", ACT)


def model_of(family, **changes):
    return tiny(family, **({"sliding_window": 20} if family in WINDOWED else {}), **changes)


def measured(model, ids=None, batch_size=SEQUENCES, name="ablation"):
    ids = token_ids(SEQUENCES, LENGTH) if ids is None else ids
    chosen = make_probes([name], ProbeSettings(ids.shape[1])).experiments[name]
    return chosen.run(model, Batches(ids, batch_size, torch.device("cpu")), "auto")


def plain_entries(states, sequences, depths, threshold):
    """The entries that meet the criterion, by depth: (sequence, position, dimension) and value."""
    found = {depth: [] for depth in range(depths)}
    for sequence in range(sequences):
        for depth in range(depths):
            state = states[sequence, depth]
            ordered = sorted(state.abs().flatten().tolist())
            median = ordered[(len(ordered) - 1) // 2]
            for position, dimension in (state.abs() > threshold).nonzero().tolist():
                value = float(state[position, dimension])
                if abs(value) >= MULTIPLE * median:
                    found[depth].append(((sequence, position, dimension), value))
    return found


def plain_depth(found):
    first = {}
    for depth, entries in found.items():
        for (sequence, _, _), _ in entries:
            first.setdefault(sequence, depth)
    return max(found, key=lambda depth: (list(first.values()).count(depth), -depth))


def stream_edit(at, entries, values):
    def edit(sequence, depth, state):
        if depth == at:
            for ((whose, position, dimension), _), value in zip(entries, values, strict=True):
                if whose == sequence:
                    state[position, dimension] = value
        return state

    return edit


def map_edit(maps, is_sink, factor):
    """Rows in which some other key has attention give the sinks' attention to these, but for `factor` of it."""

    def edit(sequence, layer, one):
        for head in range(one.shape[0]):
            sinks = [key for key in range(one.shape[2]) if is_sink(maps[sequence, layer], head, key)]
            for row in one[head]:
                others = [key for key in range(len(row)) if key not in sinks and row[key] > 0]
                total = float(sum(row[key] for key in others))
                freed = float(sum((1 - factor) * row[key] for key in sinks))
                if total > 0:
                    for key in others:
                        row[key] += freed * row[key] / total
                    for key in sinks:
                        row[key] *= factor
        return one

    return edit


def is_strong(one, head, key):
    alpha, rows = score(one, head, key)
    return alpha > EPSILON and rows >= 16


def is_act(one, head, key):
    return key > 0 and score(one, head, key)[0] > ACT / LENGTH


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_interventions_in_loops(family, lenient, monkeypatch):
    threshold = 3.0 if family == "gemma2" else THRESHOLD  # its embeddings are scaled
    monkeypatch.setattr(massive, "MASSIVE_THRESHOLD", threshold)
    model, ids = double(model_of(family)), token_ids(SEQUENCES, LENGTH)
    found = measured(model, ids)
    maps, states = maps_and_states(model, ids, monkeypatch)
    by_depth = plain_entries(states, SEQUENCES, 4, threshold)
    depth = plain_depth(by_depth)
    entries = by_depth[depth]
    means = [np.mean([v for (_, _, d), v in entries if d == dim]) for (_, _, dim), _ in entries]
    edits = {
        "massive_to_zero": {"edit_state": stream_edit(depth, entries, [0.0] * len(entries))},
        "massive_to_mean": {"edit_state": stream_edit(depth, entries, means)},
        "sinks_removed": {"edit_map": map_edit(maps, is_strong, 0.0)},
        "sinks_damped": {"edit_map": map_edit(maps, is_act, 0.4)},
    }
    plain = plain_losses(model, ids, monkeypatch)
    assert float(found.loss) == pytest.approx(np.mean(plain), rel=1e-5)
    for name, edit in edits.items():
        one = found.sel(intervention=name)
        expected = np.array(plain_losses(model, ids, monkeypatch, **edit))
        assert float(one.loss_ablated) == pytest.approx(expected.mean(), rel=1e-5), name
        error = (expected - plain).std(ddof=1) / math.sqrt(SEQUENCES)
        assert float(one.loss_change_error) == pytest.approx(error, rel=1e-5, abs=1e-6), name
        assert abs(expected - plain).max() > 1e-3, name
    assert int(found.ablation_depth) == depth and int(found.ablation_entries) == len(entries)
    sequences = {sequence for (sequence, _, _), _ in entries}
    assert float(found.ablated_share[0]) == float(found.ablated_share[1]) == len(sequences) / SEQUENCES
    for index, is_sink in ((2, is_strong), (3, is_act)):
        marked = [any(is_sink(one, head, key) for key in range(LENGTH)) for one in maps.values() for head in range(4)]
        assert float(found.ablated_share[index]) == pytest.approx(np.mean(marked)), index


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_in_float32_are_those_that_transformers_computes(family):
    model, ids = tiny(family), token_ids(SEQUENCES, LENGTH)
    losses = corpus_losses(model, Batches(ids, 2, torch.device("cpu")))
    expected = [float(model(one[None], labels=one[None]).loss) for one in ids]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_batches_and_parts_of_them_change_nothing(lenient, monkeypatch):
    whole = measured(model_of("llama"))
    assert whole.loss_ablated.notnull().all()
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 2 * LENGTH * SIZES["vocab_size"])  # two sequences
    for batch_size in (1, 2, 3, 5):
        xr.testing.assert_allclose(measured(model_of("llama"), batch_size=batch_size), whole, rtol=1e-5)


def test_where_memory_does_not_suffice_interventions_stay_with_their_sequences(lenient):
    whole, model = measured(model_of("llama")), model_of("llama")

    def fail(_model, _args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise MemoryError

    model.register_forward_pre_hook(fail, with_kwargs=True)
    batches = Batches(token_ids(SEQUENCES, LENGTH), SEQUENCES, torch.device("cpu"))
    found = make_probes(["ablation"], ProbeSettings(LENGTH)).experiments["ablation"].run(model, batches, "auto")
    assert batches.size == 2
    xr.testing.assert_allclose(found, whole, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 0.4])
def test_what_sinks_lose_the_other_keys_get_in_proportion(factor):
    random = torch.Generator().manual_seed(0)
    maps = (torch.rand(2, 3, 6, 6, generator=random, dtype=torch.float64) + 0.1).tril()
    maps = maps / maps.sum(-1, keepdim=True)
    maps[1, 2] *= 0.5  # a logit of its own takes the rest
    sinks = torch.zeros(2, 3, 6, dtype=torch.bool)
    sinks[0, 0, 0] = sinks[0, 1, 2] = sinks[0, 1, 3] = sinks[1, 2, 1] = sinks[1, 0, :2] = True
    found = hand_on(maps, sinks, factor)
    for place in np.ndindex(2, 3, 6):
        row, marked = maps[place], sinks[place[:2]]
        kept = float(row[~marked].sum())
        for key in range(6):
            share = float(row[key]) / kept if kept else 0.0
            handed = row[key] * factor if marked[key] else row[key] + share * (1 - factor) * float(row[marked].sum())
            assert float(found[place][key]) == pytest.approx(float(handed if kept else row[key]), abs=1e-12)
    torch.testing.assert_close(found.sum(-1), maps.sum(-1))
    assert torch.equal(found[0, 0, 0], maps[0, 0, 0])  # nothing else to attend to
    assert torch.equal(found[0, 2], maps[0, 2]) and not torch.equal(found[0, 1], maps[0, 1])


def test_the_other_keys_of_a_row_may_have_next_to_nothing():
    maps = torch.tensor([[[[1.0, 0.0, 0.0], [1.0, 1e-42, 0.0], [0.5, 0.25, 0.25]]]])
    found = hand_on(maps, torch.tensor([[[True, False, False]]]), 0.0)
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(found[0, 0], expected)


def entries(*places):
    return Entries(torch.tensor(places, dtype=torch.long).reshape(-1, 3), torch.zeros(len(places)))


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ([entries(), entries()], -1),
        ([entries(), entries((0, 1, 1), (0, 2, 1)), entries((0, 1, 1), (1, 1, 1), (2, 1, 1))], 2),
        ([entries((1, 0, 0)), entries((0, 0, 0), (1, 0, 0))], 0),
        ([entries((1, 0, 0)), entries((0, 0, 0), (1, 0, 0), (2, 0, 0))], 1),
    ],
)
def test_the_depth_is_where_the_most_sequences_have_their_first(depths, expected):
    assert first_depth(depths) == expected


def test_means_are_signed_and_of_one_dimension():
    found = Entries(torch.tensor([[0, 0, 7], [1, 3, 7], [1, 0, 2], [2, 0, 7]]), torch.tensor([3.0, -1.0, 5.0, 1.0]))
    assert means_by_dimension(found).tolist() == [1.0, 1.0, 5.0, 1.0]
    assert common_dimensions(found).tolist() == [7, 2, -1]


def test_a_model_without_any_has_the_same_variables():
    plain = measured(tiny("llama"), token_ids(SEQUENCES, 8))
    assert plain.loss_ablated.sel(intervention=["massive_to_zero", "massive_to_mean", "sinks_removed"]).isnull().all()
    assert plain.loss_change_error.sel(intervention="sinks_removed").isnull()
    assert int(plain.ablation_depth) == -1 and int(plain.ablation_entries) == 0
    assert plain.ablated_share[:3].values.tolist() == [0, 0, 0]
    assert plain.ablation_dimension.values.tolist() == [-1, -1, -1]
    assert np.isfinite(plain.loss) and plain.attrs["ablation_sinks"] == "captured"


def test_one_sequence_has_no_standard_error(lenient):
    found = measured(model_of("llama"), token_ids(1, LENGTH))
    assert found.loss_ablated.notnull().all() and found.loss_change_error.isnull().all()


@pytest.mark.parametrize("name", ["ablation", "dormancy"])
def test_the_smallest_models_and_sequences_are_measured(name):
    model = tiny("gpt2", n_layer=1, n_head=1)
    found = measured(model, token_ids(2, 2), name=name)
    if name == "ablation":
        expected = np.mean([float(model(one[None], labels=one[None]).loss) for one in token_ids(2, 2)])
        assert float(found.loss) == pytest.approx(expected, rel=1e-5)
        assert found.loss_ablated.isnull().all()
    else:
        assert found.dormant.values.tolist() == [[0]] and found.top_sink_share.isnull().all()


def two_sided_decoder():
    return transformers.BertLMHeadModel(transformers.BertConfig(**SIZES)).eval()


@pytest.mark.filterwarnings("ignore:If you want to use `BertLMHeadModel`")
@pytest.mark.parametrize("name", ["ablation", "dormancy"])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: tiny("bert"), "BertForMaskedLM sees the tokens that it would have to predict"),
        (two_sided_decoder, "BertLMHeadModel sees the tokens that it would have to predict"),
        (lambda: tiny("llama").model, "LlamaModel has no output head"),
    ],
)
def test_what_has_no_such_loss_is_measured_without_it(model, reason, name):
    corpus = Corpus("random", token_ids(2, LENGTH).numpy(), "auto")
    found = measure_checkpoint(model(), corpus, make_probes(["massive", name], ProbeSettings(LENGTH)), 2, Progress())
    assert found.attrs[name].startswith(f"unavailable: {reason}")
    assert "top_activation" in found and "loss" not in found and "dormant" not in found


def test_attention_that_cannot_be_seen_leaves_the_massive_activations(lenient):
    model = tiny_falcon()
    for parameter in model.parameters():
        parameter.mul_(6 if parameter.ndim > 1 else 1)
    found = measured(model)
    assert found.loss_ablated.notnull().values.tolist() == [True, True, False, False]
    assert found.ablated_share.notnull().values.tolist() == [True, True, False, False]
    assert found.attrs["ablation_sinks"].startswith("unavailable: FalconModel computes its attention without")
    with pytest.raises(UnavailableError, match="the attention is unavailable: FalconModel"):
        measured(model, name="dormancy")


def test_a_scan_has_it_at_every_checkpoint(tmp_path):
    options = {"probes": ["massive", "ablation"], "steps": "0,1000,10000", "sequences": 4}
    scan = ontogeny.scan("pocket", tmp_path / "scan", **options)
    again = ontogeny.open_scan(tmp_path / "scan").dataset
    assert scan.failures == {}
    for dataset in (scan.dataset, again):
        assert dataset.loss_ablated.dims == ("checkpoint", "intervention")
        assert dataset.intervention.values.tolist() == list(INTERVENTIONS)
        assert dataset.loss_ablated.attrs["units"] == "nats" and "2402.17762" in dataset.loss.attrs["source"]
        assert (dataset.ablation_depth == -1).all()  # see docs/pocket.md
        removed = dataset.loss_ablated.sel(intervention="sinks_removed") - dataset.loss
        assert removed.sel(step=0).isnull() and (removed.sel(step=[1000, 10000]) > 5e-4).all()
    assert scan.dataset.loss[0] > scan.dataset.loss[1] > scan.dataset.loss[2]
    np.testing.assert_array_equal(again.loss_ablated, scan.dataset.loss_ablated)
    alone = ontogeny.scan("pocket", **{**options, "probes": ["ablation"]}).dataset
    np.testing.assert_array_equal(alone.loss_ablated, scan.dataset.loss_ablated)


def test_an_observed_training_is_measured_as_its_checkpoints_are(tmp_path):
    options = {**SMALL, "probes": ["ablation", "dormancy"], "batch_size": 2}
    watching = ontogeny.Observer(steps="all", **options)

    def both(model, step):
        watching(model, step)
        model.save_pretrained(tmp_path / "tiny" / f"step{step}")

    losses = train(trainee("gpt2", noisy=False), both, 2)
    assert losses == train(trainee("gpt2", noisy=False), steps=2)
    scan = ontogeny.scan(str(tmp_path / "tiny"), **options)
    for name in ("loss", "loss_ablated", "top_sink_share"):
        np.testing.assert_array_equal(watching.scan.dataset[name], scan.dataset[name])
    assert len(np.unique(scan.dataset.loss)) == 3


def test_other_experiments_may_have_interventions_of_their_own():
    one = xr.Dataset({"a": ("intervention", [1.0, 2.0])}, {"intervention": np.array(["x", "y"], dtype=object)})
    other = xr.Dataset({"b": ("intervention", [3.0])}, {"intervention": np.array(["z"], dtype=object)})
    found = joined([one, xr.Dataset({"c": 1}), other])
    assert found.intervention.values.tolist() == ["x", "y", "z"]
    np.testing.assert_array_equal(found.a, [1, 2, np.nan])
    np.testing.assert_array_equal(found.b, [np.nan, np.nan, 3])


def test_the_constants_are_attributes():
    found = measured(tiny("gpt2"), token_ids(1, 4))
    assert found.attrs == {
        "ablation_sinks": "captured",
        "ablation_sink_epsilon": 0.3,
        "ablation_act_multiple": 5.0,
        "ablation_act_factor": experiment.ACT_FACTOR,
        "ablation_massive_threshold": 100.0,
        "ablation_massive_multiple": 1000.0,
    }
