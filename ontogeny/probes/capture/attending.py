"""`with attending(model, mechanism=...):` makes a transformers model compute its attention in another way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.kernels import MECHANISMS
from ontogeny.kernels.inputs import MaskMod
from ontogeny.probes.capture.context import is_captured
from ontogeny.probes.capture.modules import find_attention, find_blocks, find_owner
from ontogeny.probes.capture.routing import Route, route_of, routed
from ontogeny.probes.capture.settings import AttentionSettings


@contextmanager
def attending(
    model: PreTrainedModel,
    mechanism: str = "softmax",
    *,
    sinks: Tensor | float | None = None,
    mask_mod: MaskMod | None = None,
) -> Iterator[None]:
    """Inside the `with`, `model` attends by `mechanism`, a name in `kernels.MECHANISMS`, and can be trained so.

    `sinks` is a logit for each head of each layer, (L, H), or of every layer alike, (H,), which may be a parameter of
    one's own that learns, or one number; `mask_mod(b, h, i, j)` hides keys besides those that the model hides (see
    `kernels.masks`). `capture` inside measures the same attention. On leaving, the model attends as before. Attention
    dropout is not computed: set it to 0 in the config of a model to train.

    Raises OntogenyError for an unknown mechanism, `sinks` or a `mask_mod` that are none, a model whose attention cannot
    be replaced, and from within the pass of another model that shares its config.
    """
    base, found = find_replaceable(model)
    if route_of(base) is not None:
        raise _inside_already(base)
    if mechanism not in MECHANISMS:
        raise OntogenyError(f"mechanism: expected one of {', '.join(MECHANISMS)}, got {mechanism!r}")
    if mask_mod is not None and not callable(mask_mod):
        raise OntogenyError(
            "mask_mod: expected a function of batch, head, query and key indices, as kernels.masks has them, got "
            f"{type(mask_mod).__name__}"
        )
    _check_sinks(sinks, len(found))
    with routed(base, Route(AttentionSettings(mechanism, sinks, mask_mod), layers=found)):
        yield


def find_replaceable(model: PreTrainedModel) -> tuple[PreTrainedModel, list[nn.Module]]:
    """The model whose forward a pass runs, and the attention module of each of its blocks, to be routed otherwise.

    Raises OntogenyError for what is no model, attention that cannot be replaced, and from within a capture of it.
    """
    if not isinstance(model, PreTrainedModel):
        raise OntogenyError(f"expected a transformers PreTrainedModel, got {type(model).__name__}")
    whole = cast(PreTrainedModel, model.base_model)
    found = find_attention(whole, find_blocks(whole))
    if isinstance(found, str):
        raise OntogenyError(f"the attention of {type(whole).__name__} cannot be replaced: {found}")
    base = find_owner(whole, found)
    if is_captured(base):
        raise _inside_already(base)
    return base, found


def _inside_already(base: PreTrainedModel) -> OntogenyError:
    return OntogenyError(
        f"{type(base).__name__} is inside another `capture`, `attending` or `editing` already: enter `attending` once, "
        "and `capture` inside it"
    )


def _check_sinks(sinks: Tensor | float | None, layers: int) -> None:
    """Raise OntogenyError for what is neither a number nor logits; how many heads there are the kernels check."""
    if sinks is None or (isinstance(sinks, int | float) and not isinstance(sinks, bool)):
        return
    if not isinstance(sinks, Tensor):
        raise OntogenyError(f"sinks: expected a number or a tensor of logits, got {type(sinks).__name__}")
    if sinks.ndim not in (1, 2) or (sinks.ndim == 2 and len(sinks) != layers):
        raise OntogenyError(
            f"sinks: expected logits of shape (H,), or (L, H) for this model of {layers} layers, got shape "
            f"{tuple(sinks.shape)}"
        )
