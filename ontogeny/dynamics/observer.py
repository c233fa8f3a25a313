"""Measures a model while it trains, without a checkpoint written: `ontogeny.Observer`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ontogeny.archspec import ArchSpec
from ontogeny.dynamics.in_training import dtype_name, is_main_process, refuse_parts, undisturbed, unwrapped
from ontogeny.dynamics.loading.model import available_device
from ontogeny.dynamics.measurement import Measurement
from ontogeny.dynamics.observations import PREFIX, Observations
from ontogeny.dynamics.opening import Scan
from ontogeny.dynamics.request import failure_reason, make_measurement
from ontogeny.dynamics.series import Series
from ontogeny.dynamics.steps import is_reached
from ontogeny.errors import UsageError

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class Observer(TrainerCallback):
    """Measures a model as it trains: the probes and the dataset of a scan of its checkpoints, which nobody saves.

    Give it to a transformers Trainer, `Trainer(..., callbacks=[observer])`, or call `observer(model, step)` in a loop
    of your own, before the first step and after each. `out` is the folder to keep the scan in, None for memory; a
    training that goes on goes on with the scan that is there, and steps that are measured already keep their numbers.
    `steps` is `log` (step 0, the first step from each power of two on and, with a Trainer, the last), `all`, or a list
    such as `0,1,512,1000:143000:1000`. `tokenizer` makes tokens of a `corpus` of text; a Trainer's own is used where
    none is given. `name` is what the dataset calls the training. The other arguments are those of `scan`.

    The model is measured where it is, in its parameters' dtype, without autocast. Random streams, training flags,
    gradients, autocast, compiled code and attention are afterwards as they were. A step that fails to be measured is
    warned of once and listed in `scan.failures`; the training goes on. In a distributed training the main process
    measures.
    """

    def __init__(
        self,
        out: str | Path | None = None,
        *,
        steps: str = "log",
        probes: Sequence[str] | None = None,
        corpus: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        sequences: int = 100,
        length: int = 64,
        batch_size: int | None = None,
        bos: str = "auto",
        positions: int | None = 16,
        impl: str = "auto",
        name: str = "training",
    ) -> None:
        is_reached(steps, 0)
        self.steps, self.name = steps.strip(), name
        self._tokenizer = tokenizer
        self._plan = partial(
            make_measurement,
            probes=probes,
            corpus=corpus,
            sequences=sequences,
            length=length,
            batch_size=batch_size,
            bos=bos,
            positions=positions,
            impl=impl,
        )
        self._measurement: Measurement | None = None
        self._observations = Observations(None if out is None else Path(out))
        self._taken: set[int] = set()
        self._latest = 0
        self._batch_size: int | None = None
        self._warned = False

    def __call__(self, model: nn.Module, step: int) -> None:
        """Measure `model`, which has made `step` optimizer steps, where `steps` asks for it.

        The first call of a training raises UsageError for a request that makes no sense or a model that cannot be
        measured, and OntogenyError where the corpus cannot be had or `out` holds something else: other settings, or
        another training, where this one begins at a step that is measured there. What fails later raises nothing.
        """
        if is_main_process():
            measurement = self._begun(model, step)
            if step not in self._taken and is_reached(self.steps, step, self._taken):
                self._attempt(measurement, unwrapped(model), step)

    def measure(self, model: nn.Module, step: int) -> None:
        """Measure `model` after `step` steps whatever `steps` says, unless that step is measured already."""
        if is_main_process():
            measurement = self._begun(model, step)
            if step not in self._taken:
                self._attempt(measurement, unwrapped(model), step)

    @property
    def scan(self) -> Scan:
        """What is measured so far. Raises OntogenyError where nothing is."""
        return self._observations.scan

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A Trainer begins, at step 0 or where it resumes."""
        del args, control
        processing = kwargs.get("processing_class")
        if self._tokenizer is None and isinstance(processing, PreTrainedTokenizerBase):
            self._tokenizer = processing
        if state.is_world_process_zero:
            self(kwargs["model"], state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A Trainer has made a step."""
        del args
        if state.is_world_process_zero:
            self(kwargs["model"], state.global_step)
            if control.should_training_stop:
                self._last(kwargs["model"], state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A Trainer ends; by now it may have loaded its best checkpoint, which is not the last step's."""
        del control
        best_is_loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if state.is_world_process_zero and not best_is_loaded:
            self._last(kwargs["model"], state.global_step)

    def _last(self, model: nn.Module, step: int) -> None:
        if self.steps == "log":
            self.measure(model, step)

    def _begun(self, model: nn.Module, step: int) -> Measurement:
        """What to measure with; made where a training begins: at the first call, and where steps go back."""
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise UsageError(f"step: expected the number of optimizer steps made so far, 0 or more, got {step!r}")
        if self._measurement is None or step < self._latest:
            self._measurement = self._begin(model, step)
        self._latest = step
        return self._measurement

    def _begin(self, model: nn.Module, step: int) -> Measurement:
        refuse_parts(model)
        inner = unwrapped(model)
        device = available_device(str(inner.device))
        measurement = self._plan(self._series(inner), dtype=dtype_name(inner), device=device.type)
        self._batch_size, self._taken = None, self._observations.begin(measurement.settings)
        if step in self._taken:
            self._observations.refuse_other_weights(inner, step)
        return measurement

    def _series(self, model: PreTrainedModel) -> Series:
        quantizer = getattr(model, "hf_quantizer", None)
        return Series(
            source=f"training of {self.name}",
            name=self.name,
            checkpoints=(),
            arch=ArchSpec.from_config(model.config.to_dict()),
            tokenizer=lambda: self._tokenizer,
            quantisation="none" if quantizer is None else type(quantizer).__name__,
        )

    def _measured(self, measurement: Measurement, model: PreTrainedModel, step: int) -> xr.Dataset:
        with undisturbed(model):
            dataset = measurement.of(model, f"{PREFIX}{step}", step, batch_size=self._batch_size)
        self._batch_size = int(dataset["batch_size"][0])  # memory that did not suffice once will not the next time
        return dataset

    def _attempt(self, measurement: Measurement, model: PreTrainedModel, step: int) -> None:
        """Measure one step and keep what was found; a failure is noted, for no training must die of it."""
        self._taken.add(step)
        try:
            self._observations.add(f"{PREFIX}{step}", self._measured(measurement, model, step))
        except Exception as error:
            reason = failure_reason(error)
            self._observations.fail(f"{PREFIX}{step}", reason)
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"step {step} of {self.name} was not measured ({reason}); the training goes on, and further "
                    "failures are listed in the observer's `scan.failures` without a warning",
                    stacklevel=2,
                )
