"""What papers report of models that one can download, as data: nothing here imports torch, nothing is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from ontogeny.errors import UsageError

Value = float | tuple[int, ...]

TABLES = {
    "sinks": "attention sinks on the first token",
    "massive": "massive activations",
    "ratio": "largest over median activation",
    "ablation": "perplexity with massive activations changed",
}


@dataclass(frozen=True)
class Model:
    """A model as papers name it, where it is on the Hub, its nominal size in 1e9 parameters, and whether it is gated.

    `gated`: the Hub is known to ask for an accepted licence first.
    """

    name: str
    hub_id: str
    size: float
    gated: bool = False
    revision: str = "main"


@dataclass(frozen=True)
class Source:
    """A paper, and as much of its protocol as is known; None for what is not.

    `text` is what it measured on. `remarks` are differences that hold for every figure measured after it.
    """

    arxiv: str
    text: str
    sequences: int | None = None
    length: int | None = None
    dtype: str | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """How a figure is measured: the probe, the corpus and BOS policy of `make_corpus`, and how many tokens.

    `published_length` is the length for this model where it is not the source's own.
    """

    source: Source
    probe: str
    corpus: str
    bos: str
    sequences: int
    length: int
    published_length: int | None = None


@dataclass(frozen=True)
class Quantity:
    """What is compared: `key` is its reader's name, `by` is `points`, `ratio`, `count` (a difference) or `same`."""

    key: str
    label: str
    by: str


@dataclass(frozen=True)
class Figure:
    """A published value."""

    table: str
    model: Model
    quantity: Quantity
    value: Value
    setting: Setting


def _meta(name: str, hub: str, size: float) -> Model:
    return Model(name, f"meta-llama/{hub}", size, gated=True)


def _pythia(name: str, size: float) -> Model:
    return Model(f"Pythia-{name}", f"EleutherAI/pythia-{name.lower()}", size, revision="step143000")


GPT2 = Model("GPT-2", "openai-community/gpt2", 0.124)
GPT2_XL = Model("GPT2-XL", "openai-community/gpt2-xl", 1.56)
MISTRAL = Model("Mistral-7B", "mistralai/Mistral-7B-v0.1", 7.24)
MISTRAL_CHAT = Model("Mistral-7B-chat", "mistralai/Mistral-7B-Instruct-v0.1", 7.24)
LLAMA2_7B = _meta("LLaMA2-7B", "Llama-2-7b-hf", 6.74)
LLAMA2_7B_CHAT = _meta("LLaMA2-7B-chat", "Llama-2-7b-chat-hf", 6.74)
LLAMA2_13B = _meta("LLaMA2-13B", "Llama-2-13b-hf", 13.0)
LLAMA2_13B_CHAT = _meta("LLaMA2-13B-chat", "Llama-2-13b-chat-hf", 13.0)
LLAMA3_8B = _meta("LLaMA3-8B", "Meta-Llama-3-8B", 8.03)
LLAMA3_8B_CHAT = _meta("LLaMA3-8B-chat", "Meta-Llama-3-8B-Instruct", 8.03)
LLAMA31_8B = _meta("LLaMA3.1-8B", "Llama-3.1-8B", 8.03)
LLAMA31_70B = _meta("LLaMA3.1-70B", "Llama-3.1-70B", 70.6)
LLAMA31_405B = _meta("LLaMA3.1-405B", "Llama-3.1-405B", 406.0)
OLMO = Model("OLMo-7B-0724", "allenai/OLMo-7B-0724-hf", 6.89)
OLMO2 = Model("OLMo-2-7B", "allenai/OLMo-2-1124-7B", 7.3)
FALCON = Model("falcon-11B", "tiiuae/falcon-11B", 11.1)
PHI2 = Model("phi-2", "microsoft/phi-2", 2.78)
GEMMA3 = Model("gemma-3-1b", "google/gemma-3-1b-pt", 1.0, gated=True)
PYTHIA_14M, PYTHIA_1_4B, PYTHIA_12B = _pythia("14m", 0.014), _pythia("1.4b", 1.41), _pythia("12b", 11.8)

