"""What holds of the probes' plain functions whatever they are given, on drawn inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ontogeny.probes.capture.contexts import EqualTokens
from ontogeny.probes.capture.projection import update_norm
from ontogeny.probes.capture.trace import AttentionTrace, Pass, Trace
from ontogeny.probes.capture.walks import MOVES, walk_entropy
from ontogeny.probes.massive import first_run, shared_dimensions
from ontogeny.probes.scores import rows_needed, sink_scores
from ontogeny.probes.secondary import _longest_run
from ontogeny.probes.sinks import head_classes

few = settings(derandomize=True, deadline=None, max_examples=40, database=None)

small = st.integers(1, 5)
seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@st.composite
def flags(draw):
    """Whether something is there, (sequences, depths)."""
    return draw(arrays(bool, st.tuples(small, st.integers(1, 9))))


@few
@given(flags())
def test_a_first_run_is_there_ended_and_the_first(there):
    for row, start, length in zip(there, *first_run(there), strict=True):
        if length == 0:
            assert start == -1 and not row.any()
            continue
        assert row[start : start + length].all() and not row[:start].any()
        assert start + length == len(row) or not row[start + length]


@few
@given(st.tuples(small, st.integers(1, 7), small).flatmap(lambda shape: arrays(bool, shape)))
def test_a_longest_run_is_there_and_none_is_longer(alike):
    found = [one.numpy() for one in _longest_run(torch.from_numpy(alike))]
    for b, token in np.ndindex(alike.shape[0], alike.shape[2]):
        column, length, start = alike[b, :, token], found[0][b, token], found[1][b, token]
        runs = [
            (end - begin, -begin)
            for begin in range(len(column))
            for end in range(begin + 1, len(column) + 1)
            if column[begin:end].all()
        ]
        assert (length, -start) == max(runs, default=(0, 0))


@few
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), seeds)
def test_shared_dimensions_are_named_by_the_share_of_sequences_that_they_have(sequences, depths, ranks, width, seed):
    named = np.random.default_rng(seed).integers(0, width, (sequences, depths, ranks))
    shared, share = shared_dimensions(named)
    assert shared.shape == share.shape == (depths, ranks)
    for depth in range(depths):
        counts = {d: sum(d in one for one in named[:, depth].tolist()) for d in range(width)}
        for dimension, part in zip(shared[depth], share[depth], strict=True):
            assert part == (0 if dimension == -1 else counts[dimension] / sequences)
        kept = [d for d in shared[depth] if d >= 0]
        assert len(kept) == len(set(kept)) == min(ranks, sum(count > 0 for count in counts.values()))
        order = [(-counts[d], d) for d in kept]
        left = [(-counts[d], d) for d in range(width) if counts[d] and d not in kept]
        assert order == sorted(order) and (not left or order[-1] < min(left))


@st.composite
def tokens_and_padding(draw, longest=9):
    """Ids (B, T) of few kinds, and what is no padding, at least one of each sequence, on the left and on the right."""
    batch, length = draw(small), draw(st.integers(2, longest))
    ids = torch.from_numpy(draw(arrays(np.int64, (batch, length), elements=st.integers(0, 3))))
    valid = torch.zeros(batch, length, dtype=torch.bool)
    for row in valid:
        start = draw(st.integers(0, length - 1))
        row[start : draw(st.integers(start + 1, length))] = True
    return ids, valid


@few
@given(tokens_and_padding(), st.integers(1, 5), seeds, st.floats(1e-6, 1e6))
def test_distances_are_those_of_pairs_and_padding_and_scale_change_none(drawn, width, seed, scale):
    ids, valid = drawn
    state = torch.randn(*ids.shape, width, dtype=torch.float64, generator=generator(seed))
    nearest, mean = EqualTokens.find(ids, valid).distances(state)
    spoilt = torch.where(valid[..., None], state * scale, torch.nan)
    for one, other in zip(EqualTokens.find(ids, valid).distances(spoilt), (nearest, mean), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)
    for b, row in enumerate(valid):
        places = row.nonzero()[:, 0].tolist()
        pairs = [
            (2 * (state[b, i] - state[b, j]).norm() / (state[b, i].norm() + state[b, j].norm())).item()
            for i in places
            for j in places
            if i < j and ids[b, i] == ids[b, j]
        ]
        expected = (min(pairs), sum(pairs) / len(pairs)) if pairs else (math.nan, math.nan)
        assert (nearest[b].item(), mean[b].item()) == pytest.approx(expected, nan_ok=True, rel=1e-9)
        assert all(0 <= one <= 2 + 1e-12 for one in pairs)


def chains(batch, heads, valid, causal, seed):
    """Random maps (B, H, T, T) whose rows are of any mass, 0 at padding."""
    length = valid.shape[1]
    maps = torch.rand(batch, heads, length, length, generator=generator(seed)) ** 4
    seen = valid[:, None, :, None] & valid[:, None, None, :]
    return (maps.tril() if causal else maps) * seen


@few
@given(tokens_and_padding(), st.integers(1, 3), st.booleans(), seeds)
def test_entropies_of_walks_are_bounded_and_padding_changes_none(drawn, heads, causal, seed):
    ids, valid = drawn
    maps = chains(len(ids), heads, valid, causal, seed)
    found = walk_entropy(maps, ids, valid)
    assert found.shape == (len(ids), heads, len(MOVES)) and found.isfinite().all()
    for b, row in enumerate(valid):
        kinds = len(ids[b][row].unique())
        bound = torch.tensor([math.log(min(moves, kinds)) for moves in MOVES])
        assert (found[b] >= -1e-7).all() and (found[b] <= bound + 1e-6).all()
        alone = walk_entropy(maps[b : b + 1][..., row, :][..., row], ids[b : b + 1, row], row[row][None])
        torch.testing.assert_close(found[b : b + 1], alone, rtol=0, atol=1e-7)


@few
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.one_of(st.floats(0, 1), st.just(math.nan)))
    )
)
def test_classes_part_the_medians_of_what_is_there(share):
    found = head_classes(share, 256)
    assert (head_classes(share, 255) == 0).all()
    for layer, head in np.ndindex(found.shape):
        there = sorted(one for one in share[:, layer, head].ravel() if not math.isnan(one))
        if not there:
            assert found[layer, head] == 0
            continue
        median = there[(len(there) - 1) // 2]
        expected = 1 if median > 1 / 2 else 2 if median > 1 / 8 else 3 if median > 1 / 32 else 4
        assert found[layer, head] == expected


@few
@given(small, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.booleans(), seeds)
def test_update_norms_are_those_of_explicit_projections(batch, groups, shared, width, out, bias, seed):
    heads, length = groups * shared, 3
    draw = generator(seed)
    projection = torch.nn.Linear(heads * width, out, bias=bias, dtype=torch.float64)
    projection.weight.data = torch.randn(out, heads * width, dtype=torch.float64, generator=draw)
    value = torch.randn(batch, groups, length, width, dtype=torch.float64, generator=draw)
    found = update_norm(projection, value, heads)
    for b, head, key in np.ndindex(batch, heads, length):
        alone = torch.zeros(heads, width, dtype=torch.float64)
        alone[head] = value[b, head // shared, key]
        expected = (projection.weight @ alone.flatten()).norm()
        torch.testing.assert_close(found[b, head, key], expected, rtol=1e-9, atol=1e-7)


def trace_of_maps(maps, seen):
    """A trace that holds what sink scores are made of."""
    batch, heads, length, _ = maps.shape
    nothing = torch.zeros(batch, heads)
    layer = AttentionTrace(
        column_mass=maps.sum(-2),
        visible_rows=seen.sum(-2).expand(-1, heads, -1),
        value_norm=torch.ones(batch, heads, length),
        **dict.fromkeys(("entropy", "row_max", "participation", "mass", "distance", "first_share"), nothing),
        support=nothing[..., None].int(),
        row_length=nothing[..., None].int(),
        tokens=seen.diagonal(dim1=-2, dim2=-1)[:, 0].sum(-1).int(),
    )
    return Trace([Pass(length, (layer,), (), "captured")])


@few
@given(tokens_and_padding(longest=24), st.integers(1, 3), st.booleans(), st.integers(1, 24), seeds)
def test_sink_scores_give_back_a_unit_for_every_row_of_softmax(drawn, heads, causal, window, seed):
    _, valid = drawn
    length = valid.shape[1]
    apart = torch.arange(length)[:, None] - torch.arange(length)
    pattern = (apart >= 0) & (apart < window) if causal else torch.ones(length, length, dtype=torch.bool)
    seen = (pattern & valid[:, :, None] & valid[:, None, :])[:, None]
    scores = 3 * torch.randn(len(valid), heads, length, length, dtype=torch.float64, generator=generator(seed))
    maps = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    found = sink_scores(trace_of_maps(maps, seen))
    total = (found.alpha.nan_to_num() * found.visible).sum(-1)[:, 0]
    torch.testing.assert_close(total, valid.sum(1, keepdim=True).double().expand(-1, heads))
    there = found.alpha[:, 0].isfinite()
    assert torch.equal(there, valid[:, None].expand(-1, heads, -1))
    assert (found.alpha[:, 0][there] >= 0).all() and (found.alpha[:, 0][there] <= 1 + 1e-12).all()
    needed = rows_needed(valid.sum(1))
    assert (needed >= 16).all() and (needed >= valid.sum(1) / 4).all()
    assert torch.equal(found.eligible[:, 0], found.visible[:, 0] >= needed[:, None, None])
