"""What a model is, in the numbers that its attention and residual stream depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ontogeny.errors import OntogenyError

LEARNED_POSITIONS = frozenset(
    {
        "bert",
        "biogpt",
        "camembert",
        "distilbert",
        "electra",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "opt",
        "roberta",
        "xlm-roberta",
    }
)


@dataclass(frozen=True)
class ArchSpec:
    """An architecture's specification, with the training facts known to confound emergence.

    Sizes are counts; `head_dim` and `ffn` are widths. `positional` is one of `rotary`, `learned`, `alibi`, `none` or
    `unknown`; `norm` is `layer`, `rms` or `unknown`; `max_positions` is the longest sequence in tokens. The training
    facts (`dtype`, `batch_tokens`, `init`, `seed`) stand in no config: one that the source does not know is None.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    positional: str = "unknown"
    norm: str = "unknown"
    parallel_residual: bool | None = None
    tied: bool | None = None
    model_type: str | None = None
    max_positions: int | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    init: str | None = None
    seed: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ArchSpec:
        """Read the specification from a Hugging Face `config.json`.

        Raises OntogenyError where the number of layers, the width, the heads or the vocabulary is not stated.
        """
        layers = _required(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
        width = _required(config, "hidden_size", "n_embd", "d_model", "dim")
        heads = _required(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
        ffn = _first(config, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim")
        return cls(
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=_kv_heads(config, heads),
            head_dim=_first(config, "head_dim") or width // heads,
            ffn=ffn or 4 * width,
            vocab=_required(config, "vocab_size"),
            positional=_positional(config),
            norm=_norm(config),
            parallel_residual=_first(config, "use_parallel_residual", "parallel_attn"),
            tied=config.get("tie_word_embeddings"),
            model_type=config.get("model_type"),
            max_positions=_max_positions(config),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a dataset's attributes."""
        return asdict(self)


def _first(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _required(config: Mapping[str, Any], *names: str) -> int:
    value = _first(config, *names)
    if not isinstance(value, int):
        raise OntogenyError(
            f"the model's config states no `{names[0]}` (nor {', '.join(names[1:]) or 'another name for it'}): "
            "expected the config of a transformer with one stack of blocks"
        )
    if isinstance(value, bool) or value < 1:
        raise OntogenyError(f"the model's config states {value} as `{names[0]}`: expected a positive whole number")
    return value


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("multi_query"):
        return 1
    return _first(config, "num_key_value_heads", "num_kv_heads") or heads


def _positional(config: Mapping[str, Any]) -> str:
    if config.get("alibi"):
        return "alibi"
    if any(
        config.get(name) is not None
        for name in ("rope_theta", "rope_parameters", "rotary_pct", "rotary_dim", "rotary_emb_base")
    ):
        return "rotary"
    if config.get("model_type") in LEARNED_POSITIONS:
        return "learned"
    return "unknown"


def _max_positions(config: Mapping[str, Any]) -> int | None:
    positions = _first(config, "max_position_embeddings", "n_positions")
    if positions is not None and config.get("model_type") in {"roberta", "xlm-roberta", "camembert"}:
        return positions - (_first(config, "pad_token_id") or 0) - 1  # counted from behind the padding's own
    return positions


def _norm(config: Mapping[str, Any]) -> str:
    if config.get("rms_norm_eps") is not None:
        return "rms"
    if _first(config, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon") is not None:
        return "layer"
    return "unknown"
