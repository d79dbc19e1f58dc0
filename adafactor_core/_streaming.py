"""The executors `whole` and `streamed`: one block function, run once or over blocks in cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from ._numerics import (
    Array,
    DType,
    Namespace,
    Shape,
    assign,
    device,
    keep_freed_blocks,
    long_inner_loops,
    part,
)
from ._rounding import BLOCK

Index = tuple[slice, ...]
_ALL = slice(None)
Block = Callable[..., tuple[Sequence[Array], Sequence[Array]]]

BLOCK_BYTES = 1 << 20  # a block and its temporaries stay in a core's share of the cache
_TEMPORARIES = 8  # block-sized arrays alive at once in the busiest pass, bfloat16 with momentum


class Here:
    """Stands among the inputs of a block for where the block starts, an int per axis."""


HERE = Here()


class Out(NamedTuple):
    """Where a block function's value goes: into `array`, or to a new array where that is None."""

    array: Array | None
    dtype: DType
    shape: Shape | None = None  # where it is not that of the tensor: see `_narrow`


def block_limit(max_scratch_bytes: int | None, itemsize: int, busy: bool = False) -> int:
    """Elements per block such that all temporaries of a block stay below the bound.

    `busy`: values are rounded by draws or with compensation, or quantised.
    """
    if max_scratch_bytes is not None:
        each = max_scratch_bytes // (_TEMPORARIES + 6 * busy)
        return max(1, min(BLOCK_BYTES, each) // itemsize)
    return BLOCK_BYTES // itemsize


@dataclass(frozen=True)
class Blocks:
    """Boxes cut along the leading axes: single indices before `axis`, runs of `run` along it."""

    shape: Shape
    axis: int
    run: int

    @property
    def elements(self) -> int:
        """Of the first block, which is the largest."""
        return min(self.run, self.shape[self.axis]) * math.prod(self.shape[self.axis + 1 :])

    def __iter__(self) -> Iterator[Index]:
        # Made on the way: a list of all blocks can take more memory than a tensor's scratch.
        size = self.shape[self.axis]
        tail = (_ALL,) * (len(self.shape) - self.axis - 1)
        for head in product(*map(range, self.shape[: self.axis])):
            before = tuple([slice(i, i + 1) for i in head])
            for start in range(0, size, self.run):
                yield (*before, slice(start, min(start + self.run, size)), *tail)

    def sweep(
        self,
        xp: Namespace,
        dtype: DType,
        block: Block,
        ins: Sequence[Any],
        sums: Sequence[Shape],
        outs: Sequence[Out],
    ) -> tuple[list[Array], list[Array]]:
        """The function `sweep`, block after block, written to where it belongs."""
        like: Array = ins[0]
        totals = [xp.zeros(shape, dtype=dtype, device=device(like)) for shape in sums]
        arrays = [o.array if o.array is not None else _room(xp, like, o) for o in outs]
        keep_freed_blocks(xp, like, 4 * self.elements * (8 if dtype == xp.float64 else 4))
        with long_inner_loops(xp, self.shape[-1]):
            for index in self:
                parts, values = block(*(take(a, index, self.shape) for a in ins))
                for total, share in zip(totals, parts, strict=True):
                    place = _narrow(total.shape, index, self.shape)
                    assign(total, place, part(total, place) + share)
                for array, value in zip(arrays, values, strict=True):
                    place = _narrow(array.shape, index, self.shape)
                    assign(array, place, xp.astype(value, array.dtype, copy=False))
        return totals, arrays


@lru_cache(maxsize=4096)
def blocks(shape: Shape, limit: int, multiple: int = 1) -> Blocks | None:
    """Blocks of at most `limit` elements, or None if one would do.

    The last axis is cut at multiples of `multiple` alone, even if that takes more elements.
    """
    if math.prod(shape) <= max(limit, multiple):
        return None
    # The first axis whose single slices fit is cut into runs of slices, those before it singly.
    axis = next(a for a in range(len(shape)) if math.prod(shape[a + 1 :]) <= limit)
    run = max(1, limit // math.prod(shape[axis + 1 :]))
    if axis == len(shape) - 1:
        run = max(multiple, run // multiple * multiple)
    return Blocks(shape, axis, run)


def take(a: Any, index: Index, whole: Shape) -> Any:
    """The part of `a` that belongs to a block of a tensor of shape `whole`; see `_narrow`."""
    if isinstance(a, Here):
        return tuple([i.start or 0 for i in index])
    plain = a is None or isinstance(a, float) or not a.shape
    return a if plain else part(a, _narrow(a.shape, index, whole))


def _narrow(shape: Shape, index: Index, whole: Shape) -> Index:
    """The block's place in an array that has size 1 where it broadcasts, or an entry per
    `BLOCK` of the last axis, as the scales of an int8 buffer have."""
    narrow = [_ALL if n == 1 else i for n, i in zip(shape, index, strict=True)]
    if 1 != shape[-1] != whole[-1] and index[-1] != _ALL:
        start, stop = index[-1].start, index[-1].stop
        narrow[-1] = slice(start // BLOCK, -(-stop // BLOCK))
    return tuple(narrow)


def sweep(
    xp: Namespace,
    dtype: DType,
    block: Block,
    ins: Sequence[Any],
    sums: Sequence[Shape],
    outs: Sequence[Out],
    over: Blocks | None,
) -> tuple[list[Array], list[Array]]:
    """Runs `block(*ins) -> (partial sums, values)` and returns (sums, values).

    `ins` broadcast to the shape of the first, or are HERE. `sums` are the shapes of the partial
    sums, which are added up over blocks in `dtype`; values have the shape of the block.
    """
    if over is None:
        start = (0,) * len(ins[0].shape)  # which has the tensor's shape
        parts, values = block(*(start if isinstance(a, Here) else a for a in ins))
        return list(parts), [_write(xp, o, v) for o, v in zip(outs, values, strict=True)]
    return over.sweep(xp, dtype, block, ins, sums, outs)


def _room(xp: Namespace, like: Array, out: Out) -> Array:
    if out.shape is None:
        return xp.empty_like(like, dtype=out.dtype)
    return xp.empty(out.shape, dtype=out.dtype, device=device(like))


def _write(xp: Namespace, out: Out, value: Array) -> Array:
    value = xp.astype(value, out.dtype, copy=False)
    if out.array is None:
        return value if value.shape else xp.asarray(value)  # 0-D NumPy results are scalars
    assign(out.array, (), value)
    return out.array
