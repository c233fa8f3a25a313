"""A model from one `.gguf` file, its weights unpacked to ordinary floats."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ontogeny.dynamics.loading.gguf_header import GgufHeader, read_header
from ontogeny.dynamics.loading.quiet import reading
from ontogeny.errors import OntogenyError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

_ADVICE = "download or convert the file again, or use the model's safetensors"


def checked_header(path: Path) -> GgufHeader:
    """The header of a GGUF file that is all there.

    Raises OntogenyError where the package `gguf` is missing, or where the file is corrupt or cut short.
    """
    if find_spec("gguf") is None:
        raise OntogenyError(f"reading {path} needs the package gguf: pip install gguf")
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    header = read_header(path)
    end = header.data_start
    for tensor in header.tensors:
        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type)]
        except ValueError as error:
            raise OntogenyError(
                f"{path} stores {tensor.name} in ggml type {tensor.type}, which the installed package gguf does not "
                "know: pip install --upgrade gguf"
            ) from error
        end = max(end, header.data_start + tensor.offset + tensor.size // block * block_bytes)
    if end > path.stat().st_size:
        raise OntogenyError(f"{path} is cut short: expected {end} bytes, found {path.stat().st_size}; {_ADVICE}")
    return header


def quantisation(header: GgufHeader) -> str:
    """How the weights are stored, `GGUF Q4_K_M` for instance: the stated file type, else the commonest tensor type."""
    from gguf import GGMLQuantizationType, LlamaFileType

    names = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
    stated = header.metadata.get("general.file_type")
    if isinstance(stated, int) and stated in names:
        return f"GGUF {names[stated]}"
    sizes: dict[int, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
    return f"GGUF {GGMLQuantizationType(max(sizes, key=lambda kind: sizes[kind])).name}" if sizes else "GGUF"


def read_gguf_config(path: Path) -> PreTrainedConfig:
    """The config that transformers makes of a GGUF file's metadata. Raises OntogenyError where it cannot."""
    state = path.stat()
    return _config(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _config(path: Path, _modified: int, _size: int) -> PreTrainedConfig:
    from transformers import AutoConfig

    with reading(path, _ADVICE), collector_paused():
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def read_gguf_model(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The model in a GGUF file with transformers' loading info, as `from_pretrained(gguf_file=...)` gives it.

    The tensors are read by the function beneath that call, which itself refuses to run without accelerate.
    Raises OntogenyError where the file cannot be read, or holds numbers that transformers leaves out.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    header = checked_header(path)
    config = read_gguf_config(path)
    with reading(path, _ADVICE), collector_paused():
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        with redirect_stderr(io.StringIO()):  # its progress bar has no switch
            tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=skeleton)["tensors"]
        _refuse_left_out(path, header, sum(tensor.numel() for tensor in tensors.values()))
        return type(skeleton).from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True
        )


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector, which takes a third of the time while a vocabulary is read into small arrays."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _refuse_left_out(path: Path, header: GgufHeader, placed: int) -> None:
    held = sum(tensor.size for tensor in header.tensors)
    if placed >= held:
        return
    known = [tensor.name for tensor in header.tensors if tensor.name.startswith("rope_freqs")]
    raise OntogenyError(
        f"transformers finds a place for {placed} of the {held} numbers in {path}"
        f"{f' (it leaves out {known[0]}, so positions would be wrong)' if known else ''}: expected all of them; "
        "use the model's safetensors"
    )
