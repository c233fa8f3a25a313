"""Records a TransformerBridge by its hook points; the maps of one layer are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.inputs import PassInputs
from ontogeny.probes.capture.lens.bridge import OTHERWISE, notes_on, output_projection, refuse_hidden_padding
from ontogeny.probes.capture.lens.layer import LAYER_HOOKS, LayerTensors, layer_trace, updates_of
from ontogeny.probes.capture.modules import find_owner
from ontogeny.probes.capture.residual import ResidualRecorder
from ontogeny.probes.capture.routing import AskedOfLayer
from ontogeny.probes.capture.trace import CAPTURED, LOGITS, NOT_ASKED, WALKS, AttentionTrace, Pass, ResidualTrace
from ontogeny.probes.capture.wanted import Wanted


class LensRecorder:
    """Records a TransformerBridge."""

    def __init__(self, bridge: Any, wanted: Wanted) -> None:
        self.base = find_owner(bridge.original_model.base_model, list(bridge.blocks))
        self.notes = notes_on(bridge)
        self.warnings = tuple(self.notes.values())
        self.bridge, self.wanted = bridge, wanted
        self.layers = len(bridge.blocks)
        wanted.refuse_absent_layers(self.layers)
        self.residual = ResidualRecorder(LOGITS in wanted.needs)
        self._forget()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, passes of the bridge are recorded."""
        points = list(self._points())
        handles = []
        try:
            for name, act, first in points:
                point = self.bridge.get_hook_point(name)
                if point is None:
                    raise OntogenyError(
                        f"this TransformerBridge has no hook {name}: its attention cannot be measured; {OTHERWISE}"
                    )
                handles.append((point, point.add_hook(act, prepend=first)))
            yield
        finally:
            for point, handle in handles:
                handle.hook.remove()
                point.fwd_hooks[:] = [one for one in point.fwd_hooks if one is not handle]

    def begin(self, inputs: PassInputs) -> None:
        """A pass begins; what an unfinished one left is dropped."""
        if inputs.unmasked and isinstance(inputs.get("input_ids"), Tensor):
            refuse_hidden_padding(self.bridge, inputs.get("input_ids"))
        self.ids = inputs.token_ids
        equal = self.wanted.equal_tokens(inputs.name, self.ids, inputs.valid)
        self.residual.begin(inputs.valid, equal, self.wanted.cluster_stream(inputs.valid))
        self._forget()

    def finish(self) -> Pass:
        """What the pass left behind. Raises OntogenyError unless every layer was seen once."""
        depths: tuple[ResidualTrace, ...] = ()
        residual = NOT_ASKED
        if self.wanted.residual:
            depths, residual = self.residual.finish(self.layers), CAPTURED
        if not self.wanted.attention:
            return Pass(self.residual.length, (), depths, NOT_ASKED, NOT_ASKED, self.ids, residual)
        wrong = [layer for layer in range(self.layers) if len(self.traces[layer]) != 1]
        if wrong:
            raise OntogenyError(
                f"the attention of layer {wrong[0]} was seen {len(self.traces[wrong[0]])} times in one pass, expected "
                f"once ({len(wrong)} of {self.layers} layers are so); {OTHERWISE}"
            )
        layers = tuple(self.traces[layer][0] for layer in range(self.layers))
        return Pass(layers[0].column_mass.shape[-1], layers, depths, CAPTURED, updates_of(layers), self.ids, residual)

    def _forget(self) -> None:
        self.traces: list[list[AttentionTrace]] = [[] for _ in range(self.layers)]
        self.flying: dict[str, Tensor] = {}

    def _points(self) -> Iterator[tuple[str, Callable[..., None], bool]]:
        """Name, action and whether it goes before the user's own hooks, which it does where their edits come later."""
        residual = self.wanted.residual
        if residual:
            yield "blocks.0.hook_in", lambda state, **_: self.residual.record(state), False
        for layer in range(self.layers):
            if self.wanted.attention:
                for name in LAYER_HOOKS:
                    act = self._keeper(layer, name)
                    yield f"blocks.{layer}.attn.{name}", act, name == "o.hook_in"
            yield f"blocks.{layer}.hook_out", self._leaver(layer, residual), False

    def _keeper(self, layer: int, name: str) -> Callable[..., None]:
        def keep(tensor: Tensor, **_: Any) -> None:
            self.flying[name] = tensor
            if name == LAYER_HOOKS[-1]:
                self._reduce(layer)

        return keep

    def _leaver(self, layer: int, residual: bool) -> Callable[..., None]:
        def leave(state: Tensor, **_: Any) -> None:
            if residual:
                self.residual.record(state)
            if self.wanted.on_block is not None:
                self.wanted.on_block(layer)

        return leave

    def _reduce(self, layer: int) -> None:
        missing = [name for name in LAYER_HOOKS if name not in self.flying]
        if missing:
            raise OntogenyError(
                f"layer {layer} of this TransformerBridge shows {missing[0]} after its attention, or not at all: what "
                f"its queries may see cannot be known; {OTHERWISE}"
            )
        tensors = [self.flying.pop(name) for name in LAYER_HOOKS]
        walk_ids = self.ids if WALKS in self.wanted.needs else None
        entering = self.residual.entering(layer)
        asked = AskedOfLayer(layer in self.wanted.maps, self.wanted.columns, walk_ids, entering)
        trace, _ = layer_trace(f"layer {layer}", LayerTensors(*tensors), asked, output_projection(self.bridge, layer))
        self.traces[layer].append(trace)
