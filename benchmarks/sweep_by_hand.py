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

EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5)
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
            found = _over_sequences({name: np.concatenate([one[name] for one in batches]) for name in batches[0]})
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
        states = [state.numpy() for state in (*output.hidden_states[:-1], kept[base.final_layer_norm])]
    with clock("reduce"):
        layers = [_of_layer(weights, qkv) for weights, qkv in zip(maps, fused, strict=True)]
        depths = [_of_depth(state) for state in states]
        return {
            name: np.stack([part[name] for part in parts], axis=1) for parts in (layers, depths) for name in parts[0]
        }


def _of_layer(weights: np.ndarray, qkv: np.ndarray) -> Arrays:
    """Sinks, waivers and the shape of each head: weights (B, H, T, T), qkv (B, T, H * 3 * head size)."""
    batch, heads, length, _ = weights.shape
    place = np.arange(length)
    alpha = weights.sum(axis=2) / (length - place)
    eligible = length - place >= max(16, -(-length // 4))
    values = qkv.reshape(batch, length, heads, -1)[..., -qkv.shape[-1] // heads // 3 :]
    norms = np.linalg.norm(values, axis=-1).transpose(0, 2, 1)
    relative = norms / norms.mean(axis=-1, keepdims=True)
    rows = _sampled_rows(length)
    ordered = -np.sort(-weights[:, :, rows], axis=-1).astype(np.float64)
    support = (ordered.cumsum(axis=-1) < 0.90 * ordered.sum(axis=-1, keepdims=True) - 1e-6).sum(axis=-1) + 1
    distance = np.abs(place[:, None] - place).astype(np.float32)
    return {
        "sink_score": alpha[..., :POSITIONS],
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
        "waiver": (eligible & (alpha > 0.3) & (relative < 0.2))[..., :POSITIONS],
    }


def _sampled_rows(length: int) -> np.ndarray:
    return np.round(np.linspace(127 if length >= 256 else 0, length - 1, 16)).astype(int)


def _of_depth(state: np.ndarray) -> Arrays:
    """The three largest magnitudes and the median of states (B, T, d)."""
    size = np.abs(state).reshape(len(state), -1)
    largest = np.argpartition(size, -3, axis=-1)[:, -3:]
    order = np.argsort(-np.take_along_axis(size, largest, axis=-1), axis=-1)
    places = np.take_along_axis(largest, order, axis=-1)
    middle = (size.shape[-1] - 1) // 2
    return {
        "top_activation": np.take_along_axis(size, places, axis=-1),
        "top_position": places // state.shape[-1],
        "top_dimension": places % state.shape[-1],
        "median_activation": np.partition(size, middle, axis=-1)[:, middle],
    }


def _over_sequences(found: Arrays) -> Arrays:
    """From numbers of each sequence to the variables of a dataset."""
    alpha = found["sink_score"]
    share = np.quantile(found.pop("support_share"), 0.5, axis=(0, 3), method="lower")
    support = np.quantile(found.pop("support"), 0.5, axis=(0, 3), method="lower")
    largest, median = found["top_activation"][..., 0], found["median_activation"]
    each = ("top_sink_position", "top_sink_score", "top_activation", "top_position", "top_dimension")
    summary = {name: values if name in each else values.mean(axis=0) for name, values in found.items()}
    waiver_rate = summary.pop("waiver")
    return {
        **summary,
        "waiver_rate": waiver_rate,
        "median_activation": median,
        "sink_rate": np.stack([(alpha > epsilon).mean(axis=0) for epsilon in EPSILONS]),
        "support_90": support,
        "head_class": 1 + np.sum([share <= bound for bound in (1 / 2, 1 / 8, 1 / 32)], axis=0),
        "massive_ratio": largest / median,
        "massive_rate": ((largest > 100) & (largest >= 1000 * median)).mean(axis=0),
    }
