"""Whose attention runs through the registered function at this moment, and how it is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedConfig, PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.masks import Pattern, Visibility
from ontogeny.probes.capture.queries import Queries
from ontogeny.probes.capture.settings import AttentionSettings
from ontogeny.probes.capture.trace import AttentionTrace

NAME = "ontogeny"
ADVICE = "leave the attention out: capture with needs={'residual'}, or scan with --probes massive"
TRAINING_ADVICE = (
    "`attending` cannot replace attention that gets such arguments; where gradient checkpointing is on, turn it on "
    "with use_reentrant=False"
)


@dataclass(frozen=True)
class AskedOfLayer:
    """What is to be kept of a layer's map: all of it, some keys' columns, walks over the tokens `walk_ids` (B, T).

    With the states that enter its block, `entering` (B, T, d), the slopes of its logits on their inner products too.
    `shared` holds what was made for the pass's layers before it, to be used again where this one hides the same keys.
    """

    keep_map: bool = False
    columns: tuple[int, ...] = ()
    walk_ids: Tensor | None = None
    entering: Tensor | None = None
    shared: dict[Any, tuple[Visibility, Queries]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether the whole map is needed for that."""
        return self.keep_map or self.walk_ids is not None


class Recorder(Protocol):
    """Takes in what each attention module of a pass leaves behind."""

    def asks(self, module: nn.Module) -> AskedOfLayer: ...

    def record(self, module: nn.Module, trace: AttentionTrace, output: Tensor, value: Tensor) -> None: ...


Edit = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class IssuedMask:
    """What a mask stands for that a model was handed for its layers: a pattern, and whether there is padding."""

    pattern: Pattern
    padded: bool


class IssuedMasks:
    """The masks that passes were handed, remembered for as long as a pass, or a backward pass to come, holds them."""

    def __init__(self) -> None:
        self._issued = WeakTensorKeyDictionary()
        self.in_flight = 0

    def __len__(self) -> int:
        return len(self._issued)

    def begin(self) -> None:
        """A pass begins, to which no mask was handed yet."""
        self.in_flight = 0

    def issue(self, valid: Tensor, pattern: Pattern) -> Tensor:
        """Remember which pattern the mask `valid` stands for, and return it for the model to hand to its layers."""
        self._issued[valid] = IssuedMask(pattern, not bool(valid.all()))
        self.in_flight += 1
        return valid

    def padding(self, name: str, mask: Tensor | None, pattern: Pattern, advice: str = ADVICE) -> Tensor | None:
        """The padding of a call by the module `name`, None where there is none; `advice` ends what is raised.

        Raises OntogenyError where the mask is missing or not one that was issued, or stands for another pattern than
        the attention is about to use.
        """
        if mask is None:
            if not self.in_flight:
                return None
            raise OntogenyError(
                f"{name} was handed no mask though its model made one: padding or a window would be missed; {advice}"
            )
        issued = self._issued.get(mask)
        if issued is None:
            raise OntogenyError(
                f"{name} got an attention mask of its model's own making, of shape {tuple(mask.shape)}, which is not "
                f"understood here: {advice}"
            )
        if issued.pattern != pattern:
            raise OntogenyError(
                f"{name} was handed the mask of {issued.pattern} but runs as {pattern}: its statistics would be "
                f"wrong; {advice}"
            )
        return mask if issued.padded else None


@dataclass(eq=False)
class Route:
    """One model's attention: how it is computed, the masks of its passes, and who records it, if anyone does.

    `layers` are the attention modules in the order of the blocks. `edit`, of a layer's index and its map (B, H, T, T),
    gives the map that the layer mixes its values by in its place.
    """

    settings: AttentionSettings
    recorder: Recorder | None = None
    layers: Sequence[nn.Module] = ()
    edit: Edit | None = None
    masks: IssuedMasks = field(default_factory=IssuedMasks)

    @property
    def advice(self) -> str:
        """What to do where a model cannot go this way."""
        return TRAINING_ADVICE if self.recorder is None else ADVICE

    def sinks_of(self, module: nn.Module) -> Tensor | float | None:
        """The sink logits that the settings give this attention module."""
        sinks = self.settings.sinks
        if not isinstance(sinks, Tensor) or sinks.ndim < 2:
            return sinks
        return sinks[self.layer_of(module)]

    def layer_of(self, module: nn.Module) -> int:
        """The index of this attention module's block."""
        return next(index for index, layer in enumerate(self.layers) if layer is module)


# The base whose forward runs, for masks, which know no module; every module of a routed base, for its attention, which
# gradient checkpointing computes again outside of any forward, and on a thread of its own.
_running: ContextVar[Route | None] = ContextVar("ontogeny_route", default=None)
_routes: WeakKeyDictionary[nn.Module, Route] = WeakKeyDictionary()


def running(config: PreTrainedConfig | None) -> Route:
    """The route of the forward that runs. Raises OntogenyError where it is that of another model with that config."""
    route = _running.get()
    if route is None:
        raise _not_routed("a model", config)
    return route


def route_through(module: nn.Module) -> Route:
    """The route of an attention module. Raises OntogenyError where it is part of no model that is routed."""
    route = _routes.get(module)
    if route is None:
        raise _not_routed(type(module).__name__, getattr(module, "config", None))
    return route


def _not_routed(what: str, config: PreTrainedConfig | None) -> OntogenyError:
    sharing = [
        base for base in _routes if isinstance(base, PreTrainedModel) and any(config is c for c in _configs(base))
    ]
    if not sharing:
        return OntogenyError(
            f"{what} attends as inside `capture` or `attending` but is in neither, as a copy is that was made inside: "
            "expected it in the `with` of its own, or set back with set_attn_implementation('sdpa')"
        )
    owner = " or ".join(sorted({type(base).__name__ for base in sharing}))
    return OntogenyError(
        f"{what} ran that is not the one in `capture` or `attending`, but shares the config "
        f"({type(config).__name__}) of the {owner} that is: give each model a config of its own, "
        "copy.deepcopy(config)"
    )


def route_of(base: nn.Module) -> Route | None:
    """How the attention of `base` is routed already, if it is."""
    return _routes.get(base)


@contextmanager
def routed(base: PreTrainedModel, route: Route) -> Iterator[None]:
    """Send the attention of `base` through `route`; on leaving, every config is as it was."""
    before = [(config, config._attn_implementation) for config in _configs(base)]
    modules = list(base.modules())
    outer = {module: _routes[module] for module in modules if module in _routes}

    def begin(_base: nn.Module, _args: Any) -> None:
        route.masks.begin()
        _running.set(route)

    def end(_base: nn.Module, _args: Any, _output: Any) -> None:
        _running.set(None)

    handles = [base.register_forward_pre_hook(begin), base.register_forward_hook(end, always_call=True)]
    _routes.update(dict.fromkeys(modules, route))
    try:
        base.set_attn_implementation(NAME)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in modules:
            del _routes[module]
        _routes.update(outer)
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
