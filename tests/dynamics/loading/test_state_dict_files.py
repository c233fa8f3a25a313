"""State dicts that trainers' own code wrote: the same model as from a folder, or one sentence."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from ontogeny.dynamics.loading.model import load_model
from ontogeny.errors import OntogenyError
from tests.checkpoint_folders import edit_config
from tests.models import tiny, token_ids
from tests.state_dict_files import Canary, save_config, save_lightning

MODELS = {
    "gpt_neox": {},
    "gpt2": {},
    "llama": {},
    "tied llama": {"tie_word_embeddings": True},
    "gpt_oss": {},
    "opt": {},
    "bert": {},
}


def model_of(kind: str) -> PreTrainedModel:
    return tiny(kind.split()[-1], **MODELS[kind])


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = token_ids(2, 12)
    with torch.no_grad():
        return model(ids, attention_mask=torch.ones_like(ids)).logits


def put(file: Path, contents: object, model: PreTrainedModel | None = None) -> Path:
    """Save `contents` beside the config of the model."""
    save_config(file.parent, model or tiny("gpt_neox"))
    torch.save(contents, file)
    return file


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [(kind, prefix) for kind in MODELS for prefix in ("", "model.")]
    + [("tied llama", "module."), ("gpt_neox", "_orig_mod."), ("bert", "model._orig_mod."), ("gpt2", "net.lm.")],
)
def test_the_logits_are_those_of_a_saved_folder_bit_for_bit(tmp_path: Path, kind: str, prefix: str) -> None:
    model = model_of(kind)
    model.save_pretrained(tmp_path / "folder")
    save_config(tmp_path / "run", model)
    file = save_lightning(tmp_path / "run" / "epoch=1-step=500.ckpt", model, 500, prefix)
    loaded, due = load_model(file, step=500), load_model(tmp_path / "folder")
    assert type(loaded) is type(due)
    assert torch.equal(logits(loaded), logits(due)) and torch.equal(logits(loaded), logits(model))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_a_config_that_names_a_class_is_heeded(tmp_path: Path, kind: str) -> None:
    model = model_of(kind)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "step7.safetensors")
    loaded = load_model(tmp_path / "step7.safetensors")
    assert type(loaded) is type(model) and torch.equal(logits(loaded), logits(model))


def test_a_bare_model_without_its_head(tmp_path: Path) -> None:
    for family in ("llama", "bert"):
        base = tiny(family).base_model
        file = put(tmp_path / family / "step1.pt", base.state_dict(), tiny(family))
        if family == "llama":
            assert type(load_model(file)) is type(base)
            assert torch.equal(load_model(file).embed_tokens.weight, base.embed_tokens.weight)
        else:
            with pytest.raises(OntogenyError, match=r"2 missing \(pooler"):
                load_model(file)


def test_the_head_is_only_guessed_where_the_config_names_none(tmp_path: Path) -> None:
    model = tiny("llama")
    file = put(tmp_path / "step1.pt", model.state_dict(), model)
    assert isinstance(load_model(file), AutoModelForCausalLM._model_mapping[type(model.config)])
    edit_config(tmp_path, architectures=["LlamaModel"])
    with pytest.raises(OntogenyError, match=r"1 unexpected \(lm_head\.weight\)"):
        load_model(file)
    bert = tiny("bert")
    masked = load_model(put(tmp_path / "bert" / "step1.pt", bert.state_dict(), bert))
    assert isinstance(masked, AutoModelForMaskedLM._model_mapping[type(bert.config)])


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model", "module"])
def test_weights_stand_alone_or_under_a_key(tmp_path: Path, suffix: str, key: str | None) -> None:
    model = tiny("gpt_neox")
    weights = model.state_dict()
    file = put(tmp_path / f"step3{suffix}", weights if key is None else {key: weights, "epoch": 3})
    assert torch.equal(logits(load_model(file)), logits(model))


def test_files_of_torchs_old_format(tmp_path: Path) -> None:
    model = tiny("gpt_neox")
    file = put(tmp_path / "step3.pt", {})
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(file)
    assert torch.equal(logits(load_model(file)), logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_are_cast_as_asked(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in tiny("gpt_neox").state_dict().items()}
    model = load_model(put(tmp_path / "step3.pt", weights), dtype="float32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    name = "embed_in.weight"
    assert torch.equal(model.gpt_neox.embed_in.weight, weights[f"gpt_neox.{name}"].float())


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny("llama")
    for prefix in ("", "model."):
        weights = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
        file = put(tmp_path / "step1.pt", {**weights, f"{prefix}extra": torch.ones(2)}, model)
        with pytest.raises(OntogenyError, match=r"fit its config: 1 unexpected \((model\.)?extra\)"):
            load_model(file)
        weights.pop(f"{prefix}model.layers.1.mlp.up_proj.weight")
        with pytest.raises(OntogenyError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)\. Nothing"):
            load_model(put(tmp_path / "step1.pt", weights, model))


def test_a_part_of_the_names_with_a_prefix_is_refused(tmp_path: Path) -> None:
    """A module beside the model, a teacher or a loss, makes it unclear which weights are meant."""
    weights = {f"student.{name}": tensor for name, tensor in tiny("gpt_neox").state_dict().items()}
    with pytest.raises(OntogenyError, match=r"missing .* unexpected"):
        load_model(put(tmp_path / "step1.pt", {**weights, "loss.scale": torch.ones(1)}))


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ([1, 2], "holds a list: expected tensors by name"),
        ({}, "holds nothing: expected tensors by name"),
        (torch.ones(3), "holds a Tensor: expected"),
        ({"epoch": 3, "loss": 0.1}, r"holds no state dict \(epoch, loss\)"),
        ({"state_dict": {}, "epoch": 1}, r"no state dict \(state_dict, epoch\)"),
        (
            {"model": {"a": torch.ones(1)}, "state_dict": {"b": torch.ones(1)}},
            r"several of them \(state_dict, model\)",
        ),
        ({"a": torch.ones(1).expand(10**9)}, r"1 weights of .* are no plain tensors \(a\)"),
        ({"a": torch.ones(3, 3).to_sparse()}, r"are no plain tensors \(a\)"),
        ({"a": torch.ones(3, 3, device="meta")}, r"are no plain tensors \(a\)"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, contents: object, said: str) -> None:
    with pytest.raises(OntogenyError, match=said):
        load_model(put(tmp_path / "step1.pt", contents))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_code_in_a_file_is_never_run(tmp_path: Path, suffix: str, old: bool) -> None:
    mark = tmp_path / "ran"
    file = put(tmp_path / f"step1{suffix}", {})
    contents = {"state_dict": OrderedDict(tiny("gpt_neox").state_dict()), "callbacks": Canary(mark)}
    torch.save(contents, file, _use_new_zipfile_serialization=not old)
    with pytest.raises(OntogenyError, match=r"cannot be read: it holds .* code in files is never run"):
        load_model(file)
    file.write_bytes(pickle.dumps(contents["callbacks"]))
    with pytest.raises(OntogenyError, match="cannot be read"):
        load_model(file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Canary(mark)))
    assert mark.exists()


def test_a_pickled_class_is_named_with_the_way_out(tmp_path: Path) -> None:
    save_config(tmp_path, tiny("gpt_neox"))
    file = tmp_path / "epoch=0-step=5.ckpt"
    save_lightning(file, tiny("gpt_neox"), 5, hyper_parameters=argparse.Namespace(lr=1))
    with pytest.raises(OntogenyError, match=r'a pickled argparse\.Namespace, .*torch\.save\(\{"state_dict": weights\}'):
        load_model(file)
    trusted = torch.load(file, weights_only=False)
    torch.save({"state_dict": trusted["state_dict"]}, file)
    assert torch.equal(logits(load_model(file)), logits(tiny("gpt_neox")))


def repacked(file: Path, compression: int, times: int = 1) -> None:
    """Write a zip archive's entries again, compressed or several times over in name only."""
    with zipfile.ZipFile(file) as archive:
        entries = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data * times if name.endswith("/data/0") else data)


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(tmp_path / "step1.ckpt", {"state_dict": {"a": torch.zeros(1000)}})
    repacked(file, zipfile.ZIP_DEFLATED, 20_000)
    assert file.stat().st_size < 200_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(
        OntogenyError, match=r"would unpack to 80\d{6} bytes out of \d{5,6}: expected the file as torch"
    ):
        load_model(file)


