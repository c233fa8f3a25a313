"""Whose attention runs through the registered function at this moment, and how it is configured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.masks import Pattern
from ontogeny.probes.capture.settings import AttentionSettings
from ontogeny.probes.capture.trace import AttentionTrace

NAME = "ontogeny"
ADVICE = "leave the attention out: capture with needs={'residual'}, or scan with --probes massive"


class Recorder(Protocol):
    """Takes in what each attention module of a pass leaves behind."""

    def keeps_map(self, module: nn.Module) -> bool: ...

    def record(self, module: nn.Module, trace: AttentionTrace) -> None: ...


@dataclass(frozen=True)
class IssuedMask:
    """A mask that a model was handed for its layers: what is no padding (B, S), and the pattern that it stands for."""

    valid: Tensor
    pattern: Pattern
    padded: bool


class IssuedMasks:
    """The masks that the pass in flight was handed."""

    def __init__(self) -> None:
        self._issued: dict[int, IssuedMask] = {}

    def __len__(self) -> int:
        return len(self._issued)

    def clear(self) -> None:
        """Forget them: a pass begins."""
        self._issued.clear()

    def issue(self, valid: Tensor, pattern: Pattern) -> Tensor:
        """Remember which pattern the mask `valid` stands for, and return it for the model to hand to its layers."""
        self._issued[id(valid)] = IssuedMask(valid, pattern, not bool(valid.all()))
        return valid

    def padding(self, name: str, mask: Tensor | None, pattern: Pattern) -> Tensor | None:
        """The padding of a call by the module `name`, None where there is none.

        Raises OntogenyError where the mask is missing or not one that was issued, or stands for another pattern than
        the attention is about to use.
        """
        if mask is None:
            if not self._issued:
                return None
            raise OntogenyError(
                f"{name} was handed no mask though its model made one: padding or a window would be missed; {ADVICE}"
            )
        issued = self._issued.get(id(mask))
        if issued is None:
            raise OntogenyError(
                f"{name} got an attention mask of its model's own making, of shape {tuple(mask.shape)}, which is not "
                f"measured here: {ADVICE}"
            )
        if issued.pattern != pattern:
            raise OntogenyError(
                f"{name} was handed the mask of {issued.pattern} but runs as {pattern}: its statistics would be "
                f"wrong; {ADVICE}"
            )
        return mask if issued.padded else None


@dataclass(eq=False)
class Route:
    """One model's attention: how it is computed, the masks of its pass, and who records it, if anyone does."""

    settings: AttentionSettings
    recorder: Recorder | None = None
    masks: IssuedMasks = field(default_factory=IssuedMasks)


_running: ContextVar[Route | None] = ContextVar("ontogeny_route", default=None)
_routes: WeakKeyDictionary[nn.Module, Route] = WeakKeyDictionary()


def running(name: str) -> Route:
    """The route of the pass that is running. Raises OntogenyError where `name` belongs to no such pass."""
    route = _running.get()
    if route is None:
        raise OntogenyError(
            f"the attention of {name} ran outside `capture` and `attending`, or in another thread: expected it inside "
            "the `with` of the very model; another model that shares its config needs a config of its own"
        )
    return route


def route_of(base: nn.Module) -> Route | None:
    """How the attention of `base` is routed already, if it is."""
    return _routes.get(base)


@contextmanager
def routed(base: PreTrainedModel, route: Route) -> Iterator[None]:
    """Send the attention of `base` through `route`; on leaving, every config is as it was."""
    before = [(config, config._attn_implementation) for config in _configs(base)]
    outer = _routes.get(base)

    def begin(_base: nn.Module, _args: Any) -> None:
        route.masks.clear()
        _running.set(route)

    handle = base.register_forward_pre_hook(begin)
    _routes[base] = route
    try:
        base.set_attn_implementation(NAME)
        yield
    finally:
        handle.remove()
        if _running.get() is route:
            _running.set(outer)
        if outer is None:
            del _routes[base]
        else:
            _routes[base] = outer
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The model's config, those of the models inside it, and all their sub-configs."""
    found: dict[int, PreTrainedConfig] = {}
    waiting = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    while waiting:
        config = waiting.pop()
        if id(config) not in found:
            found[id(config)] = config
            parts = (getattr(config, name, None) for name in config.sub_configs)
            waiting.extend(part for part in parts if isinstance(part, PreTrainedConfig))
    return list(found.values())
