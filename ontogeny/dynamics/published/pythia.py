"""The published measurements of massive activations in Pythia (arXiv 2508.03616): the bundled part, or the release."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import xarray as xr

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.opening import Scan
from ontogeny.dynamics.published.release import RELEASE, fetch_release

MASSIVE, RATIO = "2402.17762", "2508.03616"
TOKENS_A_STEP = 2_097_152
SEQUENCES = 10
RANKS = ("top1", "top2", "top3")
BUNDLED = "pythia_massive_activations.csv"

# Layers, width, heads, rows of the embedding, dtype of the training, and whether its initialisation is the others'.
_SHAPES = {
    "14m": (6, 128, 4, 50304, "float16"),
    "70m": (6, 512, 8, 50304, "float16"),
    "160m": (12, 768, 12, 50304, "float16"),
    "410m": (24, 1024, 16, 50304, "float16"),
    "1b": (16, 2048, 8, 50304, "bfloat16"),
    "1.4b": (24, 2048, 16, 50304, "float16"),
    "2.8b": (32, 2560, 32, 50304, "float16"),
    "6.9b": (32, 4096, 32, 50432, "float16"),
    "12b": (36, 5120, 40, 50688, "float16"),
}
_OTHER_INIT = ("6.9b", "12b")


def pythia_arch(size: str) -> ArchSpec:
    """The architecture of the Pythia of a `size`, such as `410m`, with what is known of its training."""
    layers, width, heads, vocab, dtype = _SHAPES[size]
    return ArchSpec(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        ffn=4 * width,
        vocab=vocab,
        positional="rotary",
        norm="layer",
        parallel_residual=True,
        tied=False,
        model_type="gpt_neox",
        max_positions=2048,
        dtype=dtype,
        batch_tokens=TOKENS_A_STEP,
        init="other" if size in _OTHER_INIT else "usual",
    )


def load_pythia(full: bool = False, *, cache: str | Path | None = None, endpoint: str | None = None) -> dict[str, Scan]:
    """The published massive activations of Pythia, a scan for each size: `load_pythia()["12b"].dataset`.

    The datasets hold `top_activation` and `median_activation` (checkpoint, sequence, depth) of a scan, at the depths
    behind the blocks, measured by the authors on up to ten sequences. What is bundled is a part: five sizes, the steps
    that could be recovered, and of the sequences those that every step has; the attribute `lacking` says what is not
    there, and a missing number is NaN.

    With `full` the whole release is fetched from the Hub (`endpoint`, None for the usual one) and kept in the folder
    `cache`, None for one beside the Hub's own cache. A file of it that is not what it should be is in the `failures` of
    its scan. Raises OntogenyError where the release cannot be had.
    """
    if full:
        return {
            size: Scan(_dataset(size, steps, values, RELEASE, lacking="nothing that the release holds"), failures)
            for size, (steps, values, failures) in fetch_release(layers_of, cache, endpoint).items()
        }
    return {size: Scan(one) for size, one in _bundled().items()}


def layers_of(size: str) -> int | None:
    """The number of blocks of a size of Pythia, None for a name that is none."""
    return _SHAPES[size][0] if size in _SHAPES else None


def _bundled() -> dict[str, xr.Dataset]:
    with files("ontogeny").joinpath("data", BUNDLED).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for size in _SHAPES:
        own = [row for row in rows if row["model"] == size]
        if own:
            steps = sorted({int(row["step"]) for row in own})
            values = np.full((len(steps), SEQUENCES, 4, _SHAPES[size][0]), np.nan)
            for row in own:
                numbers = [float(row[name] or "nan") for name in (*RANKS, "median")]
                values[steps.index(int(row["step"])), int(row["sequence"]), :, int(row["layer"])] = numbers
            found[size] = _whole_sequences(size, np.array(steps), values)
    return found


def _whole_sequences(size: str, steps: np.ndarray, values: np.ndarray) -> xr.Dataset:
    """The dataset of the sequences of which as much is known as of the first one."""
    known = np.isfinite(values[:, :, [0, 3]])
    whole = (known | ~known[:, :1]).all(axis=(0, 2, 3))
    kept = values[:, whole]
    medians = int(np.isfinite(kept[:, :, 3]).all(axis=(1, 2)).sum())
    lacking = (
        f"{len(steps)} of about 154 steps; sequences {', '.join(map(str, np.flatnonzero(~whole)))} (known at some "
        f"steps or not at all); medians at {len(steps) - medians} of these steps"
    )
    return _dataset(size, steps, kept, RELEASE, lacking, np.flatnonzero(whole))


def _dataset(
    size: str,
    steps: np.ndarray,
    values: np.ndarray,
    source: str,
    lacking: str,
    sequences: np.ndarray | None = None,
) -> xr.Dataset:
    """A scan's dataset of values (checkpoint, sequence, 4, layer): the top three and the median."""
    ranked = ("checkpoint", "sequence", "depth", "rank")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values[:, :, 0] / values[:, :, 3]
    described = {
        "top_activation": ("largest magnitudes of the residual stream", MASSIVE),
        "median_activation": ("median magnitude of the residual stream", MASSIVE),
        "massive_ratio": ("largest over median magnitude", RATIO),
    }
    arrays = {
        "top_activation": (ranked, np.moveaxis(values[:, :, :3], 2, -1)),
        "median_activation": (ranked[:3], values[:, :, 3]),
        "massive_ratio": (ranked[:3], ratio),
    }
    variables = {
        name: (dims, array, {"long_name": described[name][0], "units": "1", "source": f"arXiv:{described[name][1]}"})
        for name, (dims, array) in arrays.items()
    }
    arch = pythia_arch(size)
    coordinates = {
        "checkpoint": np.array([f"step{step}" for step in steps], dtype=object),
        "step": ("checkpoint", steps.astype(np.int64)),
        "tokens": ("checkpoint", steps * float(TOKENS_A_STEP)),
        "depth": np.arange(1, arch.layers + 1),
        "sequence": np.arange(values.shape[1]) if sequences is None else sequences,
        "rank": np.arange(1, 4),
    }
    attributes = {
        "series": f"pythia-{size}",
        "source": source,
        "arch": json.dumps(arch.to_dict()),
        "corpus": "RedPajama, ten random sequences (published)",
        "lacking": lacking,
    }
    return xr.Dataset(variables, coordinates, attributes).set_xindex("step")
