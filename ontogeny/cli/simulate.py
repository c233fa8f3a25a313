"""`ontogeny simulate`: particles under self-attention on the sphere, and how long they linger in clusters."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import typer

from ontogeny.cli.errors import SOME_FAILED
from ontogeny.cli.options import Json
from ontogeny.errors import OntogenyError, UsageError

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray
    from rich.table import Table

MOST_BETAS = 10_000
STATES_AT_MOST = 1 << 28  # bytes of states that are kept for a plot unasked
PHASES_FROM = 6  # betas

Particles = Annotated[int, typer.Option(help="Number of particles.")]
Dimension = Annotated[int, typer.Option(help="Dimension of the space; they move on its unit sphere.")]
Betas = Annotated[str, typer.Option(help="Numbers and ranges FIRST:LAST:STEP: 1,4,9 or 0.1:9:0.1.", metavar="BETAS")]
Samples = Annotated[int, typer.Option(help="Starts, the same for every beta.")]
Horizon = Annotated[float, typer.Option(help="Time to simulate, in that of the kind's own equation.")]
Kind = Annotated[str, typer.Option(help="sa, usa, or a mechanism: softmax, sigmoid, relu ...")]
Matrices = Annotated[
    Path | None,
    typer.Option(
        help="NumPy archive of Q, K, V, (d, d) or (heads, d, d); the identity where absent.", metavar="FILE.npz"
    ),
]
Causal = Annotated[bool, typer.Option("--causal", help="Particle i sees particles up to i.")]
Noise = Annotated[float, typer.Option(help="Sigma of a Brownian motion on the sphere.")]
Start = Annotated[str, typer.Option(help="Uniform on the sphere, or in K separated caps.", metavar="uniform|caps:K")]
CapRadius = Annotated[float, typer.Option(help="Angular radius of the caps, in radians.")]
Seed = Annotated[int, typer.Option(help="Seed of starts and noise.")]
Budget = Annotated[int, typer.Option(help="Steps after which a trajectory is given up, with its part kept.")]
States = Annotated[bool, typer.Option("--states", help="Keep every particle's states in the dataset.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the dataset (zarr).", metavar="DIR")]
Plot = Annotated[Path | None, typer.Option(help="Draw the simulation into this HTML file.", metavar="FILE.html")]


def simulate(
    particles: Particles = 32,
    dimension: Dimension = 2,
    beta: Betas = "1,4,9",
    samples: Samples = 1,
    horizon: Horizon = 30.0,
    kind: Kind = "sa",
    matrices: Matrices = None,
    causal: Causal = False,
    noise: Noise = 0.0,
    start: Start = "uniform",
    cap_radius: CapRadius = 0.1,
    seed: Seed = 0,
    step_budget: Budget = 20_000,
    states: States = False,
    out: Out = None,
    plot: Plot = None,
    as_json: Json = False,
) -> int:
    """Simulate particles under self-attention and print their mergers and plateaus."""
    betas = read_betas(beta)
    _refuse_targets(out, plot)
    given: dict[str, Any] = {} if matrices is None else _read_matrices(matrices)
    from ontogeny.cli.progress import SimulationProgress
    from ontogeny.dynamics.particles.request import GRID
    from ontogeny.dynamics.particles.run import STEP_BUDGET
    from ontogeny.dynamics.particles.simulate import simulate as run

    size = 8 * len(betas) * samples * particles * dimension * (GRID + 1)
    with SimulationProgress() as progress:
        dataset = run(
            particles,
            dimension,
            betas,
            kind=kind,
            causal=causal,
            noise=noise,
            samples=samples,
            horizon=horizon,
            start=start,
            cap_radius=cap_radius,
            seed=seed,
            step_budget=step_budget,
            keep_states=states or (plot is not None and dimension <= 3 and size <= STATES_AT_MOST),
            on_progress=progress.done,
            **given,
        )
    rows = trajectories(dataset)
    if as_json:
        settings = {name: dataset.attrs[name] for name in sorted(dataset.attrs)}
        settings["causal"] = bool(settings["causal"])
        typer.echo(json.dumps({"settings": settings, "trajectories": rows}))
    else:
        _print(dataset, rows)
    if plot is not None:
        _draw(dataset, plot)
    if out is not None:
        _write(dataset if states else dataset.drop_vars("state", errors="ignore"), out)
    for what, path in (("dataset", out), ("plot", plot)):
        if path is not None and not as_json:
            typer.echo(f"{what}: {path}")
    return SOME_FAILED if any(row["verdict"] == STEP_BUDGET for row in rows) else 0


def read_betas(text: str) -> list[float]:
    """The betas that `text` names, ascending, each once: numbers and ranges FIRST:LAST:STEP, separated by commas.

    A range holds its last number where steps of its decimals lead there.
    """
    found: list[float] = []
    for part in text.split(","):
        try:
            ends = [float(one) for one in part.split(":")]
        except ValueError:
            ends = []
        if len(ends) == 1:
            found.append(ends[0])
        elif len(ends) == 3 and all(map(math.isfinite, ends)) and ends[2] > 0 and ends[0] <= ends[1]:
            first, last, step = (Fraction(repr(end)) for end in ends)
            count = int((last - first) / step) + 1
            if count + len(found) > MOST_BETAS:
                raise UsageError(f"expected at most {MOST_BETAS:,} betas, got more in --beta {part.strip()}")
            found += [float(first + step * i) for i in range(count)]
        else:
            wanted = "expected --beta to be numbers and ranges FIRST:LAST:STEP upwards, as 1,4,9 or 0.1:9:0.1"
            raise UsageError(f"{wanted}; got {part.strip() or text!r}")
    return sorted(set(found))


def _refuse_targets(out: Path | None, plot: Path | None) -> None:
    if out is not None and out.exists():
        raise UsageError(f"{out} is there already: expected --out DIR to be new; choose another or remove it")
    for name, path in (("--out DIR", out), ("--plot FILE", plot)):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"expected {name} in a folder that is there, got {path}: make {path.parent} first")
    if plot is not None and plot.is_dir():
        raise UsageError(f"expected --plot FILE to be a file, got the folder {plot}: name a file in it")
    for name, path, attempt in (("--out DIR", out, _try_folder), ("--plot FILE", plot, _try_file)):
        try:
            if path is not None:
                attempt(path)
        except OSError as error:
            raise UsageError(
                f"expected {name} where it can be written, got {path}: {error.strerror or error}; choose another place"
            ) from error


def _partial(out: Path) -> Path:
    """Where the dataset is written before it is moved to `out`."""
    return out.with_name(f".{out.name}.partial")


def _try_folder(out: Path) -> None:
    _partial(out).mkdir(exist_ok=True)
    shutil.rmtree(_partial(out), ignore_errors=True)


def _try_file(plot: Path) -> None:
    """Open the file without changing it; one that was not there is not left."""
    new = not plot.exists()
    plot.open("ab").close()
    if new:
        plot.unlink()


def _read_matrices(path: Path) -> dict[str, NDArray[Any]]:
    """Q, K and V of a NumPy archive; nothing is unpickled."""
    import numpy as np

    wanted = "expected a NumPy archive (.npz, as numpy.savez writes) of real numbers with Q, K or V"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UsageError(f"{wanted}, {path} cannot be read: {error.strerror or 'it is no file of arrays'}") from error
    except (ValueError, BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise UsageError(f"{wanted}, {path} is none") from error
    if not found or not set(found) <= set("QKV"):
        raise UsageError(f"expected arrays named Q, K or V in {path}, got {', '.join(found) or 'none'}")
    wrong = [name for name, matrix in found.items() if matrix.dtype.kind not in "fiu"]
    if wrong:
        raise UsageError(f"expected real numbers in {path}, got {found[wrong[0]].dtype} for {wrong[0]}")
    return found


def trajectories(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """A record for each beta and sample, at the highest threshold; None for a number that there is not."""
    import numpy as np

    highest = int(np.argmax(dataset["threshold"].values))
    one = dataset.isel(threshold=highest).transpose("beta", "sample", ...)
    plateau = ("plateau_start", "plateau_end", "plateau_count")
    values = {name: one[name].values for name in ("cluster_count", "merger_time", "end_time", *plateau)}
    rows = []
    for i, j in np.ndindex(one.sizes["beta"], one.sizes["sample"]):
        counts = values["cluster_count"][i, j]
        end = float(values["end_time"][i, j])
        known = counts[np.isfinite(counts)]
        rows.append(
            {
                "beta": float(one["beta"][i]),
                "sample": int(one["sample"][j]),
                "verdict": str(one["verdict"].values[i, j]),
                "clusters": int(known[-1]) if known.size else None,
                "mergers": int(np.isfinite(values["merger_time"][i, j]).sum()),
                "longest_plateau": _longest(np.stack([values[name][i, j] for name in plateau]), end),
                "end_time": end,
                "steps": int(one["steps"].values[i, j]),
            }
        )
    return rows


def _longest(plateaus: NDArray[Any], last: float) -> dict[str, float | int | bool] | None:
    """The longest of `plateaus` (3, n): start, end, count; one whose end was not seen counts up to `last`."""
    held = [
        (last if math.isnan(end) else end, start, count, math.isnan(end))
        for start, end, count in plateaus.T.tolist()
        if count > 0
    ]
    if not held:
        return None
    end, start, count, opened = max(held, key=lambda one: one[0] - one[1])
    return {"clusters": int(count), "start": start, "lifetime": end - start, "end_seen": not opened}


def _draw(dataset: xr.Dataset, path: Path) -> None:
    from ontogeny.plots import phase_diagram, simulation

    figures = [simulation(dataset)]
    if dataset.sizes["beta"] >= PHASES_FROM:
        figures.append(phase_diagram(dataset))
    parts = [fig.to_html(full_html=False, include_plotlyjs=i == 0) for i, fig in enumerate(figures)]
    page = "<!doctype html>\n<meta charset='utf-8'>\n<title>Simulated particles</title>\n" + "\n".join(parts)
    path.write_text(page, encoding="utf-8")


def _write(dataset: xr.Dataset, out: Path) -> None:
    """Write the dataset beside `out`, then move it there, so that no half of one is left under its name."""
    partial = _partial(out)
    storable = dataset.assign(verdict=dataset["verdict"].astype(object))  # zarr has no format for <U11
    try:
        storable.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
        partial.rename(out)
    except OSError as error:
        raise OntogenyError(f"the dataset cannot be written to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _print(dataset: xr.Dataset, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    console.print(_title(dataset))
    console.print(_table(dataset, rows))
    for line in _notes(dataset, rows):
        console.print(line, soft_wrap=True)


def _title(dataset: xr.Dataset) -> str:
    """What was simulated; what is by default is left out."""
    attrs = dataset.attrs
    given = [name for name in "QKV" if name not in attrs["identity"]]
    parts = [
        f"{attrs['kind']}: {attrs['particles']} particles in {attrs['dimension']} dimensions",
        f"{attrs['heads']} heads" if attrs["heads"] > 1 else "",
        f"{', '.join(given)} given" if given else "",
        "causal" if attrs["causal"] else "",
        f"noise {attrs['noise']:g}" if attrs["noise"] else "",
        f"start {attrs['start']}" if attrs["start"] != "uniform" else "",
        f"threshold {float(dataset['threshold'].max()):g}",
    ]
    return ", ".join(filter(None, parts))


def _notes(dataset: xr.Dataset, rows: list[dict[str, Any]]) -> list[str]:
    """What the table's numbers mean, and do not."""
    from ontogeny.dynamics.particles.run import STEP_BUDGET

    lines = [
        "longest plateau: clusters and lifetime; >: its end was not seen",
        "a plateau may be the random start; as many clusters as particles are none",
    ]
    if dataset.attrs["particles"] == 2:
        lines.append("two particles are two clusters or one, and have no plateau")
    if dataset.sizes["sample"] > 1:
        lines.append("of several samples: the median one by lifetime, and mean mergers and steps")
    rising = _rising(dataset)
    if rising:
        lines += [
            f"the count rises above its first in {rising} of {len(rows)} trajectories: a chain, as many",
            "particles on a circle form, is one cluster until it parts",
        ]
    if any(row["verdict"] == STEP_BUDGET for row in rows):
        lines.append("step budget: given up before the horizon; raise --step-budget or lower --horizon")
    return lines


