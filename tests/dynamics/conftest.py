"""A series of four small random models, made once and copied for each test; a Hub client that asks 127.0.0.1."""

from __future__ import annotations

import shutil
import time

import pytest
from huggingface_hub import close_session, constants

from tests.checkpoint_folders import save_tiny
from tests.scans import STEPS


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "tiny"
    for step in STEPS:
        save_tiny(folder / f"step{step}", seed=step)
    return folder


@pytest.fixture
def series(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny")


@pytest.fixture(scope="session")
def direct_client():
    """A client that goes through no proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        yield
    close_session()


@pytest.fixture
def online(direct_client, monkeypatch):
    """A client that is online and does not wait between tries."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
