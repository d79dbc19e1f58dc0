"""Tensors laid out for the kernels: what is served, how it is cut, where its partial sums go."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from adafactor_core import Moments, Work

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


class Box(NamedTuple):
    """A factored tensor as (A, R, B, C, D), see _kernels; an unfactored one as C = its size."""

    a: int
    r: int
    b: int
    c: int
    d: int
    swapped: bool  # the row axis lies behind the column axis

    @property
    def length(self) -> int:
        return self.b * self.c * self.d

    @property
    def rows(self) -> int:
        return self.a * self.r * self.b * self.d

    @property
    def cols(self) -> int:
        return self.a * self.length


def box(work: Work) -> Box:
    """The five-sided view of a tensor that `refusal` has let pass."""
    shape, plan = work.layout.shape, work.layout
    if not plan.factored:
        return Box(1, 1, 1, math.prod(shape), 1, False)
    (r,), (c,) = plan.row_axes, plan.col_axes
    first, last = min(r, c), max(r, c)
    sides = (shape[:first], shape[first + 1 : last], shape[last + 1 :])
    a, b, d = map(math.prod, sides)
    return Box(a, shape[first], b, shape[last], d, r > c)


def last(work: Work) -> int:
    """The size of the last axis, by whose rows random bits are drawn."""
    return work.layout.shape[-1] if work.layout.shape else 1


def claimed(w: Work) -> Moments:
    """The slots to work on, in place: what was not given up is copied first."""
    for name, array in {**w.moments._asdict(), "result": w.param}.items():
        if array is not None and name not in w.into:
            w.into[name] = w.xp.asarray(array, copy=True)
    return Moments(*(None if m is None else w.into[n] for n, m in w.moments._asdict().items()))


def refusal(work: Work) -> str:
    """Why the kernels cannot take this tensor with its options; empty if they can."""
    o, plan = work.options, work.layout
    if work.whole.sharded:
        return "sharded"
    if work.emit != "param":
        return "update() instead of step()"
    if o.eps1_mode == "clamp":
        return "eps1_mode='clamp'"
    if o.beta1 is not None and o.momentum_on == "grad":
        return "momentum_on='grad'"
    if o.beta1 is not None and o.momentum_dtype == "int8":
        return f"momentum_dtype={o.momentum_dtype!r}"
    narrow = o.beta1 is not None and o.momentum_dtype != "float32"
    if narrow and o.momentum_rounding != "nearest":
        return f"momentum_rounding={o.momentum_rounding!r}"
    if o.beta1 is not None and o.momentum_arithmetic != "float32":
        return f"momentum_arithmetic={o.momentum_arithmetic!r}"
    if work.whole.options.telemetry and o.clip_threshold is None:
        return "telemetry with clip_threshold=None"
    if len(plan.row_axes) > 1 or len(plan.col_axes) > 1:
        return "several axes on one side"
    if math.prod(plan.shape) == 0:
        return "empty"
    return _scope_refusal(work)


def _scope_refusal(work: Work) -> str:
    plan = work.layout
    if not plan.batch_axes:
        return ""
    if not plan.factored:
        return "batch_axes of an unfactored tensor"
    leading = tuple(range(min(plan.row_axes + plan.col_axes)))
    return "" if plan.batch_axes == leading else "batch_axes that are not the leading axes"


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
