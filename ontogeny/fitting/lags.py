"""How clusters of tokens move when sinks and massive activations appear: lagged correlations of their changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ontogeny.dataset import SELECTIONS, HasDataset, Selection, ratio_of_means
from ontogeny.errors import UsageError
from ontogeny.fitting.correlation import LEAST_PAIRS, Correlations, constant, correlate, window
from ontogeny.fitting.scan import CARRIED, LEVEL, RATIO_OF, fitted_checkpoints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SOURCES = ("arXiv:2510.06477", "arXiv:2410.06833", "arXiv:2410.10781", "arXiv:2508.03616")
FURTHEST = 3
REPLICATES = 1999
THRESHOLD = 0.9
EPSILON = 0.3
DRIVERS = {
    "sink_rate": "sink rate at position 0, epsilon 0.3, mean over layers and heads",
    "massive_ratio": "logarithm of the massive ratio (ratio of means), largest over depths",
}
RESPONSES = {
    "cluster_count": "logarithm of the cluster count, mean over depths 1 to L",
    "plateau_share": "share of sequences in a plateau, mean over depths 1 to L",
    "mean_cosine": "mean cosine of the tokens' states, mean over depths 1 to L",
    "matrix_entropy": "matrix entropy at the valley, its least value over depths 1 to L - 1",
    "valley_depth": "depth of that least value",
    "anisotropy": "anisotropy, largest over depths 1 to L - 1",
}
AT_DEPTH = {
    "cluster_count": "logarithm of the cluster count",
    "plateau_share": "share of sequences in a plateau",
    "mean_cosine": "mean cosine of the tokens' states",
    "matrix_entropy": "matrix entropy",
    "anisotropy": "anisotropy",
}
OK, TOO_FEW, CONSTANT = "ok", "too few checkpoints", "constant"


def lags(
    scan: HasDataset | xr.Dataset,
    *,
    selection: Selection = "all",
    threshold: float = THRESHOLD,
    by_depth: bool = False,
    furthest: int = FURTHEST,
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> xr.Dataset:
    """Correlate changes of sinks and massive activations with those of clusters, at lags up to `furthest` checkpoints.

    A change is the difference between neighbouring checkpoints, all of one scan and so of one corpus; at a lag of k the
    response changes k checkpoints after the driver. DRIVERS and RESPONSES say what is correlated, counts and plateaus
    at `threshold`, over the tokens of `selection`; with `by_depth` the responses are AT_DEPTH, over `depth` besides.

    Over (driver, response, lag): `correlation`, Pearson's; `correlation_low` and `correlation_high`, its interval at
    `level` for that lag alone; `p_value`, that lag's |correlation| against what chance gives as the largest over the
    lags, so that a 5 % bound holds for all lags of one driver and response, not for all pairs of these together;
    `pairs` of changes; `verdict`, "ok" or what the data lack.

    Interval and p-value allow for the autocorrelation of changes, by `replicates` resamples of blocks, but say nothing
    of causes: two things that emerge at once are correlated. One abrupt change in each series is no evidence, and its
    p-value says so. As checkpoints are often spaced by a ratio, the coordinate `lag_ratio` is the median ratio of the
    step at which the response has changed to that of the driver; `lag_ratio_low` and `lag_ratio_high` are its extremes.

    Raises UsageError for what is no scan's dataset, one without the variables of `clusters`, and impossible options.
    """
    _refuse(selection, furthest, level, replicates)
    dataset = scan if isinstance(scan, xr.Dataset) else scan.dataset
    sound, left_out = fitted_checkpoints(dataset)
    drivers = _drivers(sound)
    responses = _responses(_clusters(sound, selection, threshold), by_depth)
    offsets = list(range(-furthest, furthest + 1))
    rows = sound.sizes["depth"] if by_depth else 1
    found = [
        [_pair(driver, response, rows, offsets, level, replicates) for response in responses.values()]
        for driver in drivers.values()
    ]
    result = _labelled(found, list(responses), offsets, level)
    result = result.assign_coords(depth=sound["depth"]) if by_depth else result.isel(depth=0)
    result = result.assign_coords(_ratios(sound["step"].values.astype(np.float64), offsets))
    carried = {name: dataset.attrs[name] for name in CARRIED if name in dataset.attrs}
    settings = {"selection": selection, "threshold": threshold, "level": level, "replicates": replicates}
    counts = {"checkpoints_fitted": sound.sizes["checkpoint"], **left_out}
    return result.assign_attrs(carried | _definitions(by_depth) | settings | counts)


def _refuse(selection: str, furthest: int, level: float, replicates: int) -> None:
    if selection not in SELECTIONS:
        raise UsageError(f"expected the selection {' or '.join(SELECTIONS)}, got {selection!r}")
    if not 0 < level < 1 or replicates < 1:
        raise UsageError(f"expected a level between 0 and 1 and 1 or more replicates, got {level} and {replicates}")
    if furthest < 0:
        raise UsageError(f"expected lags of 0 or more checkpoints, got {furthest}")


def _clusters(dataset: xr.Dataset, selection: str, threshold: float) -> xr.Dataset:
    """The variables of the probe `clusters` in one selection of tokens and at one threshold."""
    measured = [name for name in AT_DEPTH if name in dataset]
    if not measured:
        raise UsageError(
            "expected a scan with the variables of the probe `clusters`, it has none: scan again with "
            "`--probes sinks,massive,clusters`, into a new folder"
        )
    chosen = dataset[measured].sel(selection=selection)
    if "threshold" not in chosen.dims:
        return chosen
    places = np.flatnonzero(np.isclose(chosen["threshold"].values, threshold))
    if not places.size:
        listed = ", ".join(f"{value:g}" for value in chosen["threshold"].values)
        raise UsageError(f"threshold {threshold:g} was not measured: expected one of {listed}")
    return chosen.isel(threshold=int(places[0]))


def _drivers(dataset: xr.Dataset) -> dict[str, Array | None]:
    """The series of each driver, (checkpoint,); None where it was not measured."""
    rate: xr.DataArray | None = None
    ratio: xr.DataArray | None = None
    if "sink_rate" in dataset and 0 in dataset["position"]:
        rates = dataset["sink_rate"].sel(position=0).sel(epsilon=EPSILON, method="nearest", tolerance=1e-4)
        rate = rates.astype(np.float64).mean(["layer", "head"], skipna=False)
    if all(name in dataset for name in RATIO_OF):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = xr.apply_ufunc(np.log, ratio_of_means(dataset).max("depth", skipna=False))
    return {name: None if one is None else one.values for name, one in zip(DRIVERS, (rate, ratio), strict=True)}


def _responses(clusters: xr.Dataset, by_depth: bool) -> dict[str, Array | None]:
    """The series of each response, (depth or 1, checkpoint); None where it was not measured."""
    each = {str(name): one.astype(np.float64).transpose("depth", "checkpoint").values for name, one in clusters.items()}
    if "cluster_count" in each:
        with np.errstate(divide="ignore", invalid="ignore"):
            each["cluster_count"] = np.log(each["cluster_count"])
    if by_depth:
        return {name: each.get(name) for name in AT_DEPTH}
    found: dict[str, Array | None] = dict.fromkeys(RESPONSES)
    for name in ("cluster_count", "plateau_share", "mean_cosine"):
        if name in each:
            found[name] = each[name][1:].mean(axis=0)[None]
    if "anisotropy" in each and len(each["anisotropy"]) > 2:
        found["anisotropy"] = each["anisotropy"][1:-1].max(axis=0)[None]
    if "matrix_entropy" in each and len(each["matrix_entropy"]) > 2:
        inside = each["matrix_entropy"][1:-1]
        found["matrix_entropy"] = inside.min(axis=0)[None]
        place = 1.0 + np.argmin(inside, axis=0)
        found["valley_depth"] = np.where(np.isfinite(inside).all(axis=0), place, np.nan)[None]
    return found


def _pair(
    driver: Array | None, response: Array | None, rows: int, offsets: list[int], level: float, replicates: int
) -> dict[str, NDArray[np.generic]]:
    """The variables of one driver (checkpoint,) and one response (rows, checkpoint), (rows, lag)."""
    shape = (rows, len(offsets))
    lacks = [_lack(driver, None if response is None else response[row]) for row in range(rows)]
    empty = np.full(shape, np.nan)
    found = Correlations(empty, empty, empty, empty, np.zeros(len(offsets), dtype=np.int64))
    if driver is not None and response is not None and driver.size > 1:
        usable = np.array([lack == OK for lack in lacks])
        changes = np.where(usable[:, None], np.diff(response, axis=1), 0.0)
        first = np.diff(driver) if usable.any() else np.zeros(driver.size - 1)
        found = correlate(first, changes, offsets, level, replicates)
    verdict = np.repeat(np.array(lacks, dtype=object)[:, None], len(offsets), axis=1)
    fine = verdict == OK
    verdict[fine & (found.pairs < LEAST_PAIRS)] = TOO_FEW
    verdict[fine & (found.pairs >= LEAST_PAIRS) & np.isnan(found.correlation)] = CONSTANT
    verdict[fine & np.isfinite(found.correlation) & np.isnan(found.low)] = "no interval"
    return {
        "correlation": found.correlation,
        "correlation_low": found.low,
        "correlation_high": found.high,
        "p_value": found.p_value,
        "pairs": np.broadcast_to(found.pairs, shape),
        "verdict": verdict,
    }


def _lack(driver: Array | None, response: Array | None) -> str:
    """What two series (checkpoint,) lack to be correlated; "ok" where nothing."""
    if driver is None or response is None:
        return "not measured"
    if driver.size - 1 < LEAST_PAIRS:
        return TOO_FEW
    if not np.isfinite(driver).all() or not np.isfinite(response).all():
        return "not finite"
    return CONSTANT if constant(driver) or constant(response) else OK


def _labelled(
    found: list[list[dict[str, NDArray[np.generic]]]], responses: list[str], offsets: list[int], level: float
) -> xr.Dataset:
    described = {
        "correlation": ("Pearson correlation of changes between neighbouring checkpoints", "1"),
        "correlation_low": (f"lower end of its {level:.0%} interval, for that lag alone", "1"),
        "correlation_high": (f"upper end of its {level:.0%} interval, for that lag alone", "1"),
        "p_value": ("p-value of |correlation| at that lag against the largest over the lags by chance", "1"),
        "pairs": ("pairs of changes", "1"),
        "verdict": ("ok, or what the data lack", "1"),
    }
    dims = ("driver", "response", "depth", "lag")
    variables = {
        name: (
            dims,
            np.stack([np.stack([one[name] for one in row]) for row in found]),
            {"long_name": long_name, "units": units, "source": ", ".join(SOURCES)},
        )
        for name, (long_name, units) in described.items()
    }
    lag = ("lag", offsets, {"long_name": "checkpoints from the change of the driver to that of the response"})
    return xr.Dataset(variables, {"driver": list(DRIVERS), "response": responses, "lag": lag})


def _ratios(steps: Array, offsets: list[int]) -> dict[str, tuple[str, Array, dict[str, str]]]:
    """What each lag is as a ratio of steps, from the ends of both changes; NaN where there is no pair."""
    ends = steps[1:]
    found = np.full((3, len(offsets)), np.nan)
    for i, lag in enumerate(offsets):
        ratio = window(ends, lag) / window(ends, -lag)
        if ratio.size:
            found[:, i] = np.median(ratio), ratio.min(), ratio.max()
    about = "ratio of the steps at which response and driver have changed"
    names = {"lag_ratio": f"median {about}", "lag_ratio_low": f"least {about}", "lag_ratio_high": f"largest {about}"}
    return {
        name: ("lag", values, {"long_name": text, "units": "1"})
        for (name, text), values in zip(names.items(), found, strict=True)
    }


def _definitions(by_depth: bool) -> dict[str, str]:
    defined = DRIVERS | {f"response_{name}": text for name, text in (AT_DEPTH if by_depth else RESPONSES).items()}
    blocks = "blocks of sqrt(changes) (1 + r), r the product of both autocorrelations at lag 1 where positive"
    return defined | {
        "change": "difference between neighbouring checkpoints",
        "interval": f"Fisher's z, standard error over resamples of moving {blocks}, Student's quantile",
        "test": f"|correlation| at each lag against the largest over the lags with drivers shuffled in {blocks}",
    }
