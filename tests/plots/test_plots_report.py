"""The report: one file, complete, escaped, offline, and written in one step."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from ontogeny.errors import OntogenyError
from ontogeny.fitting import fit
from ontogeny.plots import write_report
from tests.synthetic import PYTHIA_STEPS, scan_dataset, with_ablation, with_kinds, with_waivers

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028 & <b>"
FIGURES = re.compile(r'<script type="application/json" id="figures">(.*?)</script>', re.DOTALL)


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def read(path: Path) -> tuple[str, Page, dict]:
    """The report without plotly.js, parsed, and its figures."""
    text = path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    figures = FIGURES.search(text)
    assert figures
    return text, Page(text), json.loads(figures[1])


def array(encoded: dict) -> np.ndarray:
    """An array as plotly.js is given it."""
    flat = np.frombuffer(base64.b64decode(encoded["bdata"]), dtype=encoded["dtype"])
    return flat.reshape([int(size) for size in encoded["shape"].split(",")]) if "shape" in encoded else flat


def test_the_report_holds_figures_tables_and_settings(tmp_path: Path) -> None:
    dataset = scan_dataset()
    fits = fit(dataset, level=None)
    written = write_report(dataset, fits, tmp_path / "report.html", [("step512", "weights are not finite")])
    assert written == tmp_path / "report.html"
    text, page, figures = read(written)
    assert list(figures) == ["sink-rate", "sink-heads", "massive-ratio", "massive-sites"]
    assert [attrs["id"] for tag, attrs in page.tags if attrs.get("class") == "plot"] == list(figures)
    rates = dataset["sink_rate"].sel(epsilon=0.3, position=0).mean("head").values.T
    np.testing.assert_allclose(array(figures["sink-rate"]["data"][0]["z"]), rates, rtol=1e-6)
    assert "synthetic series" in page.text
    assert "20 checkpoints (step 0 to step 10,000); 3 layers, 1 head a layer, width 64" in page.text
    assert "Attention sinks emerged" in page.text
    assert "step512: weights are not finite" in page.text
    assert "see the failures" in page.text
    for value in (*fits["verdict"].values.tolist(), f"{float(fits['r2'][2]):.4f}", "0f1e2d3c4b5a", "unaudited"):
        assert f"{value}</td>" in text
    assert page.text.count("step 10,000") >= 2


def test_titles_are_headings_and_not_drawn_twice(tmp_path: Path) -> None:
    _, page, figures = read(write_report(scan_dataset(), None, tmp_path / "r.html"))
    assert page.text.count("Sink rate by layer") == 1
    for name, figure in figures.items():
        assert "text" not in figure["layout"].get("title", {})
        style = next(attrs["style"] for _, attrs in page.tags if attrs.get("id") == name)
        assert style == f"height:{figure['layout']['height']}px"


def test_one_file_with_one_plotly_and_nothing_to_fetch(tmp_path: Path) -> None:
    path = write_report(scan_dataset(), None, tmp_path / "r.html")
    whole = path.read_text(encoding="utf-8")
    assert whole.count(get_plotlyjs()) == 1
    assert len(re.findall(r"\* plotly\.js v\d", whole)) == 1
    text, page, _ = read(path)
    assert not re.search(r"https?:|//cdn|url\(|@import", text)
    assert page.count("link") == page.count("iframe") == page.count("img") == 0
    assert page.count("script") == 3
    assert not any("src" in attrs for _, attrs in page.tags)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none';")
    assert "showSendToCloud: false" in text


def test_text_from_data_cannot_become_markup(tmp_path: Path) -> None:
    attrs = dict.fromkeys(("series", "source", "corpus", "device", "bos", "sequences", "ontogeny_version"), ATTACK)
    dataset = scan_dataset((-1,) * 8).assign_attrs(attrs, arch=json.dumps({ATTACK: ATTACK}))
    names = [f"{i}{ATTACK}" for i in range(8)]
    dataset = dataset.assign_coords(checkpoint=np.array(names, dtype=object))
    dataset["revision"] = ("checkpoint", np.array(names, dtype=object))
    dataset["verdict"] = ("checkpoint", np.array(names, dtype=object))
    fits = fit(scan_dataset(), level=None)
    fits["verdict"] = ("depth", np.array(names[:4], dtype=object))
    fits = fits.assign_attrs(definition="ratio of means", metric="massive_ratio")
    path = write_report(dataset, fits, tmp_path / "r.html", [(ATTACK, ATTACK)])
    text, page, figures = read(path)
    assert page.count("script") == 3
    assert page.count("img") == 0
    assert ATTACK in page.text
    assert not re.search(r"<script>alert|<img", text)
    encoded = FIGURES.search(text)
    assert encoded
    assert not re.search("[<>&\u2028\u2029]", encoded[1])
    ticks = figures["sink-rate"]["layout"]["xaxis"]["ticktext"]
    assert all("<" not in tick for tick in ticks)
    assert all("<img" not in name for row in figures["sink-rate"]["data"][0]["text"] for name in row)


def test_waivers_have_a_section_between_sinks_and_massive_activations(tmp_path: Path) -> None:
    dataset = with_waivers(scan_dataset(layers=3, heads=2))
    _, page, figures = read(write_report(dataset, None, tmp_path / "r.html"))
    assert list(figures) == ["sink-rate", "sink-heads", "waivers", "massive-ratio", "massive-sites"]
    places = [page.text.index(f"\n{title}\n") for title in ("Attention sinks", "Waivers", "Massive activations")]
    assert places == sorted(places)
    path = next(trace for trace in figures["waivers"]["data"] if trace.get("name") == "layer 1 head 0")
    norms = dataset["value_norm"].sel(layer=1, head=0, position=0)
    np.testing.assert_allclose(array(path["y"]), norms.values, rtol=1e-6)
    assert "waiver (arXiv 2407.01601" in page.text and "waivers, arXiv 2407.01601 and 2410.13835" in page.text
    assert "What they do" not in page.text and "Kinds of waivers" not in page.text


def test_a_scan_without_waivers_says_which_probe_to_add(tmp_path: Path) -> None:
    _, page, _ = read(write_report(scan_dataset(), None, tmp_path / "r.html"))
    assert "The dataset has no" not in page.text
    assert (
        "the panel of waivers cannot be drawn: the dataset has no value_norm; scan again with the probe waivers, into "
        "a new folder." in (page.text.lower())
    )


def test_losses_and_kinds_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    dataset = with_kinds(with_ablation(with_waivers(scan_dataset(layers=3, heads=2)), (ATTACK, "zero")))
    text, page, figures = read(write_report(dataset, None, tmp_path / "r.html"))
    assert "What they do" in page.text and page.count("script") == 3 and page.count("img") == 0
    np.testing.assert_allclose(array(figures["loss"]["data"][0]["y"]), dataset["loss"].values, rtol=1e-6)
    for step, kinds in ((0, [6, 0, 0, 0, 0]), (1, [1, 2, 1, 1, 1]), (10000, [1, 1, 1, 1, 2])):
        assert [int((dataset["waiver_kind"].sel(step=step) == kind).sum()) for kind in range(5)] == kinds
        cells = "".join(f'<td class="number">{count}</td>' for count in kinds)
        assert f"<tr><td>step {step:,}</td>{cells}</tr>" in text
    assert '<th scope="col" class="number">causal order</th>' in text


def test_kinds_that_do_not_change_are_listed_once(tmp_path: Path) -> None:
    dataset = with_kinds(with_waivers(scan_dataset(layers=3, heads=2)))
    dataset["waiver_kind"][1:] = 3
    text, _, _ = read(write_report(dataset, None, tmp_path / "r.html"))
    rows = re.findall(r"<tr><td>(step [0-9,]+)</td>(?:<td class=\"number\">\d+</td>){5}</tr>", text)
    assert rows == ["step 0", "step 1"]
    assert "Checkpoints that are not listed have the numbers of the one before." in text


def test_a_verdict_in_hover_text_is_escaped(tmp_path: Path) -> None:
    dataset = scan_dataset()
    fits = fit(dataset, level=None)
    fits["verdict"] = ("depth", np.array([ATTACK] * 4, dtype=object))
    _, _, figures = read(write_report(dataset, fits, tmp_path / "r.html"))
    hovers = [trace["hovertemplate"] for trace in figures["massive-ratio"]["data"] if "fit" in trace["name"]]
    assert hovers
    assert not any("<img" in hover or "<script" in hover for hover in hovers)


def test_without_attention_a_sentence_stands_for_the_figures(tmp_path: Path) -> None:
    dataset = scan_dataset(attention="unavailable: <Falcon> has its own attention")
    text, page, figures = read(write_report(dataset, fit(dataset, level=None), tmp_path / "r.html"))
    assert list(figures) == ["massive-ratio", "massive-sites"]
    assert "attention unavailable: <Falcon> has its own attention" in page.text
    assert "<Falcon>" not in text
    assert page.text.count("The sink rate cannot be drawn") == 1


def test_a_single_checkpoint_is_reported(tmp_path: Path) -> None:
    dataset = scan_dataset((-1,), layers=30, heads=9, width=576)
    _, page, figures = read(write_report(dataset, fit(dataset, level=None), tmp_path / "r.html"))
    assert len(figures) == 4
    assert "1 checkpoint (main); 30 layers, 9 heads a layer" in page.text
    assert (
        "No curve of massive_ratio (ratio of means) was fitted: for all 31 the verdict is “too few points”."
        in page.text
    )
    assert "lines are the fitted curves" not in page.text


def test_fits_of_another_metric_have_their_table(tmp_path: Path) -> None:
    dataset = scan_dataset(heads=2)
    fits = fit(dataset, "sink_score", level=None)
    text, page, figures = read(write_report(dataset, fits, tmp_path / "r.html"))
    assert "fitted to sink_score" in page.text
    assert text.count(f"<td>{fits['verdict'].values[2, 1]}</td>") >= 1
    assert not any("fit" in trace["name"] for trace in figures["massive-ratio"]["data"])


def test_a_report_of_twenty_checkpoints_stays_small(tmp_path: Path) -> None:
    dataset = with_waivers(scan_dataset(PYTHIA_STEPS, layers=12, heads=12, sequences=100, width=768))
    path = write_report(with_kinds(with_ablation(dataset)), fit(dataset, level=None), tmp_path / "r.html")
    assert {"waivers", "loss"} <= set(read(path)[2])
    assert path.stat().st_size - len(get_plotlyjs().encode()) < 1_200_000


def test_an_older_report_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("older")

    def refuse(self: Path, target: Path) -> Path:
        assert self.parent == path.parent
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OntogenyError, match=r"cannot be written to .*r\.html: No space left on device; choose"):
        write_report(scan_dataset(), None, path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_report_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.html"
    write_report(scan_dataset(), None, path)
    write_report(scan_dataset(series="the second"), None, str(path))
    assert "the second" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a folder", "a file/r.html"])
def test_an_unwritable_place_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").write_text("")
    with pytest.raises(OntogenyError, match="the report cannot be written to"):
        write_report(scan_dataset(), None, tmp_path / name)


def test_a_name_that_is_no_unicode_does_not_stop_the_report(tmp_path: Path) -> None:
    path = write_report(scan_dataset(series="run-\udcff"), None, tmp_path / "r.html")
    assert "run-\\udcff" in path.read_text(encoding="utf-8")


def test_a_rate_of_zero_has_no_place(tmp_path: Path) -> None:
    dataset = scan_dataset()
    dataset["sink_rate"][:] = 0
    text, _, _ = read(write_report(dataset, None, tmp_path / "r.html"))
    assert text.count('<td class="number">0.000</td><td>\N{EN DASH}</td>') == 20


def test_the_table_of_fits_holds_their_intervals(tmp_path: Path) -> None:
    dataset = scan_dataset()
    fits = fit(dataset)
    text, page, _ = read(write_report(dataset, fits, tmp_path / "r.html"))
    row = fits.sel(depth=2)
    own, low, high = (float(row[f"final_value{end}"]) for end in ("", "_low", "_high"))
    assert f'<td class="number">{own:,.4g} [{low:,.4g}, {high:,.4g}]</td>' in text
    assert "intervals of 0.95 confidence by profile likelihood" in page.text
    opened = fits.assign(K_low=fits["K_low"] * 0 - np.inf, half_rise_step_low=fits["half_rise_step_low"] * 0)
    text, page, _ = read(write_report(dataset, opened, tmp_path / "open.html"))
    assert f"{float(row['K']):.3g} [open, {float(row['K_high']):.3g}]" in page.text
    assert f"{float(row['half_rise_step']):,.0f} [open, {float(row['half_rise_step_high']):,.0f}]" in page.text
    _, page, _ = read(write_report(dataset, fit(dataset, level=None), tmp_path / "none.html"))
    assert "confidence" not in page.text and f"{own:,.4g}" in page.text