def test_a_zip_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    """Entries that overlap: each is stored, and together they are larger than the file."""
    file = put(tmp_path / "step1.ckpt", {"state_dict": {"a": torch.zeros(50_000)}})
    with zipfile.ZipFile(file, "a") as archive:
        entry = archive.infolist()[-1]
        archive.filelist.extend([max(archive.filelist, key=lambda one: one.file_size)] * 40)
        archive.writestr("more", b"")
        assert entry in archive.filelist
    with pytest.raises(OntogenyError, match="would unpack to"):
        load_model(file)


def test_a_repacked_file_that_is_no_bomb_says_how_to_go_on(tmp_path: Path) -> None:
    file = put(tmp_path / "step1.ckpt", tiny("gpt_neox").state_dict())
    repacked(file, zipfile.ZIP_STORED)
    assert torch.equal(logits(load_model(file)), logits(tiny("gpt_neox")))
    repacked(file, zipfile.ZIP_DEFLATED)
    with pytest.raises(OntogenyError, match="which compresses nothing; save the weights again"):
        load_model(file)


@pytest.mark.parametrize("kept", [0, 3, 100, -1000, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    file = put(tmp_path / "step1.pt", tiny("gpt_neox").state_dict())
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(OntogenyError, match=r"step1\.pt cannot be read"):
        load_model(file)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({"global_step": 501}, "is step 500 by its name, and 501 by its `global_step`: expected one number"),
        ({"step": 5}, "is step 500 by its name, and 5 by its `step`"),
        ({"step": torch.tensor(5)}, "and 5 by its `step`"),
        ({"global_step": 499, "pytorch-lightning_version": "1.5.0"}, "and 499 by its `global_step`"),
        ({"global_step": 502, "pytorch-lightning_version": "1.5.0"}, "and 502 by its `global_step`"),
    ],
)
def test_a_file_that_states_another_step_than_its_name_is_refused(
    tmp_path: Path, contents: dict[str, object], said: str
) -> None:
    file = put(tmp_path / "step500.pt", {"model": tiny("gpt_neox").state_dict(), **contents})
    with pytest.raises(OntogenyError, match=said):
        load_model(file, step=500)
    load_model(file)


