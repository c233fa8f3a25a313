"""The order of events in each layer: when a sink, its drained value, and the massive activation emerge."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from ontogeny.dataset import HasDataset, ratio_of_means
from ontogeny.errors import UsageError
from ontogeny.fitting.half_way import half_way
from ontogeny.fitting.scan import CARRIED, LEVEL, RATIO_OF, fitted_checkpoints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

EVENTS = ("sink", "drain", "massive")
SOURCES = ("arXiv:2410.10781", "arXiv:2410.13835", "arXiv:2508.03616")
NEEDS = {"sink": ("sink_score",), "drain": ("sink_score", "value_norm"), "massive": RATIO_OF}
PER_SEQUENCE = ("top_sink_score", "top_sink_position")
SINK_RISE, SINK_END = 0.1, 0.3
DRAIN_END, DRAIN_FACTOR = 0.5, 0.5
MASSIVE_FACTOR = 2.0
KNOWN_SHARE = 0.5
SEED = 20250803
REPLICATES = 1000

FOUND = "found"
Heads = Literal["first", "strongest"]


@dataclass(frozen=True)
class Series:
    """An event's observable over checkpoints, (n,), and the same on sequences drawn anew, (replicates, n), or None."""

    values: Array
    resampled: Array | None = None


@dataclass(frozen=True)
class Event:
    """What became of one event in one layer; steps are NaN unless the verdict is "found".

    `draws` (replicates,) are the steps that the order is judged by, NaN in a replicate without the event; None where
    the event could not be looked for.
    """

    verdict: str
    uncertainty: str = "none"
    step: float = math.nan
    step_low: float = math.nan
    step_high: float = math.nan
    sampling_low: float = math.nan
    sampling_high: float = math.nan
    before: float = math.nan
    after: float = math.nan
    draws: Array | None = None


def events(
    scan: HasDataset | xr.Dataset, *, head: Heads = "first", level: float = LEVEL, bootstrap: int = REPLICATES
) -> xr.Dataset:
    """When the sink, the drained value and the massive activation of each layer emerge, and in which order.

    An event's step is where its observable has gone half of its way from the first sound checkpoint to the last, for
    good (`half_way`): of `sink` the sink score of position 0 in one head, of `drain` the value norm of position 0 in
    that head, of `massive` the ratio of means at depth layer + 1. An event is "absent" where the whole change is not
    notable: attributes of the result give the limits. The head is the layer's first lasting sink, or with
    `head="strongest"` the one of highest sink score at the last checkpoint, as it is where there is no sink.

    Over (layer, event), in steps: `step`; `before` and `after`, the checkpoints that it lies between; `step_low` and
    `step_high`, its interval; `sampling_low` and `sampling_high`, percentiles at `level` of the interpolated step over
    `bootstrap` draws of the sequences, which know nothing of what the curve does between two checkpoints. Where the
    draws can be made, `uncertainty` is "checkpoints and sequences" and the interval goes from the low percentile of
    `before` to the high one of `after`; where sequences were averaged when measured it is "checkpoints", the interval
    from `before` to `after`, and there are no `sampling` ends. `verdict` says what came of the event.

    Over layer: `head`, `order`, and `order_confidence`, the share of replicates with that very order; in each the
    sequences are drawn anew and every step is uniform in log(1 + step) between its two checkpoints. `precedes` over
    (layer, event, other) is the share in which one event comes before the other.

    Raises UsageError for what is no scan's dataset, and for impossible options.
    """
    if head not in ("first", "strongest"):
        raise UsageError(f"expected the head first or strongest, got {head!r}")
    if not 0 < level < 1 or bootstrap < 1:
        raise UsageError(f"expected a level between 0 and 1 and 1 or more replicates, got {level} and {bootstrap}")
    dataset = scan if isinstance(scan, xr.Dataset) else scan.dataset
    sound, left_out = fitted_checkpoints(dataset)
    layers = _layers(sound)
    steps = sound["step"].values.astype(np.float64)
    draw = np.random.default_rng(SEED)
    sequences = sound.sizes.get("sequence", 0)
    shares = (
        draw.multinomial(sequences, np.full(sequences, 1 / sequences), bootstrap) / sequences if sequences else None
    )
    chosen = _chosen_heads(sound, steps, layers, head)
    found = []
    for layer, of_layer in zip(layers, chosen, strict=True):
        series = _observables(sound, int(layer), of_layer, shares if sequences > 1 else None)
        found.append([_event(name, steps, series.get(name), level, bootstrap, draw) for name in EVENTS])
    orders = [_order(of_layer) for of_layer in found]
    result = _labelled(found, orders, layers, chosen, level)
    carried = {name: dataset.attrs[name] for name in CARRIED if name in dataset.attrs}
    counts = {"checkpoints_fitted": steps.size, **left_out}
    return result.assign_attrs(carried | _definitions(head, level, bootstrap) | counts)


