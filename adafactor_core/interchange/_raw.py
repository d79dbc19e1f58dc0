"""Arrays as their bytes, so that a state can be moved by nobody's array library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .._errors import ShapeError, StateError
from .._numerics import Shape

WIDTHS = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
CHUNK = 1 << 23  # bytes that are in memory at a time


@dataclass(frozen=True)
class Raw:
    """One array: dtype by name, shape, and its bytes, little-endian and in C order, when asked for.

    `read(start, stop)`: bytes `start` to `stop` of it, any buffer of bytes. Whatever is behind it
    (a file, an array on a device) is touched by nothing else, so a state of any size can be
    described, checked and renamed before one byte of it is read.
    """

    dtype: str
    shape: Shape
    read: Callable[[int, int], bytes | memoryview]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * WIDTHS[self.dtype]

    def chunks(self, size: int = CHUNK) -> Iterator[bytes | memoryview]:
        """All of it, `size` bytes at a time. Raises StateError where fewer or more come."""
        for start in range(0, self.nbytes, size):
            stop = min(start + size, self.nbytes)
            chunk = self.read(start, stop)
            if len(chunk) != stop - start:
                raise StateError(
                    f"bytes {start} to {stop} of an array of {self.dtype} and shape {self.shape} "
                    f"were asked for, and {len(chunk)} came. Raw.read must return them all."
                )
            yield chunk

    def bytes(self) -> bytes | memoryview:
        """All of it at once."""
        return self.read(0, self.nbytes)

    def reshape(self, shape: Shape) -> Raw:
        """The same bytes under another shape of as many elements. Raises ShapeError."""
        if math.prod(shape) != self.size:
            raise ShapeError(
                f"{self.size} elements of shape {self.shape} cannot have shape {shape}."
            )
        return replace(self, shape=tuple(shape))


def of_bytes(dtype: str, shape: Shape, data: bytes | memoryview) -> Raw:
    """An array whose bytes are in memory already."""
    view = memoryview(data).cast("B")
    return Raw(dtype, tuple(shape), lambda start, stop: view[start:stop])
