"""The attention function that is registered with transformers: the ordinary output, and the statistics on the side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ontogeny.errors import OntogenyError
from ontogeny.kernels import AttentionStats, attention_stats
from ontogeny.probes.capture.masks import Pattern, read_pattern
from ontogeny.probes.capture.support import sampled_rows, support_size
from ontogeny.probes.capture.trace import AttentionTrace

NAME = "ontogeny"

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


@dataclass(frozen=True)
class IssuedMask:
    """A mask that a model was handed for its layers: what is no padding (B, S), and the pattern that it stands for."""

    valid: Tensor
    pattern: Pattern
    padded: bool


class AttentionRecorder:
    """Keeps one `AttentionTrace` for each attention module of a pass, and the masks that the pass was handed."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self.traces: dict[nn.Module, list[AttentionTrace]] = {module: [] for module in modules}
        self.issued: dict[int, IssuedMask] = {}

    @property
    def ran(self) -> bool:
        """Whether any attention module came by."""
        return any(self.traces.values())

    def issue(self, valid: Tensor, pattern: Pattern) -> Tensor:
        """Remember which pattern the mask `valid` stands for, and return it for the model to hand to its layers."""
        self.issued[id(valid)] = IssuedMask(valid, pattern, not bool(valid.all()))
        return valid

    def padding(self, module: nn.Module, mask: Tensor | None, pattern: Pattern) -> Tensor | None:
        """The padding of a call, None where there is none.

        Raises OntogenyError where the mask is missing or not one that was issued, or stands for another pattern than
        the attention is about to use.
        """
        name = type(module).__name__
        if mask is None:
            if not self.issued:
                return None
            raise OntogenyError(
                f"{name} was handed no mask though its model made one: padding or a window would be missed; "
                "scan with --probes massive"
            )
        issued = self.issued.get(id(mask))
        if issued is None:
            raise OntogenyError(
                f"{name} got an attention mask of its model's own making, of shape {tuple(mask.shape)}, which is not "
                "measured here: scan with --probes massive"
            )
        if issued.pattern != pattern:
            raise OntogenyError(
                f"{name} was handed the mask of {issued.pattern} but runs as {pattern}: its statistics would be "
                "wrong; scan with --probes massive"
            )
        return mask if issued.padded else None

    @contextmanager
    def hooked(self, model: PreTrainedModel) -> Iterator[None]:
        """Route the model's attention through this recorder; on leaving, everything is as it was."""
        configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
        before = [(config, config._attn_implementation) for config in configs.values()]
        token = _recorder.set(self)
        try:
            model.set_attn_implementation(NAME)
            yield
        finally:
            _recorder.reset(token)
            for config, implementation in before:
                config._attn_implementation = implementation

    def record(self, module: nn.Module, stats: AttentionStats, value: Tensor, pattern: Pattern) -> None:
        """Reduce one call's statistics and values; a module that no block owns raises OntogenyError."""
        if module not in self.traces:
            raise OntogenyError(f"attention ran in {type(module).__name__}, which is no block's own attention module")
        self.traces[module].append(_reduce(stats, value, pattern))

    def finish(self) -> tuple[AttentionTrace, ...]:
        """The traces in the order of the blocks. Raises OntogenyError unless each module ran exactly once."""
        wrong = [(i, len(self.traces[m])) for i, m in enumerate(self.modules) if len(self.traces[m]) != 1]
        if wrong:
            layer, calls = wrong[0]
            raise OntogenyError(
                f"the attention of layer {layer} was seen {calls} times in one pass, expected once "
                f"({len(wrong)} of {len(self.modules)} layers are so): its statistics would be wrong; "
                "scan with --probes massive"
            )
        return tuple(self.traces[module][0] for module in self.modules)


_recorder: ContextVar[AttentionRecorder] = ContextVar("ontogeny_attention_recorder")


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
    unknown = sorted(name for name, value in others.items() if value is not None and name not in HARMLESS)
    if unknown or dropout:
        what = ", ".join(unknown) or "dropout"
        raise OntogenyError(
            f"{type(module).__name__} hands `{what}` to its attention, which changes the scores in a way that is not "
            "measured here: scan with --probes massive"
        )
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    length = key.shape[2]
    pattern = Pattern.of(causal, sliding_window, length)
    recorder = _recorder.get()
    stats = attention_stats(
        query,
        key,
        value,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=pattern.causal,
        window=pattern.window,
        softcap=softcap,
        sinks=s_aux,
        mask=recorder.padding(module, attention_mask, pattern),
        rows=torch.tensor(sampled_rows(length), device=query.device),
    )
    recorder.record(module, stats, value, pattern)
    return stats.output.transpose(1, 2).contiguous(), None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    device: torch.device | None = None,
    **others: Any,
) -> Tensor:
    where = device or torch.device("cpu")
    window = others.get("local_size")
    pattern = read_pattern(mask_function, batch_size, q_length, kv_length, window, where)
    if attention_mask is None:
        valid = torch.ones(batch_size, kv_length, dtype=torch.bool, device=where)
    else:
        valid = attention_mask[:, -kv_length:].bool().clone()
    return _recorder.get().issue(valid, pattern)


def _reduce(stats: AttentionStats, value: Tensor, pattern: Pattern) -> AttentionTrace:
    """Means over the query rows that see a key; the map's sampled rows become their support, values their norm."""
    assert stats.rows is not None
    length = stats.rows.shape[-1]
    rows = torch.tensor(sampled_rows(length), device=stats.rows.device)
    keys = torch.arange(length, device=rows.device)
    valid = stats.visible_rows[:, 0] > 0
    row_length = (pattern.visible(rows[:, None], keys[None, :]) & valid[:, None, :]).sum(-1) * valid[:, rows]
    count = valid.sum(1, keepdim=True).clamp_min(1)
    value_norm = torch.linalg.vector_norm(value.to(stats.entropy.dtype), dim=-1)
    return AttentionTrace(
        column_mass=stats.column_mass,
        visible_rows=stats.visible_rows,
        value_norm=value_norm.repeat_interleave(stats.entropy.shape[1] // value.shape[1], dim=1),
        entropy=stats.entropy.sum(-1) / count,
        row_max=stats.row_max.sum(-1) / count,
        participation=stats.participation.sum(-1) / count,
        distance=stats.distance,
        support=support_size(stats.rows),
        row_length=row_length,
    )


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
