"""Tensors laid out for the kernels: what is served, how it is cut, where its partial sums go."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from adafactor_core import Work
from adafactor_core._box import Box

Ints = np.ndarray[Any, np.dtype[np.int64]]
SCRATCH = 1 << 20  # bytes of partial column sums per tensor
TILE = 1 << 13  # columns per item: their sums stay in the first-level cache
RUN = 1 << 15  # elements per item of an unfactored tensor
SMALL = 1 << 20  # elements that tensors are put together up to: 8 MiB stay in a shared cache


class Buffer(NamedTuple):
    """Memory of an array as the kernels see it. `dtype`: "float32", "bfloat16", ..."""

    address: int
    dtype: str
    contiguous: bool  # in C order, aligned, native byte order


Describe = Callable[[Any], Buffer]


class Cut(NamedTuple):
    """How a factored tensor is divided: lanes of rows, tiles of columns."""

    lanes: int
    tiles: int


def cut(shape: Box, limit: int | None, itemsize: int) -> Cut:
    """Few enough lanes that their column sums stay below SCRATCH; independent of threads."""
    budget = min(SCRATCH, limit // 2 if limit else SCRATCH)
    tiles = -(-shape.length // TILE) if shape.b == shape.d == 1 else 1
    tiles = max(1, min(tiles, budget // (8 * shape.rows)))
    lanes = min(64, shape.r // 32, shape.r * shape.length // RUN)
    return Cut(max(1, min(lanes, budget // (itemsize * shape.cols))), tiles)


def items(t: int, shape: Box, how: Cut, factored: bool) -> list[tuple[int, ...]]:
    """(tensor, slice, r0, r1, j0, j1, lane, tile) per item."""
    if not factored:
        n = shape.c
        return [(t, 0, 0, 1, j, min(j + RUN, n), 0, 0) for j in range(0, n, RUN)]
    rows = [shape.r * k // how.lanes for k in range(how.lanes + 1)]
    cols = [shape.length * k // how.tiles for k in range(how.tiles + 1)]
    return [
        (t, a, rows[lane], rows[lane + 1], cols[tile], cols[tile + 1], lane, tile)
        for a in range(shape.a)
        for lane in range(how.lanes)
        for tile in range(how.tiles)
    ]


def batches(works: Sequence[Work]) -> list[list[Work]]:
    """Tensors of one kind together, small ones up to SMALL elements, large ones alone."""
    done: list[list[Work]] = []
    held: dict[Any, tuple[list[Work], int]] = {}
    for w in works:
        m = w.options.beta1 is not None
        # Options and dtypes are per batch, so that one kernel call serves all of it.
        key = (w.layout.factored, w.param.dtype, w.grad.dtype, m, id(w.options))
        size = math.prod(w.layout.shape)
        batch, total = held.get(key, ([], 0))
        if batch and total + size > SMALL:
            done.append(batch)
            batch, total = [], 0
        batch.append(w)
        held[key] = (batch, total + size)
    return done + [batch for batch, _ in held.values()]
