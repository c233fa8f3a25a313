"""The trace of arrays that somebody has already: attention maps, values and hidden states."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.given import as_layers, as_mask, as_tensor, as_token_ids, refuse
from ontogeny.probes.capture.logits import EnteringStates, slopes_of_map
from ontogeny.probes.capture.masks import Pattern
from ontogeny.probes.capture.projection import projected_norm
from ontogeny.probes.capture.reduce import reduce_map
from ontogeny.probes.capture.residual import RANKS, reduce_residual
from ontogeny.probes.capture.routing import AskedOfLayer
from ontogeny.probes.capture.trace import CAPTURED, LOGITS, NOT_ASKED, WALKS, AttentionTrace, Pass, ResidualTrace, Trace
from ontogeny.probes.capture.wanted import USUAL, Wanted


@torch.no_grad()
def trace_of_arrays(
    *,
    attention: Any = None,
    values: Any = None,
    hidden_states: Any = None,
    input_ids: Any = None,
    mask: Any = None,
    output_projections: Any = None,
    sink_share: Any = None,
    causal: bool | None = None,
    visible: Any = None,
    needs: Collection[str] = USUAL,
) -> Trace:
    """The trace of arrays, of torch or numpy: one for each layer in a sequence, or stacked along a first axis.

    - `attention`: L maps (B, H, T, T), row i what query i gives each key. Rows need not sum to one.
    - `values`: L arrays (B, Hkv, T, dv), those that the maps mix; H is a multiple of Hkv.
    - `hidden_states`: L + 1 arrays (B, T, d): the input of block 0, then the raw output of each block. The last entry
      of transformers' `output_hidden_states` is no such output: it is taken after the final norm.
    - `input_ids` (B, T); `mask` (B, T), 1 at tokens and 0 at padding.
    - `output_projections`: L matrices (d, H dv), as `nn.Linear` holds them; GPT-2's `Conv1D` holds the transposed.
    - `sink_share`: L arrays (B, H, T), the share of each row that a sink logit takes, which `entropy` and
      `participation` count as one more outcome. Without it these are of the row divided by its mass.
    - `causal`: whether queries see no key after them; None: whether the maps are zero there.
    - `visible`: in place of `causal`, which keys a query may see, padding aside, as a window hides some: bool (T, T) or
      (B, H, T, T), for all layers, or one for each.

    Either of `attention` and `hidden_states` may be missing, and all the rest; the trace then lacks what needs it.
    `needs` is that of `capture`; contexts and walks need `input_ids`, logits `hidden_states` and softmax maps. Sums
    are in float32, in float64 for float64.

    Raises OntogenyError, which names the argument, for shapes that do not fit each other, numbers that are no attention
    or not finite, attention on what cannot be seen, and maps that look as if a window hid something, without `visible`.
    """
    wanted = Wanted.of(needs)
    if attention is None and hidden_states is None:
        refuse("arrays", "`attention`, `hidden_states` or both", "neither")
    for name, given in (("values", values), ("sink_share", sink_share), ("visible", visible), ("causal", causal)):
        if given is not None and attention is None:
            refuse(name, "`attention` with it", "none")
    if output_projections is not None and values is None:
        refuse("output_projections", "`values` with them", "none")
    maps = as_layers("attention", attention, 4)
    states = as_layers("hidden_states", hidden_states, 3)
    device, batch = (maps or states)[0].device, (maps or states)[0].shape[0]
    length = maps[0].shape[2] if maps else states[0].shape[1]
    valid = torch.ones(batch, length, dtype=torch.bool, device=device)
    if mask is not None:
        valid = as_mask("mask", mask, (batch, length)).to(device)
    ids = None if input_ids is None else as_token_ids("input_ids", input_ids, (batch, length)).to(device)
    depths = _depths(states, len(maps), valid, ids, wanted) if wanted.residual and states else ()
    layers: tuple[AttentionTrace, ...] = ()
    if wanted.attention and maps:
        maps = [_of_tokens(f"attention, layer {index}", one, maps[0], valid) for index, one in enumerate(maps)]
        rest = _Rest(
            layers=len(maps),
            values=as_layers("values", values, 4),
            projections=as_layers("output_projections", output_projections, 2),
            sinks=as_layers("sink_share", sink_share, 3),
            visible=_read_visible(maps, causal, valid) if visible is None else _given_visible(visible, causal, maps),
        )
        asked = [AskedOfLayer(walk_ids=ids if WALKS in wanted.needs else None)] * len(maps)
        if LOGITS in wanted.needs and states:
            asked = [replace(asked[0], entering=state.to(device)) for state in states[:-1]]
        layers = tuple(_layer(index, one, valid, rest, asked[index]) for index, one in enumerate(maps))
    one = Pass(
        length,
        layers,
        depths,
        attention=_status(wanted.attention, attention=attention),
        updates=_status(wanted.attention, attention=attention, values=values, output_projections=output_projections),
        ids=ids,
        residual=_status(wanted.residual, hidden_states=hidden_states),
    )
    return Trace([one])


@dataclass(frozen=True)
class _Rest:
    """What is given beside the maps, for each of `layers` layers or for none."""

    layers: int
    values: list[Tensor]
    projections: list[Tensor]
    sinks: list[Tensor]
    visible: list[Tensor]

    def __post_init__(self) -> None:
        named = {"values": self.values, "output_projections": self.projections, "sink_share": self.sinks}
        for name, given in named.items():
            if given and len(given) != self.layers:
                refuse(name, f"an array for each of the {self.layers} layers of `attention`", str(len(given)))


def _layer(index: int, given: Tensor, valid: Tensor, rest: _Rest, asked: AskedOfLayer) -> AttentionTrace:
    batch, heads, length, _ = given.shape
    seen = (rest.visible[index] & valid[:, None, :, None] & valid[:, None, None, :]).expand(given.shape)
    if bool(given.masked_fill(seen, 0).any()):
        refuse(
            f"attention, layer {index}",
            "0 on every key that its query cannot see (later ones, those hidden by `visible`, padding)",
            "more than that",
        )
    working = torch.promote_types(given.dtype, torch.float32)
    value, sink = given.new_zeros(batch, heads, length, 0), None
    if rest.values:
        where = f"values, layer {index}"
        value = _fitting(where, rest.values[index], (batch, None, length, None), valid, valid[:, None, :, None])
        if heads % value.shape[1]:
            refuse(where, f"a number of heads that divides the {heads} of `attention`", str(value.shape[1]))
        working = torch.promote_types(working, value.dtype)
    if rest.sinks:
        where = f"sink_share, layer {index}"
        sink = _fitting(where, rest.sinks[index], (batch, heads, length), valid, valid[:, None])
        if bool((sink < 0).any()):
            refuse(where, "shares of a row, none negative", f"{float(sink.min()):g}")
        sink = (sink.to(working) * seen.any(-1))[..., None]
    attention, value = given.to(working), value.to(working)
    repeated = value.repeat_interleave(heads // value.shape[1], 1)
    trace = reduce_map(attention, seen, valid, repeated, attention @ repeated, asked, sink)
    if asked.entering is not None:
        found = slopes_of_map(attention, seen, sink, EnteringStates.of(asked.entering, valid))
        trace = replace(trace, logit_slope=found.slope, logit_r2=found.r2)
    if not rest.values:
        return replace(trace, value_norm=None)
    if not rest.projections:
        return trace
    columns = heads * value.shape[-1]
    weight = _fitting(f"output_projections, layer {index}", rest.projections[index], (None, columns), valid)
    return replace(trace, update_norm=projected_norm(weight, value, heads))


def _of_tokens(where: str, given: Tensor, first: Tensor, valid: Tensor) -> Tensor:
    """A map whose rows at padding are 0, whatever they were; checked to be attention, of the shape of the `first`."""
    shape = (*first.shape[:3], first.shape[2])
    one = _fitting(where, given, shape, valid, valid[:, None, :, None])
    if bool((one < 0).any()):
        refuse(where, "attention, which is not negative", f"{float(one.min()):g}, as scores before a softmax are")
    return one


def _read_visible(maps: list[Tensor], causal: bool | None, valid: Tensor) -> list[Tensor]:
    """For each layer the keys that a query may see, padding aside: all, or, where it is `causal`, those up to its own.

    Raises OntogenyError where a window may have hidden some, which cannot be known.
    """
    if not (causal is None or isinstance(causal, bool)):
        refuse("causal", "True, False or None", repr(causal))
    found = {bool(one.triu(1).any()) for one in maps} if causal is None else {not causal}
    if len(found) > 1:
        refuse("visible", "it with maps of which some are zero after the query and some are not", "none")
    length = valid.shape[1]
    place = torch.arange(length, device=valid.device)
    pattern = Pattern.of(found == {False}, None, length).visible(place[:, None], place)
    apart = (place[:, None] - place).abs() * pattern
    farthest = (apart * (valid[:, :, None] & valid[:, None, :])).amax()
    for index, one in enumerate(maps):
        reached = (apart * one.amax((0, 1)).bool()).amax()
        if reached < farthest:
            raise OntogenyError(
                f"visible: layer {index} of `attention` is 0 on every key more than {int(reached)} from its query, as "
                "where a window hides them, and whether they could be seen cannot be known: give `visible`, bool "
                "(T, T), True where a query may see a key, for all layers or one for each"
            )
    return [pattern] * len(maps)


def _given_visible(visible: Any, causal: bool | None, maps: list[Tensor]) -> list[Tensor]:
    if causal is not None:
        refuse("causal", "either `causal` or `visible`", "both")
    shape, device = maps[0].shape, maps[0].device
    each = visible if isinstance(visible, Sequence) else None
    if each is None:
        whole = as_tensor("visible", visible)
        each = list(whole) if whole.ndim in (3, 5) else [whole] * len(maps)
    if len(each) != len(maps):
        refuse("visible", f"one array, or one for each of the {len(maps)} layers of `attention`", str(len(each)))
    found = []
    for index, given in enumerate(each):
        one = as_tensor(f"visible, layer {index}", given).to(device)
        if one.dtype != torch.bool or one.shape not in (shape, shape[2:]):
            refuse(
                f"visible, layer {index}",
                f"bool of shape {tuple(shape[2:])} or {tuple(shape)}",
                f"{one.dtype} of shape {tuple(one.shape)}",
            )
        found.append(one)
    return found


def _depths(
    states: list[Tensor], layers: int, valid: Tensor, ids: Tensor | None, wanted: Wanted
) -> tuple[ResidualTrace, ...]:
    if len(states) < 2 or (layers and len(states) != layers + 1):
        expected = f"{layers + 1} arrays, one more than layers" if layers else "an array more than there are blocks"
        refuse("hidden_states", f"{expected}: the input of block 0, then each block's output", str(len(states)))
    shape = (*valid.shape, states[0].shape[-1])
    if int(valid.sum(1).min()) * shape[-1] < RANKS:
        refuse("hidden_states", f"at least {RANKS} numbers in a sequence, the largest of which are reported", shape)
    padding = None if bool(valid.all()) else valid
    equal = None if ids is None else wanted.equal_tokens("arrays", ids, padding)
    clusters = wanted.cluster_stream(padding)
    found = []
    for depth, given in enumerate(states):
        state = _fitting(f"hidden_states, depth {depth}", given, shape, valid, valid[..., None])
        found.append(reduce_residual(state, padding, equal, clusters))
    return tuple(found)


def _fitting(
    where: str, given: Tensor, shape: Sequence[int | None], beside: Tensor, of_tokens: Tensor | None = None
) -> Tensor:
    """The tensor on the device of what it stands `beside`, checked to have the shape and to be finite.

    Where `of_tokens`, broadcastable to it, is False, it is not checked but set to 0.
    """
    if any(size not in (None, got) for size, got in zip(shape, given.shape, strict=True)):
        refuse(where, f"shape ({', '.join('any' if size is None else str(size) for size in shape)})", given.shape)
    one = given.to(beside.device)
    if of_tokens is not None and not bool(of_tokens.all()):
        one = one.masked_fill(~of_tokens, 0)
    if not bool(one.isfinite().all()):
        refuse(where, "finite numbers", "some that are not")
    return one


def _status(asked: bool, **needed: Any) -> str:
    if not asked:
        return NOT_ASKED
    missing = [name for name, given in needed.items() if given is None]
    return f"unavailable: `{missing[0]}` was not given" if missing else CAPTURED
