"""What a GGUF file says before its tensor data: the architecture, the file type, the tensors.

Layout: the GGUF specification of ggml (versions 2 and 3, little-endian). The `gguf` package reads it too, but builds
an array for every word of the vocabulary, which takes seconds.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ontogeny.errors import OntogenyError

_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: its name, number of values, ggml type number, and offset in bytes into the tensor data."""

    name: str
    size: int
    type: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """Single-valued metadata, the tensors, and where the tensor data begin, in bytes."""

    metadata: dict[str, int | float | str]
    tensors: tuple[GgufTensor, ...]
    data_start: int


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file. Raises OntogenyError where it is not one, or is cut short or corrupt."""
    advice = f"expected a GGUF file of version {' or '.join(map(str, _VERSIONS))}; download or convert it again"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4] != b"GGUF":
                raise OntogenyError(f"{path} does not begin with the letters GGUF: {advice}")
            return _Cursor(content, 4).header()
    except (OSError, ValueError, struct.error, RecursionError) as error:
        raise OntogenyError(f"{path} has a header that cannot be read ({error}): {advice}") from error


class _Cursor:
    """A place in the file that moves on with each value taken."""

    def __init__(self, content: mmap.mmap, position: int) -> None:
        self.content = content
        self.position = position

    def header(self) -> GgufHeader:
        version, tensor_count, entry_count = self.take("I"), self.count(), self.count()
        if version not in _VERSIONS:
            raise ValueError(f"version {version}")
        metadata = dict(self.entry() for _ in range(entry_count))
        tensors = tuple(self.tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"alignment {alignment}")
        start = -(-self.position // alignment) * alignment
        return GgufHeader({key: value for key, value in metadata.items() if value is not None}, tensors, start)

    def take(self, code: str) -> int | float:
        (value,) = struct.unpack_from(f"<{code}", self.content, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def count(self) -> int:
        return int(self.take("Q"))

    def string(self) -> str:
        length = self.count()
        start, self.position = self.position, self.position + length
        if self.position > len(self.content):
            raise ValueError("a text that ends after the file does")
        return self.content[start : self.position].decode("utf-8", errors="replace")

    def entry(self) -> tuple[str, int | float | str | None]:
        return self.string(), self.value(int(self.take("I")))

    def value(self, kind: int) -> int | float | str | None:
        """The value, or None for an array, which is stepped over."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            self.skip_array()
            return None
        if kind not in _SCALARS:
            raise ValueError(f"value type {kind}")
        return self.take(_SCALARS[kind])

    def skip_array(self) -> None:
        kind, count = int(self.take("I")), self.count()
        if kind in _SCALARS:
            self.position += count * struct.calcsize(f"<{_SCALARS[kind]}")
            return
        for _ in range(count):
            self.value(kind)

    def tensor(self) -> GgufTensor:
        name = self.string()
        shape = [self.count() for _ in range(int(self.take("I")))]
        return GgufTensor(name, prod(shape), type=int(self.take("I")), offset=self.count())
