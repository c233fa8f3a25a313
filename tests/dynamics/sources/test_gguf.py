"""One checkpoint in a `.gguf` file."""

from __future__ import annotations

import gc
import struct
from pathlib import Path

import gguf
import pytest
import torch

from ontogeny.dynamics.checkpoint import UNKNOWN_STEP
from ontogeny.dynamics.loading import gguf as gguf_loading
from ontogeny.dynamics.loading.gguf_header import read_header
from ontogeny.dynamics.loading.model import load_model
from ontogeny.dynamics.sources import open_series
from ontogeny.dynamics.sources.gguf import open_gguf
from ontogeny.errors import OntogenyError
from tests.gguf_files import write_llama
from tests.models import VOCAB, tiny


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("gguf") / "tiny-llama.F32.gguf", tiny("llama"))


def spoiled(written: Path, folder: Path, content: bytes) -> Path:
    path = folder / written.name
    path.write_bytes(content)
    return path


def test_it_is_a_series_of_one_checkpoint_without_a_step(written: Path) -> None:
    series = open_series(str(written))
    (checkpoint,) = series.checkpoints
    assert (series.source, series.name, series.quantisation) == (str(written), "tiny-llama.F32", "GGUF F32")
    assert (checkpoint.name, checkpoint.step, checkpoint.revision) == ("tiny-llama.F32", UNKNOWN_STEP, "")
    assert checkpoint.fetch() == written
    arch = series.arch
    assert (arch.layers, arch.width, arch.heads, arch.kv_heads, arch.vocab) == (3, 32, 4, 2, VOCAB)
    assert (arch.ffn, arch.model_type, arch.norm, arch.positional, arch.tied) == (48, "llama", "rms", "rotary", False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_comes_back_as_it_was_written(written: Path, dtype: torch.dtype) -> None:
    model = load_model(written, dtype=str(dtype).removeprefix("torch."))
    due = tiny("llama").to(dtype).state_dict()
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.state_dict().keys() == due.keys()
    assert all(torch.equal(tensor, due[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_quantised_tensors_are_unpacked(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "q.gguf", tiny("llama"), file_type=7, quantised=("token_embd.weight",))
    weight, due = load_model(path).model.embed_tokens.weight, tiny("llama").model.embed_tokens.weight
    assert open_gguf(path).quantisation == "GGUF Q8_0"
    assert not torch.equal(weight, due)
    assert torch.allclose(weight, due, atol=float(due.abs().max()) / 200)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tied.gguf", tiny("llama"), left_out=("output.weight",))
    model = load_model(path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert open_gguf(path).arch.tied is True


@pytest.mark.parametrize(
    ("file_type", "said"), [(0, "F32"), (1, "F16"), (3, "Q4_1"), (15, "Q4_K_M"), (None, "F32"), (9999, "F32")]
)
def test_the_quantisation_is_the_stated_file_type_or_the_commonest_of_the_tensors(
    tmp_path: Path, file_type: int | None, said: str
) -> None:
    assert open_gguf(write_llama(tmp_path / "x.gguf", tiny("llama"), file_type)).quantisation == f"GGUF {said}"


def test_the_tokenizer_is_the_files_own(written: Path) -> None:
    tokenizer = open_gguf(written).tokenizer()
    assert tokenizer is not None
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("The sun", add_special_tokens=False))
    assert tokens == ["The", "Ġ", "s", "u", "n"]


def test_only_our_own_sentence_is_heard(written: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = spoiled(written, tmp_path, written.read_bytes())
    capfd.readouterr()
    series = open_gguf(path)
    series.tokenizer()
    series.checkpoints[0].load()
    assert gc.isenabled()
    assert capfd.readouterr() == ("", "")


def test_without_the_package_gguf_the_error_says_how_to_install_it(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_loading, "find_spec", lambda name: None)
    with pytest.raises(OntogenyError, match=r"pip install gguf$"):
        open_gguf(written)
    with pytest.raises(OntogenyError, match=r"pip install gguf$"):
        load_model(written)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "x.gguf", tiny("llama"), left_out=("blk.1.ffn_up.weight",))
    with pytest.raises(OntogenyError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        load_model(path)


def test_a_tensor_that_transformers_leaves_out_is_refused(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "x.gguf", tiny("llama"), extra=("rope_freqs.weight",))
    with pytest.raises(OntogenyError, match=r"leaves out rope_freqs\.weight, so positions would be wrong"):
        load_model(path)
    path = write_llama(tmp_path / "y.gguf", tiny("llama"), extra=("blk.0.extra.weight",))
    with pytest.raises(OntogenyError, match=r"finds a place for \d+ of the \d+ numbers in .*expected all of them"):
        load_model(path)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = tiny("llama")
    model.model.norm.weight[3] = float("nan")
    with pytest.raises(OntogenyError, match=r"NaN or infinity in float32 \(model\.norm\.weight\)"):
        load_model(write_llama(tmp_path / "x.gguf", model))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 50, b"GG"])
def test_what_is_no_gguf_is_refused(written: Path, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(OntogenyError, match="expected a GGUF file of version 2 or 3; download or convert it again"):
        open_gguf(spoiled(written, tmp_path, content))


@pytest.mark.parametrize("kept", [4, 20, 100, 600, 1500])
def test_a_header_cut_short_is_refused(written: Path, tmp_path: Path, kept: int) -> None:
    with pytest.raises(OntogenyError, match="has a header that cannot be read"):
        open_gguf(spoiled(written, tmp_path, written.read_bytes()[:kept]))


def test_tensor_data_cut_short_are_refused(written: Path, tmp_path: Path) -> None:
    size = written.stat().st_size
    with pytest.raises(OntogenyError, match=f"is cut short: expected {size} bytes, found {size - 1}"):
        open_gguf(spoiled(written, tmp_path, written.read_bytes()[:-1]))


@pytest.mark.parametrize(("field", "value"), [("version", 1), ("tensors", 2**60), ("entries", 2**60)])
def test_a_header_with_impossible_counts_is_refused(written: Path, tmp_path: Path, field: str, value: int) -> None:
    content = bytearray(written.read_bytes())
    form, place = {"version": ("<I", 4), "tensors": ("<Q", 8), "entries": ("<Q", 16)}[field]
    struct.pack_into(form, content, place, value)
    with pytest.raises(OntogenyError, match="has a header that cannot be read"):
        open_gguf(spoiled(written, tmp_path, bytes(content)))


def test_an_architecture_that_transformers_does_not_read_is_refused(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes().replace(b"llama", b"limas")
    with pytest.raises(OntogenyError, match="limas"):
        open_gguf(spoiled(written, tmp_path, content))


def test_an_unknown_tensor_type_is_refused(written: Path, tmp_path: Path) -> None:
    content = bytearray(written.read_bytes())
    name = b"token_embd.weight"
    place = content.index(name) + len(name) + 4 + 2 * 8
    assert struct.unpack_from("<I", content, place) == (gguf.GGMLQuantizationType.F32.value,)
    struct.pack_into("<I", content, place, 9999)
    with pytest.raises(OntogenyError, match=r"stores token_embd\.weight in ggml type 9999.*pip install --upgrade gguf"):
        open_gguf(spoiled(written, tmp_path, bytes(content)))


def test_the_header_agrees_with_the_gguf_package(written: Path) -> None:
    header, reader = read_header(written), gguf.GGUFReader(written)
    assert {tensor.name: (tensor.size, tensor.type) for tensor in header.tensors} == {
        tensor.name: (tensor.n_elements, tensor.tensor_type.value) for tensor in reader.tensors
    }
    assert [header.data_start + tensor.offset for tensor in header.tensors] == [
        tensor.data_offset for tensor in reader.tensors
    ]
    for key in ("general.architecture", "llama.rope.freq_base", "llama.block_count", "tokenizer.ggml.model"):
        assert header.metadata[key] == reader.fields[key].contents()


def test_a_changed_file_is_read_anew(written: Path, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "x.gguf", tiny("llama"))
    assert open_gguf(path).arch.layers == 3
    write_llama(path, tiny("llama", num_hidden_layers=2))
    assert open_gguf(path).arch.layers == 2
