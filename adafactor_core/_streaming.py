"""The executors `whole` and `streamed`: one block function, run once or over blocks in cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from ._numerics import Array, DType, Namespace, Shape, device, keep_freed_blocks, long_inner_loops

Index = tuple[slice, ...]
_ALL = slice(None)
Block = Callable[..., tuple[Sequence[Array], Sequence[Array]]]

BLOCK_BYTES = 1 << 20  # a block and its temporaries stay in a core's share of the cache
_TEMPORARIES = 8  # block-sized arrays alive at once in the busiest pass, bfloat16 with momentum


class Out(NamedTuple):
    """Where a block function's value goes: into `array`, or to a new array where that is None."""

    array: Array | None
    dtype: DType


def block_limit(max_scratch_bytes: int | None, itemsize: int) -> int:
    """Elements per block such that all temporaries of a block stay below the bound."""
    if max_scratch_bytes is not None:
        return max(1, min(BLOCK_BYTES, max_scratch_bytes // _TEMPORARIES) // itemsize)
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


@lru_cache(maxsize=4096)
def blocks(shape: Shape, limit: int) -> Blocks | None:
    """Blocks of at most `limit` elements, or None if one would do."""
    if math.prod(shape) <= limit:
        return None
    # The first axis whose single slices fit is cut into runs of slices, those before it singly.
    axis = next(a for a in range(len(shape)) if math.prod(shape[a + 1 :]) <= limit)
    return Blocks(shape, axis, max(1, limit // math.prod(shape[axis + 1 :])))


def take(a: Array | float | None, index: Index) -> Array | float | None:
    """The part of `a` that belongs to a block; `a` may have size 1 where it broadcasts."""
    return a if a is None or isinstance(a, float) or not a.shape else a[_narrow(a.shape, index)]


def _narrow(shape: Shape, index: Index) -> Index:
    return tuple([_ALL if n == 1 else i for n, i in zip(shape, index, strict=True)])


def sweep(
    xp: Namespace,
    dtype: DType,
    block: Block,
    ins: Sequence[Array | float | None],
    sums: Sequence[Shape],
    outs: Sequence[Out],
    over: Blocks | None,
) -> tuple[list[Array], list[Array]]:
    """Runs `block(*ins) -> (partial sums, values)` and returns (sums, values).

    `ins` broadcast to the shape of the first. `sums` are the shapes of the partial sums, which are
    added up over blocks in `dtype`; values have the shape of the block.
    """
    if over is None:
        parts, values = block(*ins)
        return list(parts), [_write(xp, o, v) for o, v in zip(outs, values, strict=True)]
    like: Array = ins[0]  # has the tensor's shape
    totals = [xp.zeros(shape, dtype=dtype, device=device(like)) for shape in sums]
    outs = [
        o if o.array is not None else Out(xp.empty_like(like, dtype=o.dtype), o.dtype) for o in outs
    ]
    keep_freed_blocks(xp, like, 4 * over.elements * (8 if dtype == xp.float64 else 4))
    with long_inner_loops(xp, like.shape[-1]):
        for index in over:
            parts, values = block(*(take(a, index) for a in ins))
            for total, part in zip(totals, parts, strict=True):
                total[_narrow(total.shape, index)] += part
            for out, value in zip(outs, values, strict=True):
                assert out.array is not None
                out.array[index] = xp.astype(value, out.dtype, copy=False)
    return totals, [o.array for o in outs]


def _write(xp: Namespace, out: Out, value: Array) -> Array:
    value = xp.astype(value, out.dtype, copy=False)
    if out.array is None:
        return value if value.shape else xp.asarray(value)  # 0-D NumPy results are scalars
    out.array[...] = value
    return out.array
