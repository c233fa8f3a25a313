"""A scan on disk: one folder a checkpoint, each moved into place whole, so that no reader sees half of one.

DIR/scan.json             the settings that change numbers, and their fingerprint
DIR/checkpoints/NAME/     a Zarr group, one checkpoint's dataset; these folders are the truth
DIR/audit.json            evidence of whether the checkpoints are what they say they are
DIR/failures.json         what could not be measured, and why
DIR/cache-*.zarr/         all checkpoints in one Zarr group: a cache, named after what is in it
DIR/lock                  held by the one process that drives the scan

A process may be killed at any moment. A machine that loses power is another matter: nothing here is synced to the disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from filelock import FileLock, Timeout

from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.dynamics.settings import ScanSettings
from ontogeny.errors import OntogenyError

FORMAT = 1
UNFINISHED = ".unfinished"
OWN_FILES = ("scan.json", "audit.json", "checkpoints", "failures.json", "lock", "cache-*.zarr", f"*{UNFINISHED}")


class StoreError(OntogenyError):
    """The folder of a scan can take nothing more: a full disk, or one that is gone."""


class ScanStore:
    """The folder of one scan, for writing. What cannot be written raises StoreError, and leaves no half of itself."""

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
            self._refuse_foreign_files()
            lock = FileLock(self.path / "lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise OntogenyError(
                f"another process is scanning into {self.path}: wait for it, or use another --out"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise OntogenyError(f"cannot write to {self.path} ({reason}): choose another --out") from error
        try:
            self._admit(settings)
            for leftover in (*self.path.glob(f"*{UNFINISHED}"), *self.checkpoints.glob(f"*{UNFINISHED}")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            self._remove_other_caches()
            yield
        finally:
            lock.release()

    def _refuse_foreign_files(self) -> None:
        own = {entry for pattern in OWN_FILES for entry in self.path.glob(pattern)}
        others = sorted(entry.name for entry in set(self.path.iterdir()) - own)
        if others and not (self.path / "scan.json").exists():
            raise OntogenyError(
                f"{self.path} holds files that are no scan ({', '.join(others[:3])}): expected an empty or a new folder"
            )

    def _admit(self, settings: ScanSettings) -> None:
        """Go on with measurements that have these settings; where nothing is measured yet, begin."""
        if not self.measured():
            contents = {"format": FORMAT, "settings": settings.to_dict(), "fingerprint": settings.fingerprint}
            write_json(self.path / "scan.json", contents)
            (self.path / "failures.json").unlink(missing_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        elif differences := read_settings(self.path).differences(settings):
            raise OntogenyError(
                f"{self.path} holds a scan with other settings ({'; '.join(differences)}), and numbers of both "
                "kinds must not mix: use another --out, or the settings that are there"
            )

    def measured(self) -> set[str]:
        """The names of the checkpoints whose measurements are in place."""
        return measured_names(self.path)

    def refuse_changed(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Raise OntogenyError where the files of a measured checkpoint have changed since: its numbers are stale."""
        for one in checkpoints:
            group = self.checkpoints / one.name / "zarr.json"
            if one.modified is not None and group.exists() and one.modified > group.stat().st_mtime:
                raise OntogenyError(
                    f"the files of {one.name} have changed since it was measured: remove {group.parent} to measure it "
                    "again, or use another --out"
                )

    def commit(self, name: str, dataset: xr.Dataset) -> None:
        """Write one checkpoint's dataset beside its place, then move it in by a rename that never replaces.

        Raises OntogenyError where it has other variables or sizes than those that are there.
        """
        first = min(self.measured(), default=None)
        if first is not None:
            with reading_group(self.checkpoints / first):
                there = xr.open_zarr(self.checkpoints / first, consolidated=False, chunks=None)
            refuse_other_shape(dataset, there)
        self._write(dataset, self.checkpoints / name)
        self.record_failure(name, None)

    def record_failure(self, name: str, reason: str | None) -> None:
        """Note why a checkpoint could not be measured; None strikes the note out."""
        failures = _noted_failures(self.path)
        if reason is None and name not in failures:
            return
        failures.pop(name, None)
        if reason is not None:
            failures[name] = reason
        with self.writing():
            write_json(self.path / "failures.json", failures)

    def consolidate(self, dataset: xr.Dataset) -> None:
        """Write the cache of `dataset`, which holds all checkpoints, and remove those that it supersedes."""
        cache = cache_path(self.path)
        self._write(dataset.drop_indexes("step"), cache)
        self._remove_other_caches()

    def _remove_other_caches(self) -> None:
        for other in set(self.path.glob("cache-*.zarr")) - {cache_path(self.path)}:
            remove_cache(other)

    def _write(self, dataset: xr.Dataset, place: Path) -> None:
        """Write a Zarr group beside its place, then move it in."""
        unfinished = place.with_name(place.name + UNFINISHED)
        try:
            with self.writing():
                # Zarr writes in a thread that an interrupt does not stop, and would put back what is removed here: so
                # that it is waited for, the interrupt must not come to the call itself.
                with ThreadPoolExecutor(1) as writer:
                    writer.submit(dataset.to_zarr, unfinished, mode="w", zarr_format=3, consolidated=False).result()
                unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a failure to write into the folder into a StoreError."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(
                f"cannot write to {self.path} ({reason}): make room there, and the same command goes on from here"
            ) from error


