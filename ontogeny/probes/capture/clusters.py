"""The geometry of a depth's states: on the sphere their energies and clusters, raw the spectrum of their matrix.

Blocks are the time of the self-attention model (arXiv 2312.10794, 2410.06833). Every depth is reduced as it passes; of
the one before, only the tokens' memberships are kept. A selection with fewer than two tokens has no geometry: NaN.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ontogeny.probes.capture.finite import require_finite
from ontogeny.probes.capture.linkage import adjusted_rand, linked
from ontogeny.probes.capture.selection import selections
from ontogeny.probes.capture.spectrum import spectral_measures
from ontogeny.probes.capture.sphere import directions
from ontogeny.probes.capture.trace import ClusterTrace

BETAS = (1.0, 2.0, 4.0, 8.0)
THRESHOLDS = (0.9, 0.99, 0.999)
SHUFFLE_SEED = 20241009
SAMPLE_SEED = 20231217
TOKENS_AT_MOST = 4096  # whose pairs are taken; above, a sample stands for all
_COSINES_AT_ONCE = 2**24
_KERNEL_AT_ONCE = 2**18


class ClusterStream:
    """Reduces the depths of one pass, one after the other; `valid` (B, T) is False at padding."""

    def __init__(self, valid: Tensor | None) -> None:
        self.valid = valid
        self._members: dict[str, Tensor] = {}
        self._following: Tensor | None = None
        self._sample: Tensor | None = None

    def reduce(self, state: Tensor) -> tuple[ClusterTrace, ClusterTrace]:
        """The next depth's geometry and that of its shuffled baseline; state (B, T, d).

        In the baseline the values of each dimension are permuted over the selection's tokens, each on its own. The
        permutations are the same for every sequence of a length and every depth. Raises OntogenyError where a state is
        not finite.
        """
        state = state if state.dtype == torch.float64 else state.float()
        if self.valid is not None:
            state = state.masked_fill(~self.valid[..., None], 0)
        require_finite(state)
        if self._following is None:
            self._following = permutations(state, self.valid)
            self._sample = sampled_places(state, self.valid)
        following = self._following
        counted = selections(state, self.valid).transpose(0, 1)
        found = self._measured("states", state, counted)
        parts = [
            self._measured(f"shuffled {kind}", shuffled(state, one, following), one[:, None])
            for kind, one in enumerate(counted.unbind(1))
        ]
        baseline = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in vars(found)}
        return found, ClusterTrace(**baseline)

    def _measured(self, name: str, state: Tensor, counted: Tensor) -> ClusterTrace:
        """The geometry of states (B, T, d) for counted tokens (B, S, T).

        Persistence is from the memberships of the depth before that were kept under `name`.
        """
        point = directions(state)
        cosine = mean_cosine(point, counted)
        entropy, anisotropy, rank = spectral_measures(state, counted)
        tokens = counted.sum(-1, dtype=torch.int32)
        if self._sample is not None:
            point = point.gather(1, self._sample[..., None].expand(-1, -1, point.shape[-1]))
            counted = counted.gather(2, self._sample[:, None].expand(-1, counted.shape[1], -1))
        paired = counted.sum(-1, dtype=torch.int32)
        few, few_paired = tokens < 2, (paired < 2)[..., None]
        energies, members = pairwise(point, counted)
        before, self._members[name] = self._members.get(name), members
        count = members.amax(-1).double()
        persistence = torch.full_like(count, torch.nan) if before is None else adjusted_rand(before, members)
        return ClusterTrace(
            tokens=tokens,
            paired=paired,
            mean_cosine=cosine.masked_fill(few, torch.nan),
            energy=energies.masked_fill(few_paired, torch.nan),
            count=count.masked_fill(few_paired, torch.nan),
            persistence=persistence,
            matrix_entropy=entropy.masked_fill(few, torch.nan),
            anisotropy=anisotropy.masked_fill(few, torch.nan),
            effective_rank=rank.masked_fill(few, torch.nan),
        )


def mean_cosine(point: Tensor, counted: Tensor) -> Tensor:
    """The mean cosine (B, S) of pairs i != j of counted tokens, from the sum of their directions, in float64."""
    weight = counted.double()
    total = (weight @ point.double()).square().sum(-1)
    alone = (weight @ point.double().square().sum(-1, keepdim=True))[..., 0]
    tokens = weight.sum(-1)
    return (total - alone) / (tokens * (tokens - 1))


def pairwise(point: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B, S, len(BETAS)) and labels (B, S, len(THRESHOLDS), T), the cosines of a few sequences at a time."""
    step = max(1, _COSINES_AT_ONCE // point.shape[1] ** 2)
    found = []
    for some, chosen in zip(point.split(step), counted.split(step), strict=True):
        cosine = some @ some.mT
        found.append((energy(cosine, chosen), linked(cosine, chosen, THRESHOLDS)))
    return torch.cat([one for one, _ in found]), torch.cat([labels for _, labels in found])


def energy(cosine: Tensor, counted: Tensor) -> Tensor:
    """E_beta = sum over pairs, i = j too, of exp(beta (cosine - 1)), over 2 beta n^2 (arXiv 2410.06833): (B, S, betas).

    `cosine` (B, T, T), a few rows at a time, `counted` (B, S, T); summed in float64.
    """
    weight = counted.double()
    sums = weight.new_zeros(*weight.shape[:2], len(BETAS))
    step = max(1, _KERNEL_AT_ONCE // (cosine.shape[0] * cosine.shape[-1]))
    for rows, chosen in zip(cosine.split(step, 1), weight.split(step, 2), strict=True):
        exponent = rows.double() - 1
        for index, beta in enumerate(BETAS):
            sums[..., index] += (chosen @ (beta * exponent).exp() * weight).sum(-1)
    betas = torch.tensor(BETAS, dtype=torch.float64, device=cosine.device)
    return sums / (2 * betas * weight.sum(-1, keepdim=True).square())


def sampled(length: int) -> np.ndarray | None:
    """Which of a sequence's tokens are paired, standing for all, in order, seeded; None where all are."""
    if length <= TOKENS_AT_MOST:
        return None
    return np.sort(np.random.default_rng(SAMPLE_SEED).choice(length, TOKENS_AT_MOST, replace=False))


def sampled_places(state: Tensor, valid: Tensor | None) -> Tensor | None:
    """The places (B, TOKENS_AT_MOST) of what is paired of states (B, T, d), None where all is; some may be padding."""
    if state.shape[1] <= TOKENS_AT_MOST:
        return None
    found = []
    for real in torch.ones(state.shape[:2], dtype=torch.bool, device=state.device) if valid is None else valid:
        places, padding = real.nonzero()[:, 0], (~real).nonzero()[:, 0]
        sample = sampled(len(places))
        paired = places if sample is None else places[torch.from_numpy(sample).to(places.device)]
        found.append(torch.cat([paired, padding])[:TOKENS_AT_MOST])
    return torch.stack(found)


def permutations(state: Tensor, valid: Tensor | None) -> Tensor:
    """For each dimension of states (B, T, d) a permutation of the places of tokens, (B, T, d); padding stays."""
    sequences, length, width = state.shape
    if valid is None:
        return _permutation(length, width).to(state.device).expand(sequences, -1, -1)
    found = []
    for real in valid:
        following = torch.arange(length, device=state.device)[:, None].repeat(1, width)
        places = real.nonzero()[:, 0]
        following[places] = places[_permutation(len(places), width).to(state.device)]
        found.append(following)
    return torch.stack(found)


def shuffled(state: Tensor, counted: Tensor, following: Tensor) -> Tensor:
    """States (B, T, d) with each dimension's values permuted over the counted tokens (B, T), the others zero.

    A dimension's permutation of all tokens, `following`, is gone along from a counted one to the next that is counted.
    That is a permutation of these, every one as likely as any other, and hardly another where one token more is out.
    """
    source = following.clone()
    left_out = counted[:, :, None] & ~counted.gather(1, source.flatten(1)).view_as(source)
    sequence, place, dimension = left_out.nonzero(as_tuple=True)
    while len(sequence):
        onward = following[sequence, source[sequence, place, dimension], dimension]
        source[sequence, place, dimension] = onward
        still = ~counted[sequence, onward]
        sequence, place, dimension = sequence[still], place[still], dimension[still]
    return state.gather(1, source).masked_fill(~counted[..., None], 0)


@lru_cache(maxsize=1)
def _permutation(tokens: int, width: int) -> Tensor:
    drawn = np.arange(tokens)[:, None].repeat(width, axis=1)
    return torch.from_numpy(np.random.default_rng(SHUFFLE_SEED).permuted(drawn, axis=0))
