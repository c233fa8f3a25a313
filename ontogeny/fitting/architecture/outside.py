"""Whether an architecture is like those that a predictor was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ontogeny.archspec import ArchSpec

Range = tuple[float, float]
Fact = str | bool | None

FACTS = {
    "positional": "positional encoding",
    "norm": "normalisation",
    "parallel_residual": "parallel residual",
    "dtype": "training dtype",
    "init": "initialisation",
    "batch_tokens": "tokens a step",
}
NOT_STATED = (None, "unknown")


def sizes(arch: ArchSpec) -> dict[str, float]:
    """The counts and ratios of `arch` whose ranges are kept."""
    return {
        "L": arch.layers,
        "d": arch.width,
        "H": arch.heads,
        "H/d": arch.heads / arch.width,
        "d_ff/d": arch.ffn / arch.width,
        "d/L": arch.width / arch.layers,
        "H/L": arch.heads / arch.layers,
    }


def ranges_of(archs: Sequence[ArchSpec]) -> dict[str, Range]:
    """The lowest and the highest of each of `sizes`."""
    every = [sizes(arch) for arch in archs]
    return {name: (min(one[name] for one in every), max(one[name] for one in every)) for name in every[0]}


def facts_of(archs: Sequence[ArchSpec]) -> dict[str, tuple[Fact, ...]]:
    """The values of each of FACTS that occur, in order of first occurrence."""
    return {name: tuple(dict.fromkeys(getattr(arch, name) for arch in archs)) for name in FACTS}


def warnings_about(
    arch: ArchSpec, ranges: Mapping[str, Sequence[float]], facts: Mapping[str, Sequence[Fact]]
) -> list[str]:
    """What of `arch` was not met in training, or is not stated, as clauses; none where all of it is as there."""
    found = [
        f"{name} = {value:.4g} is outside of {ranges[name][0]:.4g} to {ranges[name][1]:.4g}"
        for name, value in sizes(arch).items()
        if not ranges[name][0] <= value <= ranges[name][1]
    ]
    silent = []
    for name, called in FACTS.items():
        value = getattr(arch, name)
        if value in NOT_STATED:
            silent.append(called)
        elif value not in facts[name]:
            met = " or ".join(str(one) for one in facts[name])
            found.append(f"{called} is {value}, not {met}")
    if silent:
        found.append(f"not stated, and taken to be as in training: {', '.join(silent)}")
    return found