@contextmanager
def reading_group(group: Path) -> Iterator[None]:
    """Turn any failure to read a checkpoint's stored measurements into one OntogenyError that names their folder."""
    try:
        yield
    except OntogenyError:
        raise
    except Exception as error:  # zarr and its codecs fail in many ways
        raise OntogenyError(
            f"the measurements in {group} are damaged ({type(error).__name__}: {error}): remove that folder, and scan "
            "again to measure its checkpoint anew"
        ) from error


def refuse_other_shape(dataset: xr.Dataset, there: xr.Dataset) -> None:
    """Raise OntogenyError unless a checkpoint's dataset has the variables and sizes of another one's."""
    if strangers := sorted(str(name) for name in set(dataset.variables) ^ set(there.variables)):
        raise OntogenyError(
            f"its measurements are not those of {there.checkpoint.item()}: only one has {', '.join(strangers[:3])}"
            f"{', ...' if strangers[3:] else ''}; expected checkpoints of one architecture, measured by one version of "
            "Ontogeny; use another --out"
        )
    if dict(dataset.sizes) == dict(there.sizes):
        return
    came, expected = (", ".join(f"{size} {dim}" for dim, size in one.sizes.items()) for one in (dataset, there))
    raise OntogenyError(
        f"its measurements ({came}) are not of the shape of {there.checkpoint.item()}'s ({expected}): "
        "expected checkpoints of one architecture"
    )


def measured_names(path: Path) -> set[str]:
    """The checkpoints measured in the scan folder `path`."""
    groups = (path / "checkpoints").glob("*/zarr.json")
    return {group.parent.name for group in groups if group.parent.suffix != UNFINISHED}


def cache_path(path: Path) -> Path:
    """Where the cache of exactly the measurements in the scan folder is: after any change the path is another one."""
    groups = sorted(path / "checkpoints" / name / "zarr.json" for name in measured_names(path))
    described = "\n".join(f"{group.parent.name} {group.stat().st_mtime_ns}" for group in groups)
    return path / f"cache-{hashlib.sha256(described.encode()).hexdigest()[:16]}.zarr"


def remove_cache(cache: Path) -> None:
    """Remove a cache, first what says that it is one: who reads it meanwhile is told, and nobody opens half of it."""
    (cache / "zarr.json").unlink(missing_ok=True)
    shutil.rmtree(cache)


def read_settings(path: Path) -> ScanSettings:
    """The settings of the scan in `path`. Raises OntogenyError where there is none, or one of another format."""
    contents = _read_json(path / "scan.json", f"expected a folder that `ontogeny scan SOURCE --out {path}` made")
    if contents.get("format") != FORMAT or not isinstance(contents.get("settings"), dict):
        raise OntogenyError(f"{path} holds a scan of format {contents.get('format')}, this version reads {FORMAT}")
    return ScanSettings.from_dict(contents["settings"])


def read_failures(path: Path) -> dict[str, str]:
    """Checkpoint name -> why it could not be measured."""
    measured = measured_names(path)  # one that was killed had no time to strike out the note of an earlier failure
    return {name: reason for name, reason in _noted_failures(path).items() if name not in measured}


def _noted_failures(path: Path) -> dict[str, str]:
    file = path / "failures.json"
    return _read_json(file, "remove it: it is a list of failures only") if file.exists() else {}


def _read_json(file: Path, advice: str) -> dict[str, Any]:
    try:
        contents = json.loads(file.read_text())
    except FileNotFoundError:
        raise OntogenyError(f"{file.parent} holds no scan: {advice}") from None
    except (OSError, ValueError) as error:
        raise OntogenyError(f"{file} cannot be read ({error}): {advice}") from error
    if not isinstance(contents, dict):
        raise OntogenyError(f"{file} holds a {type(contents).__name__}, expected a JSON object: {advice}")
    return contents


def write_json(path: Path, contents: object) -> None:
    """Write JSON by an atomic replacement."""
    fresh = path.with_name(path.name + UNFINISHED)
    fresh.write_text(json.dumps(contents, indent=2) + "\n")
    fresh.replace(path)
