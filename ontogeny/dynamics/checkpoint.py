"""One set of weights of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ontogeny.dynamics.loading.repository import RemoteFile

UNKNOWN_STEP = -1


@dataclass(frozen=True)
class Checkpoint:
    """A set of weights: what it is called, when in training it was taken, and how to get it.

    `name` is unique in its series and safe as a folder name. `step` counts optimizer steps (-1: the source states
    none). `tokens` is the number of tokens seen, None where unknown. `fetch` makes the files local, downloading what
    must be downloaded, and returns their folder, or the one file; None where there are no files. `modified` is when
    those files last changed, in seconds of the epoch; None where a name always means the same content. `release`
    removes the weights that `fetch` itself downloaded, and nothing that was there before; None where nothing is
    downloaded. `config` is the `config.json`, None for the one beside the weights. `read` makes the model, in a dtype
    and on a device, of weights that are in no files. `listing` gives size and digest of each weight file by name,
    without downloading any; None where there are no files.
    """

    name: str
    step: int
    fetch: Callable[[], Path | None]
    revision: str = ""
    tokens: float | None = None
    modified: float | None = None
    release: Callable[[], None] | None = None
    config: Path | None = None
    read: Callable[[str, str], PreTrainedModel] | None = None
    listing: Callable[[], Mapping[str, RemoteFile]] | None = None

    def load(self, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
        """Fetch the files and load the model, in evaluation mode, without its gradients.

        Raises OntogenyError when a weight is missing, of the wrong shape, unexpected, corrupt or not finite.
        """
        if self.read is not None:
            return self.read(dtype, device)
        from ontogeny.dynamics.loading.model import load_model

        return load_model(self._fetched(), dtype, device, config=self.config, step=self._stated_step)

    def read_ahead(self) -> Callable[[str, str], PreTrainedModel]:
        """Fetch the files and read their weights; what is returned makes the model, as `load` does.

        A thread may do this while another runs a model: see `loading.model.read_model`.
        """
        if self.read is not None:
            return self.read
        from ontogeny.dynamics.loading.model import read_model

        return read_model(self._fetched(), config=self.config, step=self._stated_step)

    def _fetched(self) -> Path:
        place = self.fetch()
        assert place is not None, f"{self.name} has neither files nor a way to read it"
        return place

    @property
    def _stated_step(self) -> int | None:
        return None if self.step == UNKNOWN_STEP else self.step
