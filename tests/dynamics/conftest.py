"""A series of four small random models, made once and copied for each test."""

from __future__ import annotations

import shutil

import pytest

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
