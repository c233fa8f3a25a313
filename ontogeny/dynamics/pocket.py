"""The embedded series `pocket`: three GPT-NeoX blocks, trained on Bigram-Backcopy until all of the phenomena show.

`python -m ontogeny.dynamics.pocket --out DIR` trains them again and writes the checkpoints that are shipped.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.dynamics import backcopy
from ontogeny.errors import OntogenyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from transformers import GPTNeoXForCausalLM

SHIPPED = Path(__file__).parents[1] / "data" / "pocket"

# Powers of two and of ten as far as they are instructive; finer where the sink forms (64 to 128) and where its value
# drains (2000 to 4000).
CHECKPOINT_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 80, 96, 112, 128, 256, 512, 1000, 2000, 3000, 4000, 6000, 10000)


@dataclass(frozen=True)
class Recipe:
    """What the series is trained with: sizes, AdamW's constants, the learning rate's warm-up and cosine, the seed."""

    layers: int = 3
    width: int = 64
    heads: int = 2
    ffn: int = 256
    steps: int = 10000
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    final_share: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.15
    clip_norm: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of the update that follows `step`: linear warm-up, times a cosine to `final_share`."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (self.final_share + (1.0 - self.final_share) * cosine)


SHIPPED_RECIPE = Recipe()


def train(
    out: Path,
    last_step: int | None = None,
    recipe: Recipe = SHIPPED_RECIPE,
    report: Callable[[int, float], None] | None = None,
) -> list[Path]:
    """Train from the beginning up to `last_step`; write and return the folders `out/step<N>` of the checkpoints.

    On one CPU thread and from seeds: the same bits at every run on one machine with one version of torch. The caller's
    thread count and random state are left as they were. `report(step, loss)` is called at every checkpoint, with the
    loss (nats a token) of the batch that comes next. Raises UsageError when `last_step` is outside the recipe,
    OntogenyError when a checkpoint's folder exists already or cannot be written, or the loss is not finite.
    """
    last_step = recipe.steps if last_step is None else last_step
    if not 0 <= last_step <= recipe.steps:
        raise UsageError(f"expected a last step from 0 to {recipe.steps}, where the recipe ends, got {last_step}")
    folders = {step: out / f"step{step}" for step in CHECKPOINT_STEPS if step <= last_step}
    _refuse_existing(folders.values())
    with reproducible():
        for step, model, loss in training(recipe, last_step):
            if step in folders:
                save(model, folders[step])
                if report is not None:
                    report(step, loss)
    return list(folders.values())


def new_model(recipe: Recipe = SHIPPED_RECIPE) -> GPTNeoXForCausalLM:
    """The untrained model of the recipe, float32; takes torch's random state as it finds it."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=backcopy.VOCABULARY,
        max_position_embeddings=backcopy.LENGTH,
        bos_token_id=backcopy.START,
        eos_token_id=None,
        num_hidden_layers=recipe.layers,
        hidden_size=recipe.width,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.ffn,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        use_parallel_residual=True,
    )
    return GPTNeoXForCausalLM(config)


def save(model: GPTNeoXForCausalLM, folder: Path) -> None:
    """Write the model, as float16, in a Hugging Face folder of `config.json` and `model.safetensors` alone."""
    try:
        copy.deepcopy(model).half().save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    except OSError as error:
        raise OntogenyError(
            f"cannot write the checkpoint {folder} ({error}): give an --out that can be written"
        ) from error


def training(recipe: Recipe, last_step: int) -> Iterator[tuple[int, GPTNeoXForCausalLM, float]]:
    """Each step's model before its update, with its batch's loss (nats a token), from seeds; see `reproducible`."""
    import torch

    torch.manual_seed(recipe.seed)
    model = new_model(recipe).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    batches = backcopy.training_batches(recipe.batch_size)
    for step, batch in enumerate(islice(batches, last_step + 1)):
        loss = _loss(model, torch.from_numpy(batch))
        if not math.isfinite(loss.item()):
            raise OntogenyError(f"expected a finite loss, got {loss.item()} at step {step}: lower the learning rate")
        yield step, model, loss.item()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()


def _loss(model: GPTNeoXForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each next token, nats; tokens: (batch, length)."""
    from torch.nn import functional

    logits = model(tokens, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread, a random state of its own and no progress bars inside; afterwards as the caller had them."""
    import torch
    from transformers.utils import logging

    threads, bars = torch.get_num_threads(), logging.is_progress_bar_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if bars:
                logging.enable_progress_bar()


def _refuse_existing(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.exists():
            raise OntogenyError(f"expected no checkpoint at {folder}, but it exists: remove it or give another --out")


def main(arguments: list[str] | None = None) -> int:
    """Train the series from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ontogeny.dynamics.pocket", description="Train the series pocket.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoints step<N> to")
    parser.add_argument("--steps", type=int, help="stop after this many steps (default: the whole recipe)")
    options = parser.parse_args(arguments)
    try:
        train(options.out, options.steps, report=_print_progress)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except OntogenyError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _print_progress(step: int, loss: float) -> None:
    print(f"step {step:>5}  loss {loss:.3f} nats a token", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
