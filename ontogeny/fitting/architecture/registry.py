"""Every predictor by name, and those that can be shipped as numbers in a file."""

from __future__ import annotations

from ontogeny.fitting.architecture.depth_only import Null, Scale
from ontogeny.fitting.architecture.direct import Direct
from ontogeny.fitting.architecture.parameters import boosting, forest, gaussian_process, ridge
from ontogeny.fitting.architecture.validation import Make

Shippable = Null | Scale | Direct

NULL = "null"
PREDICTORS: dict[str, Make] = {
    NULL: lambda _: Null(),
    "scale": lambda _: Scale(),
    "direct": Direct,
    "ridge": ridge,
    "forest": forest,
    "boosting": boosting,
    "gaussian process": gaussian_process,
}
PARAMETRIC = ("ridge", "forest", "boosting", "gaussian process")
SHIPPABLE: dict[str, type[Shippable]] = {NULL: Null, "scale": Scale, "direct": Direct}
