"""From a checkpoint's files to a model in which every weight is the file's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ontogeny.dynamics.loading.files import CONFIG, WEIGHTS, file_names, weight_patterns
from ontogeny.dynamics.loading.gguf import read_gguf_model
from ontogeny.dynamics.loading.quiet import reading
from ontogeny.errors import OntogenyError, UsageError

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMED = 3
_ADVICE = "download or copy this checkpoint again, or leave its step out"


def load_model(path: Path, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """Load a checkpoint from local files, in evaluation mode and without gradients; never from the network.

    `path` is a folder with `config.json` and weights, or a `.gguf` file. `dtype` is one of float64, float32, bfloat16
    and float16. The class is the one that the config names, so that the output head's weights are expected too.

    Raises OntogenyError where a weight is missing, of the wrong shape, unexpected, corrupt or not finite; UsageError
    for a dtype that is not known or a device that is not there.
    """
    torch_dtype, torch_device = known_dtype(dtype), available_device(device)
    if path.suffix == ".gguf":
        model, info = read_gguf_model(path, torch_dtype)
    else:
        model, info = _read_folder(path, torch_dtype)
    _refuse_gaps(path, info)
    torch.nn.Module.to(model, torch_device)
    _refuse_non_finite(path, model, dtype)
    return model.eval().requires_grad_(False)


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


def _read_folder(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    names = file_names(path) if path.is_dir() else set()
    weights = weight_patterns(names)
    if CONFIG not in names or not weights:
        raise OntogenyError(
            f"{path} is not a whole checkpoint: expected {CONFIG} and one of {', '.join(WEIGHTS)}; {_ADVICE}"
        )
    with reading(path, _ADVICE):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        loaded: Any = _model_class(path, config).from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors="safetensors" in weights[0],
            weights_only=True,
            # Tensors of the wrong shape are then named in the loading info, and refused below.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            # A config can name an attention kernel on the Hub, which would be downloaded and run.
            attn_implementation=None,
        )
        return loaded


def _model_class(path: Path, config: PreTrainedConfig) -> type[PreTrainedModel] | type[AutoModel]:
    if not config.architectures:
        return AutoModel
    name = config.architectures[0]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise OntogenyError(
            f"{path} is a {name}, which transformers {transformers.__version__} does not have: expected a model of "
            "transformers itself (a repository's own code is never run); upgrade transformers if it is a recent one"
        )
    return found


def _refuse_gaps(path: Path, info: Mapping[str, Any]) -> None:
    mismatched = [f"{name} {tuple(came)} instead of {tuple(due)}" for name, came, due in info["mismatched_keys"]]
    kinds = {
        "missing": info["missing_keys"],
        "of another shape than config.json says": mismatched,
        "unexpected": info["unexpected_keys"],
    }
    faults = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    faults += [str(message).splitlines()[0] for message in info.get("error_msgs", ())[:1]]
    if faults:
        raise OntogenyError(
            f"the weights of {path} do not fit its config: {'; '.join(faults)}. Nothing is filled in with random "
            f"numbers: check `architectures` and the sizes in config.json, {_ADVICE}"
        )


def _refuse_non_finite(path: Path, model: PreTrainedModel, dtype: str) -> None:
    bad = [
        name for name, weight in model.named_parameters() if weight.is_floating_point() and not weight.isfinite().all()
    ]
    if bad:
        raise OntogenyError(
            f"{len(bad)} weights of {path} hold NaN or infinity in {dtype} ({_some(bad)}): expected finite numbers; "
            f"{'load it in float32, ' if dtype == 'float16' else ''}{_ADVICE}"
        )


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:_NAMED]) + (", ..." if len(shown) > _NAMED else "")
