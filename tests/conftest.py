"""A Hub client that asks 127.0.0.1.

Without a GPU, Triton's kernels run in its interpreter, which has to be asked for before they are defined.
"""

from __future__ import annotations

import os
import time

import pytest
import torch
from huggingface_hub import close_session, constants

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# The models here are tiny: more threads cost more time than they save, here and in the processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


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
