"""What a capture asks of a GPU besides attention itself: few operations a layer, and no answer before the pass ends.

Counted on a CPU that takes the ways of a GPU, with stand-ins for the statistics that kernels would leave.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ontogeny.kernels import AttentionStats
from ontogeny.kernels.inputs import AttentionInputs
from ontogeny.kernels.mechanisms import MECHANISMS
from ontogeny.probes.capture import attention, order, projection, run_pass
from tests.models import tiny

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten._unique2, aten.masked_select, aten.lift_fresh}
BATCH, LENGTH = 3, 20


class Dispatched(TorchDispatchMode):
    """Counts operations, views too; `lift_fresh` is a tensor made of numbers, which a GPU must be sent."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        self.count[operation.overloadpacket] += 1
        return operation(*args, **(kwargs or {}))


def statistics(q, k, v, *, rows, mechanism, impl, output, **call):
    """What is checked of a layer's inputs is checked; the numbers are none."""
    AttentionInputs(q, k, v, mechanism=MECHANISMS[mechanism], rows=rows, **call)
    some = q.detach().new_ones(())
    a_row, a_head = some.expand(q.shape[:3]), some.expand(q.shape[:2])
    return AttentionStats(q, *[a_row] * 6, a_head, a_row, a_head, None, some.expand(*q.shape[:2], len(rows), LENGTH))


def operations_of(family, layers, mask, statistics_too=True):
    model = tiny(family, num_hidden_layers=layers)
    ids = torch.ones(BATCH, LENGTH, dtype=torch.long)
    with torch.no_grad(), Dispatched() as dispatched:
        if statistics_too:
            run_pass(model, ids, mask)
        else:
            model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return dispatched.count


def of_a_layer(family, mask, **options):
    more, fewer = (operations_of(family, layers, mask, **options) for layers in (3, 2))
    return more - fewer


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    for module in (order, projection):
        monkeypatch.setattr(module, "on_cpu", lambda _: False)
    monkeypatch.setattr(attention, "attention_stats", statistics)


@pytest.mark.parametrize(("padding", "family", "most"), [(0, "gpt_neox", 70), (0, "llama", 74), (4, "gpt_neox", 95)])
def test_a_layer_takes_few_operations_and_no_wait(family, padding, most, as_on_a_gpu):
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1, :padding] = 0
    plain = of_a_layer(family, mask if padding else None, statistics_too=False)
    captured = of_a_layer(family, mask if padding else None)
    assert not captured.keys() & WAITS
    assert captured.total() - plain.total() <= most
