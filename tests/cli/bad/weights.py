"""Weights that are spoiled, missing or of something else, in step2."""

from __future__ import annotations

import argparse
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.checkpoint_folders import edit_config, edit_weights, save_tiny, to_bin
from tests.cli.bad.row import CANARY, Row, neox, spoiled, step2
from tests.models import tiny
from tests.state_dict_files import Canary, save_config, save_lightning

MLP = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    return step2(lambda folder: edit_weights(folder, change))


def untie(folder: Path) -> None:
    """A model whose head is its embedding, and neither is there."""
    save_tiny(folder, "llama", tie_word_embeddings=True)
    edit_weights(folder, lambda weights: weights.pop("model.embed_tokens.weight"))


def cut(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        if name.endswith(".bin"):
            to_bin(folder)
        file = folder / name
        file.write_bytes(file.read_bytes()[:-1000])

    return step2(change)


def state_dict(name: str, contents: Callable[[Path], object]) -> Callable[[Path], object]:
    """Instead of its safetensors step2 holds this file, and a config."""

    def make(tmp: Path) -> None:
        folder = tmp / "run" / "step2"
        (folder / "model.safetensors").unlink()
        torch.save(contents(tmp), folder / name)

    return make


def bomb(tmp: Path) -> None:
    state_dict("model.ckpt", lambda _: {"state_dict": {"a": torch.zeros(1000)}})(tmp)
    file = tmp / "run" / "step2" / "model.ckpt"
    with zipfile.ZipFile(file) as archive:
        entries = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, bytes(50_000_000) if name.endswith("/data/0") else data)


def sharded(change: Callable[[Path, dict[str, str]], object]) -> Callable[[Path], object]:
    """step2 in shards; `change` gets its folder and the map in its index, which is written back."""

    def make(tmp: Path) -> None:
        folder = tmp / "run" / "step2"
        shutil.rmtree(folder)
        tiny("gpt_neox", 2).save_pretrained(folder, max_shard_size="20KB")
        index = folder / "model.safetensors.index.json"
        contents = json.loads(index.read_text())
        change(folder, contents["weight_map"])
        index.write_text(json.dumps(contents))

    return make


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def swap_shards(folder: Path, _places: dict[str, str]) -> None:
    first, second = shards(folder)[:2]
    first.rename(folder / "other")
    second.rename(first)
    (folder / "other").rename(second)


def cut_shard(folder: Path, _places: dict[str, str]) -> None:
    shards(folder)[1].write_bytes(shards(folder)[1].read_bytes()[:-500])


def misplace(_folder: Path, places: dict[str, str]) -> None:
    other = next(name for name, shard in places.items() if shard != places[MLP])
    places[MLP], places[other] = places[other], places[MLP]


def escape(folder: Path, places: dict[str, str]) -> None:
    shutil.move(folder / places[MLP], folder.parent.parent / "outside.safetensors")
    places.update({name: "../../outside.safetensors" for name, shard in places.items() if shard == places[MLP]})


def own_code(folder: Path) -> None:
    mark = folder.parent.parent / CANARY
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})


def named_elsewhere(folder: Path) -> None:
    save_file(tiny("gpt_neox", 9).state_dict(), folder / "other.safetensors")
    (folder / "model.safetensors").unlink()
    edit_config(folder, transformers_weights="other.safetensors")
    (folder / "more.pt").touch()


def lightning(tmp: Path) -> None:
    save_lightning(tmp / "run" / "epoch=0-step=2.ckpt", tiny("gpt_neox", 2), 7)
    (tmp / "run" / "step2").rename(tmp / "away")
    save_config(tmp / "run", tiny("gpt_neox"))


