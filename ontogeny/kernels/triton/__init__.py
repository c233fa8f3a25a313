"""Attention and its statistics on NVIDIA GPUs; importing this package needs no triton."""

from ontogeny.kernels.triton.attention import out_of_reach, triton_attention, triton_was_run_on

__all__ = ["out_of_reach", "triton_attention", "triton_was_run_on"]