SINK_NATURAL = Quantity("sink_rate", "Sink_1 %, text", "points")
SINK_RANDOM = Quantity("sink_rate", "Sink_1 %, random", "points")
SINK_REPEATED = Quantity("sink_rate", "Sink_1 %, repeated", "points")
SINK_STRICT = Quantity("strict_sink_rate", "rate above 0.8 %", "points")
PEAK = Quantity("peak", "peak |h|", "ratio")
PEAK_BLOCK = Quantity("peak_block", "its block, from 0", "count")
PEAK_DIMENSION = Quantity("peak_dimension", "its dimension", "same")
MASSIVE_BLOCKS = Quantity("massive_blocks", "massive blocks", "count")
FIRST_BLOCK = Quantity("first_block", "first block, from 1", "count")
LAST_BLOCK = Quantity("last_block", "last block, from 1", "count")
DIMENSIONS = Quantity("dimensions", "dimensions", "same")
RATIO = Quantity("ratio_of_means", "largest ratio", "ratio")
PERPLEXITY = Quantity("perplexity", "perplexity", "ratio")
PERPLEXITY_ZERO = Quantity("perplexity_zero", "perplexity, to 0", "ratio")
PERPLEXITY_MEAN = Quantity("perplexity_mean", "perplexity, to mean", "ratio")

GU = Source("2410.10781", "the paper's text", sequences=100, length=64, dtype="float32")
BARBERO = Source(
    "2504.02732",
    "the paper's text",
    remarks=(
        "rate above 0.8: Sink_1 with epsilon 0.8, as those who repeat the paper's table call it; the paper's own text "
        "could not be consulted",
    ),
)
OWEN = Source(
    "2503.22329",
    "RedPajama",
    sequences=10,
    length=4096,
    dtype="bfloat16",
    remarks=(
        "peak: the largest of the blocks' means over sequences of each sequence's largest |h|, as the paper's released "
        "code takes it; its block is the first with the largest mean rounded to bfloat16, where many are equal",
    ),
)
SUN = Source(
    "2402.17762",
    "the paper's text",
    remarks=(
        "first and last block: with a massive activation in more than half of our sequences, 0 for none; dimensions: "
        "the two that most sequences share at the block of the peak; both ways of counting are ours",
    ),
)
SUN_ABLATED = Source(
    "2402.17762",
    "the paper's text",
    remarks=(
        "perplexity: exp of our mean loss in nats; what is set to 0 or to its mean is said in docs/dataset.md, and an "
        "infinite perplexity may be one that their precision does not hold",
    ),
)
OWEN_DYNAMICS = Source(
    "2508.03616",
    "RedPajama",
    sequences=10,
    remarks=("ratio: of means over sequences (Eq. 8 of the paper), the largest of the blocks",),
)

NATURAL = Setting(GU, "sinks", "builtin", "auto", 100, 64)
RANDOM = Setting(GU, "sinks", "random", "never", 100, 64)
REPEATED = Setting(GU, "sinks", "repeated", "never", 100, 64)
STRICT = Setting(BARBERO, "sinks", "builtin", "auto", 100, 64)
PEAKS = Setting(OWEN, "massive", "builtin", "never", 10, 4096)
PEAKS_GPT2 = Setting(OWEN, "massive", "builtin", "never", 10, 1024, published_length=1024)
PLACES = Setting(SUN, "massive", "builtin", "auto", 10, 4096)
RATIOS = Setting(OWEN_DYNAMICS, "massive", "builtin", "auto", 10, 2048)
ABLATED = Setting(SUN_ABLATED, "ablation", "builtin", "auto", 10, 4096)


def _sinks(model: Model, natural: float, random: float | None = None, repeated: float | None = None) -> list[Figure]:
    found = [Figure("sinks", model, SINK_NATURAL, natural, NATURAL)]
    if random is not None:
        found.append(Figure("sinks", model, SINK_RANDOM, random, RANDOM))
    if repeated is not None:
        found.append(Figure("sinks", model, SINK_REPEATED, repeated, REPEATED))
    return found


