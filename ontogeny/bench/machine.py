"""The machine that was measured on, in words."""

from __future__ import annotations

import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers

from ontogeny.version import __version__


def describe_machine(device: torch.device) -> dict[str, str]:
    """Device, threads and versions."""
    described = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "ontogeny": __version__,
    }
    if device.type == "cuda":
        described["cuda"] = str(torch.version.cuda)
        described["triton"] = version("triton") if find_spec("triton") else "-"
    return described


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
