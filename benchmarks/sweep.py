"""A scan against the script that one would write instead: time, where it goes, and memory, on the same checkpoints.

python benchmarks/sweep.py --json > benchmarks/results/sweep/<machine>.json
python benchmarks/sweep.py --page

The numbers of both are compared first. Every run has a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results" / "sweep"
PAGE = Path(__file__).parents[1] / "docs" / "sweep.md"
BEGIN, END = "<!-- tables: python benchmarks/sweep.py --page -->", "<!-- end of tables -->"
OURS, THEIRS, HEADLESS = "ontogeny.scan", "the script", "the script, without the output head"
CONTENDERS = (OURS, THEIRS, HEADLESS)
PHASES = ("read", "forward", "copy", "reduce", "project", "store")
TOLERANCE = 1e-4
THREADS = 2


@dataclass(frozen=True)
class Case:
    """Random GPT-NeoX checkpoints, saved in float16 as Pythia's are, and what they are measured on."""

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int = 50304
    checkpoints: int = 3
    sequences: int = 16
    length: int = 512
    batch: int = 8

    def __str__(self) -> str:
        return f"{self.name}, {self.checkpoints} checkpoints, {self.sequences} x {self.length} tokens by {self.batch}"

    def save(self, folder: Path) -> None:
        """Write the checkpoints, and beside them the corpus."""
        import torch
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        config = GPTNeoXConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
            initializer_range=1.5 / self.width**0.5,  # scores then vary by about 2, as those of trained heads do
        )
        for step in range(self.checkpoints):
            torch.manual_seed(step)
            GPTNeoXForCausalLM(config).half().save_pretrained(folder / f"step{step}")
        draw = np.random.default_rng(0)
        # No token twice in a sequence: of equal magnitudes either may be called the largest.
        ids = np.stack([draw.permutation(self.vocabulary)[: self.length] for _ in range(self.sequences)])
        lines = [json.dumps({"ids": row.tolist()}) for row in ids]
        (folder / "corpus.jsonl").write_text("\n".join(lines))


TIMED = (
    Case("shape of Pythia-70M", 6, 512, 8),
    Case("shape of Pythia-14M", 6, 128, 4),
)
# One checkpoint, the same number of sequences at once: what grows, grows with the length alone.
GROWING = tuple(Case("shape of Pythia-70M", 6, 512, 8, 50304, 1, 4, length, 4) for length in (256, 512, 1024))


@dataclass(frozen=True)
class Run:
    """What one run took: seconds in all and by phase, MiB resident before it and at its peak."""

    seconds: float
    phases: dict[str, float]
    before_mib: float
    peak_mib: float


