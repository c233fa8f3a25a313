"""Kinds and shares against an independent computation: eager maps in float64, one sequence and head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ontogeny.probes import ProbeSettings, waiver_kinds
from ontogeny.probes.batches import Batches
from ontogeny.probes.exchange import Encodings
from ontogeny.probes.waiver_kinds import CAUSAL_ORDER, FEATURE, NONE, POSITIONAL, UNDETERMINED, WaiverKindsExperiment
from tests.models import FAMILIES, tiny, token_ids

EPSILON, BOUNDS = 0.02, (0.4, 0.6)  # so that models at random have sinks, and lose them


def eager_maps(model, ids, positions):
    inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None], "position_ids": positions[None]}
    with torch.no_grad():
        return [one[0] for one in model.base_model(**inputs, output_attentions=True, use_cache=False).attentions]


def exchanged(values, slot):
    swapped = values.clone()
    swapped[0], swapped[slot] = values[slot], values[0]
    return swapped


def plain_outcome(attention, slot):
    """Of one map (T, T): loops over the rows from `slot` on that see both keys."""
    rows = [row for row in range(slot, len(attention)) if attention[row, 0] > 0 and attention[row, slot] > 0]
    if len(rows) < max(16, len(attention) / 4):
        return None
    first = sum(float(attention[row, 0]) for row in rows) / len(rows)
    other = sum(float(attention[row, slot]) for row in rows) / len(rows)
    share = other / (first + other)
    if first + other < EPSILON:
        return "inconclusive"
    return "followed" if share > BOUNDS[1] else "stayed" if share < BOUNDS[0] else "inconclusive"


def plain_kind(outcomes, causal):
    token, position, both = outcomes
    if outcomes == ("stayed", "stayed", "stayed") and causal:
        return CAUSAL_ORDER
    if token == "followed" and position != "followed" and both != "stayed":
        return FEATURE
    if position == "followed" and token != "followed" and both != "stayed":
        return POSITIONAL
    return UNDETERMINED


def plain_findings(model, ids, causal):
    """{(layer, head): [(kind, outcomes) of each sequence with a sink]}"""
    length, found = ids.shape[1], {}
    slot = min(8, length // 4, length - 16)
    positions = torch.arange(length)
    for sequence in ids:
        swapped, moved = exchanged(sequence, slot), exchanged(positions, slot)
        before = eager_maps(model, sequence, positions)
        after = [eager_maps(model, *pair) for pair in ((swapped, positions), (sequence, moved), (swapped, moved))]
        for layer, maps in enumerate(before):
            for head, attention in enumerate(maps):
                unmoved = plain_outcome(attention, slot)
                seeing = int((attention[:, 0] > 0).sum())
                if unmoved is None or float(attention[:, 0].sum()) / seeing <= EPSILON:
                    continue
                outcomes = [plain_outcome(maps[layer][head], slot) for maps in after]
                if unmoved != "stayed":
                    outcomes = ["inconclusive"] * 3
                elif sequence[0] == sequence[slot]:
                    outcomes[0] = "inconclusive"
                record = (plain_kind(tuple(outcomes), causal), tuple(outcomes))
                found.setdefault((layer, head), []).append(record)
    return found


def sharp(family, seed):
    """A model at random, float64, whose attention is far from uniform."""
    changes = {"sliding_window": 30} if family in ("mistral", "gemma2", "gpt_oss") else {}
    model = tiny(family, seed, **changes).double()
    if family == "gpt_oss":
        model.set_experts_implementation("eager")  # its grouped product knows no float64
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("query", "q_proj", "k_proj", "key", "c_attn")) and parameter.ndim == 2:
            parameter.mul_(3.0)
    return model


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_shares_and_kinds_are_those_of_loops_over_eager_maps(family, monkeypatch):
    monkeypatch.setattr(waiver_kinds, "WAIVER_EPSILON", EPSILON)
    monkeypatch.setattr(waiver_kinds, "STAYED_BELOW", BOUNDS[0])
    monkeypatch.setattr(waiver_kinds, "FOLLOWED_ABOVE", BOUNDS[1])
    model, ids = sharp(family, 3), token_ids(12, 40, seed=5)
    ids[0, 8] = ids[0, 0]
    found = WaiverKindsExperiment(ProbeSettings(40)).run(model, Batches(ids, 5, torch.device("cpu")))
    assert found.waiver_kind_encodings == Encodings.EXCHANGED
    model.set_attn_implementation("eager")
    expected = plain_findings(model, ids, causal=family != "bert")
    every = [record for records in expected.values() for record in records]
    assert {outcome for _, outcomes in every for outcome in outcomes} == {"followed", "stayed", "inconclusive"}
    assert {kind for kind, _ in every} >= {FEATURE, UNDETERMINED}
    for layer, head in np.ndindex(3, 4):
        here = found.sel(layer=layer, head=head)
        records = expected.get((layer, head), [])
        assert here.waiver_kind_sequences == len(records)
        for number, swap in enumerate(("token", "position", "both")):
            for outcome in ("followed", "stayed", "inconclusive"):
                share = here.waiver_kind_share.sel(outcome=outcome, swap=swap).item()
                count = sum(outcomes[number] == outcome for _, outcomes in records)
                assert share == pytest.approx(count / len(records) if records else np.nan, nan_ok=True)
        kinds = [kind for kind, _ in records]
        ranked = sorted(range(1, 5), key=kinds.count, reverse=True)
        tied = kinds.count(ranked[0]) == kinds.count(ranked[1])
        kind = NONE if not kinds else UNDETERMINED if tied else ranked[0]
        assert here.waiver_kind == kind
        if kinds:
            assert here.waiver_kind_confidence == pytest.approx(kinds.count(kind) / len(kinds))
