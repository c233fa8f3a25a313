"""`with editing(model, edit):` changes the attention maps of a model; `editing_stream` its residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.attending import find_replaceable
from ontogeny.probes.capture.modules import find_blocks
from ontogeny.probes.capture.routing import Edit, Route, route_of, routed
from ontogeny.probes.capture.settings import AttentionSettings

StreamEdit = Callable[[int, Tensor], Tensor]


@contextmanager
def editing(model: PreTrainedModel, edit: Edit) -> Iterator[None]:
    """Inside the `with`, each layer of `model` mixes its values by `edit(layer, map)` in the place of its map.

    Maps are (B, H, T, T), in float32 at least, of the model's own attention or, inside `attending`, of that. On
    leaving, also by an exception, the model attends as before.

    Raises OntogenyError for a model whose attention cannot be replaced, or that is inside a capture or another
    `editing`.
    """
    base, layers = find_replaceable(model)
    outer = route_of(base)
    if outer is not None and outer.edit is not None:
        raise OntogenyError(f"{type(base).__name__} is inside `editing` already: expected one edit at a time")
    with routed(base, Route(AttentionSettings() if outer is None else outer.settings, layers=layers, edit=edit)):
        yield


@contextmanager
def editing_stream(model: PreTrainedModel, edit: StreamEdit) -> Iterator[None]:
    """Inside the `with`, `edit(depth, hidden)` goes on in the place of the residual stream (B, T, d) at each depth.

    Depth 0 is what block 0 reads, depth i + 1 the raw output of block i. An edit must leave `hidden` itself alone.
    Raises OntogenyError for a model whose blocks are not found.
    """
    blocks = find_blocks(cast(PreTrainedModel, model.base_model))
    if isinstance(blocks, str):
        raise OntogenyError(f"the residual stream of {type(model).__name__} cannot be edited: {blocks}")
    handles = [blocks[0].register_forward_pre_hook(_before_first(edit), with_kwargs=True)]
    handles += [block.register_forward_hook(_after(edit, index + 1)) for index, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before_first(edit: StreamEdit) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def before(
        _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (edit(0, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(0, kwargs["hidden_states"])}

    return before


def _after(edit: StreamEdit, depth: int) -> Callable[..., Any]:
    def after(_block: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(depth, output[0]), *output[1:])
        return edit(depth, output)

    return after
