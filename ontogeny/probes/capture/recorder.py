"""Records a transformers model: its attention through the registered function, its residual stream by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.kernels.attention import Implementation
from ontogeny.kernels.inputs import Output
from ontogeny.probes.capture.inputs import PassInputs
from ontogeny.probes.capture.masks import Visibility
from ontogeny.probes.capture.modules import find_attention, find_blocks, find_owner, outside_the_interface
from ontogeny.probes.capture.projection import UpdateNorms
from ontogeny.probes.capture.queries import Queries
from ontogeny.probes.capture.residual import ResidualRecorder
from ontogeny.probes.capture.routing import ADVICE, AskedOfLayer, Route, route_of, routed
from ontogeny.probes.capture.settings import AttentionSettings
from ontogeny.probes.capture.trace import (
    CAPTURED,
    LOGITS,
    NOT_ASKED,
    WALKS,
    AttentionTrace,
    Pass,
    ResidualTrace,
)
from ontogeny.probes.capture.wanted import Wanted


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

    def __init__(
        self, modules: list[nn.Module], around: Sequence[nn.Module], wanted: Wanted, residual: ResidualRecorder
    ) -> None:
        """The output projections are somewhere in the modules `around`; `residual` sees what enters each block."""
        self.modules = modules
        self.wanted = wanted
        self.residual = residual
        self.norms = UpdateNorms(around)
        self.begin(None)

    def begin(self, ids: Tensor | None) -> None:
        """A pass on the token ids (B, T) begins; what an unfinished one left is dropped."""
        self.ids = ids
        self.shared: dict[Any, tuple[Visibility, Queries]] = {}
        self.traces: dict[nn.Module, list[AttentionTrace]] = {module: [] for module in self.modules}
        self.norms.begin()

    @property
    def ran(self) -> bool:
        """Whether any attention module came by."""
        return any(self.traces.values())

    def asks(self, module: nn.Module) -> AskedOfLayer:
        """What is to be kept of this module's map; one that no block owns raises OntogenyError."""
        layer = self._layer(module)
        walk_ids = self.ids if WALKS in self.wanted.needs else None
        entering = self.residual.entering(layer)
        return AskedOfLayer(layer in self.wanted.maps, self.wanted.columns, walk_ids, entering, self.shared)

    def record(self, module: nn.Module, trace: AttentionTrace, output: Tensor, value: Tensor) -> None:
        """Keep one call's trace; `output` (B, T, H, dv) is what the call hands on, mixed of `value` (B, Hkv, T, dv)."""
        self.traces[module].append(trace)
        self.norms.attended(self._layer(module), output, value, output.shape[2])

    def _layer(self, module: nn.Module) -> int:
        if module not in self.traces:
            raise OntogenyError(f"attention ran in {type(module).__name__}, which is no block's own attention module")
        return next(index for index, one in enumerate(self.modules) if one is module)

    def finish(self) -> tuple[tuple[AttentionTrace, ...], str]:
        """The traces in the order of the blocks, and whether the norms of W_O v are among them.

        Raises OntogenyError unless each module ran exactly once.
        """
        wrong = [(i, len(self.traces[m])) for i, m in enumerate(self.modules) if len(self.traces[m]) != 1]
        if wrong:
            layer, calls = wrong[0]
            raise OntogenyError(
                f"the attention of layer {layer} was seen {calls} times in one pass, expected once "
                f"({len(wrong)} of {len(self.modules)} layers are so): its statistics would be wrong; {ADVICE}"
            )
        traces = tuple(self.traces[module][0] for module in self.modules)
        norms = self.norms.finish()
        if isinstance(norms, str):
            return traces, norms
        return tuple(replace(trace, update_norm=norm) for trace, norm in zip(traces, norms, strict=True)), CAPTURED


class ModelRecorder:
    """Records a transformers model: its attention and its residual stream, or the one of them that can be hooked.

    Raises OntogenyError where neither can be, or only what is not wanted.
    """

    def __init__(self, model: PreTrainedModel, wanted: Wanted, impl: Implementation, output: Output) -> None:
        self.whole = cast(PreTrainedModel, model.base_model)
        self.wanted = wanted
        blocks = find_blocks(self.whole)
        found = find_attention(self.whole, blocks) if wanted.attention else NOT_ASKED
        if isinstance(blocks, str) and isinstance(found, str):
            raise OntogenyError(f"nothing can be captured: the residual stream is {blocks}; attention is {found}")
        self.no_blocks = blocks if isinstance(blocks, str) else None
        self.blocks = [] if isinstance(blocks, str) else blocks
        modules = [] if isinstance(found, str) else found
        self.reason = found if isinstance(found, str) else CAPTURED
        self.base = find_owner(self.whole, self.blocks or modules)
        wanted.refuse_absent_layers(len(self.blocks or modules))
        around = self.blocks or [self.whole]
        self.residual = ResidualRecorder(LOGITS in wanted.needs)
        self.attention = AttentionRecorder(modules, around, wanted, self.residual) if modules else None
        outer = route_of(self.base)
        if outer is not None and outer.edit is not None:
            raise OntogenyError(
                f"{type(self.base).__name__} is inside `editing`, whose maps a capture would not see: leave it first"
            )
        settings = AttentionSettings() if outer is None else outer.settings
        self.route = Route(replace(settings, impl=impl, output=output), self.attention, modules)
        self.notes = {} if outer is None else settings.describe()
        self.warnings: tuple[str, ...] = ()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, passes of the model are recorded."""
        with ExitStack() as hooks:
            if self.attention is not None:
                hooks.enter_context(routed(self.base, self.route))
                hooks.enter_context(self.attention.norms.hooked())
            if self.wanted.residual and self.blocks:
                hooks.enter_context(self.residual.hooked(self.blocks))
            if self.wanted.on_block is not None:
                hooks.enter_context(_announced(self.blocks, self.wanted.on_block))
            yield

    def begin(self, inputs: PassInputs) -> None:
        """A pass begins; what an unfinished one left is dropped."""
        self.ids = inputs.token_ids
        equal = self.wanted.equal_tokens(inputs.name, self.ids, inputs.valid)
        self.residual.begin(inputs.valid, equal, self.wanted.cluster_stream(inputs.valid))
        if self.attention is not None:
            self.attention.begin(self.ids)

    def finish(self) -> Pass:
        """What the pass left behind. Raises OntogenyError unless every attention module and block was seen once."""
        depths: tuple[ResidualTrace, ...] = ()
        residual = NOT_ASKED
        if self.wanted.residual:
            residual = self.no_blocks or CAPTURED
            depths = self.residual.finish(len(self.blocks)) if self.blocks else ()
        layers: tuple[AttentionTrace, ...] = ()
        reason = updates = self.reason
        if self.attention is not None:
            if self.attention.ran or self.route.masks.in_flight:
                layers, updates = self.attention.finish()
            else:
                reason = updates = outside_the_interface(self.whole)
                if self.no_blocks is not None:
                    raise OntogenyError(f"nothing was captured: residual stream {residual}; attention {reason}")
        length = layers[0].column_mass.shape[-1] if layers else self.residual.length
        return Pass(length, layers, depths, reason, updates, self.ids, residual)


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
