"""Synthetic scans: datasets in the contract, whose sinks and massive activations emerge."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from ontogeny.archspec import ArchSpec

Variable = tuple[tuple[str, ...], np.ndarray, dict[str, str]]

EPSILONS = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
POCKET_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 80, 96, 112, 128, 256, 512, 1000, 2000, 4000, 6000, 8000, 10000)
PYTHIA_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 143000)

SETTINGS = {
    "ontogeny_version": "0.1.0",
    "source": "synthetic",
    "series": "synthetic series",
    "corpus": "task, seed 0",
    "corpus_fingerprint": "0f1e2d3c4b5a",
    "length": 64,
    "bos": "auto",
    "dtype": "float32",
    "quantisation": "none",
    "device": "cpu",
    "torch_version": "2.13.0",
    "transformers_version": "5.9.0",
    "massive_threshold": 100.0,
    "massive_multiple": 1000.0,
    "sink_rows_min": 16,
}


def scan_dataset(
    steps: tuple[int, ...] = POCKET_STEPS,
    layers: int = 3,
    heads: int = 1,
    sequences: int = 32,
    width: int = 64,
    positions: int = 16,
    attention: str = "captured",
    emerges: bool = True,
    seed: int = 0,
    **attrs: object,
) -> xr.Dataset:
    """A dataset as `open_scan(dir).dataset` gives it; sinks emerge at about step 100, massive activations later.

    Step -1 stands for unknown. `attention` other than "captured" leaves the sinks' variables out. `emerges=False`
    keeps every sink rate below 0.2 and every ratio flat. Further attributes replace the default ones.
    """
    rng = np.random.default_rng(seed)
    times = np.array([1e5 if step < 0 else step for step in steps], dtype=float)
    variables = _massive(rng, times, layers, sequences, width, emerges)
    if attention == "captured":
        variables |= _sinks(rng, times, layers, heads, sequences, positions, emerges)
    coords = {
        "checkpoint": np.array(
            [f"step{step}" if step >= 0 else f"main{i or ''}" for i, step in enumerate(steps)], object
        ),
        "step": ("checkpoint", np.array(steps, dtype=np.int64)),
        "tokens": ("checkpoint", np.array([np.nan if s < 0 else s * 16.0 * 64 for s in steps])),
        "revision": ("checkpoint", np.array([f"step{s}" if s >= 0 else "main" for s in steps], object)),
        "verdict": ("checkpoint", np.array(["unaudited"] * len(steps), object)),
        "layer": np.arange(layers),
        "depth": np.arange(layers + 1),
        "head": np.arange(heads),
        "position": np.arange(positions),
        "sequence": np.arange(sequences),
        "rank": [1, 2, 3],
        "epsilon": EPSILONS,
    }
    arch = ArchSpec(layers, width, heads, heads, width // heads, 4 * width, vocab=33, positional="rotary").to_dict()
    settings = SETTINGS | {
        "arch": json.dumps(arch),
        "sequences": sequences,
        "positions": positions,
        "attention": attention,
    }
    dataset = xr.Dataset(variables, {k: v for k, v in coords.items() if k != "epsilon" or attention == "captured"})
    return dataset.set_xindex("step").assign_attrs(settings | attrs)


def _rise(times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A sigmoid in log step (checkpoint, *at.shape), half way up at step `at`."""
    x = np.log(1 + times).reshape(-1, *[1] * np.ndim(at)) - np.log(1 + at)
    return 1 / (1 + np.exp(-3 * x))


def _sinks(
    rng: np.random.Generator, times: np.ndarray, layers: int, heads: int, sequences: int, positions: int, emerges: bool
) -> dict[str, Variable]:
    at = 90 * np.exp(rng.normal(0, 0.7, (layers, heads)))
    height = (
        np.clip(1.1 * rng.beta(0.8, 0.9, (layers, heads)), 0, 0.97)
        * np.sin(np.pi * (np.arange(layers) + 1) / (layers + 1))[:, None] ** 0.5
    )
    height = height if emerges else 0.05 * height
    first = 0.05 + height * _rise(times, at)
    score = np.full((times.size, layers, heads, positions), 0.02, dtype=np.float32)
    score[..., 0] = first
    spread = rng.normal(0, 0.08, (times.size, sequences, layers, heads))
    per_sequence = np.clip(first[:, None] + spread, 0, 1)
    rate = np.zeros((times.size, EPSILONS.size, layers, heads, positions), dtype=np.float32)
    rate[..., 0] = (per_sequence[:, None] > EPSILONS[:, None, None, None]).mean(axis=2)
    there = first[:, None] > rng.uniform(0.03, 0.25, per_sequence.shape)
    where = np.where(there, 0, rng.integers(1, positions, per_sequence.shape)).astype(np.int32)
    each_head, each = "checkpoint layer head", "checkpoint sequence layer head"
    flat = (1 - first).astype(np.float32)
    return {
        "sink_score": _variable(f"{each_head} position", score, "sink score"),
        "sink_rate": _variable("checkpoint epsilon layer head position", rate, "sink rate"),
        "top_sink_position": _variable(each, where, "position of the top sink"),
        "top_sink_score": _variable(each, per_sequence.astype(np.float32), "score of the top sink"),
        "attention_entropy": _variable(each_head, 3 * flat, "mean entropy of attention rows"),
        "head_class": _variable(each_head, np.zeros(first.shape, dtype=np.int8), "head class"),
    }


