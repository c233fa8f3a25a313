"""What the report says emerged, against numbers made by hand."""

from __future__ import annotations

import numpy as np

from ontogeny.plots.summary import summarise
from tests.synthetic import scan_dataset

STEPS = (0, 10, 100, 1000)


def flat(steps: tuple[int, ...] = STEPS, **attrs: object):
    """Two layers of two heads, nothing happening: rates 0.1, ratios 4."""
    dataset = scan_dataset(steps, layers=2, heads=2, sequences=5, **attrs)
    dataset["sink_rate"][:] = 0.1
    dataset["top_sink_position"][:] = 0
    dataset["top_activation"][:] = 8.0
    dataset["median_activation"][:] = 2.0
    dataset["massive_rate"][:] = 0.0
    dataset["top_position"][:] = 0
    dataset["top_dimension"][:] = 7
    return dataset


def test_the_first_head_above_one_half_is_named() -> None:
    dataset = flat()
    at = {"epsilon": dataset["epsilon"] == 0.3, "position": 0}
    dataset["sink_rate"].loc[{**at, "layer": 1, "head": 0}] = np.array([0, 0.5, 0.6, 0.7])[:, None]
    dataset["sink_rate"].loc[{**at, "layer": 0, "head": 1}] = np.array([0, 0.2, 0.45, 0.9])[:, None]
    assert summarise(dataset)[0] == (
        "Attention sinks emerged: the sink rate at position 0 (ε = 0.3) first exceeds 0.5 at step 100, in layer 1, "
        "head 0. At the last checkpoint it does so in 2 of 4 heads; over all checkpoints the "
        "highest is 0.90, in layer 0, head 1, first at step 1,000."
    )


def test_sinks_that_vanish_again_and_sinks_that_were_always_there() -> None:
    dataset = flat()
    dataset["sink_rate"][:] = np.array([0.1, 0.9, 0.2, 0.2])[:, None, None, None, None]
    assert (
        "first exceeds 0.5 at step 10, in layer 0, head 0. At the last checkpoint it does so in no head any more"
        in (summarise(dataset)[0])
    )
    dataset["sink_rate"][:] = 0.8
    assert summarise(dataset)[0].startswith("Attention sinks are there from the first checkpoint on: ")


def test_nothing_emerged_is_said() -> None:
    sentences = summarise(flat())
    assert sentences[0].startswith("No attention sink emerged: ")
    assert "the highest is 0.10" in sentences[0]
    assert sentences[2] == (
        "No massive activation emerged: max|h| / median|h| grows twofold at no depth; the most is 1.00-fold, at "
        "depth 0."
    )
    assert "is met in no sequence at any checkpoint" in sentences[3]


def test_growth_is_that_of_the_depth_that_grows_most() -> None:
    dataset = flat()
    dataset["top_activation"].loc[{"depth": 1}] = np.array([8.0, 12, 40, 20])[:, None, None]
    dataset["top_activation"].loc[{"depth": 2}] = np.array([80.0, 80, 90, 100])[:, None, None]
    assert summarise(dataset)[2] == (
        "The largest activations grew out of proportion: max|h| / median|h| grows most at depth 1, 5.0-fold, from 4 at "
        "step 0 to 20 at step 100; it is first seen doubled at step 100, and is 10 at step 1,000."
    )


def test_the_published_criterion_and_the_site() -> None:
    dataset = flat()
    dataset["massive_rate"].loc[{"depth": 2}] = np.array([0, 0, 0.4, 1.0])
    dataset["top_activation"].loc[{"depth": 2}] = 4000.0
    dataset["top_position"].loc[{"depth": 2, "sequence": [0, 1, 2, 3]}] = 3
    sentences = summarise(dataset)
    assert sentences[3] == (
        "The published criterion of a massive activation (|h| above 100 and at least 1,000 times the median) is first "
        "met at step 100, in 40% of sequences at depth 2."
    )
    assert sentences[4] == (
        "At step 1,000, the largest activation at depth 2, where the ratio is highest, sits at position 3, "
        "dimension 7, in 80% of sequences."
    )


def test_a_sink_elsewhere_is_reported() -> None:
    dataset = flat()
    dataset["top_sink_position"].loc[{"sequence": [0, 1, 2]}] = 5
    dataset["top_sink_position"].loc[{"sequence": 4}] = -1
    assert "most often at position 5: in 75% of all heads and sequences" in summarise(dataset)[1]


def test_a_single_checkpoint_has_no_history() -> None:
    dataset = flat((-1,))
    dataset["sink_rate"].loc[{"layer": 1}] = 0.8
    sentences = summarise(dataset)
    assert sentences[0] == (
        "In 2 of 4 heads the sink rate at position 0 (ε = 0.3) exceeds 0.5; the highest is 0.80, in layer 1, head 0."
    )
    assert sentences[2] == "The massive ratio max|h| / median|h| is highest at depth 0: 4."
    assert not any("emerge" in sentence or "step" in sentence for sentence in sentences)


