"""Published numbers measured again, on stand-ins: the protocol, the arithmetic, and what is said of the difference."""

from __future__ import annotations

import json
import math
from functools import partial
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM

from ontogeny.dynamics.corpus import make_corpus
from ontogeny.dynamics.sources.hub import open_hub
from ontogeny.dynamics.verify import run
from ontogeny.dynamics.verify.compare import CORPORA, TOLERANCES, Row, Used
from ontogeny.dynamics.verify.published import FIGURES, TABLES, models, select
from ontogeny.dynamics.verify.readers import READERS
from ontogeny.errors import OntogenyError, UsageError
from ontogeny.probes import registry
from ontogeny.probes.experiment import UnavailableError
from tests.byte_tokenizer import BOS, byte_tokenizer
from tests.hub_server import serve
from tests.published_models import GPT2_XL, LLAMA2, MASSIVE_BLOCK, MASSIVE_DIMENSIONS, PYTHIA, save_all, served

pytestmark = pytest.mark.usefixtures("online")

SEQUENCES, LENGTH = 6, 12
SMALL = {"sequences": SEQUENCES, "length": LENGTH, "device": "cpu"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_all(tmp_path_factory.mktemp("published"))


@pytest.fixture
def hub(folders, tmp_path, monkeypatch):
    with serve(served(folders)) as running:
        asked = partial(open_hub, endpoint=running.endpoint, cache_dir=tmp_path / "cache")
        monkeypatch.setattr(run, "open_hub", asked)
        yield running


def verified(names, table, **changes):
    """Rows by the figure's label."""
    rows = run.verify(select(names, table), **{**SMALL, **changes})
    return {row.figure.quantity.label: row for row in rows}


def text_ids(bos):
    """The documentation topics cut into pieces of 6 characters a token, each tokenized and cut: by hand."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    pieces = [text[start : start + 6 * LENGTH] for start in range(0, 6 * LENGTH * SEQUENCES, 6 * LENGTH)]
    ids = byte_tokenizer(bos=False)(pieces).input_ids
    return torch.tensor([([BOS] * bos + one)[:LENGTH] for one in ids])


def drawn_ids(name, hub_id, revision="main"):
    return torch.from_numpy(
        make_corpus(name, run.open_hub(hub_id, revision), sequences=SEQUENCES, length=LENGTH, bos="never").ids
    )


def eager(folder, ids):
    """Whole maps (N, L, H, T, T) and raw block outputs (N, L, T, d), in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    states = []
    blocks = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    for block in blocks:
        block.register_forward_hook(lambda _m, _a, out: states.append(out[0] if isinstance(out, tuple) else out))
    with torch.inference_mode():
        maps = model(ids, output_attentions=True, use_cache=False).attentions
    return torch.stack(maps, 1).numpy(), torch.stack(states, 1).abs().numpy()


def sink_1(maps, epsilon=0.3):
    """In percent, with a loop for each sequence, block and head."""
    hits = [sum(one[i, 0] for i in range(LENGTH)) / LENGTH > epsilon for of in maps for layer in of for one in layer]
    return 100 * sum(hits) / len(hits)


@pytest.mark.parametrize(("hub_id", "bos"), [(GPT2_XL, False), (LLAMA2, True)])
def test_sink_rates_are_means_of_indicators_over_whole_maps(hub, folders, hub_id, bos) -> None:
    rows = verified([hub_id], "sinks")
    ids = {
        "Sink_1 %, text": text_ids(bos),
        "Sink_1 %, random": drawn_ids("random", hub_id),
        "Sink_1 %, repeated": drawn_ids("repeated", hub_id),
    }
    expected = {label: sink_1(eager(folders[hub_id], one)[0]) for label, one in ids.items()}
    assert {label: row.ours for label, row in rows.items()} == pytest.approx(expected)
    assert len(set(expected.values())) == 3 and 0 < expected["Sink_1 %, text"] < 100


def test_the_strict_rate_has_the_threshold_of_its_paper(hub, folders, monkeypatch) -> None:
    hub.repositories["meta-llama/Llama-3.1-8B"] = hub.repositories[LLAMA2]
    maps, _ = eager(folders[LLAMA2], text_ids(True))
    assert verified(["LLaMA3.1-8B"], "sinks")["rate above 0.8 %"].ours == pytest.approx(sink_1(maps, 0.8))
    monkeypatch.setattr("ontogeny.dynamics.verify.readers.STRICT_EPSILON", 0.3)
    lenient = verified(["LLaMA3.1-8B"], "sinks")["rate above 0.8 %"].ours
    assert lenient == pytest.approx(sink_1(maps, 0.3)) and 0 < lenient < 100


def test_massive_activations_are_those_of_raw_block_outputs(hub, folders) -> None:
    rows = verified([LLAMA2], "massive")
    _, states = eager(folders[LLAMA2], text_ids(False))  # the published peaks have no BOS
    tops = states.max((2, 3))
    assert rows["peak |h|"].ours == pytest.approx(tops.mean(0).max(), rel=1e-4)
    assert rows["peak |h|"].ours < 0.99 * tops.max()  # so a maximum over sequences would not pass
    assert rows["its block, from 0"].ours == MASSIVE_BLOCK
    _, states = eager(folders[LLAMA2], text_ids(True))
    medians = np.sort(states.reshape(*states.shape[:2], -1))[..., (LENGTH * states.shape[-1] - 1) // 2]
    tops = states.max((2, 3))
    there = 1 + np.flatnonzero(((tops > 100) & (tops >= 1000 * medians)).mean(0) > 0.5)
    assert (rows["first block, from 1"].ours, rows["last block, from 1"].ours) == (there.min(), there.max()) == (2, 3)
    assert rows["dimensions"].ours == (MASSIVE_DIMENSIONS[0],)  # it takes all three ranks in every sequence


def test_a_ratio_is_of_means_at_the_last_checkpoint(hub, folders) -> None:
    row = verified([PYTHIA], "ratio")["largest ratio"]
    values = {}
    for revision, folder in (("main", folders[PYTHIA]), ("step143000", folders[f"{PYTHIA}@step143000"])):
        _, states = eager(folder, text_ids(False))
        flat = states.reshape(*states.shape[:2], -1)
        medians = np.sort(flat)[..., (flat.shape[-1] - 1) // 2]
        values[revision] = (flat.max(-1).mean(0) / medians.mean(0)).max()
        assert (flat.max(-1) / medians).mean(0).max() != pytest.approx(values[revision], rel=1e-4)
    assert row.ours == pytest.approx(values["step143000"], rel=1e-4)
    assert values["main"] != pytest.approx(values["step143000"], rel=1e-2)
    assert row.used.revision == "step143000"


def dataset(tops, medians, dimensions):
    """(sequence, depth, rank) with ranks 2 and 3 of their own; depth 0 is of no block."""
    top = np.array(tops, dtype=np.float32)[..., None] / np.array([1, 2, 4], dtype=np.float32)
    named = np.array(dimensions)[..., None] + np.array([0, 100, 200])
    return xr.Dataset(
        {
            "top_activation": (("sequence", "depth", "rank"), top),
            "top_dimension": (("sequence", "depth", "rank"), named),
            "median_activation": (("sequence", "depth"), np.array(medians, dtype=np.float32)),
        },
        {"depth": np.arange(top.shape[1]), "rank": [1, 2, 3]},
    )


def test_the_peaks_block_is_the_first_in_bfloat16_and_its_dimension_the_most_frequent() -> None:
    found = dataset(
        [[9e3, 50, 100.0, 100.2], [9e3, 60, 100.0, 100.2], [9e3, 40, 100.0, 100.2]],
        [[0.01, 0.05, 0.1, 0.1]] * 3,
        [[0, 1, 4, 6], [0, 1, 5, 6], [0, 1, 5, 6]],
    )
    assert READERS["peak"](found) == pytest.approx(100.2)
    assert READERS["peak_block"](found) == 1
    assert READERS["peak_dimension"](found) == 5
    assert READERS["massive_blocks"](found) == 1  # 100 is not above 100, 50 neither; 100.2 is, and 1000 times 0.1


def test_the_published_protocol_is_the_default(hub, monkeypatch) -> None:
    seen = {}

    def refuse(model, corpus, probes, batch_size, progress, impl):
        seen[probes.names[0], corpus.name, corpus.bos, model.config.model_type] = corpus.ids
        assert model.dtype == torch.float32
        raise OntogenyError("seen")

    monkeypatch.setattr(run, "measure_checkpoint", refuse)
    hub.repositories["openai-community/gpt2"] = hub.repositories[GPT2_XL]
    rows = run.verify(select(["gpt2-xl", "GPT-2", LLAMA2, "pythia-14M"]), device="cpu")
    assert {row.reason for row in rows} == {"seen"}
    assert {where: ids.shape for where, ids in seen.items()} == {
        **{("sinks", "builtin", "auto", kind): (100, 64) for kind in ("gpt2", "llama")},
        **{("sinks", name, "never", kind): (100, 64) for kind in ("gpt2", "llama") for name in ("random", "repeated")},
        ("massive", "builtin", "never", "gpt2"): (10, 1024),
        ("massive", "builtin", "never", "llama"): (10, 4096),
        ("massive", "builtin", "auto", "llama"): (10, 4096),
        ("massive", "builtin", "auto", "gpt_neox"): (10, 2048),
        ("ablation", "builtin", "auto", "llama"): (10, 4096),
    }
    first = {where: set(ids[:, 0]) for where, ids in seen.items() if where[3] == "llama"}
    assert {where[:3] for where, ids in first.items() if ids == {BOS}} == {
        ("sinks", "builtin", "auto"),
        ("massive", "builtin", "auto"),
        ("ablation", "builtin", "auto"),
    }
    repeated = seen["sinks", "repeated", "never", "llama"]
    assert (repeated == repeated[:, :1]).all() and len(set(repeated[:, 0])) > 50


def test_the_models_positions_bound_the_length(hub) -> None:
    hub.repositories["microsoft/phi-2"] = hub.repositories[GPT2_XL]
    row = verified(["phi-2"], "massive", length=None, sequences=1)["peak |h|"]
    assert row.used.length == 1024
    assert "1024 tokens each, published over 4096" in row.notes()


def test_a_model_that_cannot_be_had_is_a_reason_and_stops_no_other(hub) -> None:
    hub.repositories["mistralai/Mistral-7B-v0.1"] = hub.repositories[LLAMA2]
    hub.repositories[LLAMA2] = type(hub.repositories[GPT2_XL])(hub.repositories[LLAMA2].branches, gated=True)
    rows = run.verify(select(["llama2-7b", "llama3-8b", "mistral-7b"], "sinks"), **SMALL)
    reasons = {row.figure.model.name: row.reason for row in rows}
    assert "meta-llama/Llama-2-7b-hf is gated: ask for access" in reasons["LLaMA2-7B"]
    assert "there is no model repository meta-llama/Meta-Llama-3-8B" in reasons["LLaMA3-8B"]
    assert [row.ours is not None for row in rows] == [row.figure.model.name == "Mistral-7B" for row in rows]
    assert [row.figure for row in rows] == list(select(["llama2-7b", "llama3-8b", "mistral-7b"], "sinks"))


def test_weights_are_not_fetched_where_nothing_can_be_measured(hub) -> None:
    files = hub.repositories[GPT2_XL].branches["main"]
    hub.repositories[GPT2_XL].branches["main"] = {
        name: content for name, content in files.items() if not name.startswith("tokenizer")
    }
    rows = verified([GPT2_XL], "sinks")
    assert all("tokenizer" in row.reason for row in rows.values())
    assert hub.downloaded() == {"config.json"}


class FakeAblation:
    """An experiment that finds what it was told to."""

    result: object = None

    def __init__(self, settings) -> None: ...

    def run(self, model, batches, impl):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def ablated(loss, zero, mean):
    names = ["massive_to_mean", "massive_to_zero"]
    return xr.Dataset({"loss": ((), loss), "loss_ablated": ("intervention", [mean, zero])}, {"intervention": names})


def with_ablation(monkeypatch, result):
    monkeypatch.setitem(registry.EXPERIMENTS, "ablation", type("Fake", (FakeAblation,), {"result": result}))
    return verified([LLAMA2], "ablation")


def test_a_perplexity_is_the_exponential_of_the_loss(hub, monkeypatch) -> None:
    rows = with_ablation(monkeypatch, ablated(1.5, 800.0, 2.0))
    assert rows["perplexity"].ours == pytest.approx(math.e**1.5)
    assert rows["perplexity"].difference == pytest.approx(math.e**1.5 / 5.47)
    assert rows["perplexity, to mean"].ours == pytest.approx(math.e**2)
    zero = rows["perplexity, to 0"]
    assert zero.ours == math.inf and zero.difference is None and zero.beyond is False
    assert zero.to_dict()["ours"] == zero.to_dict()["published"] == "infinite"


def test_a_loss_that_is_no_number_is_no_perplexity(hub, monkeypatch) -> None:
    rows = with_ablation(monkeypatch, ablated(1.5, math.nan, 2.0))
    assert rows["perplexity, to 0"].reason.startswith("the loss is no number")
    assert rows["perplexity"].reason is None


def test_an_experiment_that_is_unavailable_is_a_reason(hub, monkeypatch) -> None:
    rows = with_ablation(monkeypatch, UnavailableError("no massive activation to change"))
    assert {row.reason for row in rows.values()} == {"unavailable: no massive activation to change"}


def test_an_experiment_that_is_not_there_is_a_reason(hub, monkeypatch) -> None:
    monkeypatch.delitem(registry.EXPERIMENTS, "ablation", raising=False)
    rows = verified([LLAMA2], "ablation")
    assert {row.reason for row in rows.values()} == {"this version of Ontogeny has no measurement of the name ablation"}
    assert hub.downloaded() == {"config.json"}


USED = Used("builtin", "f", 100, 64, "auto", "float32", "cpu", "main", "none", 1)


def one(table, label):
    return next(figure for figure in FIGURES if figure.table == table and figure.quantity.label == label)


@pytest.mark.parametrize(
    ("table", "label", "ours", "difference", "beyond"),
    [
        ("sinks", "Sink_1 %, text", 81.9, 4.9, False),
        ("sinks", "Sink_1 %, text", 71.9, -5.1, True),
        ("massive", "peak |h|", 3024 * 1.2, 1.2, False),
        ("massive", "peak |h|", 3024 / 1.3, 1 / 1.3, True),
        ("massive", "peak |h|", 3024 / 1.2, 1 / 1.2, False),
        ("massive", "its block, from 0", 9, 0, False),
        ("massive", "its block, from 0", 8, -1, True),
        ("massive", "its dimension", 447, None, False),
        ("massive", "its dimension", 448, None, True),
        ("massive", "dimensions", (1415, 2533), None, False),
        ("massive", "dimensions", (1415,), None, True),
        ("ablation", "perplexity, to 0", 1e9, None, True),
    ],
)
def test_differences_and_what_is_beyond_the_tolerance(table, label, ours, difference, beyond) -> None:
    row = Row(one(table, label), ours, USED)
    assert row.difference == (difference if difference is None else pytest.approx(difference))
    assert row.beyond is beyond
    json.dumps(row.to_dict(), allow_nan=False)


def test_every_difference_of_the_protocol_is_named() -> None:
    figure = one("sinks", "Sink_1 %, text")
    same = Row(figure, 70.0, USED).notes()
    assert same[0] == "published: arXiv 2410.10781, 100 sequences of 64 tokens in float32"
    assert "not the paper's text" in same[1]
    assert len(same) == 3 and "revision main" in same[2]
    other = Used("builtin", "f", 8, 32, "auto", "bfloat16", "cuda", "main", "gptq, 4 bits", 1)
    assert {
        "8 sequences, published over 100",
        "32 tokens each, published over 64",
        "computed in bfloat16, published in float32",
        "weights quantised: gptq, 4 bits",
    } == set(Row(figure, 70.0, other).notes()) - set(same)
    assert (
        "64 tokens each: how many the paper has is not known"
        in Row(one("sinks", "rate above 0.8 %"), 1.0, USED).notes()
    )


def test_what_was_not_measured_has_no_number_and_no_verdict() -> None:
    row = Row(one("sinks", "Sink_1 %, text"), reason="gone")
    assert (row.difference, row.beyond) == (None, None)
    assert row.notes()[1:] == ("not measured: gone",)
    assert row.to_dict()["measured_with"] is None and row.to_dict()["not_measured"] == "gone"


def test_every_figure_can_be_read_and_compared() -> None:
    for figure in FIGURES:
        assert figure.quantity.key in READERS and figure.table in TABLES and figure.table in TOLERANCES
        assert figure.setting.corpus in CORPORA
    assert len({(figure.model, figure.quantity) for figure in FIGURES}) == len(FIGURES)


def test_models_are_chosen_by_name_or_hub_id_in_any_case() -> None:
    assert {figure.model.hub_id for figure in select(["gpt2-XL", "META-LLAMA/llama-2-7b-hf"])} == {GPT2_XL, LLAMA2}
    assert select(None) == FIGURES
    sizes = [model.size for model in models(select(None, "sinks"))]
    assert sizes == sorted(sizes) and len(sizes) == 12
    with pytest.raises(UsageError, match="no model 'gpt3' with published numbers: expected some of Pythia-14m"):
        select(["gpt3"])
    with pytest.raises(UsageError, match="no model 'gpt2-xl' in the table ratio"):
        select(["gpt2-xl"], "ratio")
    with pytest.raises(UsageError, match="unknown table 'sink'"):
        select(None, "sink")


@pytest.mark.parametrize("wrong", [{"sequences": 0}, {"length": 1}, {"dtype": "int8"}, {"device": "tpu"}])
def test_requests_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(UsageError):
        run.verify(FIGURES[:1], **wrong)