def run_alone(contender: str, case: Case, folder: Path, out: Path) -> Run:
    """Run a contender in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare_process) as pool:
        return pool.submit(run, contender, case, folder, out).result()


def _prepare_process() -> None:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(THREADS)


def run(contender: str, case: Case, folder: Path, out: Path) -> Run:
    """Sweep the checkpoints in `folder`; the results go into the new folder `out`."""
    from transformers import AutoModel, AutoModelForCausalLM, GPTNeoXForCausalLM

    from ontogeny.dynamics.scan import scan

    assert GPTNeoXForCausalLM, "loaded before the clock starts"
    phases = dict.fromkeys(PHASES, 0.0)
    before, start = resident_mib("VmRSS"), time.perf_counter()
    if contender == OURS:
        with _phases_of_a_scan(phases) as progress:
            scan(
                str(folder), out, corpus=str(folder / "corpus.jsonl"), sequences=case.sequences, length=case.length,
                batch_size=case.batch, device="cpu", progress=progress,
            )  # fmt: skip
    else:
        from sweep_by_hand import sweep_by_hand

        ids = np.array([json.loads(line)["ids"] for line in (folder / "corpus.jsonl").read_text().splitlines()])
        kind = AutoModelForCausalLM if contender == THEIRS else AutoModel
        sweep_by_hand(folder, ids, case.batch, out, lambda phase: _clock(phases, phase), kind)
    return Run(time.perf_counter() - start, phases, before, resident_mib("VmHWM"))


@contextmanager
def _clock(phases: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        phases[phase] += time.perf_counter() - start


@contextmanager
def _phases_of_a_scan(phases: dict[str, float]) -> Iterator[Any]:
    """A progress for a scan that notes what the scan waits for; inside, the parts of a measurement are timed."""
    from ontogeny.dynamics.progress import Progress

    class Waiting(Progress):
        def checkpoint(self, _name: str) -> None:
            self.begun = time.perf_counter()

        def loaded(self) -> None:
            phases["read"] += time.perf_counter() - self.begun

    parts = {
        "ontogeny.dynamics.measure.run_pass": "forward",
        "ontogeny.probes.measure.reduce_trace": "reduce",
        "ontogeny.probes.measure._to_host": "copy",
        "ontogeny.dynamics.measurement.project_weights": "project",
        "ontogeny.dynamics.store.ScanStore.commit": "store",
        "ontogeny.dynamics.store.ScanStore.consolidate": "store",
    }
    with ExitStack() as patches:
        for name, phase in parts.items():
            patches.enter_context(patch(name, _timed(name, phases, phase)))
        yield Waiting()


def _timed(name: str, phases: dict[str, float], phase: str) -> Any:
    from pkgutil import resolve_name

    function = resolve_name(name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with _clock(phases, phase):
            return function(*args, **kwargs)

    return timed


def resident_mib(field: str) -> float:
    """This process's resident memory now (`VmRSS`) or at its peak (`VmHWM`); Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def refuse_if_different(ours: Path, theirs: Path) -> None:
    """Raise OntogenyError unless the script has every variable of the scan, each within 1e-4 of its largest value.

    Of magnitudes that are as close as that, rounding decides which is the larger: their places are not compared, nor
    the dimensions that sequences share at a depth where these differ.
    """
    import torch

    from ontogeny import OntogenyError, open_scan
    from ontogeny.bench.record import refuse_if_wrong

    dataset = open_scan(ours).dataset.drop_vars("weight_projection")
    for place, checkpoint in enumerate(dataset.checkpoint.values):
        measured = dataset.isel(checkpoint=place).data_vars
        with np.load(theirs / f"{checkpoint}.npz") as file:
            found = dict(file)
        if set(found) != set(measured):
            raise OntogenyError(f"expected the same variables, only one has {sorted(set(found) ^ set(measured))}")
        expected = {str(name): torch.from_numpy(values.values) for name, values in measured.items()}
        alike = (np.sort(found["top_dimension"]) == np.sort(expected["top_dimension"])).all(axis=(0, 2))
        for name in ("shared_dimension", "shared_dimension_share"):
            found[name] = np.where(alike[:, None], found[name], expected[name])
        tied = _tied(expected["top_activation"])
        for name in ("top_position", "top_token", "top_dimension"):
            found[name] = np.where(tied, expected[name], found[name])
        refuse_if_wrong(
            f"the script on {checkpoint}",
            {name: torch.from_numpy(values).expand_as(expected[name]) for name, values in found.items()},
            expected,
            TOLERANCE,
        )


def _tied(top: Any) -> np.ndarray:
    """Of magnitudes (sequence, depth, rank), whether a neighbour is within the tolerance; the fourth is not known."""
    close = np.asarray(top[..., :-1] - top[..., 1:] <= TOLERANCE * top[..., :-1])
    return np.pad(close, ((0, 0), (0, 0), (0, 1)), constant_values=True) | np.pad(close, ((0, 0), (0, 0), (1, 0)))


