"""The report: one self-contained HTML file that opens without a network."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from string import Template

import plotly.graph_objects as go
import xarray as xr
from plotly.offline import get_plotlyjs

from ontogeny.dataset import HasDataset
from ontogeny.errors import OntogenyError
from ontogeny.fitting import lags as correlate
from ontogeny.plots.ablation import loss
from ontogeny.plots.axes import checkpoint_labels
from ontogeny.plots.effective_beta import effective_beta
from ontogeny.plots.lags import lags
from ontogeny.plots.massive import drawable, massive_ratio
from ontogeny.plots.measurements import dataset_of, require, series_name, shorten, width_of
from ontogeny.plots.metastability import metastability
from ontogeny.plots.sinks import sink_heads, sink_rate
from ontogeny.plots.sites import massive_sites
from ontogeny.plots.summary import summarise
from ontogeny.plots.tables import (
    audit_summary,
    checkpoint_table,
    failure_list,
    fit_table,
    flagged_checkpoints,
    kind_table,
    settings_table,
)
from ontogeny.plots.theme import untitled
from ontogeny.plots.waivers import PATHS_AT_MOST, waivers

# Nothing may be fetched, whatever a dataset's text may contain.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_SHORT_TITLE = 80


def write_report(
    dataset: xr.Dataset | HasDataset,
    fits: xr.Dataset | None,
    path: str | os.PathLike[str],
    failures: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the report of a scan to `path`, and return that path; a file already there is replaced in one step.

    `fits` are those of `ontogeny.fit`, or None; `failures` are pairs (checkpoint, reason). A figure whose variables the
    dataset lacks is replaced by the reason. Raises OntogenyError where the file cannot be written.
    """
    page = render(dataset, fits, failures)
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        partial.replace(target)
    except OSError as error:
        raise OntogenyError(
            f"the report cannot be written to {target}: {error.strerror or error}; "
            "choose a file name in a folder that you may write to"
        ) from error
    finally:
        _discard(partial)
    return target


def _discard(partial: Path) -> None:
    with suppress(OSError):  # the folder itself is unreachable: that is reported already
        partial.unlink(missing_ok=True)


def render(scan: xr.Dataset | HasDataset, fits: xr.Dataset | None, failures: Sequence[tuple[str, str]] = ()) -> str:
    """The report as one HTML text."""
    dataset = dataset_of(scan)
    drawn: dict[str, go.Figure] = {}
    sections = [
        _sinks_section(dataset, drawn),
        _waivers_section(dataset, drawn),
        _massive_section(dataset, fits, drawn),
        _metastability_section(dataset, drawn),
        _ablation_section(dataset, drawn),
        _section("Checkpoints", checkpoint_table(dataset)),
        _audit_section(dataset),
        _section("Failures", f'<div class="failures">{failure_list(failures)}</div>', "failures") if failures else "",
        _section("Settings", f'<div class="settings">{settings_table(dataset)}</div>'),
    ]
    name = series_name(dataset)
    return Template(_part("page.html")).substitute(
        policy=_POLICY,
        title=html.escape(f"{shorten(name, _SHORT_TITLE)}: Ontogeny report"),
        style=_part("style.css"),
        name=html.escape(name),
        measured=html.escape(_measured(dataset)),
        notice=_notice(failures) + _flag_notice(dataset),
        summary=_summary(dataset),
        sections="\n".join(sections),
        provenance=html.escape(_provenance(dataset)),
        plotly=get_plotlyjs(),
        figures=_figures_json(drawn),
        boot=_part("boot.js"),
    )


def _part(name: str) -> str:
    return resources.files("ontogeny.plots").joinpath("template", name).read_text(encoding="utf-8")


def _section(title: str, body: str, anchor: str = "") -> str:
    name = f' id="{anchor}"' if anchor else ""
    return f"<section{name}>\n<h2>{title}</h2>\n{body}\n</section>"


def _figure(drawn: dict[str, go.Figure], name: str, title: str, caption: str, draw: Callable[[], go.Figure]) -> str:
    """The place of a figure, which is added to `drawn`; or, where it cannot be drawn, the reason."""
    heading = f"<figcaption><h3>{title}</h3><p>{caption}</p></figcaption>"
    try:
        fig = draw()
    except OntogenyError as error:
        return f"<h3>{title}</h3>\n{_missing(error)}"
    drawn[name] = untitled(fig)
    return (
        f'<figure>{heading}\n<div class="plot" id="{name}" role="img" aria-label="{title}" '
        f'style="height:{fig.layout.height}px"></div></figure>'
    )