def _layers(dataset: xr.Dataset) -> NDArray[np.int64]:
    if "layer" in dataset.dims:
        layers = dataset["layer"].values
    elif "depth" in dataset.dims:
        layers = dataset["depth"].values[dataset["depth"].values > 0] - 1
    else:
        raise UsageError(f"expected a dataset with layers or depths, got dimensions {sorted(map(str, dataset.dims))}")
    return np.asarray(layers, dtype=np.int64)


def _measured(dataset: xr.Dataset, event: str) -> bool:
    """Whether the dataset holds what the event is read from, at position 0 where it has positions."""
    names = NEEDS[event]
    return all(name in dataset and ("position" not in dataset[name].dims or 0 in dataset["position"]) for name in names)


def _at_start(dataset: xr.Dataset, name: str) -> Array:
    """A variable of (checkpoint, layer, head, position) at position 0, (layer, head, checkpoint) in float64."""
    values: Array = dataset[name].sel(position=0).transpose("layer", "head", "checkpoint").values.astype(np.float64)
    return values


def _chosen_heads(dataset: xr.Dataset, steps: Array, layers: NDArray[np.int64], head: Heads) -> list[int | None]:
    """The place of the head to look at in each layer; None where sink scores were not measured."""
    if not _measured(dataset, "sink") or not steps.size:
        return [None] * layers.size
    chosen: list[int | None] = []
    for scores in _at_start(dataset, "sink_score"):
        finite = np.flatnonzero(np.isfinite(scores).all(axis=1))
        lasting = finite[_notable("sink", scores[finite])]
        if head == "first" and lasting.size:
            chosen.append(int(lasting[np.argmin(half_way(steps, scores[lasting]).step)]))
        else:
            chosen.append(int(finite[np.argmax(scores[finite, -1])]) if finite.size else 0)
    return chosen


def _observables(dataset: xr.Dataset, layer: int, head: int | None, shares: Array | None) -> dict[str, Series]:
    """The series of every event that was measured; `shares` (replicates, sequence) weigh the sequences."""
    series = {}
    if head is not None:
        place = int(np.flatnonzero(dataset["layer"].values == layer)[0])
        here = dataset.isel(layer=[place], head=[head])
        scores = _at_start(here, "sink_score")[0, 0]
        series["sink"] = Series(scores, _resampled_sink(here, scores, shares))
        if _measured(dataset, "drain"):
            series["drain"] = Series(_at_start(here, "value_norm")[0, 0])
    if _measured(dataset, "massive") and layer + 1 in dataset["depth"]:
        block = dataset[list(RATIO_OF)].sel(depth=[layer + 1])
        series["massive"] = Series(ratio_of_means(block).values[:, 0], _resampled_ratio(block, shares))
    return series


def _resampled_ratio(block: xr.Dataset, shares: Array | None) -> Array | None:
    if shares is None:
        return None
    each = block.sel(rank=1).isel(depth=0).transpose("sequence", "checkpoint")
    with np.errstate(divide="ignore", invalid="ignore"):  # an infinite activation is judged by the caller
        top, median = (shares @ each[name].values.astype(np.float64) for name in RATIO_OF)
        ratio: Array = top / median
    return ratio