def test_what_was_not_measured_is_said_once() -> None:
    sentences = summarise(scan_dataset(attention="unavailable: Falcon has its own attention"))
    assert sentences[0] == "Attention sinks were not measured: attention unavailable: Falcon has its own attention."
    assert sum("sink" in sentence for sentence in sentences) == 1
    massive = ["top_activation", "median_activation", "massive_ratio", "massive_rate", "top_position", "top_dimension"]
    assert summarise(scan_dataset().drop_vars(massive))[-1] == (
        "Massive activations were not measured: the scan ran without the probe `massive`."
    )


def test_a_drained_sink_is_told_with_its_head() -> None:
    dataset = scan_dataset(layers=2, heads=2)
    shape = tuple(dataset.sizes[dim] for dim in ("checkpoint", "layer", "head", "position"))
    norms, rates = np.ones(shape), np.zeros(shape)
    norms[-1, 1, 0, 0], rates[-1, 1, 0, 0], rates[-1, 1, 1, 0] = 0.07, 0.9, 0.4
    dims = ("checkpoint", "layer", "head", "position")
    told = summarise(dataset.assign(value_norm=(dims, norms), waiver_rate=(dims, rates)))
    assert any("in 1 of 4 heads; its smallest value norm is 0.07" in one and "layer 1, head 0" in one for one in told)
    assert not any("waiver" in one for one in summarise(dataset))


def test_what_came_first_is_told_in_order() -> None:
    dataset = flat()
    dataset["sink_rate"].loc[{"epsilon": dataset["epsilon"] == 0.3, "layer": 1, "head": 0, "position": 0}] = np.array(
        [0, 0.6, 0.9, 0.9]
    )[:, None]
    dataset["top_activation"].loc[{"depth": 1}] = np.array([8.0, 12, 12, 20])[:, None, None]
    assert (
        summarise(dataset)[-1] == "First seen, in this order: a sink at step 10, a doubled massive ratio at step 1,000."
    )
    shape = tuple(dataset.sizes[dim] for dim in ("checkpoint", "layer", "head", "position"))
    rates = np.zeros(shape)
    rates[2:, 0, 1, 0] = 0.6
    rates[1:, 0, 1, 3] = 0.9  # another key
    drained = dataset.assign(waiver_rate=(("checkpoint", "layer", "head", "position"), rates))
    assert summarise(drained)[-1] == (
        "First seen, in this order: a sink at step 10, a sink whose value has drained at step 100, "
        "a doubled massive ratio at step 1,000."
    )
    assert not any("in this order" in one for one in summarise(flat()))
    assert not any("in this order" in one for one in summarise(drained.isel(checkpoint=[-1])))


def test_the_depth_where_massive_activations_set_in_is_told_of_the_last_checkpoint_that_has_some() -> None:
    dataset = flat()
    dataset["massive_rate"].loc[{"depth": 2}] = np.array([0, 0.4, 0.6, 0])
    onset = np.full((4, 5), -1)
    onset[1, :2] = 1
    onset[2, :3] = (2, 1, 2)
    dataset["massive_onset"] = (("checkpoint", "sequence"), onset)
    assert summarise(dataset)[3].endswith(
        "at step 10, in 40% of sequences at depth 2; at the last such checkpoint it sets in, most often, at depth 2."
    )
    assert summarise(dataset.isel(checkpoint=[2]))[3].endswith(
        "is met, in 60% of sequences at depth 2; it sets in, most often, at depth 2."
    )


def test_secondary_sinks_are_counted_after_the_blocks_of_the_last_checkpoint() -> None:
    dataset = flat()
    counts = np.zeros((4, 5, 3), dtype=int)
    counts[..., 0] = 9  # equal tokens have equal embeddings
    counts[1, 0, 2] = 7
    told = dataset.assign(secondary_sinks=(("checkpoint", "sequence", "depth"), counts)).assign_attrs(
        secondary_cosine=0.9
    )
    assert summarise(told)[-1] == (
        "At step 1,000, no block leaves another token pointing where the first one does (|cosine| above 0.9), a "
        "secondary sink."
    )
    told["secondary_sinks"][-1, 3, 1] = 2
    assert summarise(told)[-1] == (
        "At step 1,000, at most 2 tokens of a sequence point where its first one does (|cosine| above 0.9), as "
        "secondary sinks, at depth 1."
    )
    told["secondary_sinks"][-1, 3, 1] = 1
    assert "at most 1 token of a sequence points where its first one does" in summarise(told)[-1]


def test_short_sequences_make_no_claim() -> None:
    told = summarise(scan_dataset().assign_attrs(length=8))[0]
    assert told == "Sequences of 8 tokens are too short to tell an attention sink from even attention."


def test_flagged_checkpoints_say_nothing_of_what_emerged() -> None:
    dataset = scan_dataset()
    dataset["sink_rate"][2] = 1.0  # a late step, served early
    dataset["top_activation"][2] = 1e6
    verdicts = np.array(["ok"] * 20, dtype=object)
    verdicts[2] = "duplicate"
    flagged = dataset.assign_coords(verdict=("checkpoint", verdicts))
    without = dataset.isel(checkpoint=np.delete(np.arange(20), 2))
    assert summarise(flagged) == summarise(without) != summarise(dataset)
    verdicts[:] = "duplicate"
    assert summarise(dataset.assign_coords(verdict=("checkpoint", verdicts))) == [
        "The audit flags every checkpoint, so that nothing is said of what emerged."
    ]
