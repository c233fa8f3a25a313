"""The attention function that is registered with transformers: the ordinary output, and the statistics on the side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ontogeny.errors import OntogenyError
from ontogeny.kernels import attention, attention_stats
from ontogeny.probes.capture.logits import EnteringStates, OfRows
from ontogeny.probes.capture.masks import Pattern, Visibility, read_pattern
from ontogeny.probes.capture.queries import Queries
from ontogeny.probes.capture.reduce import reduce_attention
from ontogeny.probes.capture.routing import NAME, AskedOfLayer, Route, route_through, running
from ontogeny.probes.capture.settings import AttentionSettings
from ontogeny.probes.capture.support import RealRows
from ontogeny.probes.capture.trace import AttentionTrace
from ontogeny.probes.capture.walks import walk_entropy

# Arguments that models hand to every attention function and that leave the scores alone.
HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "layer_past",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "past_key_values",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    name = type(module).__name__
    route = route_through(module)
    settings = route.settings
    _refuse_other_scores(name, dropout, others, route.advice)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    pattern = Pattern.of(causal, sliding_window, key.shape[2])
    call: dict[str, Any] = {
        "scale": query.shape[-1] ** -0.5 if scaling is None else scaling,
        "causal": pattern.causal,
        "window": pattern.window,
        "softcap": softcap,
        "mask": route.masks.padding(name, attention_mask, pattern, route.advice),
        "mechanism": settings.mechanism,
        "mask_mod": settings.mask_mod,
        "sinks": _sinks(module, s_aux, route),
    }
    query, key, value = (_autocast(one) for one in (query, key, value))
    with _without_autocast(query.device.type):
        if route.edit is not None:
            output = _edited(query, key, value, call, partial(route.edit, route.layer_of(module)))
        elif route.recorder is not None:
            output, trace = _measured(query, key, value, call, settings, route.recorder.asks(module))
        else:
            output = attention(query, key, value, **call)
    handed_on = output.transpose(1, 2).contiguous()
    if route.recorder is not None:
        route.recorder.record(module, trace, handed_on, value)
    return handed_on, None


def _autocast(tensor: Tensor) -> Tensor:
    """The tensor in the dtype in which torch.autocast would hand it to SDPA: float64 is left alone."""
    kind = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return tensor
    return tensor.to(torch.get_autocast_dtype(kind))


def _without_autocast(kind: str) -> AbstractContextManager[Any]:
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _edited(
    query: Tensor, key: Tensor, value: Tensor, call: dict[str, Any], edit: Callable[[Tensor], Tensor]
) -> Tensor:
    every = torch.arange(query.shape[2], device=query.device)
    attention_map = attention_stats(query, key, value, **call, rows=every).rows
    assert attention_map is not None
    weights = edit(attention_map)
    return (weights @ value.to(weights.dtype).repeat_interleave(query.shape[1] // key.shape[1], 1)).to(query.dtype)


def _measured(
    query: Tensor, key: Tensor, value: Tensor, call: dict[str, Any], settings: AttentionSettings, asked: AskedOfLayer
) -> tuple[Tensor, AttentionTrace]:
    """A layer's output and what its trace keeps; `call` are the arguments that decide its scores."""
    heads, length = query.shape[1:3]
    alike = (query.shape[:3], query.device, call["causal"], call["window"], id(call["mask"]))
    if alike not in asked.shared:
        asked.shared[alike] = _seen_and_queries(query, call, settings)
    seen, queries = asked.shared[alike]
    rows = queries.sampled.asked
    stats = attention_stats(
        query,
        key,
        value,
        **call,
        rows=torch.arange(length, device=query.device) if asked.whole else rows,
        columns=torch.tensor(asked.columns, device=query.device) if asked.columns else None,
        impl=settings.impl,
        output=settings.output,
    )
    assert stats.rows is not None
    trace = reduce_attention(
        stats,
        queries,
        rows=stats.rows[:, :, rows] if asked.whole else stats.rows,
        whole=stats.rows if asked.keep_map else None,
    )
    if asked.walk_ids is not None:
        trace = replace(trace, walk_entropy=walk_entropy(stats.rows, asked.walk_ids, seen.valid))
    if asked.entering is not None:
        of_heads = seen if settings.mask_mod is not None else replace(seen, heads=1)
        states = EnteringStates.of(asked.entering, seen.valid)
        found = states.slopes(_logits(query, key, call), of_heads.of_rows, heads)
        trace = replace(trace, logit_slope=found.slope, logit_r2=found.r2)
    return stats.output, trace


def _seen_and_queries(query: Tensor, call: dict[str, Any], settings: AttentionSettings) -> tuple[Visibility, Queries]:
    batch, heads, length, _ = query.shape
    valid = call["mask"]
    if valid is None:
        valid = torch.ones(batch, length, dtype=torch.bool, device=query.device)
        sampled = RealRows.whole(length, query.device)
    else:
        sampled = RealRows.of(valid)
    seen = Visibility(Pattern(call["causal"], call["window"]), valid, heads, settings.mask_mod)
    return seen, Queries.of(valid, sampled, seen.of_rows(sampled.asked), seen.seeing_rows())


def _logits(query: Tensor, key: Tensor, call: dict[str, Any]) -> OfRows:
    """What enters the softmax, (B, H, R, T) of rows (R,), in float32 at least."""
    working = torch.promote_types(query.dtype, torch.float32)
    shared = key.to(working).repeat_interleave(query.shape[1] // key.shape[1], 1).mT
    cap = call["softcap"]

    def of_rows(rows: Tensor) -> Tensor:
        scores = query[:, :, rows].to(working) @ shared * call["scale"]
        return scores if cap is None else cap * torch.tanh(scores / cap)

    return of_rows


def _refuse_other_scores(name: str, dropout: float, others: dict[str, Any], advice: str) -> None:
    unknown = sorted(argument for argument, value in others.items() if value is not None and argument not in HARMLESS)
    if unknown:
        raise OntogenyError(
            f"{name} hands `{', '.join(unknown)}` to its attention, which changes the scores in a way that is not "
            f"understood here: {advice}"
        )
    if dropout:
        raise OntogenyError(
            f"{name} runs with attention dropout {dropout}, which is not computed here: call model.eval(), or set the "
            "dropout of attention to 0 in the model's config before training"
        )


def _sinks(module: nn.Module, own: Tensor | None, route: Route) -> Tensor | float | None:
    given = route.sinks_of(module)
    if own is not None and given is not None:
        raise OntogenyError(f"{type(module).__name__} has learned sinks of its own: expected sinks=None, got {given}")
    return given if own is None else own


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    device: torch.device | None = None,
    **others: Any,
) -> Tensor:
    route = running(others.get("config"))
    where = device or torch.device("cpu")
    window = others.get("local_size")
    pattern = read_pattern(mask_function, batch_size, q_length, kv_length, window, where)
    if attention_mask is None:
        valid = torch.ones(batch_size, kv_length, dtype=torch.bool, device=where)
    else:
        valid = attention_mask[:, -kv_length:].bool().clone()
    return route.masks.issue(valid, pattern)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