def _massive(setting: Setting, model: Model, **values: Value) -> list[Figure]:
    known = (PEAK, PEAK_BLOCK, PEAK_DIMENSION, MASSIVE_BLOCKS, DIMENSIONS, FIRST_BLOCK, LAST_BLOCK)
    return [Figure("massive", model, one, values[one.key], setting) for one in known if one.key in values]


FIGURES: tuple[Figure, ...] = (
    *_sinks(GPT2_XL, 77.00, 70.29, 62.28),
    *_sinks(MISTRAL, 97.49, 75.21, 0.0),
    *_sinks(LLAMA2_7B, 92.47, 90.13, 0.0),
    *_sinks(LLAMA3_8B, 99.02, 91.23, 0.0),
    *_sinks(LLAMA2_13B, 91.69),
    *_sinks(MISTRAL_CHAT, 88.34),
    *_sinks(LLAMA2_7B_CHAT, 92.88),
    *_sinks(LLAMA2_13B_CHAT, 90.94),
    *_sinks(LLAMA3_8B_CHAT, 98.85),
    Figure("sinks", LLAMA31_8B, SINK_STRICT, 45.97, STRICT),
    Figure("sinks", LLAMA31_70B, SINK_STRICT, 73.49, STRICT),
    Figure("sinks", LLAMA31_405B, SINK_STRICT, 78.29, STRICT),
    *_massive(PEAKS_GPT2, GPT2, peak=3024.0, peak_block=9, peak_dimension=447),
    *_massive(PEAKS, LLAMA2_7B, peak=2512.0, peak_block=4),
    *_massive(PLACES, LLAMA2_7B, dimensions=(1415, 2533), first_block=2, last_block=30),
    *_massive(PEAKS, OLMO, peak=1004.0, peak_block=24, peak_dimension=269),
    *_massive(PEAKS, OLMO2, massive_blocks=0),
    *_massive(PEAKS, FALCON, peak=4512.0),
    *_massive(PEAKS, PHI2, peak=1160.0),
    *_massive(PEAKS, GEMMA3, peak=81920.0),
    Figure("ratio", PYTHIA_14M, RATIO, 83.0, RATIOS),
    Figure("ratio", PYTHIA_1_4B, RATIO, 2350.0, RATIOS),
    Figure("ratio", PYTHIA_12B, RATIO, 3200.0, RATIOS),
    Figure("ablation", LLAMA2_7B, PERPLEXITY, 5.47, ABLATED),
    Figure("ablation", LLAMA2_7B, PERPLEXITY_ZERO, inf, ABLATED),
    Figure("ablation", LLAMA2_7B, PERPLEXITY_MEAN, 5.47, ABLATED),
)


def models(figures: Sequence[Figure]) -> list[Model]:
    """The models of `figures`, each once, smallest first."""
    return sorted(dict.fromkeys(figure.model for figure in figures), key=lambda model: model.size)


def select(names: Sequence[str] | None, table: str | None = None) -> tuple[Figure, ...]:
    """The figures of the models named, by name or Hub id in any case, None for all; of one table, None for all.

    Raises UsageError for an unknown table, an unknown model, and a model that has no figure in the table.
    """
    if table is not None and table not in TABLES:
        raise UsageError(f"unknown table {table!r}: expected one of {', '.join(TABLES)}")
    inside = tuple(figure for figure in FIGURES if table in (None, figure.table))
    if names is None:
        return inside
    chosen = set()
    for name in names:
        wanted = name.lower()
        found = [model for model in models(inside) if wanted in (model.name.lower(), model.hub_id.lower())]
        if not found:
            where = "with published numbers" if table is None else f"in the table {table}"
            known = ", ".join(model.name for model in models(inside))
            raise UsageError(f"there is no model {name!r} {where}: expected some of {known}, or their Hub ids")
        chosen.update(found)
    return tuple(figure for figure in inside if figure.model in chosen)
