"""`ontogeny.predict`: the emergence curves to expect of an architecture, before there is a model of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ontogeny.archspec import ArchSpec
from ontogeny.fitting.architecture.basis import grid_steps
from ontogeny.fitting.architecture.features import chosen_layers, feature_matrix, specification
from ontogeny.fitting.architecture.outside import warnings_about
from ontogeny.fitting.architecture.registry import NULL
from ontogeny.fitting.architecture.stored import Trained, bundled
from ontogeny.fitting.architecture.validation import magnitude
from ontogeny.fitting.curve import EmergenceCurve
from ontogeny.fitting.emergence import EmergenceFit, Verdict
from ontogeny.fitting.scan import CURVE, RATIO, SOURCE, STEPS, VARIABLES

PARAMETERS = ("A1", "A2", "K", "beta", "tau0")
READ_OFF = ("regime", "peak_step", "peak_value", "final_value")
NAMES = {"massive_ratio": "largest activation over the median one", "top_activation": "largest magnitude"}


def predict(spec_or_arch: ArchSpec | Mapping[str, Any], layer: int | None = None, metric: str = RATIO) -> xr.Dataset:
    """The curves of `metric` to expect of an architecture, at the depth behind every block, or behind `layer` alone.

    `spec_or_arch` is an ArchSpec, or a mapping with `layers`, `width`, `heads` and, where they are not the usual, other
    fields of it. The result holds `predicted`, `predicted_low` and `predicted_high` (depth, step), the curve's
    parameters, `regime`, `peak_step`, `peak_value` and `final_value` (depth); `ontogeny.fitting.evaluate` takes it. The
    parameters are the curve's own; `predicted` is no less than the metric's least possible value.

    Attributes say which `predictor` this is, its `error` and the null's (leave-one-model-out, in units of the measured
    curve's range), the `level` of the band, `measured_coverage`, `tokens_a_step`, and `warning`: in what the
    architecture is unlike those of the training, empty where in nothing. Steps are those of the training models.
    Raises UsageError for numbers that no transformer has, a layer that there is not, or a metric without a predictor.
    """
    arch = specification(spec_or_arch)
    layers = chosen_layers(arch, layer)
    trained = bundled(metric)
    predictor = trained.load()
    curves = predictor.curves(feature_matrix(arch, layers))
    steps = grid_steps(trained.last_step)
    values = np.stack([np.maximum(curve(steps), trained.floor) for curve in curves])
    width = trained.half_width * magnitude(predictor, arch, trained.last_step, trained.floor)
    named = {"long_name": f"predicted {NAMES.get(metric, metric)}", "units": "1", "source": SOURCE}
    band = f"end of the {trained.level:.0%} prediction interval at each step, by models left out in turn"
    over = ("depth", "step")
    variables: dict[str, Any] = {
        "predicted": (over, values, named),
        "predicted_low": (over, np.maximum(values - width, trained.floor), {**named, "long_name": f"lower {band}"}),
        "predicted_high": (over, values + width, {**named, "long_name": f"upper {band}"}),
    }
    for name in PARAMETERS:
        variables[name] = ("depth", np.array([getattr(curve, name) for curve in curves]), _described(name))
    for name in READ_OFF:
        read = [_read_off(curve, name, trained.last_step) for curve in curves]
        variables[name] = ("depth", np.array(read, dtype=object if name == "regime" else float), _described(name))
    coordinates = {
        "depth": np.array(layers) + 1,
        "layer": ("depth", np.array(layers)),
        "step": ("step", steps, {"long_name": "training step of the training models", "units": STEPS}),
    }
    return xr.Dataset(variables, coordinates, _attributes(arch, trained))


def _attributes(arch: ArchSpec, trained: Trained) -> dict[str, Any]:
    covered = float(np.mean(list(trained.coverage.values())))
    attributes: dict[str, Any] = {
        "metric": trained.metric,
        "curve": CURVE,
        "curve_source": SOURCE,
        "arch": json.dumps(arch.to_dict()),
        "predictor": trained.predictor,
        "error": trained.error,
        "null_error": trained.null_error,
        "error_of_model": json.dumps(dict(trained.of_model)),
        "trained_on": ", ".join(trained.models),
        "data": trained.data,
        "level": trained.level,
        "measured_coverage": f"{covered:.2f} of the points of models left out, at level {trained.coverage_level:.2f}",
        "warning": "; ".join(warnings_about(arch, trained.ranges, trained.facts)),
    }
    if trained.batch_tokens is not None:
        attributes["tokens_a_step"] = trained.batch_tokens
    return attributes | {"score": _score(trained)}


def _score(trained: Trained) -> str:
    """Which predictor it is and how well it does, as a sentence."""
    which = (
        "the null, the mean curve at that relative depth, blind to the architecture: nothing was shown to beat it"
        if trained.predictor == NULL
        else f"{trained.predictor}, which beats the depth-only null ({trained.null_error:.3g})"
    )
    each = ", ".join(f"{name} {error:.3g}" for name, error in trained.of_model.items())
    return (
        f"{which}. Error on each model when it was left out, in units of its curves' ranges: {each}; "
        f"overall {trained.error:.3g}"
    )


def _read_off(curve: EmergenceCurve, name: str, last_step: float) -> Any:
    read = getattr(EmergenceFit(Verdict.OK, points=0, first_step=0.0, last_step=last_step, curve=curve), name)
    return str(read) if name == "regime" else np.nan if read is None else read


def _described(name: str) -> dict[str, str]:
    long_name, units = VARIABLES[name]
    return {"long_name": long_name, "units": "1" if units == "values" else units, "source": SOURCE}
