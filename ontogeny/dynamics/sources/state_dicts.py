"""Checkpoints that are state dicts in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.dynamics.series import Series
from ontogeny.errors import OntogenyError, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    StateDict = Mapping[str, torch.Tensor]

_VOLATILE = ("_name_or_path", "transformers_version")


def open_state_dicts(
    states: Mapping[int, StateDict] | Iterable[tuple[int, StateDict]],
    config: PreTrainedConfig | Mapping[str, Any] | str | Path,
    *,
    name: str = "state-dicts",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Series:
    """The series of state dicts in memory: pairs of a step and what `model.state_dict()` gave at it, in any order.

    `config` is the model's config, its contents, or the `config.json`. All of `states` is taken at once; the tensors
    are neither copied nor changed. Each must hold its own: what `state_dict()` returns goes on changing as the model
    trains, so keep copies of it. The series' `source` is a digest of every number, so that a scan goes on only with
    the very same ones; `open_series` cannot open it again.

    Raises UsageError for a step that is no count or comes twice, OntogenyError where there is no state dict, two share
    their tensors, or the config describes no model.
    """
    settings = _read_config(config)
    by_step: dict[int, StateDict] = {}
    for step, weights in _pairs(states):
        if step in by_step:
            raise UsageError(f"two state dicts are given for step {step}: expected one a step")
        by_step[step] = weights
    if not by_step:
        raise OntogenyError("there is no state dict: expected pairs of a step and what model.state_dict() gives")
    _refuse_shared(by_step)
    digests = {step: _digest(by_step[step]) for step in sorted(by_step)}
    described = {key: value for key, value in settings.to_dict().items() if key not in _VOLATILE}
    whole = hashlib.sha256(json.dumps([described, digests], sort_keys=True, default=str).encode()).hexdigest()
    return Series(
        source=f"memory:{whole[:32]}",
        name=name,
        checkpoints=tuple(
            Checkpoint(
                name=f"step{step}",
                step=step,
                fetch=lambda: None,
                read=partial(_read, f"the state dict of step {step}", by_step[step], digest, settings),
            )
            for step, digest in digests.items()
        ),
        arch=ArchSpec.from_config(settings.to_dict()),
        tokenizer=lambda: tokenizer,
    )


def _read(
    what: str, weights: StateDict, digest: str, config: PreTrainedConfig, dtype: str, device: str
) -> PreTrainedModel:
    from ontogeny.dynamics.loading.model import load_state_dict

    if _digest(weights) != digest:
        raise OntogenyError(
            f"{what} has changed since the series was opened: expected tensors that nothing trains on; keep copies, "
            "{name: tensor.clone() for name, tensor in model.state_dict().items()}"
        )
    return load_state_dict(what, {name: tensor.detach() for name, tensor in weights.items()}, config, dtype, device)


def _read_config(config: PreTrainedConfig | Mapping[str, Any] | str | Path) -> PreTrainedConfig:
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from ontogeny.dynamics.loading.quiet import reading

    if isinstance(config, PreTrainedConfig):
        return deepcopy(config)
    advice = "expected the model's config, what its to_dict() gives, or the path of a config.json"
    if isinstance(config, Mapping):
        if config.get("model_type") not in CONFIG_MAPPING:
            raise OntogenyError(f"the config states model_type {config.get('model_type')!r}: {advice}")
        with reading("the config", advice):
            return CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    if not Path(config).exists():
        raise OntogenyError(f"there is no config {config}: {advice}")
    with reading(config, advice):
        return AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=False)


def _pairs(states: Mapping[int, StateDict] | Iterable[tuple[int, StateDict]]) -> Iterator[tuple[int, StateDict]]:
    """The pairs, checked: steps are counts, and weights are tensors by name."""
    from ontogeny.dynamics.loading.torch_files import find_state_dict
    from ontogeny.dynamics.loading.weights import refuse_hollow

    for pair in states.items() if isinstance(states, Mapping) else states:
        try:
            step, held = pair
            count = index(step)
        except (TypeError, ValueError):
            raise UsageError(f"expected pairs of a step and a state dict, got a {type(pair).__name__}") from None
        if isinstance(step, bool) or not 0 <= count < 2**63:
            raise UsageError(f"expected a number of optimizer steps from 0 on, got {step!r}")
        what = f"the state dict of step {count}"
        weights = find_state_dict(what, held)
        refuse_hollow(what, weights)
        yield count, dict(weights)


def _refuse_shared(by_step: Mapping[int, StateDict]) -> None:
    """Raise OntogenyError where two steps hold the same memory, as the state dicts of one model in training do."""
    seen: dict[tuple[tuple[str, int], ...], int] = {}
    for step, weights in by_step.items():
        places = tuple(sorted((name, tensor.data_ptr()) for name, tensor in weights.items()))
        if places in seen:
            raise OntogenyError(
                f"the state dicts of steps {seen[places]} and {step} are the same tensors, and so the same numbers: "
                "keep copies as the model trains, {name: tensor.clone() for name, tensor in model.state_dict().items()}"
            )
        seen[places] = step


def _digest(weights: StateDict) -> str:
    """A digest of the names, dtypes, shapes and every number."""
    import torch

    whole = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach()
        whole.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
