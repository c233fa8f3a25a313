"""What a capture is asked for, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Integral

from torch import Tensor

from ontogeny.errors import OntogenyError
from ontogeny.probes.capture.clusters import ClusterStream
from ontogeny.probes.capture.contexts import EqualTokens
from ontogeny.probes.capture.trace import ATTENTION, CLUSTERS, CONTEXTS, LOGITS, RESIDUAL, VALUES, WALKS

USUAL = frozenset({ATTENTION, RESIDUAL})
EVERYTHING = USUAL | {VALUES, CONTEXTS, WALKS, CLUSTERS, LOGITS}


@dataclass(frozen=True)
class Wanted:
    """Parts of the trace, maps and their columns to keep, and whom to tell of each block.

    `maps` are layers, `columns` are keys, of every layer's map.
    """

    needs: frozenset[str]
    maps: frozenset[int] = frozenset()
    columns: tuple[int, ...] = ()
    on_block: Callable[[int], None] | None = None

    @classmethod
    def of(
        cls,
        needs: Collection[str],
        maps: Collection[int] = (),
        columns: Sequence[int] = (),
        on_block: Callable[[int], None] | None = None,
    ) -> Wanted:
        """What a user asked for. Raises OntogenyError where that makes no sense."""
        names = [needs] if isinstance(needs, str) else needs
        if not isinstance(names, Collection) or not all(isinstance(one, str) for one in names):
            raise OntogenyError(f"needs: expected some of {', '.join(sorted(EVERYTHING))}, got {needs!r}")
        if not isinstance(maps, Collection) or not all(isinstance(one, Integral) for one in maps):
            raise OntogenyError(f"maps: expected a collection of layers' numbers, such as maps=[3], got {maps!r}")
        if not isinstance(columns, Collection) or not all(isinstance(one, Integral) for one in columns):
            raise OntogenyError(f"columns: expected a collection of keys, such as columns=(0, 8), got {columns!r}")
        asked = frozenset(names)
        if not asked or asked - EVERYTHING:
            raise OntogenyError(
                f"needs: expected some of {', '.join(sorted(EVERYTHING))}, got {', '.join(sorted(asked))}"
            )
        if (maps or columns) and ATTENTION not in asked:
            raise OntogenyError("maps: expected `attention` among the needs, since maps are kept as it is recorded")
        return cls(asked, frozenset(maps), tuple(columns), on_block)

    @property
    def attention(self) -> bool:
        """Whether something of the attention is."""
        return bool(self.needs & {ATTENTION, VALUES, WALKS, LOGITS})

    @property
    def residual(self) -> bool:
        """Whether something of the residual stream is."""
        return bool(self.needs & {RESIDUAL, CONTEXTS, CLUSTERS, LOGITS})

    def equal_tokens(self, name: str, ids: Tensor | None, valid: Tensor | None) -> EqualTokens | None:
        """The pairs of equal tokens of a pass on `ids` (B, T), where its states are to be compared.

        Raises OntogenyError where something about tokens is asked for of a pass of `name` that was given none.
        """
        if ids is None and self.needs & {CONTEXTS, WALKS}:
            raise OntogenyError(
                f"{name} was given no token ids, which `contexts` and `walks` are about: leave them out"
            )
        return EqualTokens.find(ids, valid) if ids is not None and CONTEXTS in self.needs else None

    def cluster_stream(self, valid: Tensor | None) -> ClusterStream | None:
        """What takes the geometry of a pass's states, where it is asked for; `valid` (B, T) is False at padding."""
        return ClusterStream(valid) if CLUSTERS in self.needs else None

    def refuse_absent_layers(self, layers: int) -> None:
        """Raise OntogenyError where a map is asked for of a layer that the model does not have."""
        absent = sorted(one for one in self.maps if not 0 <= one < layers)
        if absent:
            raise OntogenyError(f"maps: expected layers from 0 to {layers - 1}, got {', '.join(map(str, absent))}")
