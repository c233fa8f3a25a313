"""What training wraps around a model: seen through, or refused in one sentence before the first step."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Model

import ontogeny
from ontogeny.errors import UsageError
from tests.models import token_ids
from tests.trainings import SMALL, train, trainee


@pytest.fixture
def one_process(tmp_path):
    """A distributed training of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def measured(model, **options):
    watching = ontogeny.Observer(**{**SMALL, **options})
    watching(model, 0)
    return watching.scan.dataset


def test_a_distributed_model_is_measured_as_the_model_inside(one_process):
    alone, watching = trainee("gpt2"), ontogeny.Observer(steps="all", **SMALL)
    assert measured(DistributedDataParallel(trainee("gpt2", noisy=False))).identical(
        measured(trainee("gpt2", noisy=False))
    )
    assert train(DistributedDataParallel(trainee("gpt2")), watching, steps=2) == train(alone, steps=2)
    assert not watching.scan.failures


def whole(model, backend):
    return torch.compile(model, backend=backend)


def in_place(model, backend):
    model.compile(backend=backend)
    return model


def by_block(model, backend):
    for block in model.model.layers:
        block.compile(backend=backend)
    return model


@pytest.mark.parametrize("compiled", [whole, in_place, by_block])
def test_a_compiled_model_is_measured_uncompiled_and_trains_on_as_before(compiled):
    runs, plain, watching = [], ontogeny.Observer(steps="0", **SMALL), ontogeny.Observer(steps="all", **SMALL)

    def backend(graph, _inputs):
        runs.append("compiled")
        return lambda *inputs: runs.append("run") or graph(*inputs)

    def silent(model, step):
        before = len(runs)
        watching(model, step)
        assert len(runs) == before

    train(trainee("llama", noisy=False), plain, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of tracing
        torch.compiler.reset()
        losses = train(compiled(trainee("llama", noisy=False), backend), steps=3)
        assert {"compiled", "run"} <= set(runs)
        torch.compiler.reset()
        assert train(compiled(trainee("llama", noisy=False), backend), silent, steps=3) == losses
    assert not watching.scan.failures
    assert watching.scan.dataset.sel(step=[0]).equals(plain.scan.dataset)


def test_autocast_that_accelerate_put_around_a_forward_is_left_out():
    """A model without a head is its own base, whose forward is the one that is wrapped."""
    model = GPT2Model(trainee("gpt2").config).train()
    expected = measured(model)
    AcceleratorState._reset_state(reset_partial_state=True)
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    wrapped = prepared.forward
    found = measured(prepared)
    assert prepared.forward == wrapped
    with torch.no_grad():
        inside = prepared.eval()(input_ids=token_ids(2, 8)).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(GPT2Model.forward(prepared, input_ids=token_ids(2, 8)).last_hidden_state.float(), inside)
    assert found.identical(expected)


def test_parameters_of_several_types_are_all_named():
    model = trainee("llama").bfloat16()
    assert measured(model).attrs["dtype"] == "bfloat16"
    model.lm_head.float()
    assert measured(model).attrs["dtype"] == "bfloat16, float32"


def test_a_quantised_model_says_so():
    model = trainee("llama")
    assert measured(model).attrs["quantisation"] == "none"
    model.hf_quantizer = types.SimpleNamespace()
    assert measured(model).attrs["quantisation"] == "SimpleNamespace"


class Peft(nn.Module):
    def get_base_model(self):
        """As a PEFT model has it."""


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), "got Linear: call the observer with the model inside it"),
        (Peft(), r"got Peft: call the observer with model.get_base_model\(\)"),
        (nn.DataParallel(nn.Linear(2, 2)), "got DataParallel"),
        ("gpt2", "got str"),
    ],
)
def test_what_is_no_transformers_model_is_refused(model, words):
    with pytest.raises(UsageError, match=words):
        measured(model)


def emptied():
    model = trainee("gpt2")
    model.transformer.h[1].mlp.c_fc.weight.data = torch.empty(0)  # as DeepSpeed's ZeRO 3 leaves them
    return model


def spread():
    model = trainee("gpt2")
    mesh = init_device_mesh("cpu", (1,))
    model.lm_head.weight = nn.Parameter(distribute_tensor(model.lm_head.weight.detach(), mesh))  # as FSDP 2 does
    return model


def sharded():
    return FullyShardedDataParallel(trainee("gpt2"), device_id=torch.device("cpu"), use_orig_params=True)


@pytest.mark.parametrize("make", [emptied, spread, sharded])
def test_parameters_that_are_not_whole_are_refused(make, one_process):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of FSDP with one process
        model = make()
    with pytest.raises(UsageError, match=r"of this GPT2LMHeadModel are spread over processes .* save checkpoints"):
        measured(model)


def test_parameters_on_several_devices_are_refused():
    model = trainee("gpt2")
    model.transformer.h[1].to("meta")
    with pytest.raises(UsageError, match="are on cpu, meta: expected all of them on one device"):
        measured(model)
