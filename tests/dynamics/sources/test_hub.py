"""Revisions of a Hub repository, asked of a stand-in on 127.0.0.1 through the real client."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants

from ontogeny.dynamics.series import Series
from ontogeny.dynamics.sources.hub import open_hub
from ontogeny.errors import OntogenyError, UsageError
from tests.checkpoint_folders import contents, save_tiny, save_word_tokenizer, to_bin
from tests.hub_server import Hub, Repository, serve
from tests.models import tiny

pytestmark = pytest.mark.usefixtures("online")

ID = "owner/tiny-neox"
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Files]:
    """Three checkpoints as files, different at each step, with a tokenizer."""
    places = {step: save_tiny(tmp_path_factory.mktemp("step") / "model", seed=step) for step in (0, 1, 512)}
    return {step: contents(save_word_tokenizer(place)) for step, place in places.items()}


@pytest.fixture
def repository(steps: dict[int, Files]) -> Repository:
    return Repository({"main": steps[512], **{f"step{step}": files for step, files in steps.items()}})


@pytest.fixture
def hub(repository: Repository) -> Iterator[Hub]:
    with serve({ID: repository}) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(hub: Hub, cache: Path) -> Series:
    return open_hub(ID, endpoint=hub.endpoint, cache_dir=cache)


def without(files: Files, *names: str) -> Files:
    return {name: content for name, content in files.items() if name not in names}


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_the_revisions_are_those_that_the_hub_lists(hub: Hub, cache: Path, repository: Repository) -> None:
    for name in ("step7x", "v1", "mystep3", "step", "step2/extra"):
        repository.branches[name] = {}
    series = opened(hub, cache)
    assert [checkpoint.step for checkpoint in series.checkpoints] == [0, 1, 512]
    assert [checkpoint.name for checkpoint in series.checkpoints] == ["step0", "step1", "step512"]
    assert [checkpoint.revision for checkpoint in series.checkpoints] == ["step0", "step1", "step512"]
    assert {checkpoint.tokens for checkpoint in series.checkpoints} == {None}
    assert (series.source, series.name, series.default_steps) == (ID, "tiny-neox", "log")
    assert (series.arch.model_type, series.arch.layers) == ("gpt_neox", 3)


def test_opening_downloads_one_config_and_nothing_else(hub: Hub, cache: Path) -> None:
    opened(hub, cache)
    assert hub.downloaded() == {"config.json"}


def test_the_architecture_is_the_last_revisions(hub: Hub, cache: Path, repository: Repository) -> None:
    config = json.loads(repository.branches["step512"]["config.json"]) | {"intermediate_size": 96}
    repository.branches["step512"] = repository.branches["step512"] | {"config.json": json.dumps(config).encode()}
    assert opened(hub, cache).arch.ffn == 96


def test_each_checkpoint_loads_its_own_weights(hub: Hub, cache: Path) -> None:
    for checkpoint in opened(hub, cache).checkpoints:
        due = tiny("gpt_neox", seed=checkpoint.step).gpt_neox.embed_in.weight
        assert torch.equal(checkpoint.load().gpt_neox.embed_in.weight, due)


def test_tags_are_revisions_too_and_a_branch_goes_before_a_tag(
    hub: Hub, cache: Path, repository: Repository, steps: dict[int, Files]
) -> None:
    repository.tags = {"step2": steps[1], "step0512": steps[0], "v2": steps[0]}
    assert [checkpoint.revision for checkpoint in opened(hub, cache).checkpoints] == [
        "step0",
        "step1",
        "step2",
        "step512",
    ]


def test_a_repository_without_steps_is_its_main_revision(hub: Hub, cache: Path, repository: Repository) -> None:
    repository.branches = {"main": repository.branches["main"], "dev": {}}
    series = opened(hub, cache)
    assert [(checkpoint.name, checkpoint.step, checkpoint.revision) for checkpoint in series.checkpoints] == [
        ("main", -1, "main")
    ]
    series.checkpoints[0].load()


def test_only_what_is_needed_is_fetched(hub: Hub, cache: Path, repository: Repository) -> None:
    useless = ("pytorch_model.bin", "model.fp16.safetensors", "consolidated.safetensors", "optimizer.pt", "README.md")
    repository.branches["step1"] = repository.branches["step1"] | dict.fromkeys(useless, b"large")
    repository.branches["step1"] |= {"onnx/config.json": b"{}", "onnx/model.safetensors": b"large", "own.py": b"code"}
    folder = opened(hub, cache).checkpoints[1].fetch()
    small = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert hub.downloaded() <= small | {"model.safetensors"}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == small | {"model.safetensors"}


def test_bin_weights_are_fetched_where_there_are_no_safetensors(
    hub: Hub, cache: Path, repository: Repository, tmp_path: Path
) -> None:
    repository.branches["step1"] = contents(to_bin(save_tiny(tmp_path / "bin", seed=1)))
    checkpoint = opened(hub, cache).checkpoints[1]
    assert torch.equal(checkpoint.load().gpt_neox.embed_in.weight, tiny("gpt_neox", seed=1).gpt_neox.embed_in.weight)
    assert "pytorch_model.bin" in hub.downloaded()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_all_shards_are_fetched(hub: Hub, cache: Path, repository: Repository, tmp_path: Path, kind: str) -> None:
    tiny("llama").save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    files = contents(tmp_path / "shards")
    if kind == "bin":
        files = {name.replace("model", "pytorch_model").replace("safetensors", "bin"): files[name] for name in files}
    shards = {name for name in files if name.endswith((".safetensors", ".bin"))}
    assert len(shards) > 1
    repository.branches["step1"] = files
    opened(hub, cache).checkpoints[1].fetch()
    assert shards <= hub.downloaded()


def test_a_revision_without_weights_is_refused(hub: Hub, cache: Path, repository: Repository) -> None:
    repository.branches["step1"] = without(repository.branches["step1"], "model.safetensors") | {"model.gguf": b""}
    with pytest.raises(OntogenyError, match=f"revision step1 of {ID} has no weights that transformers reads"):
        opened(hub, cache).checkpoints[1].fetch()


def test_fetching_twice_downloads_once(hub: Hub, cache: Path) -> None:
    checkpoint = opened(hub, cache).checkpoints[1]
    folder = checkpoint.fetch()
    hub.requests.clear()
    assert checkpoint.fetch() == folder
    assert hub.downloaded() == set()


def test_a_load_from_fetched_files_asks_nothing(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ontogeny.dynamics.loading.model import load_model

    folder = opened(hub, cache).checkpoints[1].fetch()
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda _socket, address: asked.append(address))
    load_model(folder)
    assert asked == []


def test_the_tokenizer_is_the_last_revisions_and_needs_no_weights(hub: Hub, cache: Path) -> None:
    tokenizer = opened(hub, cache).tokenizer()
    assert tokenizer is not None
    assert tokenizer.encode("The sun sets") == [1, 2, 0]
    assert "model.safetensors" not in hub.downloaded()


def test_the_tokenizer_may_lie_in_main_alone_or_nowhere(
    hub: Hub, cache: Path, repository: Repository, tmp_path: Path
) -> None:
    bare = without(repository.branches["step512"], "tokenizer.json", "tokenizer_config.json")
    repository.branches["step512"] = bare
    tokenizer = opened(hub, cache).tokenizer()
    assert tokenizer is not None
    assert tokenizer.encode("sun") == [2]
    repository.branches["main"] = bare | {"README.md": b"other commit"}
    assert opened(hub, tmp_path / "other cache").tokenizer() is None


def test_a_repository_that_is_not_there(hub: Hub, cache: Path) -> None:
    with pytest.raises(
        OntogenyError, match=r"no model repository owner/typo on the Hub, nor a folder .*check the spelling"
    ):
        open_hub("owner/typo", endpoint=hub.endpoint, cache_dir=cache)


@pytest.mark.parametrize("name", ["owner/a--b", "owner/x.git"])
def test_an_id_that_the_hub_does_not_allow(hub: Hub, cache: Path, name: str) -> None:
    with pytest.raises(OntogenyError, match=f"no model repository {name} on the Hub"):
        open_hub(name, endpoint=hub.endpoint, cache_dir=cache)


def test_a_gated_repository(hub: Hub, cache: Path, repository: Repository) -> None:
    repository.gated = True
    with pytest.raises(OntogenyError, match=f"{ID} is gated: ask for access .* `hf auth login`"):
        opened(hub, cache)


def test_a_revision_that_goes_away(hub: Hub, cache: Path, repository: Repository) -> None:
    series = opened(hub, cache)
    del repository.branches["step1"]
    with pytest.raises(OntogenyError, match=r"a revision of owner/tiny-neox .* is not on the Hub .*leave its step out"):
        series.checkpoints[1].fetch()


def test_a_revision_without_a_config(hub: Hub, cache: Path, repository: Repository) -> None:
    repository.branches["step512"] = without(repository.branches["step512"], "config.json")
    with pytest.raises(OntogenyError, match="lacks a file that every model has"):
        opened(hub, cache)


def test_a_config_that_is_no_json(hub: Hub, cache: Path, repository: Repository) -> None:
    repository.branches["step512"] = repository.branches["step512"] | {"config.json": b"<html>"}
    with pytest.raises(OntogenyError, match=r"config\.json cannot be read as JSON"):
        opened(hub, cache)


@pytest.mark.parametrize("trouble", ["out of order", "gone"])
def test_a_hub_that_does_not_answer(repository: Repository, cache: Path, trouble: str) -> None:
    with serve({ID: repository}) as hub:
        series = opened(hub, cache)
    if trouble == "gone":
        close_session()  # a connection that is still open would go on being served
        assert_unanswered(hub, cache, series)
        return
    with serve({ID: repository}) as hub:
        series = opened(hub, cache)
        hub.failing = True
        assert_unanswered(hub, cache, series)


def assert_unanswered(hub: Hub, cache: Path, series: Series) -> None:
    for call in (lambda: opened(hub, cache), series.checkpoints[1].fetch, series.tokenizer):
        with pytest.raises(OntogenyError, match=f"Hub could not be asked for {ID}, .*set HF_HUB_OFFLINE=1"):
            call()


def test_a_download_that_breaks_off(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = opened(hub, cache)
    hub.broken = {"model.safetensors"}
    with pytest.raises(OntogenyError, match="Hub could not be asked"):
        series.checkpoints[1].fetch()
    hub.broken = set()
    series.checkpoints[1].load()


def test_offline_the_series_is_what_the_cache_holds(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = opened(hub, cache)
    for checkpoint in (online.checkpoints[0], online.checkpoints[2]):
        checkpoint.fetch()
    hub.repositories["owner/other"] = Repository({"step7": hub.repositories[ID].branches["step1"]})
    open_hub("owner/other", endpoint=hub.endpoint, cache_dir=cache).checkpoints[0].fetch()
    go_offline(monkeypatch)
    hub.requests.clear()
    series = opened(hub, cache)
    assert [checkpoint.name for checkpoint in series.checkpoints] == ["step0", "step512"]
    series.checkpoints[0].load()
    tokenizer = series.tokenizer()
    assert tokenizer is not None
    assert series.arch == online.arch
    assert hub.requests == []


@pytest.mark.parametrize("cached", ["nothing", "another repository"])
def test_offline_without_a_cache(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, cached: str) -> None:
    if cached == "another repository":
        for checkpoint in opened(hub, cache).checkpoints:
            checkpoint.fetch()
    go_offline(monkeypatch)
    name = "owner/other" if cached == "another repository" else ID
    with pytest.raises(
        OntogenyError, match=f"{name} is not wholly in the local cache of the Hub, and HF_HUB_OFFLINE is set: unset"
    ):
        open_hub(name, endpoint=hub.endpoint, cache_dir=cache)


def test_offline_a_checkpoint_that_was_not_fetched_whole(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = opened(hub, cache)
    _, _, folder = (checkpoint.fetch() for checkpoint in online.checkpoints)
    go_offline(monkeypatch)
    (folder / "model.safetensors").unlink()
    assert [checkpoint.name for checkpoint in opened(hub, cache).checkpoints] == ["step0", "step1"]
    with pytest.raises(OntogenyError, match=r"step512 of .* is not wholly in the local cache"):
        online.checkpoints[2].fetch()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(OntogenyError, match="not wholly in the local cache"):
        online.tokenizer()


def test_a_file_that_the_client_did_not_bring_is_missed(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = opened(hub, cache).checkpoints[1]
    folder = checkpoint.fetch()
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(folder))
    with pytest.raises(OntogenyError, match=rf"model\.safetensors of step1 of {ID} got lost on the way"):
        checkpoint.fetch()


def published(steps: dict[int, Files]) -> Repository:
    """A repository with two runs, as OLMo's: tokens in the names, the same steps in both."""
    names = {
        "stage1-step0-tokens0B": steps[0],
        "stage1-step1-tokens4B": steps[1],
        "stage1-step512-tokens2148B": steps[512],
        "stage2-ingredient1-step0-tokens0B": steps[1],
        "stage2-ingredient1-step512-tokens50B": steps[0],
    }
    return Repository({"main": steps[512], **names})


