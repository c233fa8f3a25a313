"""From a checkpoint's files to a model in which every weight is the file's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ontogeny.dynamics.loading.files import CONFIG, WEIGHTS, file_names, state_dict_names, weight_patterns
from ontogeny.dynamics.loading.filling import fill, fitting_class, named_class
from ontogeny.dynamics.loading.gguf import read_gguf_model
from ontogeny.dynamics.loading.quiet import reading
from ontogeny.dynamics.loading.weights import ADVICE, Weights, in_memory, read_state_dict, read_weights, some
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.memory import is_out_of_memory

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    path: Path, dtype: str = "float32", device: str = "cpu", *, config: Path | None = None, step: int | None = None
) -> PreTrainedModel:
    """Load a checkpoint from local files, in evaluation mode and without gradients; never from the network.

    `path` is a folder with weights, a file of a state dict, or a `.gguf` file. `config` is the `config.json`, None for
    the one beside the weights. `step` is the one that the checkpoint's name states, None for none: a state dict that
    states another is refused. `dtype` is one of float64, float32, bfloat16 and float16. The class is the one that the
    config names, so that the output head's weights are expected too.

    Raises OntogenyError where a weight is missing, of the wrong shape, unexpected, corrupt or not finite; UsageError
    for a dtype that is not known or a device that is not there.
    """
    torch_dtype, torch_device = known_dtype(dtype), available_device(device)
    if path.suffix == ".gguf":
        model, info = read_gguf_model(path, torch_dtype)
        return _settled(path, model, info, dtype, torch_device)
    file, settings, weights = _read(path, config, step)
    return _made(path, file, settings, weights, dtype, device)


def read_model(
    path: Path, *, config: Path | None = None, step: int | None = None
) -> Callable[[str, str], PreTrainedModel]:
    """Read the weights that `load_model` loads into memory; what is returned makes the model, in a dtype on a device.

    To read changes nothing that belongs to the process, so that a thread may do it while another runs a model. To make
    a model sets torch's default dtype for a while, which that one's passes would see. Of a `.gguf` file, which is
    unpacked for a model that is there, nothing is read yet. Raises what `load_model` does.
    """
    if path.suffix == ".gguf":
        return partial(load_model, path)
    file, settings, weights = _read(path, config, step)
    with reading(path, ADVICE):
        return partial(_made, path, file, settings, in_memory(weights))


def load_state_dict(
    what: str, weights: Weights, config: PreTrainedConfig, dtype: str = "float32", device: str = "cpu"
) -> PreTrainedModel:
    """Load a model from weights that are in memory, as `load_model` does from files; `what` is their name in errors."""
    torch_dtype, torch_device = known_dtype(dtype), available_device(device)
    with reading(what, ADVICE):
        model, info = _fitted(what, config, weights, torch_dtype)
    return _settled(what, model, info, dtype, torch_device)


def known_dtype(name: str) -> torch.dtype:
    """The floating-point type of that name. Raises UsageError where there is none."""
    if name not in _DTYPES:
        raise UsageError(f"unknown dtype {name!r}: expected one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def available_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises UsageError where it is not there, or cannot hold numbers.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # each kind of device fails in its own way
        raise UsageError(f"device {name!r} is not available: choose one of {_devices()}") from error
    if device.type in ("meta", "mps"):
        lacks = "holds no numbers" if device.type == "meta" else "has no float64, which sums are taken in"
        raise UsageError(f"device {name!r} {lacks}: choose one of {_devices()}")
    return device


def _devices() -> str:
    return ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])


def _located(path: Path, config: Path | None) -> tuple[Path, Path]:
    """The file that the weights at `path` are read from first, which of a folder transformers reads; and the config."""
    files: tuple[str, ...] = (path.name,)
    folder = path.parent
    if not path.is_file():
        names = file_names(path) if path.is_dir() else set()
        files, folder = weight_patterns(names)[:1] or state_dict_names(names), path
    config = config or folder / CONFIG
    if len(files) == 1 and config.is_file():
        return folder / files[0], config
    found = f"found several state dicts ({some(files)})" if len(files) > 1 else "which are not all there"
    raise OntogenyError(
        f"{path} is not a whole checkpoint: expected {CONFIG} and one of {', '.join(WEIGHTS)}, or one file of a state "
        f"dict, {found}; {ADVICE}"
    )


def _read(path: Path, config: Path | None, step: int | None) -> tuple[Path, PreTrainedConfig, Weights]:
    """The file that is read first, the config, and the weights."""
    file, config = _located(path, config)
    with reading(config, ADVICE):
        settings = AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=False)
    with reading(path, ADVICE):
        return file, settings, read_weights(file) if file.name in WEIGHTS else read_state_dict(file, step)


def _made(
    path: Path, file: Path, settings: PreTrainedConfig, weights: Weights, dtype: str, device: str
) -> PreTrainedModel:
    torch_dtype, torch_device = known_dtype(dtype), available_device(device)
    with reading(path, ADVICE):
        if file.name in WEIGHTS:
            model, info = fill(path, named_class(path, settings), settings, weights, torch_dtype)
        else:
            model, info = _fitted(file, settings, weights, torch_dtype)
    return _settled(path, model, info, dtype, torch_device)


def _fitted(
    what: object, config: PreTrainedConfig, weights: Weights, dtype: torch.dtype
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    kind, prefix = fitting_class(what, config, weights)
    stripped = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return fill(what, kind, config, stripped, dtype)


def _settled(
    what: object, model: PreTrainedModel, info: Mapping[str, Any], dtype: str, device: torch.device
) -> PreTrainedModel:
    _refuse_gaps(what, info)
    try:
        torch.nn.Module.to(model, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OntogenyError(
            f"memory of {device} does not suffice for the weights of {what} in {dtype}: use --dtype bfloat16, or "
            "another --device"
        ) from error
    _refuse_non_finite(what, model, dtype)
    return model.eval().requires_grad_(False)


def _refuse_gaps(what: object, info: Mapping[str, Any]) -> None:
    mismatched = [f"{name} {tuple(came)} instead of {tuple(due)}" for name, came, due in info["mismatched_keys"]]
    kinds = {
        "missing": info["missing_keys"],
        "of another shape than config.json says": mismatched,
        "unexpected": info["unexpected_keys"],
    }
    faults = [f"{len(names)} {kind} ({some(names)})" for kind, names in kinds.items() if names]
    faults += [str(message).splitlines()[0] for message in info.get("error_msgs", ())[:1]]
    if faults:
        raise OntogenyError(
            f"the weights of {what} do not fit its config: {'; '.join(faults)}. Nothing is filled in with random "
            f"numbers: check `architectures` and the sizes in config.json, {ADVICE}"
        )


def _refuse_non_finite(what: object, model: PreTrainedModel, dtype: str) -> None:
    bad = [name for name, weight in model.named_parameters() if weight.is_floating_point() and not _is_finite(weight)]
    if bad:
        raise OntogenyError(
            f"{len(bad)} weights of {what} hold NaN or infinity in {dtype} ({some(bad)}): expected finite numbers; "
            f"{'load it in float32, ' if dtype == 'float16' else ''}{ADVICE}"
        )


def _is_finite(weight: torch.Tensor) -> bool:
    """Whether all entries are; by their extremes, which takes a tenth of the time of asking each."""
    return not weight.numel() or bool(torch.stack(torch.aminmax(weight)).isfinite().all())
