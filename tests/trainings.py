"""Tiny trainings, by hand and by a Trainer, whose every loss tells if anything disturbed them."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.nn import functional

from tests.models import tiny, token_ids

STEPS = 6
SMALL = {"sequences": 3, "length": 20}
DROPOUT = {"gpt2": {}, "llama": {"attention_dropout": 0.2}}  # gpt2 has it by default


def trainee(family, seed=0, noisy=True):
    """A tiny model ready to train: dropout, a frozen embedding, a last block in evaluation mode.

    Where `noisy` its first block's input is jittered from three random streams, in evaluation too.
    """
    model = tiny(family, seed, **DROPOUT[family]).train().requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    blocks = model.transformer.h if family == "gpt2" else model.model.layers
    blocks[-1].eval()
    if noisy:
        blocks[0].register_forward_pre_hook(_jitter, with_kwargs=True)
    return model


def _jitter(_block, args, kwargs):
    hidden = args[0] * (1 + 0.1 * random.random() + 0.1 * np.random.rand())
    return (functional.dropout(hidden, 0.1), *args[1:]), kwargs


def checkpoint_activations(model):
    """Turn gradient checkpointing on, which transformers has renamed."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def seed_all(seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def train(model, observer=None, steps=STEPS, begin=0, lr=1e-2):
    """Train by hand, two batches a step, the observer called while gradients are there; the losses of each batch."""
    seed_all(begin)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=lr)
    losses = []
    if observer is not None:
        observer(model, begin)
    for step in range(begin, begin + steps):
        for half in range(2):
            ids = token_ids(4, 16, seed=2 * step + half)
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        if observer is not None:
            observer(model, step + 1)
        optimizer.zero_grad()
    return losses
