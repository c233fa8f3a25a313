"""A scan on disk: one folder a checkpoint, each moved into place whole, so that no reader sees half of one.

DIR/scan.json             the settings that change numbers, and their fingerprint
DIR/checkpoints/NAME/     a Zarr group, one checkpoint's dataset; these folders are the truth
DIR/failures.json         what could not be measured, and why
DIR/scan.zarr/            all checkpoints in one Zarr group: a cache, rebuilt when it is behind
DIR/lock                  held by the one process that drives the scan
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from filelock import FileLock, Timeout

from ontogeny.dynamics.settings import ScanSettings
from ontogeny.errors import OntogenyError

FORMAT = 1
UNFINISHED = ".unfinished"
OWN_FILES = {"scan.json", "checkpoints", "failures.json", "scan.zarr", "lock"}


class ScanStore:
    """The folder of one scan, for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @contextmanager
    def driven(self, settings: ScanSettings) -> Iterator[None]:
        """Hold the folder for a scan with `settings`: create it, or go on with the scan that is in it.

        The lock is the operating system's, so that one left by a killed process holds nobody up. Raises OntogenyError
        where the folder cannot be written, is in use, holds other files, or holds a scan with other settings.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise OntogenyError(
                f"another process is scanning into {self.path}: wait for it, or use another --out"
            ) from None
        except OSError as error:
            raise OntogenyError(
                f"cannot write to {self.path} ({error.strerror or error}): choose another --out"
            ) from error
        try:
            self._admit(settings)
            self.checkpoints.mkdir(exist_ok=True)
            for leftover in self.checkpoints.glob(f"*{UNFINISHED}"):
                shutil.rmtree(leftover)
            yield
        finally:
            lock.release()

    def _admit(self, settings: ScanSettings) -> None:
        if self.measured():
            there = read_settings(self.path)
            if differences := there.differences(settings):
                raise OntogenyError(
                    f"{self.path} holds a scan with other settings ({'; '.join(differences)}), and numbers of both "
                    "kinds must not mix: use another --out, or the settings that are there"
                )
            return
        others = sorted({p.name for p in self.path.iterdir()} - OWN_FILES)
        if others:
            raise OntogenyError(
                f"{self.path} holds files that are no scan ({', '.join(others[:3])}): expected an empty or a new folder"
            )
        contents = {"format": FORMAT, "settings": settings.to_dict(), "fingerprint": settings.fingerprint}
        write_json(self.path / "scan.json", contents)

    def measured(self) -> set[str]:
        """The names of the checkpoints whose measurements are in place."""
        return measured_names(self.path)

    def commit(self, name: str, dataset: xr.Dataset) -> None:
        """Write one checkpoint's dataset beside its place, then move it in by a rename that never replaces."""
        unfinished = self.checkpoints / f"{name}{UNFINISHED}"
        dataset.to_zarr(unfinished, mode="w", zarr_format=3, consolidated=False)
        unfinished.rename(self.checkpoints / name)
        self.record_failure(name, None)

    def record_failure(self, name: str, reason: str | None) -> None:
        """Note why a checkpoint could not be measured; None strikes the note out."""
        failures = read_failures(self.path)
        if reason is None and name not in failures:
            return
        failures.pop(name, None)
        if reason is not None:
            failures[name] = reason
        write_json(self.path / "failures.json", failures)

    def consolidate(self, dataset: xr.Dataset) -> None:
        """Rebuild the cache from `dataset`, which holds all checkpoints."""
        fresh, cache = self.path / f"scan.zarr{UNFINISHED}", self.path / "scan.zarr"
        dataset.drop_indexes("step").to_zarr(fresh, mode="w", zarr_format=3, consolidated=False)
        shutil.rmtree(cache, ignore_errors=True)
        fresh.rename(cache)


def measured_names(path: Path) -> set[str]:
    """The checkpoints measured in the scan folder `path`."""
    folder = path / "checkpoints"
    return {p.name for p in folder.iterdir() if p.suffix != UNFINISHED} if folder.is_dir() else set()


def read_settings(path: Path) -> ScanSettings:
    """The settings of the scan in `path`. Raises OntogenyError where there is none, or one of another format."""
    try:
        contents = json.loads((path / "scan.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise OntogenyError(
            f"{path} holds no scan: expected a folder that `ontogeny scan SOURCE --out {path}` made"
        ) from error
    if contents.get("format") != FORMAT:
        raise OntogenyError(f"{path} holds a scan of format {contents.get('format')}, this version reads {FORMAT}")
    return ScanSettings.from_dict(contents["settings"])


def read_failures(path: Path) -> dict[str, str]:
    """Checkpoint name -> why it could not be measured."""
    file = path / "failures.json"
    return json.loads(file.read_text()) if file.exists() else {}


def write_json(path: Path, contents: object) -> None:
    """Write JSON by an atomic replacement."""
    fresh = path.with_name(path.name + UNFINISHED)
    fresh.write_text(json.dumps(contents, indent=2) + "\n")
    fresh.replace(path)