def _resampled_sink(here: xr.Dataset, scores: Array, shares: Array | None) -> Array | None:
    """The sink score of position 0 on sequences drawn anew, from those in which position 0 is the top sink.

    Of the others only the mean is known, from `scores`, and stands for each. None where these are more than half of
    the sequences at a checkpoint that decides: the first, the last, those on either side of the half way.
    """
    if shares is None or scores.size < 2 or any(name not in here for name in PER_SEQUENCE):
        return None
    each = here[list(PER_SEQUENCE)].isel(layer=0, head=0).transpose("sequence", "checkpoint")
    known = each["top_sink_position"].values == 0
    after = int(half_way(np.arange(scores.size, dtype=np.float64), scores).place)
    if known[:, [0, after - 1, after, -1]].mean(axis=0).min() < KNOWN_SHARE:
        return None
    own = np.where(known, each["top_sink_score"].values.astype(np.float64), 0.0)
    others = (scores * known.shape[0] - own.sum(axis=0)) / np.maximum((~known).sum(axis=0), 1)
    own = np.where(known, own, others)
    resampled: Array = scores + shares @ own - own.mean(axis=0)
    return resampled


def _notable(event: str, values: Array) -> NDArray[np.bool_]:
    """Whether series (..., n) change enough, from the first value to the last, for the event to have happened."""
    first, last = values[..., 0], values[..., -1]
    if event == "sink":
        notable = (last - first >= SINK_RISE) & (last > SINK_END)
    elif event == "drain":
        notable = (last < DRAIN_END) & (last <= DRAIN_FACTOR * first) & (last < first)
    else:
        notable = (last >= MASSIVE_FACTOR * first) & (last > first)
    return np.asarray(notable)


def _event(
    name: str, steps: Array, series: Series | None, level: float, replicates: int, draw: np.random.Generator
) -> Event:
    if series is None:
        return Event("not measured")
    if steps.size < 2:
        return Event("too few checkpoints")
    each = series.values[None] if series.resampled is None else series.resampled
    if not np.isfinite(series.values).all() or not np.isfinite(each).all():
        return Event("not finite")
    drawn = half_way(steps, each)
    there = _notable(name, each)
    low, high = (np.log1p(np.broadcast_to(end, replicates)) for end in (drawn.before, drawn.after))
    draws = np.where(there, np.expm1(low + draw.uniform(size=replicates) * (high - low)), np.nan)
    if not _notable(name, series.values):
        return Event("absent", draws=draws)
    point = half_way(steps, series.values)
    step, before, after = float(point.step), float(point.before), float(point.after)
    if series.resampled is None:
        return Event(FOUND, "checkpoints", step, before, after, before=before, after=after, draws=draws)
    where = Event(FOUND, "checkpoints and sequences", step, before=before, after=after, draws=draws)
    if there.sum() < level * replicates:
        return where
    low_end, high_end = (1 - level) / 2, (1 + level) / 2
    sampling_low, sampling_high = np.quantile(drawn.step[there], [low_end, high_end])
    return replace(
        where,
        step_low=float(np.quantile(drawn.before[there], low_end, method="lower")),
        step_high=float(np.quantile(drawn.after[there], high_end, method="higher")),
        sampling_low=float(sampling_low),
        sampling_high=float(sampling_high),
    )


