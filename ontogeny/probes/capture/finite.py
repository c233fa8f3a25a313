"""Whether a pass gave numbers at all."""

from __future__ import annotations

from torch import Tensor

from ontogeny.errors import OntogenyError


def require_finite(values: Tensor) -> None:
    """Raise OntogenyError where some of `values` are infinite or NaN."""
    if not bool(values.isfinite().all()):
        raise OntogenyError(
            "the forward pass gave values that are not finite: expected sound weights, and a dtype with their range "
            "(float16 overflows where float32 does not)"
        )