def _rising(dataset: xr.Dataset) -> int:
    """In how many trajectories there are more clusters at a later time than at the first, at the highest threshold."""
    count = dataset["cluster_count"].sel(threshold=dataset["threshold"].max())
    return int((count.max("time") > count.isel(time=0)).sum())


def _table(dataset: xr.Dataset, rows: list[dict[str, Any]]) -> Table:
    """One line a beta."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("beta", justify="right")
    table.add_column("verdict")
    for name in ("mergers", "longest plateau", "steps"):
        table.add_column(name, justify="right")
    samples = dataset.sizes["sample"]
    for first in range(0, len(rows), samples):
        group = rows[first : first + samples]
        tally = Counter(row["verdict"] for row in group)
        verdict = ", ".join(word if samples == 1 else f"{number} {word}" for word, number in tally.items())
        mergers, steps = (sum(row[name] for row in group) / samples for name in ("mergers", "steps"))
        table.add_row(f"{group[0]['beta']:g}", verdict, f"{mergers:.3g}", _plateau(group), f"{steps:,.0f}")
    return table


def _plateau(group: list[dict[str, Any]]) -> str:
    """The median of the longest plateaus of a beta's samples, those without one counted as 0."""
    found = sorted((row["longest_plateau"] for row in group), key=lambda one: one["lifetime"] if one else 0.0)
    median = found[(len(found) - 1) // 2]
    if median is None:
        return "-"
    return f"{median['clusters']} for {'' if median['end_seen'] else '> '}{median['lifetime']:.3g}"