def _order(of_layer: list[Event]) -> tuple[str, float]:
    """The events of a layer in the order of their steps, and the share of replicates with that very order."""
    places = sorted((i for i, event in enumerate(of_layer) if event.verdict == FOUND), key=lambda i: of_layer[i].step)
    looked_for = [i for i, event in enumerate(of_layer) if event.draws is not None]
    if not looked_for:
        return "unknown", math.nan
    draws = np.stack([event.draws for event in of_layer if event.draws is not None], axis=-1)
    present = np.isfinite(draws) == np.isin(looked_for, places)
    inside = [looked_for.index(i) for i in places]
    agrees = present.all(axis=1) & (np.diff(draws[:, inside], axis=1) > 0).all(axis=1)
    text, tied = "", False
    for i, after in zip(places, [None, *places], strict=False):
        same = after is not None and of_layer[i].step == of_layer[after].step
        tied |= same
        text += f"{'' if after is None else ' = ' if same else ' < '}{EVENTS[i]}"
    return text or "none", math.nan if tied else float(agrees.mean())


def _precedes(of_layer: list[Event]) -> Array:
    """Share of replicates in which the event of the row comes before that of the column; NaN unless both are found."""
    shares = np.full((len(EVENTS), len(EVENTS)), np.nan)
    for i, one in enumerate(of_layer):
        for j, other in enumerate(of_layer):
            if i != j and one.verdict == other.verdict == FOUND and one.draws is not None and other.draws is not None:
                shares[i, j] = (one.draws < other.draws).mean()
    return shares


def _labelled(
    found: list[list[Event]],
    orders: list[tuple[str, float]],
    layers: NDArray[np.int64],
    chosen: list[int | None],
    level: float,
) -> xr.Dataset:
    sampled = f"end of the {level:.0%} interval of the interpolated step by bootstrap over sequences"
    described = {
        "step": ("step at which half of the way is gone for good, interpolated", "steps"),
        "step_low": (f"lower end of its interval, {level:.0%} where sequences are drawn (see uncertainty)", "steps"),
        "step_high": (f"upper end of its interval, {level:.0%} where sequences are drawn (see uncertainty)", "steps"),
        "sampling_low": (f"lower {sampled}", "steps"),
        "sampling_high": (f"upper {sampled}", "steps"),
        "before": ("last checkpoint before half of the way is gone for good", "steps"),
        "after": ("first checkpoint from which on half of the way is gone", "steps"),
        "verdict": ("whether the event was found", "1"),
        "uncertainty": ("what the interval allows for", "1"),
    }
    both = ("layer", "event")
    shape = (layers.size, len(EVENTS))
    variables = {
        name: (both, np.array([getattr(one, name) for row in found for one in row]).reshape(shape), _about(*words))
        for name, words in described.items()
    }
    heads = np.array([-1 if head is None else head for head in chosen], dtype=np.int64)
    share = np.array([_precedes(row) for row in found]).reshape(*shape, len(EVENTS))
    confidence = _about("share of replicates with that very order", "1")
    of_layers = {
        "head": ("layer", heads, _about("head of the sink and the drain; -1 where none was measured", "1")),
        "order": ("layer", np.array([text for text, _ in orders], dtype=object), _about("events by their steps", "1")),
        "order_confidence": ("layer", np.array([value for _, value in orders], dtype=np.float64), confidence),
        "precedes": ((*both, "other"), share, _about("share of replicates in which event comes before other", "1")),
    }
    coords = {"layer": layers, "event": list(EVENTS), "other": list(EVENTS)}
    return xr.Dataset({**variables, **of_layers}, coords)


def _about(long_name: str, units: str) -> dict[str, str]:
    return {"long_name": long_name, "units": units, "source": ", ".join(SOURCES)}


def _definitions(head: Heads, level: float, bootstrap: int) -> dict[str, str]:
    return {
        "sink": f"sink score of position 0, rises by {SINK_RISE:g} or more and ends above {SINK_END:g}",
        "drain": f"value norm of position 0, falls to {DRAIN_FACTOR:g} of itself or less and ends below {DRAIN_END:g}",
        "massive": f"massive ratio (ratio of means) at depth layer + 1, grows {MASSIVE_FACTOR:g}-fold or more",
        "head_chosen": "the first lasting sink" if head == "first" else "the strongest at the last checkpoint",
        "level": f"{level:g}",
        "bootstrap": str(bootstrap),
    }
