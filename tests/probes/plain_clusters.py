"""The geometry of states in plain loops over tokens, dimensions and depths, in float64."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score

from ontogeny.probes.capture.clusters import BETAS, SHUFFLE_SEED, THRESHOLDS


def plain_selections(states, valid):
    """The tokens of one sequence (T, d) that each selection counts."""
    places = [place for place in range(len(states)) if valid[place]]
    norms = {place: math.sqrt(sum(float(x) ** 2 for x in states[place])) for place in places}
    median = sorted(norms.values())[(len(places) - 1) // 2]
    return places, [place for place in places[1:] if norms[place] <= 5 * median]


def plain_shuffled(states, places, valid):
    """Each dimension's values moved along its own permutation of all tokens, until a counted one comes."""
    tokens, width = [place for place in range(len(states)) if valid[place]], states.shape[1]
    drawn = np.arange(len(tokens))[:, None].repeat(width, axis=1)
    table = np.random.default_rng(SHUFFLE_SEED).permuted(drawn, axis=0)
    moved = np.zeros_like(states)
    for dimension in range(width):
        for place in places:
            source = table[tokens.index(place), dimension]
            while tokens[source] not in places:
                source = table[source, dimension]
            moved[place, dimension] = states[tokens[source], dimension]
    return moved


def plain_geometry(states, places, before):
    """All measures of the states (T, d) at `places`; `before` holds labels by threshold and place of the last depth."""
    kept = states[places]
    norms = np.sqrt((kept**2).sum(-1))
    cosine = np.array(
        [[a @ b / (x * y) for b, y in zip(kept, norms, strict=True)] for a, x in zip(kept, norms, strict=True)]
    )
    n = len(places)
    apart = [cosine[i, j] for i in range(n) for j in range(n) if i != j]
    singular = np.linalg.svd(kept, compute_uv=False)
    singular = singular[singular > 1e-12 * singular[0]]
    p, q = singular**2 / (singular**2).sum(), singular / singular.sum()
    labels = [dict(zip(places, connected_components(cosine > one)[1], strict=True)) for one in THRESHOLDS]
    both = [] if before is None else [place for place in places if place in before[0]]
    found = {
        "mean_cosine": np.mean(apart),
        "energy": [sum(np.exp(b * (c - 1)) for c in cosine.flat) / (2 * b * n * n) for b in BETAS],
        "count": [len(set(one.values())) for one in labels],
        "persistence": [
            adjusted_rand_score([old[place] for place in both], [new[place] for place in both]) if both else np.nan
            for old, new in zip(before or labels, labels, strict=True)
        ],
        "matrix_entropy": -(p * np.log(p)).sum(),
        "anisotropy": p[0],
        "effective_rank": np.exp(-(q * np.log(q)).sum()),
    }
    return found, labels


def plain_over_depth(states, valid, kind, shuffle):
    """The measures at every depth of one sequence, states (D, T, d); each name's values stacked."""
    found, before = [], None
    for state in states:
        places = plain_selections(state, valid)[kind]
        one, before = plain_geometry(plain_shuffled(state, places, valid) if shuffle else state, places, before)
        found.append(one | {"tokens": len(places), "paired": len(places)})
    return {name: np.array([one[name] for one in found], dtype=float) for name in found[0]}


def plain_plateaus(count, persistence, tokens):
    """The plateau that each depth is in, as (start, length), of one sequence, selection and threshold."""
    inside, depth = [(0, 0)] * len(count), 0
    while depth < len(count):
        end = depth + 1
        while end < len(count) and count[end] == count[depth] and persistence[end] >= 0.9:
            if not all(1 < count[at] < tokens[at] for at in (end - 1, end)):
                break
            end += 1
        if end - depth > 1:
            inside[depth:end] = [(depth, end - depth)] * (end - depth)
        depth = end
    return inside


def plain_share(one):
    """1 where a sequence is in a plateau, 0 elsewhere: (D, 3), of its measures over depth."""
    each = [
        plain_plateaus(count, rand, one["paired"])
        for count, rand in zip(one["count"].T, one["persistence"].T, strict=True)
    ]
    return np.array([[length > 0 for _, length in bound] for bound in each]).T
