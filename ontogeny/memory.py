"""Whether an error says that memory did not suffice."""

from __future__ import annotations

# Torch's allocator on a CPU, and libraries beneath torch on a GPU, raise a plain RuntimeError.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """True for what Python and torch raise where memory, the host's or a device's, does not suffice."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