@pytest.mark.parametrize(
    "contents",
    [
        {"global_step": 500, "step": torch.tensor(500)},
        {"global_step": 501, "pytorch-lightning_version": "1.5.0"},
        {"step": 500.5, "global_step": None},
    ],
)
def test_a_file_may_state_the_step_of_its_name(tmp_path: Path, contents: dict[str, object]) -> None:
    load_model(put(tmp_path / "step500.pt", {"model": tiny("gpt_neox").state_dict(), **contents}), step=500)


def test_integers_are_not_taken_for_weights(tmp_path: Path) -> None:
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    weights = tiny("gpt_neox").state_dict()
    weights[name] = (weights[name] * 100).to(torch.int8)
    with pytest.raises(OntogenyError, match=rf"holds integers for 1 weights \({name}\): expected floating-point"):
        load_model(put(tmp_path / "step1.pt", weights))
    save_file(weights, tmp_path / "step2.safetensors")
    with pytest.raises(OntogenyError, match=rf"holds integers for 1 weights \({name}\)"):
        load_model(tmp_path / "step2.safetensors")


def test_a_weight_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    weights = tiny("gpt2").state_dict()
    weights["wte.weight"] = weights["transformer.wte.weight"] + 1
    with pytest.raises(OntogenyError, match=r"1 weights twice, .*'transformer\.' .*\(transformer\.wte\.weight\)"):
        load_model(put(tmp_path / "step1.pt", weights, tiny("gpt2")))
