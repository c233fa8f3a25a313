"""From weights by name to a model of the class that a config names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from ontogeny.dynamics.loading.weights import ADVICE, Weights, some
from ontogeny.errors import OntogenyError


def named_class(what: object, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that `config` names, or the bare model where it names none.

    Raises OntogenyError where transformers has no class of that name: a repository's own code is never run.
    """
    if not config.architectures:
        return type(_skeleton(AutoModel, config))
    name = config.architectures[0]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise OntogenyError(
            f"{what} is a {name}, which transformers {transformers.__version__} does not have: expected a model of "
            "transformers itself (a repository's own code is never run); upgrade transformers if it is a recent one"
        )
    return found


def fitting_class(what: object, config: PreTrainedConfig, names: Collection[str]) -> tuple[type[PreTrainedModel], str]:
    """The class, and the prefix to strip from all of `names`, with which the fewest weights are left over or missing.

    The class is the one that `config` names; a config that was never saved with a model names none, and then the bare
    model and those with the usual heads are tried. A prefix is what wrappers put before every name, as `model.` and
    `_orig_mod.`; of prefixes that do as well, the shortest.
    """
    fits = []
    for skeleton in _candidates(what, config):
        due = set(skeleton.state_dict())
        for prefix in _common_prefixes(names):
            stripped = [name.removeprefix(prefix) for name in names]
            fits.append((_misfits(stripped, due, skeleton.base_model_prefix), type(skeleton), prefix))
    _, kind, prefix = min(fits, key=lambda fit: fit[0])
    return kind, prefix


def fill(
    what: object, kind: type[PreTrainedModel], config: PreTrainedConfig, weights: Weights, dtype: torch.dtype
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """A model with these weights, and transformers' loading info.

    Raises OntogenyError where a weight is there twice, or integers stand for one that is not.
    """
    loaded: Any = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(weights),
        dtype=dtype,
        # Tensors of the wrong shape are then named in the loading info, and refused by the caller.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        local_files_only=True,
        # A config can name an attention kernel on the Hub, which would be downloaded and run.
        attn_implementation=None,
    )
    model, info = loaded
    _refuse_twice(what, model, weights)
    if getattr(config, "quantization_config", None) is None:
        _refuse_integers(what, model, weights)
    return model, info


def _skeleton(kind: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """A model without numbers."""
    make = getattr(kind, "from_config", None) or kind._from_config
    with torch.device("meta"):
        model: PreTrainedModel = make(config, attn_implementation=None)
    return model


def _candidates(what: object, config: PreTrainedConfig) -> Iterator[PreTrainedModel]:
    yield _skeleton(named_class(what, config), config)
    if config.architectures:
        return
    for auto in (AutoModelForMaskedLM, AutoModelForCausalLM):
        if type(config) in auto._model_mapping:
            yield _skeleton(auto, config)


def _common_prefixes(names: Collection[str]) -> list[str]:
    """Nothing, and each whole-word prefix that all names have, shortest first: `a.`, `a.b.`."""
    first, last = min(names).split("."), max(names).split(".")
    common = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return ["".join(f"{part}." for part in first[:length]) for length in range(min(common, len(first) - 1) + 1)]


def _misfits(names: Collection[str], due: Collection[str], base: str) -> int:
    """How many of `names` have no place, and how many places no name, as transformers adds and strips `base`."""
    placed = [
        next((form for form in (name, f"{base}.{name}", name.removeprefix(f"{base}.")) if form in due), None)
        for name in names
    ]
    return placed.count(None) + len(set(due).difference(placed))


def _refuse_twice(what: object, model: PreTrainedModel, weights: Weights) -> None:
    """Transformers takes a name with and without the base model's prefix for the same, and keeps the first it sees."""
    base = f"{model.base_model_prefix}."
    twice = [name for name in weights if name.startswith(base) and name.removeprefix(base) in weights]
    if twice:
        raise OntogenyError(
            f"{what} holds {len(twice)} weights twice, with and without {base!r} before the name ({some(twice)}): "
            "expected one of each; save the weights again with one of them"
        )


def _refuse_integers(what: object, model: PreTrainedModel, weights: Weights) -> None:
    base = f"{model.base_model_prefix}."
    floating = {name for name, weight in model.state_dict().items() if weight.is_floating_point()}
    floating |= {name.removeprefix(base) for name in floating} | {f"{base}{name}" for name in floating}
    integers = [name for name, weight in weights.items() if name in floating and not _is_floating(weight)]
    if integers:
        raise OntogenyError(
            f"{what} holds integers for {len(integers)} weights ({some(integers)}): expected floating-point numbers, "
            f"or a `quantization_config` in config.json that says what they stand for; {ADVICE}"
        )


def _is_floating(weight: Any) -> bool:
    if isinstance(weight, torch.Tensor):
        return weight.is_floating_point()
    return str(weight.get_dtype()).startswith(("F", "BF"))
