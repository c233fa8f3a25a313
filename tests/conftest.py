"""Without a GPU, Triton's kernels run in its interpreter, which has to be asked for before they are defined."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