def _missing(error: OntogenyError) -> str:
    return f'<p class="missing">{_prose(str(error))}</p>'


def _prose(text: str) -> str:
    """A sentence as HTML: escaped, with its capital, its full stop, and `names` as code."""
    escaped = html.escape(f"{text[:1].upper()}{text[1:].rstrip('.')}.")
    return re.sub("`([^`]*)`", r"<code>\1</code>", escaped)


def _sinks_section(dataset: xr.Dataset, drawn: dict[str, go.Figure]) -> str:
    title = "Attention sinks"
    try:
        require(dataset, "the sink rate", "sink_rate")
    except OntogenyError as error:
        return _section(title, _missing(error))
    by_layer = _figure(
        drawn,
        "sink-rate",
        "Sink rate by layer",
        "Share of sequences in which the first key (position 0) receives more than ε = 0.3 of the attention of the "
        "rows that see it; mean over the heads of a layer (arXiv 2410.10781).",
        lambda: sink_rate(dataset),
    )
    by_head = _figure(
        drawn, "sink-heads", "Sink rate by head", "The same rate, head by head.", lambda: sink_heads(dataset)
    )
    return _section(title, f"{by_layer}\n{by_head}")


def _waivers_section(dataset: xr.Dataset, drawn: dict[str, go.Figure]) -> str:
    ways = (
        ""
        if dataset.sizes["checkpoint"] == 1
        else f" Lines lead, step by step, to the at most {PATHS_AT_MOST} heads (named layer.head) that end with the "
        "highest waiver rate, of equal ones with the highest score; grey points are the other heads at the end."
    )
    panel = _figure(
        drawn,
        "waivers",
        "Value norm against sink score",
        "How much attention the first key (position 0) draws in a head, and how large its value is relative to the "
        "mean over positions; both are means over sequences. In the shaded corner a key takes attention and gives next "
        f"to nothing: a waiver (arXiv 2407.01601; the drain of values, arXiv 2410.13835).{ways}",
        lambda: waivers(dataset),
    )
    kinds = f"\n<h3>Kinds of waivers</h3>\n{kind_table(dataset)}" if "waiver_kind" in dataset.data_vars else ""
    return _section("Waivers", panel + kinds)


def _ablation_section(dataset: xr.Dataset, drawn: dict[str, go.Figure]) -> str:
    if "loss_ablated" not in dataset.data_vars:
        return ""
    panel = _figure(
        drawn,
        "loss",
        "Loss under interventions",
        "Mean loss of the next token, in nats: of the model as it is, and with one thing changed in its forward pass.",
        lambda: loss(dataset),
    )
    return _section("What they do", panel)


def _massive_section(dataset: xr.Dataset, fits: xr.Dataset | None, drawn: dict[str, go.Figure]) -> str:
    curves = drawable(dataset, fits)
    legend = "" if curves is None else " Points are measured, lines are the fitted curves."
    ratio = _figure(
        drawn,
        "massive-ratio",
        "Massive ratio by depth",
        "Largest over median magnitude of the residual stream, max|h| / median|h|; depth 0 is the input of the first "
        f"block, depth i + 1 the output of block i (arXiv 2508.03616).{legend}",
        lambda: massive_ratio(dataset, curves),
    )
    sites = _figure(
        drawn,
        "massive-sites",
        "Where the largest activation sits",
        "The most frequent places (token position, dimension) of the largest |h| of a sequence; “elsewhere” is every "
        "other place (arXiv 2402.17762).",
        lambda: massive_sites(dataset),
    )
    table = "" if fits is None else f"<h3>Fitted curves</h3>\n{fit_table(fits)}"
    return _section("Massive activations", f"{ratio}\n{table}\n{sites}")


