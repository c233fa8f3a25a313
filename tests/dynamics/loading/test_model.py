"""Loading: every weight is the file's own, or one sentence says why not."""

from __future__ import annotations

import pickle
import socket
import warnings
from logging import Handler, LogRecord
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers import GPTNeoXForCausalLM
from transformers.utils import logging

from ontogeny.dynamics.checkpoint import Checkpoint
from ontogeny.dynamics.loading.model import load_model
from ontogeny.errors import OntogenyError, UsageError
from tests.checkpoint_folders import edit_config, edit_weights, save_tiny, to_bin
from tests.models import tiny

FAMILIES = ["gpt_neox", "llama", "gpt2", "bert"]


@pytest.fixture
def neox(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "step8")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "step8", "llama")


def assert_same_weights(loaded: torch.nn.Module, expected: torch.nn.Module) -> None:
    found, due = loaded.state_dict(), expected.state_dict()
    assert found.keys() == due.keys()
    assert all(torch.equal(found[name], due[name]) for name in due)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_comes_back_with_its_head_ready_to_measure(tmp_path: Path, family: str) -> None:
    model = load_model(save_tiny(tmp_path, family))
    assert type(model) is type(tiny(family))
    assert_same_weights(model, tiny(family))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_checkpoint_loads_what_it_fetches(neox: Path) -> None:
    model = Checkpoint("step8", 8, lambda: neox).load(dtype="float64")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_weights_come_in_the_dtype_asked_for(neox: Path, dtype: str) -> None:
    parameters = list(load_model(neox, dtype=dtype).parameters())
    assert {str(parameter.dtype) for parameter in parameters} == {f"torch.{dtype}"}


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama", tie_word_embeddings=True)
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight", None))
    model = load_model(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_same_weights(model, tiny("llama", tie_word_embeddings=True))


def test_pythias_attention_buffers_are_expected(neox: Path) -> None:
    def add_buffers(weights: dict[str, torch.Tensor]) -> None:
        weights["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
        weights["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(1)

    assert_same_weights(load_model(edit_weights(neox, add_buffers)), tiny("gpt_neox"))


def test_gpt2s_own_files_which_name_weights_without_a_prefix(tmp_path: Path) -> None:
    def strip(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)

    assert_same_weights(load_model(edit_weights(save_tiny(tmp_path, "gpt2"), strip)), tiny("gpt2"))


def test_berts_old_names_of_norm_weights(tmp_path: Path) -> None:
    def rename(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            weights[old] = weights.pop(name)

    assert_same_weights(load_model(edit_weights(save_tiny(tmp_path, "bert"), rename)), tiny("bert"))


def test_shards_are_read_together(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_weights(load_model(tmp_path), tiny("llama"))


def test_a_lost_shard_is_refused(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path, max_shard_size="10KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(OntogenyError, match=rf"these are not there: {lost.name};"):
        load_model(tmp_path)


def test_bin_weights_are_read_where_there_are_no_safetensors(neox: Path) -> None:
    assert_same_weights(load_model(to_bin(neox)), tiny("gpt_neox"))


def test_safetensors_win_over_bin(neox: Path) -> None:
    (neox / "pytorch_model.bin").write_bytes(b"never read")
    assert_same_weights(load_model(neox), tiny("gpt_neox"))


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


def test_a_bin_file_runs_no_code(neox: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    to_bin(neox)
    torch.save({"gpt_neox.embed_in.weight": _Bomb(mark)}, neox / "pytorch_model.bin")
    with pytest.raises(OntogenyError, match="cannot be read"):
        load_model(neox)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Bomb(mark)))
    assert mark.exists()


def test_a_config_without_architectures_gives_the_bare_model(tmp_path: Path) -> None:
    tiny("gpt_neox").base_model.save_pretrained(tmp_path)
    model = load_model(edit_config(tmp_path, architectures=None))
    assert type(model).__name__ == "GPTNeoXModel"
    assert_same_weights(model, tiny("gpt_neox").base_model)


def test_a_head_that_a_config_without_architectures_hides_is_unexpected(neox: Path) -> None:
    with pytest.raises(OntogenyError, match=r"unexpected \((embed_out|lm_head)\.weight\).*architectures"):
        load_model(edit_config(neox, architectures=None))


@pytest.mark.parametrize("name", ["NobodysModel", "pipeline", "AutoModel", "BertTokenizer"])
def test_a_class_that_transformers_does_not_have_is_refused(neox: Path, name: str) -> None:
    with pytest.raises(OntogenyError, match=f"is a {name}, which transformers .* does not have"):
        load_model(edit_config(neox, architectures=[name]))


def test_an_unknown_model_type_is_refused(neox: Path) -> None:
    with pytest.raises(OntogenyError, match=r"step8/config\.json cannot be read.*nobody"):
        load_model(edit_config(neox, model_type="nobody"))


def test_a_repositorys_own_code_is_never_run(neox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    (neox / "own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    edit_config(neox, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(OntogenyError, match="cannot be read"):
        load_model(neox)
    assert not mark.exists()


def test_a_missing_tensor_is_named(llama: Path) -> None:
    edit_weights(llama, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        OntogenyError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)\. Nothing is filled in"
    ):
        load_model(llama)


def test_a_missing_head_is_named(llama: Path) -> None:
    edit_weights(llama, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(OntogenyError, match=r"1 missing \(lm_head\.weight\)"):
        load_model(llama)


def test_an_unexpected_tensor_is_named(llama: Path) -> None:
    edit_weights(llama, lambda weights: weights.update({"model.layers.0.extra.weight": torch.ones(2)}))
    with pytest.raises(OntogenyError, match=r"1 unexpected \(model\.layers\.0\.extra\.weight\)"):
        load_model(llama)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(llama: Path) -> None:
    edit_weights(llama, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(OntogenyError, match=r"1 of another shape .*\(model\.norm\.weight \(7,\) instead of \(32,\)\)"):
        load_model(llama)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 4}, r"9 missing .*\.layers\.3\."),
        ({"num_hidden_layers": 2}, r"9 unexpected .*\.layers\.2\."),
        ({"intermediate_size": 52}, r"9 of another shape .*instead of .*52"),
        ({"tie_word_embeddings": None, "vocab_size": 61}, r"2 of another shape .*instead of \(61, 32\)"),
    ],
)
def test_a_config_that_the_weights_do_not_fit_is_refused(llama: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(OntogenyError, match=f"do not fit its config: {said}"):
        load_model(edit_config(llama, **change))


def test_at_most_three_tensors_are_named(llama: Path) -> None:
    with pytest.raises(OntogenyError) as caught:
        load_model(edit_config(llama, num_hidden_layers=4))
    assert str(caught.value).count("model.layers.3.") == 3
    assert ", ..." in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(neox: Path, kept: int) -> None:
    file = neox / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        OntogenyError, match=r"step8/model\.safetensors cannot be read .*download or copy this checkpoint again"
    ):
        load_model(neox)


def test_a_corrupt_file_is_refused(neox: Path) -> None:
    (neox / "model.safetensors").write_bytes(b"\xff" * 1000)
    with pytest.raises(OntogenyError, match=r"step8/model\.safetensors cannot be read"):
        load_model(neox)


def test_a_truncated_bin_file_is_refused(neox: Path) -> None:
    file = to_bin(neox) / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(OntogenyError, match=r"step8/pytorch_model\.bin cannot be read"):
        load_model(neox)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(neox: Path, value: float) -> None:
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    edit_weights(neox, lambda weights: weights[name][3].fill_(value))
    with pytest.raises(OntogenyError, match=rf"1 weights .* NaN or infinity in float32 \({name}\)"):
        load_model(neox)


def test_float16_that_overflows_is_not_passed_on(neox: Path) -> None:
    edit_weights(neox, lambda weights: weights["gpt_neox.final_layer_norm.weight"].fill_(1e5))
    load_model(neox)
    with pytest.raises(OntogenyError, match=r"in float16 .*final_layer_norm.*load it in float32"):
        load_model(neox, dtype="float16")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_not_whole(neox: Path, lost: str) -> None:
    (neox / lost).unlink()
    with pytest.raises(
        OntogenyError, match=r"not a whole checkpoint: expected config.json and one of model.safetensors"
    ):
        load_model(neox)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OntogenyError, match="not a whole checkpoint"):
        load_model(tmp_path / "nowhere")


def test_a_config_that_is_not_json(neox: Path) -> None:
    (neox / "config.json").write_text("{")
    with pytest.raises(OntogenyError, match=r"step8/config\.json cannot be read"):
        load_model(neox)


@pytest.mark.parametrize("dtype", ["int8", "auto", "torch.float32", ""])
def test_an_unknown_dtype_is_wrong_usage(neox: Path, dtype: str) -> None:
    with pytest.raises(UsageError, match=r"unknown dtype .* expected one of float64, float32, bfloat16, float16"):
        load_model(neox, dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta"])
def test_a_device_that_is_not_there_is_wrong_usage(neox: Path, device: str) -> None:
    with pytest.raises(UsageError, match=f"device '{device}' .*choose one of cpu"):
        load_model(neox, device=device)


def test_nothing_is_asked_of_the_network(neox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda _socket, address: asked.append(address))
    load_model(neox)
    assert asked == []


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_an_attention_kernel_that_a_config_names_on_the_hub_is_not_used(neox: Path, key: str) -> None:
    model = load_model(edit_config(neox, **{key: "kernels-community/flash-attn"}))
    assert model.config._attn_implementation == "sdpa"


class _Listener(Handler):
    """Keeps what transformers logs."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: LogRecord) -> None:
        self.heard.append(record.getMessage())


def test_only_our_own_sentence_is_heard(neox: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit_weights(neox, lambda weights: weights.update({"extra": torch.ones(2)}))
    listener = _Listener()
    logging.add_handler(listener)
    try:
        capfd.readouterr()
        with pytest.raises(OntogenyError):
            load_model(neox)
        assert (capfd.readouterr(), listener.heard) == (("", ""), [])
        GPTNeoXForCausalLM.from_pretrained(neox)
        assert any("extra" in heard for heard in listener.heard)
    finally:
        logging.remove_handler(listener)


def noise() -> tuple[object, ...]:
    return (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
        list(warnings.filters),
    )


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("bars", [False, True])
def test_what_was_silenced_is_restored(neox: Path, spoiled: bool, bars: bool) -> None:
    usual = logging.get_verbosity()
    logging.set_verbosity_info()
    if not bars:
        logging.disable_progress_bar()
    try:
        before = noise()
        if spoiled:
            (neox / "model.safetensors").write_bytes(b"")
            with pytest.raises(OntogenyError):
                load_model(neox)
        else:
            load_model(neox)
        assert noise() == before
    finally:
        logging.set_verbosity(usual)
        logging.enable_progress_bar()
