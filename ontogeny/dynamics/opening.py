"""Opens a stored scan as one labelled dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import xarray as xr

from ontogeny.dynamics.store import measured_names, read_failures, read_settings
from ontogeny.errors import OntogenyError


@dataclass(frozen=True)
class Scan:
    """The measurements of one series.

    `dataset` has the dimension `checkpoint`, in order of `step`, and is selected by it: `dataset.sel(step=1000)`.
    `failures` maps a checkpoint's name to the reason why it was not measured. `path` is the scan's folder, None for a
    scan that was kept in memory.
    """

    dataset: xr.Dataset
    failures: dict[str, str] = field(default_factory=dict)
    path: Path | None = None


def open_scan(path: str | Path) -> Scan:
    """The scan in the folder `path`: lazily from its consolidated cache, eagerly where the cache is behind.

    Raises OntogenyError where the folder holds no scan, or not one measured checkpoint.
    """
    path = Path(path)
    read_settings(path)
    names = measured_names(path)
    if not names:
        raise OntogenyError(f"{path} holds a scan without one measured checkpoint: run `ontogeny scan` on it again")
    dataset = _open_cache(path, names)
    return Scan(read_checkpoints(path) if dataset is None else dataset, read_failures(path), path)


def read_checkpoints(path: Path) -> xr.Dataset:
    """All measured checkpoints in memory, joined along `checkpoint` in order of step."""
    parts = [_open_group(path / "checkpoints" / name).load() for name in sorted(measured_names(path))]
    parts.sort(key=lambda part: int(part.step[0]))
    return _indexed(xr.concat(parts, dim="checkpoint", join="exact", combine_attrs="override"))


def _open_cache(path: Path, names: set[str]) -> xr.Dataset | None:
    if not (path / "scan.zarr").is_dir():
        return None
    dataset = _open_group(path / "scan.zarr")
    return _indexed(dataset) if set(dataset.checkpoint.values) == names else None


def _open_group(path: Path) -> xr.Dataset:
    dataset = xr.open_zarr(path, consolidated=False, chunks=None)
    names = [name for name in ("checkpoint", "revision", "verdict") if name in dataset.coords]
    return dataset[sorted(dataset.data_vars)].assign_coords({name: dataset[name].astype(object) for name in names})


def _indexed(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.set_xindex("step")
