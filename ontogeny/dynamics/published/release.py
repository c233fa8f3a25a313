"""The whole release of arXiv 2508.03616, from the Hub: text files, each the printed array of one checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import xarray as xr

from ontogeny.dynamics.loading.explained import without_secrets
from ontogeny.dynamics.loading.quiet import reason
from ontogeny.dynamics.loading.retry import retried
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

RELEASE = "Aimpoint-Digital/pythia-massive-activations"
REVISION = "main"
SEQUENCES, ROWS = 10, 4
_FILE = re.compile(r"pythia_(?P<size>[^/]+)/stats/exp2_pythia_(?P=size)_step(?P<step>\d+)(?:\.txt)?")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf)")

Measured = tuple[np.ndarray, np.ndarray, dict[str, str]]


def fetch_release(
    layers_of: Callable[[str], int | None], cache: str | Path | None = None, endpoint: str | None = None
) -> dict[str, Measured]:
    """By size: steps (n,), values (n, 10, 4, L), and why the checkpoints that are not among them are not.

    All of it is of the one commit that the release has when this is called; what was read of a commit is kept in the
    folder `cache` as a Zarr group for each size, and is not fetched again.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=endpoint)
    commit = _asked(lambda: api.dataset_info(RELEASE, revision=REVISION)).sha
    root = Path(constants.HF_HOME) / "ontogeny" if cache is None else Path(cache)
    listed = _asked(lambda: api.list_repo_files(RELEASE, repo_type="dataset", revision=commit))
    names = [name for path in listed if (name := _FILE.fullmatch(path))]
    sizes = {name["size"]: layers for name in names if (layers := layers_of(name["size"]))}
    if not sizes:
        raise OntogenyError(f"{RELEASE} holds no file such as pythia_14m/stats/exp2_pythia_14m_step0")
    found: dict[str, Measured] = {}
    for size, layers in sizes.items():
        paths = {int(name["step"]): name.group() for name in names if name["size"] == size}
        found[size] = _kept(root / f"pythia-{commit}-{size}.zarr", partial(_read, api, str(commit), paths, layers))
    return found


def parse(text: str, layers: int) -> np.ndarray:
    """The printed array (10, 4, layers). Raises OntogenyError where the text is not that, whole."""
    numbers = _NUMBER.findall(text)
    rest = _NUMBER.sub("", text)
    expected = SEQUENCES * ROWS * layers
    brackets = re.sub(r"[\s,]|array|\(|\)|tensor", "", rest)
    shape = "[" + ("[" + "[]" * ROWS + "]") * SEQUENCES + "]"
    if len(numbers) != expected or brackets != shape:
        raise OntogenyError(
            f"malformed: expected a printed array of {SEQUENCES} x {ROWS} x {layers}, got {len(numbers)} numbers of "
            f"{expected}"
        )
    return np.array([float(number) for number in numbers]).reshape(SEQUENCES, ROWS, layers)


def _read(api: HfApi, commit: str, paths: dict[int, str], layers: int) -> Measured:
    steps, values, failures = [], [], {}
    for step, path in sorted(paths.items()):
        local = _asked(partial(api.hf_hub_download, RELEASE, path, repo_type="dataset", revision=commit))
        try:
            values.append(parse(Path(local).read_text(encoding="utf-8", errors="replace"), layers))
            steps.append(step)
        except OntogenyError as error:
            failures[f"step{step}"] = str(error)
    whole = np.array(values) if values else np.empty((0, SEQUENCES, ROWS, layers))
    return np.array(steps, dtype=np.int64), whole, failures


def _kept(path: Path, read: Callable[[], Measured]) -> Measured:
    """What lies at `path`; if nothing does, what `read` gives, which is then kept there."""
    if (path / "zarr.json").exists():
        there = xr.open_zarr(path, consolidated=False, chunks=None)
        return there["step"].values, there["values"].values, dict(there.attrs["failures"])
    steps, values, failures = read()
    group = xr.Dataset(
        {"values": (("step", "sequence", "row", "layer"), values)}, {"step": steps}, {"failures": failures}
    )
    unfinished = path.with_suffix(".unfinished")
    group.to_zarr(unfinished, mode="w", consolidated=False)
    unfinished.rename(path)
    return steps, values, failures


def _asked(request: Callable[[], T]) -> T:
    try:
        return retried(request)
    except Exception as error:
        told = without_secrets(reason(error))
        raise OntogenyError(
            f"the data set {RELEASE} could not be had from the Hub ({told}): check the network and try again, or use "
            "the bundled part, load_pythia()"
        ) from error