def _massive(
    rng: np.random.Generator, times: np.ndarray, layers: int, sequences: int, width: int, emerges: bool
) -> dict[str, Variable]:
    depths = layers + 1
    middle = np.sin(np.pi * np.arange(depths) / depths)
    growth = (200 * middle if emerges else np.zeros(depths)) * _rise(times, np.full(depths, 1500.0))
    noise = np.exp(rng.normal(0, 0.1, (times.size, sequences, depths)))
    median = (0.5 * noise).astype(np.float32)
    first = (median * (5 + growth[:, None] * noise)).astype(np.float32)
    top = first[..., None] * np.array([1, 0.7, 0.5], dtype=np.float32)
    settled = rng.uniform(size=(*first.shape, 1)) < (0.95 * _rise(times, np.full(depths, 400.0)))[:, None, :, None]
    at_stop = rng.uniform(size=settled.shape) < 0.25
    home = np.where(np.arange(depths) < 2 * depths / 3, width // 4, width // 2)[:, None] + np.arange(3)
    position = np.where(settled, np.where(at_stop, 9, 0), rng.integers(0, 64, top.shape)).astype(np.int32)
    dimension = np.where(settled, home, rng.integers(0, width, top.shape)).astype(np.int32)
    massive = ((first > 100) & (first > 1000 * median)).mean(axis=1)
    each = "checkpoint sequence depth"
    return {
        "top_activation": _variable(f"{each} rank", top, "largest |h|"),
        "top_position": _variable(f"{each} rank", position, "position of the largest |h|"),
        "top_dimension": _variable(f"{each} rank", dimension, "dimension of the largest |h|"),
        "median_activation": _variable(each, median, "median |h|"),
        "massive_ratio": _variable(each, first / median, "max|h| / median|h|"),
        "massive_rate": _variable("checkpoint depth", massive, "share of sequences with a massive activation"),
    }


def _variable(dims: str, values: np.ndarray, long_name: str) -> Variable:
    return tuple(dims.split()), values, {"long_name": long_name, "units": "1", "source": "synthetic"}


def with_waivers(dataset: xr.Dataset, seed: int = 1) -> xr.Dataset:
    """A dataset of `scan_dataset`, with captured attention, and the variables of the probe `waivers`.

    Values drain at position 0 from about step 2000 on, in half of the heads that are sinks.
    """
    rng = np.random.default_rng(seed)
    score = dataset["sink_score"].transpose("checkpoint", "layer", "head", "position").values
    times = np.where(dataset["step"].values < 0, 1e5, dataset["step"].values).astype(float)
    layers, heads = score.shape[1:3]
    drains = (score[-1, ..., 0] > 0.3) & (rng.uniform(size=(layers, heads)) < 0.5)
    depth = np.where(drains, rng.uniform(0.8, 0.97, (layers, heads)), rng.uniform(-0.5, 0.5, (layers, heads)))
    norm = np.exp(rng.normal(0, 0.05, score.shape)).astype(np.float32)
    norm[..., 0] *= 1 - depth * _rise(times, np.full((layers, heads), 1500.0))
    waiver = np.where((score > 0.3) & (norm < 0.2), 0.9, 0).astype(np.float32)
    dims = "checkpoint layer head position"
    found = {
        "value_norm": _variable(dims, norm, "value norm over its mean over positions"),
        "update_norm": _variable(dims, norm**0.9, "norm of the value behind the output projection over its mean"),
        "waiver_rate": _variable(dims, waiver, "share of sequences in which the key is a waiver"),
    }
    return dataset.assign(found).assign_attrs(waiver_epsilon=0.3, waiver_value=0.2)


def with_ablation(dataset: xr.Dataset, interventions: tuple[str, ...] = ("zero", "mean", "no sinks")) -> xr.Dataset:
    """The dataset with the loss (checkpoint) and what each intervention makes of it (checkpoint, intervention)."""
    times = np.where(dataset["step"].values < 0, 1e5, dataset["step"].values).astype(float)
    loss = 10 - 7 * _rise(times, np.array(200.0))
    change = 2.0 ** -np.arange(len(interventions)) * 4 * _rise(times, np.array(1500.0))[:, None]
    found = {
        "loss": (("checkpoint",), loss, {"units": "nats"}),
        "loss_ablated": (("checkpoint", "intervention"), loss[:, None] + change, {"units": "nats"}),
        "loss_change_error": (("checkpoint", "intervention"), 0.01 + change / 50, {"units": "nats"}),
    }
    return dataset.assign(found).assign_coords(intervention=np.array(interventions, dtype=object))


def with_kinds(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with a kind of waiver for each head: none at the first checkpoint, then one after the other."""
    shape = tuple(dataset.sizes[dim] for dim in ("checkpoint", "layer", "head"))
    kinds = (np.arange(np.prod(shape)).reshape(shape) % 5).astype(np.int8)
    kinds[0] = 0
    meanings = "none feature positional causal_order undetermined"
    attrs = {"flag_values": list(range(5)), "flag_meanings": meanings}
    return dataset.assign(waiver_kind=(("checkpoint", "layer", "head"), kinds, attrs))


def with_clusters(dataset: xr.Dataset, tokens: int = 60, baselines: bool = True, seed: int = 2) -> xr.Dataset:
    """The dataset with the variables of the probe `clusters`, and `random_tokens` unless `baselines` is False.

    Tokens gather in a few clusters in the middle depths from about step 300 on; without sinks they gather less. The
    baselines' numbers stay about what they are at the first step, each its own. Of the tokens all but ten are paired.
    """
    rng = np.random.default_rng(seed)
    times = np.where(dataset["step"].values < 0, 1e5, dataset["step"].values).astype(float)
    depth = np.arange(dataset.sizes["depth"])
    middle = np.sin(np.pi * depth / max(depth[-1], 1))
    gathered = np.stack([part * _rise(times, np.full(depth.size, 300.0)) * middle for part in (0.95, 0.6)], axis=1)
    noise = 1 + 0.02 * rng.normal(size=gathered.shape)
    thresholds, betas = np.array([0.9, 0.99, 0.999]), np.array([1.0, 2.0, 4.0, 8.0])
    own = _cluster_numbers(gathered * noise, tokens, thresholds, betas)
    found = dict(own)
    for kind, part, fewer in (("_shuffled", 0.04, 0), ("_reordered", 0.06, 3), ("_random", 0.05, 5)):
        chance = _cluster_numbers(part * noise, tokens - fewer, thresholds, betas)
        if kind == "_shuffled":
            chance = {name: values for name, values in chance.items() if not name.endswith("_tokens")}
        if baselines or kind == "_shuffled":
            found |= {f"{name}{kind}": values for name, values in chance.items()}
    coords = {"selection": np.array(["all", "without_sinks"], object), "threshold": thresholds, "beta": betas}
    return dataset.assign(found).assign_coords(coords)


def _cluster_numbers(
    gathered: np.ndarray, tokens: int, thresholds: np.ndarray, betas: np.ndarray
) -> dict[str, Variable]:
    """What the probe `clusters` gives where a share `gathered` (checkpoint, selection, depth) of the tokens is one."""
    each, cosine = "checkpoint selection depth", np.clip(gathered, 0, 1) ** 2
    loose = (1 - thresholds) ** 0.15
    count = 1 + (tokens - 11) * (1 - np.clip(gathered, 0, 1)[..., None] * loose)
    energy = np.exp(betas * (cosine[..., None] - 1)) / (2 * betas)
    share = 1 / (1 + np.exp(-12 * (gathered[..., None] * loose - 0.5)))
    variables = {
        "mean_cosine": (each, cosine, "mean cosine between tokens"),
        "energy": (f"{each} beta", energy, "energy"),
        "cluster_count": (f"{each} threshold", count, "clusters"),
        "cluster_count_error": (f"{each} threshold", 0.1 * count, "standard error of the clusters"),
        "cluster_tokens": (each, np.full(gathered.shape, float(tokens)), "tokens counted"),
        "paired_tokens": (each, np.full(gathered.shape, tokens - 10.0), "tokens whose pairs are taken"),
        "matrix_entropy": (each, (1 - gathered) * np.log(tokens), "matrix entropy"),
        "anisotropy": (each, np.clip(gathered, 0.05, 1), "share of the first direction"),
        "effective_rank": (each, 1 + (tokens - 1) * (1 - gathered), "effective rank"),
        "plateau_share": (f"{each} threshold", share, "share of sequences in a plateau"),
    }
    return {name: _variable(dims, values.astype(np.float32), text) for name, (dims, values, text) in variables.items()}
