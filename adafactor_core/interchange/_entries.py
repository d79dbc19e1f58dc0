"""Where the arrays of a file lie: what both containers say about each of theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from .._numerics import WIDTHS, Shape
from ._json import MalformedError, is_int

LIMIT = 100_000_000  # bytes of a header; the safetensors package has the same
RANK, SIZE = 64, 2**63 - 1


class Entry(NamedTuple):
    """One array: its bytes begin `start` bytes into the file."""

    dtype: str
    shape: Shape
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * WIDTHS[self.dtype]


class Contents(NamedTuple):
    """All arrays by name, and the file's metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def shape_of(value: Any, what: str) -> Shape:
    """A list of sizes as a shape. Raises MalformedError for what no array can have."""
    # The rank first: the product of a million large sizes would take hours.
    if not isinstance(value, list) or len(value) > RANK:
        raise MalformedError(f"{what} has no list of at most {RANK} sizes as its shape")
    if not all(is_int(n) and 0 <= n <= SIZE for n in value):
        raise MalformedError(f"{what} has a shape that is not made of ints from 0 to 2**63 - 1")
    if math.prod(n for n in value if n) > SIZE // 8:
        raise MalformedError(f"{what} has a shape of 2**60 elements or more")
    return tuple(value)
