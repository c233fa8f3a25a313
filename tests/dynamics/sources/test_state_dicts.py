"""State dicts in memory as a series."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ontogeny
from ontogeny.errors import OntogenyError, UsageError
from tests.byte_tokenizer import byte_tokenizer
from tests.checkpoint_folders import save_tiny
from tests.models import tiny
from tests.scans import SMALL, Count


def states_of(*seeds: int, family: str = "gpt_neox") -> dict[int, dict[str, torch.Tensor]]:
    return {seed: tiny(family, seed).state_dict() for seed in seeds}


def series_of(*seeds: int, family: str = "gpt_neox", **options: object) -> ontogeny.Series:
    return ontogeny.open_state_dicts(states_of(*seeds, family=family), tiny(family).config, **options)


def test_the_numbers_are_those_of_folders(tmp_path: Path) -> None:
    for seed in (1, 16):
        save_tiny(tmp_path / f"step{seed}", seed=seed)
    due = ontogeny.scan(str(tmp_path), **SMALL).dataset
    series = series_of(16, 1, name="mine")
    assert (series.name, [one.step for one in series.checkpoints]) == ("mine", [1, 16])
    found = ontogeny.scan(series, **SMALL).dataset
    assert found.checkpoint.values.tolist() == ["step1", "step16"]
    for name in due.data_vars:
        np.testing.assert_array_equal(found[name], due[name])


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_pairs_of_any_iterable_and_all_forms_of_a_config(tmp_path: Path, family: str) -> None:
    config = tiny(family).config
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    forms = [config, config.to_dict(), json.loads(file.read_text()), file, str(file), tmp_path]
    sources = set()
    for form in forms:
        pairs = ((np.int64(step), weights) for step, weights in states_of(3, 2, family=family).items())
        series = ontogeny.open_state_dicts(pairs, form)
        assert [(one.name, one.step) for one in series.checkpoints] == [("step2", 2), ("step3", 3)]
        assert torch.equal(series.checkpoints[1].load().base_model.get_input_embeddings().weight.detach(),
                           tiny(family, 3).base_model.get_input_embeddings().weight)  # fmt: skip
        sources.add(series.source)
    assert len(sources) == 1


def test_the_source_tells_any_two_sets_of_weights_apart() -> None:
    sources = [series_of(1, 2).source, series_of(1, 3).source, series_of(1).source, series_of(1, 2, 3).source]
    swapped = states_of(1, 2)
    swapped[1], swapped[2] = swapped[2], swapped[1]
    sources.append(ontogeny.open_state_dicts(swapped, tiny("gpt_neox").config).source)
    other = tiny("gpt_neox").config
    other.rotary_pct = 0.5
    sources.append(ontogeny.open_state_dicts(states_of(1, 2), other).source)
    one_number = states_of(1, 2)
    one_number[2]["embed_out.weight" if "embed_out.weight" in one_number[2] else "lm_head.weight"][0, 0] += 1e-3
    sources.append(ontogeny.open_state_dicts(one_number, tiny("gpt_neox").config).source)
    assert len(set(sources)) == len(sources)
    assert series_of(1, 2).source == series_of(2, 1).source and series_of(1).source.startswith("memory:")


def test_a_scan_goes_on_with_the_same_weights_only(tmp_path: Path) -> None:
    ontogeny.scan(series_of(1, 2), tmp_path / "scan", steps="1", **SMALL)
    progress = Count()
    whole = ontogeny.scan(series_of(1, 2), tmp_path / "scan", **SMALL, progress=progress).dataset
    assert progress.checkpoints == ["step2"] and whole.step.values.tolist() == [1, 2]
    with pytest.raises(OntogenyError, match=r"other settings \(source 'memory:\w+', not 'memory:\w+'\)"):
        ontogeny.scan(series_of(1, 3), tmp_path / "scan", **SMALL)


def test_nothing_of_the_users_is_changed() -> None:
    model = tiny("llama", tie_word_embeddings=True).train().requires_grad_(True)
    weights = dict(model.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    config = model.config.to_dict()
    ontogeny.scan(ontogeny.open_state_dicts([(5, weights)], model.config), **SMALL)
    assert all(torch.equal(weights[name], before[name]) and weights[name].requires_grad for name in before)
    assert model.training and model.config.to_dict() == config
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_tensors_are_not_copied() -> None:
    states = states_of(1)
    loaded = ontogeny.open_state_dicts(states, tiny("gpt_neox").config).checkpoints[0].load()
    assert loaded.gpt_neox.embed_in.weight.data_ptr() == states[1]["gpt_neox.embed_in.weight"].data_ptr()


def test_a_model_that_goes_on_training_is_noticed() -> None:
    model = tiny("gpt_neox")
    kept = [(step, model.state_dict()) for step in (1, 2)]
    with pytest.raises(OntogenyError, match=r"steps 1 and 2 are the same tensors.*keep copies"):
        ontogeny.open_state_dicts(kept, model.config)
    series = ontogeny.open_state_dicts(kept[:1], model.config)
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.bias[0] += 1
    with pytest.raises(OntogenyError, match="state dict of step 1 has changed since the series was opened"):
        series.checkpoints[0].load()


def test_a_tokenizer_comes_with_it() -> None:
    assert series_of(1).tokenizer() is None
    tokenizer = byte_tokenizer()
    assert series_of(1, tokenizer=tokenizer).tokenizer() is tokenizer


def test_lightnings_dictionary_is_understood() -> None:
    weights = {f"model.{name}": tensor for name, tensor in tiny("gpt2").state_dict().items()}
    series = ontogeny.open_state_dicts([(0, {"epoch": 1, "state_dict": weights})], tiny("gpt2").config)
    assert torch.equal(series.checkpoints[0].load().lm_head.weight, tiny("gpt2").lm_head.weight)


def test_a_bad_state_dict_fails_alone() -> None:
    states = states_of(1, 2, 3)
    states[2].pop("gpt_neox.final_layer_norm.bias")
    states[3]["gpt_neox.final_layer_norm.bias"] = torch.full((32,), torch.nan)
    scan = ontogeny.scan(ontogeny.open_state_dicts(states, tiny("gpt_neox").config), **SMALL)
    assert scan.dataset.step.values.tolist() == [1]
    assert "the weights of the state dict of step 2 do not fit its config: 1 missing" in scan.failures["step2"]
    assert "weights of the state dict of step 3 hold NaN" in scan.failures["step3"]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([(1, "first"), (1, "second")], "two state dicts are given for step 1: expected one a step"),
        ([(1, "first"), (np.int32(1), "second")], "two state dicts are given for step 1"),
        ([(-1, "first")], "expected a number of optimizer steps from 0 on, got -1"),
        ([(2**63, "first")], "expected a number of optimizer steps from 0 on, got 9223372036854775808"),
        ([(True, "first")], "got True"),
        ([(1.0, "first")], "expected pairs of a step and a state dict, got a tuple"),
        ([("1", "first")], "expected pairs of a step and a state dict"),
        (["first"], "expected pairs of a step and a state dict, got a "),
    ],
)
def test_pairs_that_make_no_sense_are_wrong_usage(states: list[object], said: str) -> None:
    held = {"first": states_of(1)[1], "second": states_of(2)[2]}
    given = [held[one] if isinstance(one, str) else (one[0], held[one[1]]) for one in states]
    with pytest.raises(UsageError, match=said):
        ontogeny.open_state_dicts(given, tiny("gpt_neox").config)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "there is no state dict: expected pairs"),
        ([(1, {})], "the state dict of step 1 holds nothing"),
        ([(1, torch.nn.Linear(2, 2))], "the state dict of step 1 holds a Linear: expected tensors by name"),
        ([(1, {"a": 1.0})], "holds no state dict .a.: expected tensors"),
        ([(1, {"a": torch.ones(1).expand(9)})], "1 weights of the state dict of step 1 are no plain tensors"),
    ],
)
def test_what_is_no_state_dict_is_refused(states: list[object], said: str) -> None:
    with pytest.raises(OntogenyError, match=said):
        ontogeny.open_state_dicts(states, tiny("gpt_neox").config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "the config states model_type None: expected the model's config"),
        ({"model_type": "nobody"}, "the config states model_type 'nobody'"),
        ({"model_type": "gpt_neox", "hidden_size": "wide"}, "the config cannot be read"),
        ("nowhere/config.json", "there is no config nowhere/config.json"),
    ],
)
def test_a_config_that_describes_no_model_is_refused(config: object, said: str) -> None:
    with pytest.raises(OntogenyError, match=said):
        ontogeny.open_state_dicts(states_of(1), config)