def test_a_series_is_one_run_and_the_others_are_told_of(steps: dict[int, Files], cache: Path) -> None:
    with serve({ID: published(steps)}) as hub:
        series = opened(hub, cache)
        assert [(one.step, one.tokens, one.revision) for one in series.checkpoints] == [
            (0, 0.0, "stage1-step0-tokens0B"),
            (1, 4e9, "stage1-step1-tokens4B"),
            (512, 2148e9, "stage1-step512-tokens2148B"),
        ]
        assert series.notes == (
            f"{ID} holds several runs, this is run 'stage1'; others: @stage2-ingredient1 (2 checkpoints)",
        )
        second = open_hub(ID, "stage2-ingredient1", endpoint=hub.endpoint, cache_dir=cache)
        assert [one.step for one in second.checkpoints] == [0, 512] and second.notes == ()
        assert (second.source, second.name) == (f"{ID}@stage2-ingredient1", "tiny-neox-stage2-ingredient1")
        weight = second.checkpoints[1].load().gpt_neox.embed_in.weight
        assert torch.equal(weight, tiny("gpt_neox", seed=0).gpt_neox.embed_in.weight)


@pytest.mark.parametrize(("part", "step"), [("step1", 1), ("main", -1)])
def test_one_revision_can_be_asked_for(hub: Hub, cache: Path, part: str, step: int) -> None:
    series = open_hub(ID, part, endpoint=hub.endpoint, cache_dir=cache)
    assert [(one.name, one.step) for one in series.checkpoints] == [(part, step)]