def bench(case: Case, rounds: int, contenders: tuple[str, ...] = CONTENDERS) -> dict[str, Any]:
    """Check a case, then run every contender once a round, in an order that is drawn anew.

    The runs that are checked warm up; with no rounds they are the ones that count.
    """
    draw = random.Random(0)
    with TemporaryDirectory() as place:
        folder = Path(place, "series")
        case.save(folder)
        checked = {name: Path(place, f"checked{index}") for index, name in enumerate(contenders)}
        first = {name: run_alone(name, case, folder, out) for name, out in checked.items()}
        for name in contenders[1:]:
            refuse_if_different(checked[contenders[0]], checked[name])
        runs: dict[str, list[Run]] = {name: [] if rounds else [first[name]] for name in contenders}
        for number in range(rounds):
            for name in draw.sample(contenders, len(contenders)):
                print(f"{case}: round {number + 1} of {rounds}, {name}", file=sys.stderr)
                runs[name].append(run_alone(name, case, folder, Path(place, f"{number}-{contenders.index(name)}")))
    return {"case": str(case), "length": case.length, "runs": {name: _summary(some) for name, some in runs.items()}}


def _summary(runs: list[Run]) -> dict[str, Any]:
    """The run of median time, and the least and the most time of all."""
    ordered = sorted(runs, key=lambda one: one.seconds)
    middle = ordered[(len(ordered) - 1) // 2]
    middle = replace(middle, seconds=statistics.median(one.seconds for one in runs))
    return {**asdict(middle), "range": [ordered[0].seconds, ordered[-1].seconds]}


def tables() -> str:
    """Markdown: every machine's results."""
    return "".join(_machine(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json")))


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "python"))
    lines = [
        f"### {machine['device']}, {machine['threads']} threads",
        "",
        f"{versions}; medians of {found['rounds']} interleaved rounds, each run in a process of its own.",
        "",
        f"| | s | least-most | ratio | {' | '.join(PHASES)} | other | peak MiB |",
        f"| --- | ---: | ---: | ---: | {'---: | ' * (len(PHASES) + 2)}".rstrip(),
    ]
    for case in found["timed"]:
        lines.append(f"| **{case['case']}** |{' |' * (len(PHASES) + 5)}")
        lines += [_timed_row(name, one, case["runs"][OURS]) for name, one in case["runs"].items()]
    lengths = [case["length"] for case in found["growing"]]
    grown = f"{found['growing'][0]['case'].split(',')[0]}, one checkpoint, 4 sequences at once"
    lines += ["", f"Peak MiB above what was resident before, by length; {grown}:", ""]
    lines += [f"| | {' | '.join(f'T = {length}' for length in lengths)} |", "| --- |" + " ---: |" * len(lengths)]
    for name in found["growing"][0]["runs"]:
        grew = (case["runs"][name] for case in found["growing"])
        lines.append(f"| {name} | {' | '.join(format(one['peak_mib'] - one['before_mib'], '.0f') for one in grew)} |")
    return "\n".join([*lines, "", ""])


def _timed_row(name: str, one: dict[str, Any], ours: dict[str, Any]) -> str:
    phases = one["phases"]
    parts = [*phases.values(), max(0.0, one["seconds"] - sum(phases.values()))]
    numbers = [f"{one['seconds']:.1f}", f"{one['range'][0]:.1f}-{one['range'][1]:.1f}"]
    numbers += [f"{one['seconds'] / ours['seconds']:.2f}", *(f"{part:.1f}" for part in parts), f"{one['peak_mib']:.0f}"]
    return f"| {name} | {' | '.join(numbers)} |"


def main() -> None:
    """Measure and print, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--page", action="store_true", help="write docs/sweep.md from benchmarks/results/sweep/*.json")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.page:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}{END}{rest.split(END)[1]}")
        return
    import torch

    from ontogeny.bench.machine import describe_machine

    torch.set_num_threads(THREADS)
    with redirect_stdout(sys.stderr):
        timed = [bench(case, asked.rounds) for case in TIMED]
        growing = [bench(case, 0, (OURS, THEIRS)) for case in GROWING]
    found = {
        "machine": describe_machine(torch.device("cpu")),
        "rounds": asked.rounds,
        "timed": timed,
        "growing": growing,
    }
    print(json.dumps(found, indent=1) if asked.json else _machine(found))


if __name__ == "__main__":
    main()