WEIGHTS = [
    spoiled(
        "code in a .bin",
        state_dict("pytorch_model.bin", lambda t: {MLP: Canary(t / CANARY)}),
        r"pytorch_model\.bin cannot be read: it holds a pickled .*code in files is never run",
    ),
    spoiled(
        "code in a .pt",
        state_dict("model.pt", lambda t: neox(more=Canary(t / CANARY))),
        r"model\.pt cannot be read: it holds a pickled",
    ),
    spoiled(
        "code in a .ckpt",
        state_dict("m.ckpt", lambda t: neox(callbacks=Canary(t / CANARY))),
        r"m\.ckpt cannot be read: it holds a pickled",
    ),
    spoiled("code of the repository's own", step2(own_code), r"config\.json cannot be read .*custom code"),
    spoiled(
        "a pickled class",
        state_dict("m.ckpt", lambda t: neox(hyper_parameters=argparse.Namespace())),
        r"pickled argparse\.Namespace.* save its weights alone, with torch\.save",
    ),
    spoiled(
        "a zip bomb", bomb, r"would unpack to 50\d{6} bytes out of \d{5}: expected the file as torch\.save writes it"
    ),
    spoiled(
        "an optimizer's state alone",
        state_dict("m.pt", lambda t: {"state": {0: {}}, "param_groups": []}),
        r"holds no state dict \(state, param_groups\)",
    ),
    spoiled(
        "two state dicts in one file",
        state_dict("m.pt", lambda t: neox(model={"a": torch.ones(1)})),
        r"several of them \(state_dict, model\)",
    ),
    spoiled(
        "a list of tensors", state_dict("m.pt", lambda t: [torch.ones(1)]), "holds a list: expected tensors by name"
    ),
    spoiled(
        "tensors without numbers",
        state_dict("m.pt", lambda t: {"a": torch.ones(1).expand(10**12)}),
        r"no plain tensors \(a\)",
    ),
    spoiled(
        "a .pt cut short", lambda t: (state_dict("m.pt", lambda _: neox())(t), cut("m.pt")(t)), r"m\.pt cannot be read"
    ),
    spoiled("another step inside", lightning, "is step 2 by its name, and 7 by its `global_step`"),
    spoiled(
        "two state dicts in a folder",
        step2(named_elsewhere),
        r"not a whole checkpoint: .* found several state dicts \(more\.pt, other\.safetensors\)",
    ),
    spoiled("safetensors cut short", cut("model.safetensors"), r"model\.safetensors cannot be read"),
    spoiled("a .bin cut short", cut("pytorch_model.bin"), r"pytorch_model\.bin cannot be read"),
    spoiled(
        "empty safetensors",
        step2(lambda f: (f / "model.safetensors").write_bytes(b"")),
        r"model\.safetensors cannot be read",
    ),
    spoiled(
        "a header of absurd length",
        step2(lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 999)),
        r"model\.safetensors cannot be read",
    ),
    spoiled(
        "shards that were swapped",
        sharded(swap_shards),
        "tensors that model.safetensors.index.json places elsewhere .*not those of this index",
    ),
    spoiled("a shard cut short", sharded(cut_shard), r"model-00002-of-\d+\.safetensors cannot be read"),
    spoiled(
        "a shard that is not there",
        sharded(lambda f, _: shards(f)[1].unlink()),
        r"7 shards, and these are not there: model-00002-of",
    ),
    spoiled("an index that misplaces tensors", sharded(misplace), "tensors that .* places elsewhere"),
    spoiled(
        "an index that leads outside",
        sharded(escape),
        r"names '\.\./\.\./outside\.safetensors' as a shard: expected the name of a",
    ),
    spoiled(
        "an index that is empty",
        sharded(lambda f, places: places.clear()),
        "has no `weight_map` from tensors to shards",
    ),
    spoiled(
        "an index that is not JSON",
        lambda t: (
            sharded(lambda f, _: None)(t),
            step2(lambda f: (f / "model.safetensors.index.json").write_text("{"))(t),
        ),
        r"index\.json cannot be read \(JSONDecodeError",
    ),
    spoiled(
        "weights that are lost", step2(lambda f: (f / "model.safetensors").unlink()), "step2 is not a whole checkpoint"
    ),
    spoiled(
        "weights that dangle",
        step2(lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").symlink_to(f / "gone"))),
        "step2 is not a whole checkpoint",
    ),
    spoiled(
        "one weight missing", weights(lambda w: w.pop(MLP)), rf"1 missing \({MLP}\)\. Nothing is filled in with random"
    ),
    spoiled(
        "an untied head missing",
        weights(lambda w: w.pop("embed_out.weight", w.pop("lm_head.weight", None))),
        r"1 missing \((embed_out|lm_head)\.weight\)",
    ),
    spoiled("tied weights missing", step2(untie), r"[12] missing \(.*embed_tokens\.weight"),
    spoiled("a weight too many", weights(lambda w: w.update(extra=torch.ones(1))), r"1 unexpected \(extra\)"),
    spoiled(
        "a weight twice",
        weights(lambda w: w.update({MLP.removeprefix("gpt_neox."): w[MLP] + 1})),
        "1 weights twice, with and without 'gpt_neox.'",
    ),
    spoiled(
        "a weight of another shape",
        weights(lambda w: w.update({MLP: torch.ones(7)})),
        rf"1 of another shape .*\({MLP} \(7,\) instead of \(32, 48\)\)",
    ),
    spoiled(
        "integers for weights",
        weights(lambda w: w.update({MLP: w[MLP].to(torch.int8)})),
        f"holds integers for 1 weights .{MLP}",
    ),
    spoiled(
        "NaN",
        weights(lambda w: w[MLP][0].fill_(torch.nan)),
        f"1 weights of .*step2 hold NaN or infinity in float32 .{MLP}",
    ),
    spoiled(
        "infinity",
        weights(lambda w: w[MLP][0].fill_(torch.inf)),
        f"1 weights of .*step2 hold NaN or infinity in float32 .{MLP}",
    ),
    Row(
        "one bad checkpoint of two",
        weights(lambda w: w.pop(MLP)),
        3,
        "measured step1 .1/2. failed: step2: the weights of",
    ),
    Row(
        "code in one of two",
        state_dict("m.ckpt", lambda t: Canary(t / CANARY)),
        3,
        "failed: step2: .*m.ckpt cannot be read: it holds",
    ),
]