def _metastability_section(dataset: xr.Dataset, drawn: dict[str, go.Figure]) -> str:
    if "cluster_count" not in dataset.data_vars:
        return ""
    defined = (
        "Clusters are groups of tokens that chains of cosines above 0.9 between their states connect; of n tokens, "
        "log count / log n is 0 for one cluster and 1 where each token is alone. A plateau is a run of depths with the "
        "same number of clusters, more than one and fewer than n, and about the same members (metastability: arXiv "
        "2312.10794, 2410.06833). Matrix entropy falls where the states take few directions (the compression valley, "
        "arXiv 2510.06477). Shuffled states, each dimension permuted over the tokens, show what chance gives: a count "
        "is told from it where the two differ; the same tokens in random order show what their repetition gives. At "
        "depth 0 tokens with the same id are one cluster, unless position embeddings were added."
    )
    parts = [
        _clusters(dataset, drawn, "all", "Clusters of all tokens", defined),
        _clusters(
            dataset,
            drawn,
            "without_sinks",
            "Clusters without sink tokens",
            "The same without a sequence's first token and without tokens whose state's norm is far above the others'.",
        ),
    ]
    if dataset.sizes["checkpoint"] > 1:
        parts.append(
            _figure(
                drawn,
                "lags",
                "What moves with sinks and massive activations",
                "Correlation of changes between neighbouring checkpoints; at a positive lag the clusters change so "
                "many checkpoints after the sinks or the massive activations. Filled points have p of at most 0.05 "
                "over all lags of their panel. Two things that emerge at once are correlated whatever their cause.",
                lambda: lags(correlate(dataset)),
            )
        )
    if "effective_beta" in dataset.data_vars:
        parts.append(
            _figure(
                drawn,
                "effective-beta",
                "Do heads attend by likeness?",
                "Exploratory, of the last checkpoint: the slope between a head's logits and the inner products of the "
                "normalised states that enter its block, and what the self-attention model (arXiv 2312.10794) would "
                "make of the mean cosine with it. A yardstick, not a model of the network.",
                lambda: effective_beta(dataset),
            )
        )
    return _section("Metastability", "\n".join(parts))


def _clusters(dataset: xr.Dataset, drawn: dict[str, go.Figure], selection: str, title: str, caption: str) -> str:
    name = f"metastability-{selection.replace('_', '-')}"
    return _figure(drawn, name, title, caption, lambda: metastability(dataset, selection))


def _measured(dataset: xr.Dataset) -> str:
    """One sentence: checkpoints, model, corpus."""
    labels = checkpoint_labels(dataset)
    attrs = dataset.attrs
    count = "1 checkpoint" if len(labels) == 1 else f"{len(labels)} checkpoints"
    span = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    parts = [f"{count} ({span})"]
    model = [f"{dataset.sizes['depth'] - 1} layers"] if "depth" in dataset.sizes else []
    if "head" in dataset.sizes:
        model.append(f"{dataset.sizes['head']} head{'s' * (dataset.sizes['head'] != 1)} a layer")
    width = width_of(dataset)
    if width:
        model.append(f"width {width}")
    if model:
        parts.append(", ".join(model))
    if {"sequences", "length"} <= attrs.keys():
        corpus = attrs.get("corpus", "corpus unknown")
        parts.append(f"measured on {attrs['sequences']} sequences of {attrs['length']} tokens ({corpus})")
    return "; ".join(parts) + "."


def _summary(dataset: xr.Dataset) -> str:
    items = "\n".join(f"<li>{_prose(sentence)}</li>" for sentence in summarise(dataset))
    return f'<ul class="summary">\n{items}\n</ul>'


def _notice(failures: Sequence[tuple[str, str]]) -> str:
    if not failures:
        return ""
    count = "1 checkpoint" if len(failures) == 1 else f"{len(failures)} checkpoints"
    return f'<p class="notice">{count} could not be measured: <a href="#failures">see the failures</a>.</p>'


def _audit_section(dataset: xr.Dataset) -> str:
    body = audit_summary(dataset)
    return _section("Audit", body, "audit") if body else ""


def _flag_notice(dataset: xr.Dataset) -> str:
    flagged = len(flagged_checkpoints(dataset))
    if not flagged:
        return ""
    count = "1 checkpoint is" if flagged == 1 else f"{flagged} checkpoints are"
    left_out = "flagged, and left out of fits and of what emerged"
    return f'<p class="notice">{count} {left_out}: <a href="#audit">see the audit</a>.</p>'


def _provenance(dataset: xr.Dataset) -> str:
    version = dataset.attrs.get("ontogeny_version")
    return (
        f"Made by Ontogeny{f' {version}' if version else ''} from the stored measurements. Definitions: sinks, arXiv "
        "2410.10781; waivers, arXiv 2407.01601 and 2410.13835; massive activations, arXiv 2402.17762; their ratio and "
        "the curve of emergence, arXiv 2508.03616; clusters, arXiv 2312.10794, 2410.06833 and 2510.06477."
    )


def _figures_json(drawn: dict[str, go.Figure]) -> str:
    """The figures as JSON that cannot end the script element that holds it."""
    text = "{" + ",".join(f"{json.dumps(name)}:{fig.to_json(engine='json')}" for name, fig in drawn.items()) + "}"
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
