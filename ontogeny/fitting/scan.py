"""Fit emergence curves to every depth, layer or head of a scan: labelled data in, labelled data out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from ontogeny.dataset import RATIO_OF_MEANS, HasDataset, ratio_of_means, sound_checkpoints
from ontogeny.errors import UsageError
from ontogeny.fitting.emergence import EmergenceFit, Interval, Loss, fit_curves
from ontogeny.fitting.resampling import RESAMPLED, bootstrap_intervals, inverse_variance

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SOURCE = "arXiv:2508.03616"
RATIO = "massive_ratio"
RATIO_OF = ("top_activation", "median_activation")
PLACES = ("depth", "layer", "head")
SELECTED = {"position": 0.0, "epsilon": 0.3, "rank": 1.0}
CARRIED = ("source", "series", "ontogeny_version", "corpus", "corpus_fingerprint")
CURVE = "exp(-beta t) (A1 log(t + tau0) + A2) + K"
STEPS, VALUES = "steps", "values"

LEVEL = 0.95
Weights = Literal["equal", "sequences"]

VARIABLES: dict[str, tuple[str, str]] = {
    "A1": ("coefficient of the decaying logarithm", VALUES),
    "A2": ("coefficient of the decaying exponential", VALUES),
    "K": ("asymptote", VALUES),
    "beta": ("rate of decay", "1/steps"),
    "tau0": ("offset in the logarithm", STEPS),
    "r2": ("share of variance explained by the curve", "1"),
    "residual_std": ("residual standard deviation", VALUES),
    "points": ("number of values fitted", "1"),
    "peak_step": ("step at which the curve is highest (none up to the last step: NaN)", STEPS),
    "peak_value": ("value of the curve at its peak", VALUES),
    "final_value": ("value of the curve at the last step", VALUES),
    "half_rise_step": ("step at which the curve has gone half of its way from the first step to the last", STEPS),
    "verdict": ("what came of the fit", "1"),
    "regime": ("shape of the fitted curve", "1"),
    "left_open": ("quantities of which the data leave an end of the interval open", "1"),
}
INTERVALS: dict[str, tuple[str, str]] = {
    **{name: VARIABLES[name] for name in ("final_value", "peak_value", "peak_step", "half_rise_step", "K")},
    "A": ("published parameter A", VALUES),
    "lambda_": ("published parameter lambda", "1"),
    "gamma": ("published parameter gamma", "1/steps"),
    "t0": ("published parameter t0", "1"),
}


def fit(
    scan: HasDataset | xr.Dataset,
    metric: str = RATIO,
    *,
    level: float | None = LEVEL,
    weights: Weights = "equal",
    loss: Loss = "squares",
    bootstrap: int = 0,
) -> xr.Dataset:
    """Fit the emergence curve to `metric` over checkpoints, at every depth, layer or (layer, head) that it has.

    The result holds the parameters, `r2`, `verdict`, `regime` and the other VARIABLES over those dimensions, NaN where
    the verdict denies a curve, and `observed`, the series that was fitted, over `checkpoint` besides. `massive_ratio`
    is the ratio of the means over sequences (arXiv 2508.03616, Eq. 8); of other metrics the mean over sequences is
    fitted, at position 0, epsilon 0.3, rank 1 where they have those dimensions. Checkpoints that state no step, and
    those whose own verdict is neither "ok" nor "unaudited", are left out and counted in the attributes; `left_out`
    names the latter with their verdicts.

    INTERVALS have variables `<name>_low` and `<name>_high` too, by profile likelihood at confidence `level`; None
    leaves them out, which is ten times as fast. With
    `weights="sequences"` a point counts by the inverse variance of its mean over sequences. `loss` is that of
    `fit_curve`. `bootstrap`, a number of replicates, adds `<name>_boot_low` and `<name>_boot_high`, percentiles of fits
    on sequences drawn anew. Both need a metric that was measured per sequence.

    Raises UsageError for a metric that cannot be fitted, or not in that way.
    """
    if bootstrap < 0:
        raise UsageError(f"expected 0 or more replicates of the bootstrap, got {bootstrap}")
    dataset = scan if isinstance(scan, xr.Dataset) else scan.dataset
    sound, left_out = fitted_checkpoints(dataset)
    observed, definition = _observed(sound, metric)
    places = [dim for dim in PLACES if dim in observed.dims]
    observed = observed.transpose(*places, "checkpoint")
    shape = [observed.sizes[dim] for dim in places]
    rows = observed.values.reshape(math.prod(shape), observed.sizes["checkpoint"])
    steps = observed["step"].values
    own = _row_weights(sound, metric, weights, places, rows.shape)
    fits = fit_curves(steps, rows, own, level=level, loss=loss)
    units = observed.attrs["units"]
    variables = {
        name: (places, np.array([_entry(one, name) for one in fits]).reshape(shape), _attributes(name, units))
        for name in VARIABLES
    }
    ends = {"": [dict(one.intervals) for one in fits]} if level is not None else {}
    if bootstrap:
        ends["_boot"] = _bootstrapped(sound, metric, places, rows, bootstrap, level or LEVEL, loss)
    for kind, found in ends.items():
        for name in RESAMPLED if kind else INTERVALS:
            for side in ("low", "high"):
                values = [getattr(of_curve[name], side) if name in of_curve else math.nan for of_curve in found]
                described = _end_attributes(name, side, kind, level or LEVEL, units)
                variables[f"{name}{kind}_{side}"] = (places, np.array(values).reshape(shape), described)
    carried = {name: dataset.attrs[name] for name in CARRIED if name in dataset.attrs}
    fitted = {"metric": metric, "definition": definition, "curve": CURVE, "curve_source": SOURCE}
    fitted |= {"weights": weights, "loss": loss}
    if ends:
        fitted["level"] = f"{level or LEVEL:g}"
    counts = {"checkpoints_fitted": observed.sizes["checkpoint"], **left_out}
    return xr.Dataset({"observed": observed, **variables}, attrs=carried | fitted | counts)


def evaluate(fits: xr.Dataset, steps: ArrayLike) -> xr.DataArray:
    """The curves of `fits` at `steps` (n,) >= 0, over the dimensions of `fits` and `step`; NaN without a curve."""
    t = np.asarray(steps, dtype=float)
    if t.ndim != 1 or not np.isfinite(t).all() or (t < 0).any():
        raise UsageError(f"expected steps of shape (n,), finite and 0 or more, got {steps!r}")
    step = xr.DataArray(t, dims="step", coords={"step": t})
    decay = xr.apply_ufunc(np.exp, -fits["beta"] * step)
    logarithm = xr.apply_ufunc(np.log, step + fits["tau0"])
    values: xr.DataArray = decay * (fits["A1"] * logarithm + fits["A2"]) + fits["K"]
    long_name, units = f"fitted curve of {fits.attrs['metric']}", fits["K"].attrs["units"]
    return values.rename("fitted").assign_attrs(long_name=long_name, units=units, source=SOURCE)


def fitted_checkpoints(dataset: xr.Dataset) -> tuple[xr.Dataset, dict[str, int | str]]:
    """The checkpoints that can be fitted, in the order of their steps, and which were left out for which reason."""
    if "checkpoint" not in dataset.dims or "step" not in dataset.coords:
        raise UsageError(
            "expected the dataset of a scan, with a `checkpoint` dimension and a `step` for each, "
            f"got dimensions {sorted(map(str, dataset.dims))} and coordinates {sorted(map(str, dataset.coords))}"
        )
    step = dataset["step"].values
    timed = step >= 0
    trusted = sound_checkpoints(dataset)
    kept = np.flatnonzero(timed & trusted)
    kept = kept[np.argsort(step[kept], kind="stable")]
    left_out: dict[str, int | str] = {
        "left_out_without_step": int((~timed).sum()),
        "left_out_by_verdict": int((timed & ~trusted).sum()),
    }
    flagged = dataset.isel(checkpoint=np.flatnonzero(timed & ~trusted))
    if flagged.sizes["checkpoint"]:
        labels = flagged["checkpoint" if "checkpoint" in flagged.coords else "step"].values
        left_out["left_out"] = "; ".join(
            f"{label} ({verdict})" for label, verdict in zip(labels, flagged["verdict"].values, strict=True)
        )
    return dataset.isel(checkpoint=kept).drop_vars(["verdict", "verdict_reason"], errors="ignore"), left_out


def _observed(dataset: xr.Dataset, metric: str) -> tuple[xr.DataArray, str]:
    """The series of `metric`, over checkpoint and the places that it has, and how it was formed."""
    if metric == RATIO and metric in _fittable(dataset):
        names = {"long_name": "largest activation over the median one", "units": "1", "source": SOURCE}
        return ratio_of_means(dataset).assign_attrs(names), RATIO_OF_MEANS
    fittable = _fittable(dataset)
    if metric not in fittable:
        needs = f", which needs {' and '.join(RATIO_OF)}" if metric == RATIO else ""
        choice = ", ".join(fittable) or "(this dataset has none)"
        raise UsageError(f"expected a metric that can be fitted, one of {choice}; got {metric!r}{needs}")
    series, selection = _selected(dataset[metric])
    parts = ["mean over sequences"] if "sequence" in series.dims else []
    attributes = {"units": "1", **dataset[metric].attrs}
    return _mean(series).assign_attrs(attributes), ", ".join(parts + selection) or "as measured"


def _fittable(dataset: xr.Dataset) -> list[str]:
    """The metrics that `fit` takes."""
    ratio = [RATIO] if all(name in dataset for name in RATIO_OF) else []
    return ratio + [str(name) for name in dataset.data_vars if name != RATIO and _is_fittable(dataset[name])]


def _is_fittable(variable: xr.DataArray) -> bool:
    """Whether a variable is a measured quantity (not an index or a class) over checkpoints and depths or layers."""
    dims = set(variable.dims)
    return (
        np.issubdtype(variable.dtype, np.floating)
        and "checkpoint" in dims
        and len(dims & {"depth", "layer"}) == 1
        and dims <= {"checkpoint", "sequence", *PLACES, *SELECTED}
    )


def _selected(variable: xr.DataArray) -> tuple[xr.DataArray, list[str]]:
    """`variable` at the SELECTED coordinates that it has, and what they are."""
    selection = []
    for dim in [dim for dim in SELECTED if dim in variable.dims]:
        wanted = SELECTED[dim]
        places = np.flatnonzero(np.isclose(variable[dim].values, wanted))
        if not places.size:
            raise UsageError(f"expected {variable.name} to hold {dim} {wanted:g}, it holds {variable[dim].values}")
        variable = variable.isel({dim: int(places[0])}, drop=True)
        selection.append(f"{dim} {wanted:g}")
    return variable, selection


def _mean(variable: xr.DataArray) -> xr.DataArray:
    """The mean over sequences, in float64; a sequence without a value makes a mean without one."""
    wide = variable.astype(np.float64)
    return wide.mean("sequence", skipna=False) if "sequence" in wide.dims else wide


def _row_weights(
    dataset: xr.Dataset, metric: str, weights: Weights, places: list[str], shape: tuple[int, ...]
) -> np.ndarray | None:
    """The weights (m, n) of the points, None for equal ones."""
    if weights == "equal":
        return None
    if weights != "sequences":
        raise UsageError(f"expected the weights equal or sequences, got {weights!r}")
    _require_sequences(dataset, metric)
    if metric == RATIO:
        top, median = (dataset[name].astype(np.float64) for name in RATIO_OF)
        top = top.sel(rank=1, drop=True)
        ratio = top.mean("sequence") / median.mean("sequence")
        spread = (top - ratio * median) / median.mean("sequence")  # the delta method's, for a ratio of means
    else:
        spread, _ = _selected(dataset[metric].astype(np.float64))
    variance = spread.var("sequence", ddof=1, skipna=False) / spread.sizes["sequence"]
    return inverse_variance(variance.transpose(*places, "checkpoint").values.reshape(shape))


def _bootstrapped(
    dataset: xr.Dataset,
    metric: str,
    places: list[str],
    rows: np.ndarray,
    replicates: int,
    level: float,
    loss: Loss,
) -> list[dict[str, Interval]]:
    _require_sequences(dataset, metric)

    def resample(which: np.ndarray) -> np.ndarray:
        observed, _ = _observed(dataset.isel(sequence=which), metric)
        return observed.transpose(*places, "checkpoint").values.reshape(rows.shape)

    sequences = dataset.sizes["sequence"]
    return bootstrap_intervals(dataset["step"].values, resample, sequences, replicates, level, loss)


def _require_sequences(dataset: xr.Dataset, metric: str) -> None:
    source = dataset[RATIO_OF[0] if metric == RATIO else metric]
    if dataset.sizes.get("sequence", 0) < 2 or "sequence" not in source.dims:
        raise UsageError(
            f"{metric} is not measured per sequence, or on one sequence only: expected weights='equal' and no bootstrap"
        )


def _entry(fit: EmergenceFit, name: str) -> float | int | str:
    """One of VARIABLES of one fit, NaN for None."""
    value = getattr(fit, name) if hasattr(fit, name) else getattr(fit.curve, name, None)
    if isinstance(value, tuple):
        return ", ".join(value)
    return math.nan if value is None else str(value) if isinstance(value, str) else value


def _end_attributes(name: str, side: str, kind: str, level: float, units: str) -> dict[str, str]:
    long_name, unit = INTERVALS[name]
    means = "bootstrap over sequences" if kind else "profile likelihood"
    described = f"{long_name}: {'lower' if side == 'low' else 'upper'} end of its {level:.0%} interval by {means}"
    return {"long_name": described, "units": units if unit == VALUES else unit, "source": SOURCE}


def _attributes(name: str, units: str) -> dict[str, str]:
    long_name, kind = VARIABLES[name]
    return {"long_name": long_name, "units": units if kind == VALUES else kind, "source": SOURCE}
