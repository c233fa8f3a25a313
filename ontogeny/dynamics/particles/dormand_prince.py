"""One step of Dormand and Prince's method of order 5(4), with its interpolant of order 4, for a batch of states.

Every trajectory has a step size of its own, which is why this is no library's integrator: those that take batches
share one step size among them, and a batch holds plateaus that last e^beta next to mergers that last a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ontogeny.dynamics.particles.sphere import normalised

ORDER = 5
STAGES = tuple(
    torch.tensor(row, dtype=torch.float64)
    for row in (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
)
ERROR = torch.tensor((71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40), dtype=torch.float64)
# Of the interpolant x0 + h sum_i b_i(share) k_i, where b_i is share (c_0 + c_1 share + ...).
INTERPOLANT = torch.tensor(
    (
        (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    dtype=torch.float64,
)


@dataclass(frozen=True)
class Trial:
    """A step that was tried: from `x0` (B, n, d) by `h` (B, 1, 1) to `x` on the sphere.

    `k` (7, B, n, d) are the velocities on its way, of which the last is that at `x`, where the next step begins, and
    `error` (B,) is the largest estimate of a coordinate's local error.
    """

    x0: Tensor
    h: Tensor
    k: Tensor
    x: Tensor
    error: Tensor

    def path(self, which: Tensor, particle: Tensor) -> Tensor:
        """See `Inside.path`: of degree 4, in which the error of what lies between is of the order of the step's."""
        turning = torch.tensordot(self.k[:, which, particle], INTERPOLANT, dims=([0], [0]))
        return torch.cat([self.x0[which, particle, :, None], self.h[which] * turning], dim=-1)


def attempt(velocity: Callable[[Tensor], Tensor], x: Tensor, velocity_there: Tensor, h: Tensor) -> Trial:
    """One step of sizes `h` (B, 1, 1) from states `x` (B, n, d), whose velocity is known."""
    k = x.new_empty(len(ERROR), *x.shape)
    k[0] = velocity_there
    for stage, weights in enumerate(STAGES, start=1):
        at = x + h * torch.tensordot(weights, k[:stage], dims=1)
        if stage == len(STAGES):
            at = normalised(at)
        k[stage] = velocity(at)
    error = (h * torch.tensordot(ERROR, k, dims=1)).abs().amax((-2, -1))
    return Trial(x, h, k, at, error)
