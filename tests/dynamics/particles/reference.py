"""The self-attention model once more, one particle at a time in numpy, and states to start from."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq

from ontogeny.dynamics.particles.model import Head


def states(seed, n, d, batch=1):
    x = np.random.default_rng(seed).standard_normal((batch, n, d))
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True))


def betas(*values):
    return torch.tensor(values, dtype=torch.float64)


def two_clusters(c, each, d=3, spread=0.0, seed=0):
    """Two clusters of `each` particles, whose centres have inner product c before they are spread, (1, 2 each, d)."""
    rng = np.random.default_rng(seed)
    centres = np.zeros((2, d))
    centres[:, 0], centres[1, 1] = (1, c), (1 - c**2) ** 0.5
    x = centres.repeat(each, axis=0) + spread * rng.standard_normal((2 * each, d))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True))[None]


def random_heads(seed, heads, d, scale=0.7):
    """Matrices (heads, d, d) by the names Q, K, V, and the same as heads of a model."""
    rng = np.random.default_rng(seed)
    matrices = {name: np.eye(d) + scale * rng.standard_normal((heads, d, d)) for name in "QKV"}
    return matrices, tuple(
        Head(**{name: torch.from_numpy(stack[head]) for name, stack in matrices.items()}) for head in range(heads)
    )


def weights(kind, scores, beta, n):
    """A row's weights by their definitions; the thresholds of sparsemax and entmax by root finding."""
    if kind in ("sa", "softmax"):
        return np.exp(scores) / np.exp(scores).sum()
    if kind == "softmax_sink":
        return np.exp(scores) / (1 + np.exp(scores).sum())
    if kind == "usa":
        return np.exp(scores - beta) / n
    if kind == "sigmoid":
        return 1 / (1 + n * np.exp(-scores))
    if kind == "relu":
        return np.maximum(scores, 0) / n
    power = {"sparsemax": 1, "entmax15": 2}[kind]
    scores = scores / power
    top = scores.max()
    tau = brentq(lambda tau: (np.maximum(scores - tau, 0) ** power).sum() - 1, top - 1, top, xtol=1e-15)
    return np.maximum(scores - tau, 0) ** power


def velocity(x, kind, beta, matrices=None, causal=False):
    """dx/dt (n, d) of states x (n, d)."""
    n, d = x.shape
    matrices = matrices or {name: np.eye(d)[None] for name in "QKV"}
    found = np.zeros_like(x)
    for Q, K, V in zip(*(matrices[name] for name in "QKV"), strict=True):
        for i in range(n):
            seen = i + 1 if causal else n
            scores = np.array([beta * (Q @ x[i]) @ (K @ x[j]) for j in range(seen)])
            a = weights(kind, scores, beta, n)
            found[i] += sum(a[j] * (V @ x[j]) for j in range(seen))
    return found - (found * x).sum(-1, keepdims=True) * x