def test_a_part_that_is_not_there_is_refused(steps: dict[int, Files], cache: Path) -> None:
    with (
        serve({ID: published(steps)}) as hub,
        pytest.raises(UsageError, match=r"'stage3': expected @stage1 \(3 .* or one checkpoint, such as @stage1-step0"),
    ):
        open_hub(ID, "stage3", endpoint=hub.endpoint, cache_dir=cache)


def test_checkpoints_may_lie_in_folders_of_main(steps: dict[int, Files], cache: Path) -> None:
    files = {"README.md": b"a run", **{name: steps[512][name] for name in ("tokenizer.json", "tokenizer_config.json")}}
    for step, content in steps.items():
        bare = without(content, "tokenizer.json", "tokenizer_config.json")
        files |= {f"checkpoint-{step}/{name}": data for name, data in bare.items()}
    with serve({ID: Repository({"main": files | {"onnx/config.json": b"{}"}})}) as hub:
        series = opened(hub, cache)
        assert [(one.name, one.step, one.revision) for one in series.checkpoints] == [
            ("checkpoint-0", 0, "main"),
            ("checkpoint-1", 1, "main"),
            ("checkpoint-512", 512, "main"),
        ]
        assert series.tokenizer() is not None
        assert not any("safetensors" in path for path in hub.downloaded())
        for one in series.checkpoints:
            due = tiny("gpt_neox", seed=one.step).gpt_neox.embed_in.weight
            assert torch.equal(one.load().gpt_neox.embed_in.weight, due)


def test_folders_may_lie_deeper_and_those_around_them_are_runs(steps: dict[int, Files], cache: Path) -> None:
    inside = {
        f"{place}/{name}": data
        for place, step in {"seed1/step1": 1, "seed1/step_512": 512, "seed2/a/step1": 0}.items()
        for name, data in steps[step].items()
    }
    with serve({ID: Repository({"main": inside})}) as hub:
        series = opened(hub, cache)
        assert [(one.name, one.step) for one in series.checkpoints] == [("step1", 1), ("step_512", 512)]
        assert series.notes == (f"{ID} holds several runs, this is run 'seed1'; others: @seed2/a (1 checkpoints)",)
        other = open_hub(ID, "seed2/a", endpoint=hub.endpoint, cache_dir=cache)
        [one] = other.checkpoints
        for checkpoint, seed in ((series.checkpoints[1], 512), (one, 0)):
            due = tiny("gpt_neox", seed=seed).gpt_neox.embed_in.weight
            assert torch.equal(checkpoint.load().gpt_neox.embed_in.weight, due)
