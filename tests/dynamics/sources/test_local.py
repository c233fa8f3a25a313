"""Folders of checkpoints on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ontogeny.dynamics.checkpoint import UNKNOWN_STEP
from ontogeny.dynamics.sources import open_series
from ontogeny.dynamics.sources.local import open_local
from ontogeny.errors import OntogenyError
from tests.checkpoint_folders import edit_config, save_tiny, save_word_tokenizer, to_bin
from tests.models import tiny


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


def run_of(folder: Path, one: Path, *names: str) -> Path:
    for name in names:
        shutil.copytree(one, folder / name)
    return folder


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path, one: Path) -> None:
    folder = run_of(tmp_path / "run", one, "step1000", "step64", "step0", "step512")
    series = open_local(folder)
    assert [checkpoint.step for checkpoint in series.checkpoints] == [0, 64, 512, 1000]
    assert [checkpoint.name for checkpoint in series.checkpoints] == ["step0", "step64", "step512", "step1000"]
    assert {checkpoint.revision for checkpoint in series.checkpoints} == {""}
    assert {checkpoint.tokens for checkpoint in series.checkpoints} == {None}
    assert [checkpoint.fetch() for checkpoint in series.checkpoints][1] == folder / "step64"
    assert (series.name, series.source, series.default_steps) == ("run", str(folder), "all")
    assert (series.arch.model_type, series.arch.layers, series.arch.width) == ("gpt_neox", 3, 32)
    assert open_series(series.source).checkpoints[2].step == 512


def test_each_checkpoint_loads_its_own_weights(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_tiny(tmp_path / f"step{seed}", seed=seed)
    for checkpoint in open_local(tmp_path).checkpoints:
        due = tiny("gpt_neox", seed=checkpoint.step).gpt_neox.embed_in.weight
        assert torch.equal(checkpoint.load().gpt_neox.embed_in.weight, due)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step1000", 1000),
        ("step_1000", 1000),
        ("step-7", 7),
        ("checkpoint-500", 500),
        ("global_step500", 500),
        ("iter_0000500", 500),
        ("Step0002", 2),
        ("step1000-tokens4B", 1000),
        ("12", 12),
        ("model12", 12),
    ],
)
def test_the_step_stands_in_the_folders_name(tmp_path: Path, one: Path, name: str, step: int) -> None:
    checkpoint = open_local(run_of(tmp_path, one, name)).checkpoints[0]
    assert (checkpoint.name, checkpoint.step) == (name, step)


def test_what_is_no_checkpoint_is_passed_over(tmp_path: Path, one: Path) -> None:
    folder = run_of(tmp_path, one, "step1", ".cache-step3")
    (folder / "runs").mkdir()
    (folder / "notes.txt").write_text("lr 1e-3")
    (folder / "step9").mkdir()
    (folder / "step9" / "optimizer.bin").touch()
    assert [checkpoint.step for checkpoint in open_local(folder).checkpoints] == [1]


@pytest.mark.parametrize(("name", "step"), [("step64", 64), ("checkpoint-5", 5), ("SmolLM2", -1), ("final", -1)])
def test_a_folder_that_is_a_checkpoint_is_a_series_of_one(tmp_path: Path, one: Path, name: str, step: int) -> None:
    series = open_local(run_of(tmp_path, one, name) / name)
    assert [(checkpoint.name, checkpoint.step) for checkpoint in series.checkpoints] == [(name, step)]
    assert (step == -1) == (step == UNKNOWN_STEP)
    assert type(series.checkpoints[0].load()).__name__ == "GPTNeoXForCausalLM"


def test_a_trainers_folder_with_its_last_model_beside_its_checkpoints_is_their_series(
    tmp_path: Path, one: Path
) -> None:
    folder = run_of(tmp_path / "run", one, "checkpoint-1", "checkpoint-2")
    shutil.copytree(one, folder, dirs_exist_ok=True)
    assert [checkpoint.step for checkpoint in open_local(folder).checkpoints] == [1, 2]


def test_parts_of_a_model_in_subfolders_are_no_checkpoints(tmp_path: Path, one: Path) -> None:
    folder = run_of(tmp_path, one, "encoder") / "encoder"
    run_of(folder, one, "1_Pooling", "onnx")
    assert [checkpoint.name for checkpoint in open_local(folder).checkpoints] == ["encoder"]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OntogenyError, match=r"cannot be listed .*Permission denied"):
        open_local(tmp_path)


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_of(tmp_path / "run", one, "step1"))
    assert open_series(".").name == "run"
    monkeypatch.chdir("step1")
    assert open_series(".").checkpoints[0].name == "step1"


def test_bin_weights_make_a_checkpoint_too(tmp_path: Path, one: Path) -> None:
    to_bin(run_of(tmp_path, one, "step3") / "step3")
    assert type(open_local(tmp_path).checkpoints[0].load()).__name__ == "GPTNeoXForCausalLM"


def test_a_checkpoint_that_lacks_a_file_stays_in_the_series_and_fails_alone(tmp_path: Path, one: Path) -> None:
    folder = run_of(tmp_path, one, "step1", "step2", "step3")
    (folder / "step2" / "model.safetensors").unlink()
    (folder / "step3" / "config.json").unlink()
    series = open_local(folder)
    assert [checkpoint.step for checkpoint in series.checkpoints] == [1, 2, 3]
    series.checkpoints[0].load()
    for checkpoint in series.checkpoints[1:]:
        with pytest.raises(OntogenyError, match=f"step{checkpoint.step} is not a whole checkpoint"):
            checkpoint.load()


def test_the_architecture_is_the_last_checkpoints(tmp_path: Path, one: Path) -> None:
    run_of(tmp_path, one, "step1", "step2")
    edit_config(tmp_path / "step2", intermediate_size=96)
    assert open_local(tmp_path).arch.ffn == 96


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OntogenyError, match=r"holds no checkpoint: expected config.json with model.safetensors"):
        open_local(tmp_path)


def test_a_folder_without_any_config_is_refused(tmp_path: Path, one: Path) -> None:
    (run_of(tmp_path, one, "step1") / "step1" / "config.json").unlink()
    with pytest.raises(OntogenyError, match=r"step1/config\.json cannot be read"):
        open_local(tmp_path)


@pytest.mark.parametrize("others", [(), ("step1",)])
def test_a_checkpoint_folder_that_states_no_step_is_named(tmp_path: Path, one: Path, others: tuple[str, ...]) -> None:
    with pytest.raises(OntogenyError, match="final holds a checkpoint but its name states no step"):
        open_local(run_of(tmp_path, one, "final", *others))


def test_two_folders_of_one_step_are_named(tmp_path: Path, one: Path) -> None:
    with pytest.raises(OntogenyError, match=r"checkpoint-5 and step5 in .* both state step 5"):
        open_local(run_of(tmp_path, one, "step5", "checkpoint-5", "step6"))


@pytest.mark.parametrize(
    ("text", "said"), [("{", "cannot be read as JSON"), ("[]", "holds a list"), ("{}", "states no")]
)
def test_a_config_that_describes_no_model_is_refused(tmp_path: Path, one: Path, text: str, said: str) -> None:
    (run_of(tmp_path, one, "step1") / "step1" / "config.json").write_text(text)
    with pytest.raises(OntogenyError, match=said):
        open_local(tmp_path)


def test_there_may_be_no_tokenizer(tmp_path: Path, one: Path) -> None:
    assert open_local(run_of(tmp_path, one, "step1")).tokenizer() is None


@pytest.mark.parametrize("place", ["step2", "."])
def test_the_tokenizer_lies_in_the_last_checkpoint_or_beside_them(tmp_path: Path, one: Path, place: str) -> None:
    run_of(tmp_path, one, "step1", "step2")
    save_word_tokenizer(tmp_path / place)
    tokenizer = open_local(tmp_path).tokenizer()
    assert tokenizer is not None
    assert tokenizer.encode("The sun sets") == [1, 2, 0]


def test_the_tokenizer_of_a_single_checkpoint(tmp_path: Path, one: Path) -> None:
    tokenizer = open_local(save_word_tokenizer(run_of(tmp_path, one, "step1") / "step1")).tokenizer()
    assert tokenizer is not None
    assert tokenizer.encode("sun") == [2]


def test_tokenizer_files_without_a_vocabulary_are_an_error(tmp_path: Path, one: Path) -> None:
    (run_of(tmp_path, one, "step1") / "step1" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "GPT2Tokenizer"}'
    )
    with pytest.raises(OntogenyError, match="step1 has tokenizer files but no vocabulary"):
        open_local(tmp_path).tokenizer()


def test_an_unreadable_tokenizer_is_an_error(tmp_path: Path, one: Path) -> None:
    save_word_tokenizer(run_of(tmp_path, one, "step1") / "step1")
    (tmp_path / "step1" / "tokenizer.json").write_text("{")
    with pytest.raises(OntogenyError, match=r"step1 cannot be read .*restore the tokenizer's files"):
        open_local(tmp_path).tokenizer()


def test_a_tokenizer_that_makes_no_tokens_is_an_error(tmp_path: Path, one: Path) -> None:
    folder = run_of(tmp_path, one, "step1") / "step1"
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (folder / "vocab.json").write_text('{"x": 0}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(OntogenyError, match="makes no tokens of"):
        open_local(tmp_path).tokenizer()


def test_a_tokenizers_own_code_is_never_run(tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_word_tokenizer(run_of(tmp_path, one, "step1") / "step1")
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}}'
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    try:
        open_local(tmp_path).tokenizer()
    except OntogenyError as error:
        assert "cannot be read" in str(error)
    assert not (tmp_path / "ran").exists()


def test_tokens_are_read_from_the_folders_name(tmp_path: Path) -> None:
    for name in ("step0-tokens0B", "step5500-tokens23B"):
        save_tiny(tmp_path / "run" / name)
    assert [(one.step, one.tokens) for one in open_local(tmp_path / "run").checkpoints] == [(0, 0.0), (5500, 23e9)]
