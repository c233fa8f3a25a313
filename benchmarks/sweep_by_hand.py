"""The script that one would write without Ontogeny: load every checkpoint, keep its maps and states, reduce in numpy.

It takes what it is sensible to take: batches, no gradients, float32, one layer's map reduced at a time, in place where
that is easy. Its definitions are those of docs/dataset.md, for causal models without padding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

Clock = Callable[[str], AbstractContextManager[None]]
Arrays = dict[str, np.ndarray]

EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.8)
POSITIONS = 16


def sweep_by_hand(folder: Path, ids: np.ndarray, batch_size: int, out: Path, clock: Clock, model_class: Any) -> None:
    """Measure the GPT-NeoX checkpoints in the subfolders of `folder` on `ids` (N, T); one `.npz` each into `out`."""
    out.mkdir()
    for checkpoint in sorted(folder.glob("step*"), key=lambda one: int(re.sub(r"\D", "", one.name))):
        with clock("read"):
            model = model_class.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
        starts = range(0, len(ids), batch_size)
        batches = [_measure_batch(model, ids[start : start + batch_size], clock) for start in starts]
        with clock("reduce"):
            found = _over_sequences({name: np.concatenate([one[name] for one in batches]) for name in batches[0]}, ids)
        with clock("store"):
            np.savez(out / f"{checkpoint.name}.npz", **found)


def _measure_batch(model: Any, ids: np.ndarray, clock: Clock) -> Arrays:
    """Numbers of each sequence of a batch."""
    base = getattr(model, "gpt_neox", model)
    kept: dict[Any, Any] = {}
    hooks = [
        layer.attention.query_key_value.register_forward_hook(lambda module, _, output: kept.update({module: output}))
        for layer in base.layers
    ]
    # The last entry of `hidden_states` is behind the final norm.
    hooks.append(base.final_layer_norm.register_forward_pre_hook(lambda module, args: kept.update({module: args[0]})))
    with clock("forward"), torch.no_grad():
        output = model(torch.from_numpy(ids), output_attentions=True, output_hidden_states=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    with clock("copy"):
        maps = [layer.numpy() for layer in output.attentions]
        fused = [kept[layer.attention.query_key_value].numpy() for layer in base.layers]
        projections = [layer.attention.dense.weight.detach().numpy() for layer in base.layers]
        states = [state.numpy() for state in (*output.hidden_states[:-1], kept[base.final_layer_norm])]
    with clock("reduce"):
        layers = [_of_layer(*one) for one in zip(maps, fused, projections, strict=True)]
        depths = [_of_depth(state) for state in states]
        return {
            name: np.stack([part[name] for part in parts], axis=1) for parts in (layers, depths) for name in parts[0]
        }


def _of_layer(weights: np.ndarray, qkv: np.ndarray, projection: np.ndarray) -> Arrays:
    """Sinks, waivers and the shape of each head.

    weights (B, H, T, T), qkv (B, T, H * 3 * head size), the output projection (width, H * head size).
    """
    batch, heads, length, _ = weights.shape
    place = np.arange(length)
    alpha = weights.sum(axis=2) / (length - place)
    eligible = length - place >= max(16, -(-length // 4))
    values = qkv.reshape(batch, length, heads, -1)[..., -qkv.shape[-1] // heads // 3 :]
    relative = _over_mean(np.linalg.norm(values, axis=-1).transpose(0, 2, 1))
    by_head = zip(values.transpose(2, 0, 1, 3), np.split(projection.T, heads), strict=True)
    updates = [np.linalg.norm(value @ matrix, axis=-1) for value, matrix in by_head]
    rows = _sampled_rows(length)
    ordered = -np.sort(-weights[:, :, rows], axis=-1).astype(np.float64)
    support = (ordered.cumsum(axis=-1) < 0.90 * ordered.sum(axis=-1, keepdims=True) - 1e-6).sum(axis=-1) + 1
    distance = np.abs(place[:, None] - place).astype(np.float32)
    return {
        "sink_score": alpha[..., :POSITIONS],
        "act_sink_rate": (alpha > 5 / length)[..., :POSITIONS],
        "first_token_share": weights[..., 0].mean(axis=-1),
        "top_sink_position": np.where(eligible, alpha, -1).argmax(axis=-1),
        "top_sink_score": np.where(eligible, alpha, -1).max(axis=-1),
        "attention_entropy": -(weights * np.log(np.maximum(weights, 1e-30))).sum(axis=-1).mean(axis=-1),
        "attention_max": weights.max(axis=-1).mean(axis=-1),
        "participation_ratio": (1 / np.einsum("bhij,bhij->bhi", weights, weights)).mean(axis=-1),
        "attention_mass": weights.sum(axis=-1).mean(axis=-1),
        "attention_distance": np.einsum("bhij,ij->bh", weights, distance) / length,
        "support": support,
        "support_share": support / (rows + 1),
        "value_norm": relative[..., :POSITIONS],
        "update_norm": _over_mean(np.stack(updates, axis=1))[..., :POSITIONS],
        "waiver": (eligible & (alpha > 0.3) & (relative < 0.2))[..., :POSITIONS],
    }


def _over_mean(norms: np.ndarray) -> np.ndarray:
    return norms / norms.mean(axis=-1, keepdims=True)


def _sampled_rows(length: int) -> np.ndarray:
    return np.round(np.linspace(127 if length >= 256 else 0, length - 1, 16)).astype(int)


def _of_depth(state: np.ndarray) -> Arrays:
    """The three largest magnitudes, the median and the directions of states (B, T, d)."""
    size = np.abs(state).reshape(len(state), -1)
    largest = np.argpartition(size, -3, axis=-1)[:, -3:]
    order = np.argsort(-np.take_along_axis(size, largest, axis=-1), axis=-1)
    places = np.take_along_axis(largest, order, axis=-1)
    middle = (size.shape[-1] - 1) // 2
    norms = np.linalg.norm(state, axis=-1)
    return {
        "top_activation": np.take_along_axis(size, places, axis=-1),
        "top_position": places // state.shape[-1],
        "top_dimension": places % state.shape[-1],
        "median_activation": np.partition(size, middle, axis=-1)[:, middle],
        "first_cosine": np.einsum("btd,bd->bt", state, state[:, 0]) / (norms * norms[:, :1]),
    }


def _over_sequences(found: Arrays, ids: np.ndarray) -> Arrays:
    """From numbers of each sequence to the variables of a dataset."""
    alpha = found["sink_score"]
    share = np.quantile(found.pop("support_share"), 0.5, axis=(0, 3), method="lower")
    support = np.quantile(found.pop("support"), 0.5, axis=(0, 3), method="lower")
    derived = {**_secondary(found.pop("first_cosine")), **_massive(found, ids)}
    each = ("top_sink_position", "top_sink_score", "top_activation", "top_position", "top_dimension")
    summary = {name: values if name in each else values.mean(axis=0) for name, values in found.items()}
    waiver_rate = summary.pop("waiver")
    return {
        **summary,
        **derived,
        "waiver_rate": waiver_rate,
        "sink_rate": np.stack([(alpha > epsilon).mean(axis=0) for epsilon in EPSILONS]),
        "support_90": support,
        "head_class": 1 + np.sum([share <= bound for bound in (1 / 2, 1 / 8, 1 / 32)], axis=0),
    }


def _secondary(cosine: np.ndarray) -> Arrays:
    """The tokens that point where the first does, and the one that does so for most blocks: cosine (N, L + 1, T)."""
    alike = np.abs(cosine) > 0.9
    alike[..., 0] = False
    running = np.zeros(alike.shape, dtype=int)  # blocks in a row up to this depth; the embedding is behind none
    for depth in range(1, running.shape[1]):
        running[:, depth] = (running[:, depth - 1] + 1) * alike[:, depth]
    lifetime, last = running.max(axis=1), running.argmax(axis=1) - 1
    position = lifetime.argmax(axis=-1)
    sequence = np.arange(len(cosine))
    longest = lifetime[sequence, position]
    return {
        "secondary_sinks": alike.sum(axis=-1),
        "secondary_position": np.where(longest > 0, position, -1),
        "secondary_start": np.where(longest > 0, last[sequence, position] - longest + 1, -1),
        "secondary_lifetime": longest,
    }


def _massive(found: Arrays, ids: np.ndarray) -> Arrays:
    """What follows from the largest magnitudes (N, L + 1, 3) and the medians (N, L + 1)."""
    largest, median, position = found["top_activation"][..., 0], found["median_activation"], found["top_position"]
    relative = largest >= 1000 * median
    massive = relative & (largest > 100)
    onset = massive.argmax(axis=-1)
    # A run goes on for as long as nothing from its onset on is missing.
    depth = np.arange(massive.shape[-1])
    lifetime = np.logical_and.accumulate(massive | (depth < onset[:, None]), axis=-1).sum(axis=-1) - onset
    shared = [_most_shared(found["top_dimension"][:, one]) for one in depth]
    return {
        "top_token": ids[np.arange(len(ids))[:, None, None], position],
        "median_activation": median,
        "massive_ratio": largest / median,
        "massive_ratio_of_means": largest.mean(axis=0) / median.mean(axis=0),
        "massive_rate": massive.mean(axis=0),
        "massive_rate_relative": relative.mean(axis=0),
        "massive_onset": np.where(massive.any(axis=-1), onset, -1),
        "massive_lifetime": lifetime,
        "shared_dimension": np.stack([dimensions for dimensions, _ in shared]),
        "shared_dimension_share": np.stack([shares for _, shares in shared]),
        "saturation_rate": (largest >= np.finfo(np.float32).max / 2).mean(axis=0),
        "float16_overflow_rate": (largest > 65504).mean(axis=0),
    }


def _most_shared(dimensions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The three dimensions that most of N sequences name (N, 3), and the share of these; of equals the smaller."""
    named, counts = np.unique(np.concatenate([np.unique(three) for three in dimensions]), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    absent = 3 - len(order)
    return np.pad(named[order], (0, absent), constant_values=-1), np.pad(counts[order] / len(dimensions), (0, absent))
