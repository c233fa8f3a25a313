"""A repository of six steps, served by the stand-in for the Hub, and sleeps that are written down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ontogeny.dynamics.loading.repository import Repository
from tests import hub_server
from tests.hub_steps import ID, stepped


@pytest.fixture
def remote() -> hub_server.Repository:
    return stepped()


@pytest.fixture
def hub(remote: hub_server.Repository, online: None) -> Iterator[hub_server.Hub]:
    with hub_server.serve({ID: remote}) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def repository(hub: hub_server.Hub, cache: Path) -> Repository:
    return Repository(ID, hub.endpoint, cache)


@pytest.fixture
def sleeps(online: None, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, or would have been."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked
