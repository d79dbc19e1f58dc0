"""Arrays as their bytes, so that a state can be moved by nobody's array library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .._errors import ShapeError, StateError
from .._numerics import WIDTHS, Shape

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


def computed(dtype: str, shape: Shape, make: Callable[[], Any]) -> Raw:
    """What `make()` returns, any buffer of the bytes: called at the first byte that is read, and
    let go after the last, so that a state goes through memory one array at a time."""
    held: list[memoryview] = []

    def read(start: int, stop: int) -> memoryview:
        if not held:
            held.append(memoryview(make()).cast("B"))
        part = held[0][start:stop]
        if stop >= len(held[0]):
            held.clear()
        return part

    return Raw(dtype, shape, read)
