"""Joins checkpoints' datasets into one, and opens those of a stored scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr
from zarr.storage import LocalStore

from ontogeny.dynamics.audit import read_evidence, with_verdicts
from ontogeny.dynamics.store import cache_path, measured_names, read_failures, read_settings, reading_group
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

VERSIONS = ("ontogeny_version", "torch_version", "transformers_version")


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

    def __repr__(self) -> str:
        measured = f"{self.dataset.sizes['checkpoint']} checkpoints, {len(self.dataset.data_vars)} variables"
        return f"<Scan of {self.dataset.attrs['series']}: {measured}, {len(self.failures)} failed, at {self.path}>"


def open_scan(path: str | Path) -> Scan:
    """The scan in the folder `path`: lazily from its consolidated cache, eagerly where there is none.

    Its checkpoints' verdicts are those of the audit, whose evidence the scan has gathered; `unaudited` without it.
    Raises OntogenyError where the folder holds no scan, or not one measured checkpoint.
    """
    path = Path(path)
    read_settings(path)
    if not measured_names(path):
        raise OntogenyError(f"{path} holds a scan without one measured checkpoint: run `ontogeny scan` on it again")
    cache = cache_path(path)
    whole = (cache / "zarr.json").exists()
    dataset = _open_group(cache).set_xindex("step") if whole else read_checkpoints(path)
    evidence = read_evidence(path)
    return Scan(dataset if evidence is None else with_verdicts(dataset, evidence), read_failures(path), path)


def read_checkpoints(path: Path) -> xr.Dataset:
    """All measured checkpoints in memory, joined."""
    return join_checkpoints([_read_group(path / "checkpoints" / name) for name in sorted(measured_names(path))])


def join_checkpoints(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """One dataset along `checkpoint`, in order of step; versions that differ between checkpoints are all named."""
    ordered = sorted(parts, key=lambda part: int(part.step[0]))
    versions = {name: ", ".join(sorted({str(part.attrs[name]) for part in parts})) for name in VERSIONS}
    joined = xr.concat(ordered, dim="checkpoint", join="exact", combine_attrs="override")
    return joined.assign_attrs(versions).set_xindex("step")


class _StandingStore(LocalStore):
    """A folder that complains when it is gone; zarr takes a missing chunk for one that was never written."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is None and not (self.root / "zarr.json").exists():
            raise OntogenyError(f"{self.root} is gone, the scan has grown since it was opened: open it again")
        return found


def _read_group(path: Path) -> xr.Dataset:
    with reading_group(path):
        return _open_group(path).load()


def _open_group(path: Path) -> xr.Dataset:
    dataset = xr.open_zarr(_StandingStore(path, read_only=True), consolidated=False, chunks=None)
    names = [name for name, values in dataset.coords.items() if values.dtype.kind in "OTU"]  # strings
    return dataset[sorted(dataset.data_vars)].assign_coords({name: dataset[name].astype(object) for name in names})
