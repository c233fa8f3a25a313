"""Records a transformers model: its attention through the registered function, its residual stream by hooks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from torch import nn
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.kernels.attention import Implementation
from ontogeny.kernels.inputs import Output
from ontogeny.probes.capture.inputs import PassInputs
from ontogeny.probes.capture.modules import find_attention, find_blocks, find_owner, outside_the_interface
from ontogeny.probes.capture.residual import ResidualRecorder
from ontogeny.probes.capture.routing import ADVICE, Route, route_of, routed
from ontogeny.probes.capture.settings import AttentionSettings
from ontogeny.probes.capture.trace import ATTENTION, CAPTURED, NOT_ASKED, RESIDUAL, AttentionTrace, Pass


@dataclass(frozen=True)
class Wanted:
    """What a capture is asked for: parts of the trace, layers whose map to keep, and whom to tell of each block."""

    needs: frozenset[str]
    maps: frozenset[int]
    on_block: Callable[[int], None] | None

    def refuse_absent_layers(self, layers: int) -> None:
        """Raise OntogenyError where a map is asked for of a layer that the model does not have."""
        absent = sorted(one for one in self.maps if not 0 <= one < layers)
        if absent:
            raise OntogenyError(f"maps: expected layers from 0 to {layers - 1}, got {', '.join(map(str, absent))}")


class PassRecorder(Protocol):
    """Records the passes of one model, whose forward `base` is.

    `notes` are facts that a dataset says of it, `warnings` what to say at once.
    """

    base: PreTrainedModel
    notes: dict[str, str]
    warnings: tuple[str, ...]

    def hooked(self) -> Any:
        """A context manager: the model is hooked inside it."""

    def begin(self, inputs: PassInputs) -> None:
        """A pass begins; what an unfinished one left is dropped."""

    def finish(self) -> Pass:
        """The pass came to its end. Raises OntogenyError where a part of it was missed."""


class AttentionRecorder:
    """Keeps one `AttentionTrace` for each attention module of a pass."""

    def __init__(self, modules: list[nn.Module], maps: Collection[int] = ()) -> None:
        self.modules = modules
        self.maps = {modules[index] for index in maps}
        self.begin()

    def begin(self) -> None:
        """A pass begins; what an unfinished one left is dropped."""
        self.traces: dict[nn.Module, list[AttentionTrace]] = {module: [] for module in self.modules}

    @property
    def ran(self) -> bool:
        """Whether any attention module came by."""
        return any(self.traces.values())

    def keeps_map(self, module: nn.Module) -> bool:
        """Whether the whole map of this module was asked for."""
        return module in self.maps

    def record(self, module: nn.Module, trace: AttentionTrace) -> None:
        """Keep one call's trace; a module that no block owns raises OntogenyError."""
        if module not in self.traces:
            raise OntogenyError(f"attention ran in {type(module).__name__}, which is no block's own attention module")
        self.traces[module].append(trace)

    def finish(self) -> tuple[AttentionTrace, ...]:
        """The traces in the order of the blocks. Raises OntogenyError unless each module ran exactly once."""
        wrong = [(i, len(self.traces[m])) for i, m in enumerate(self.modules) if len(self.traces[m]) != 1]
        if wrong:
            layer, calls = wrong[0]
            raise OntogenyError(
                f"the attention of layer {layer} was seen {calls} times in one pass, expected once "
                f"({len(wrong)} of {len(self.modules)} layers are so): its statistics would be wrong; {ADVICE}"
            )
        return tuple(self.traces[module][0] for module in self.modules)


class ModelRecorder:
    """Records a transformers model; where its attention cannot be hooked, the residual stream alone."""

    def __init__(self, model: PreTrainedModel, wanted: Wanted, impl: Implementation, output: Output) -> None:
        self.whole = cast(PreTrainedModel, model.base_model)
        self.wanted = wanted
        self.blocks = find_blocks(self.whole)
        self.base = find_owner(self.whole, self.blocks)
        wanted.refuse_absent_layers(len(self.blocks))
        found = find_attention(self.whole, self.blocks) if ATTENTION in wanted.needs else NOT_ASKED
        self.reason = found if isinstance(found, str) else CAPTURED
        self.attention = None if isinstance(found, str) else AttentionRecorder(found, wanted.maps)
        outer = route_of(self.base)
        settings = AttentionSettings() if outer is None else outer.settings
        self.route = Route(
            replace(settings, impl=impl, output=output), self.attention, [] if isinstance(found, str) else found
        )
        self.notes = {} if outer is None else settings.describe()
        self.warnings: tuple[str, ...] = ()
        self.residual = ResidualRecorder()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, passes of the model are recorded."""
        with ExitStack() as hooks:
            if self.attention is not None:
                hooks.enter_context(routed(self.base, self.route))
            if RESIDUAL in self.wanted.needs:
                hooks.enter_context(self.residual.hooked(self.blocks))
            if self.wanted.on_block is not None:
                hooks.enter_context(_announced(self.blocks, self.wanted.on_block))
            yield

    def begin(self, inputs: PassInputs) -> None:
        """A pass begins; what an unfinished one left is dropped."""
        self.residual.begin(inputs.valid)
        if self.attention is not None:
            self.attention.begin()

    def finish(self) -> Pass:
        """What the pass left behind. Raises OntogenyError unless every attention module and block was seen once."""
        depths = self.residual.finish(len(self.blocks)) if RESIDUAL in self.wanted.needs else ()
        layers: tuple[AttentionTrace, ...] = ()
        reason = self.reason
        if self.attention is not None:
            if self.attention.ran or self.route.masks.in_flight:
                layers = self.attention.finish()
            else:
                reason = outside_the_interface(self.whole)
        length = layers[0].column_mass.shape[-1] if layers else self.residual.length
        return Pass(length, layers, depths, reason)


@contextmanager
def _announced(blocks: list[nn.Module], on_block: Callable[[int], None]) -> Iterator[None]:
    handles = [
        block.register_forward_hook(lambda *_, index=index: on_block(index)) for index, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
