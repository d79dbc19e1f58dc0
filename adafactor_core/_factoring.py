"""Which axes are factored, and every shape that follows. Ints only: no arrays come in here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ._config import Config
from ._errors import ShapeError
from ._ranges import Axes

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How one tensor's second moment is kept. All statistics keep their dims (1 where reduced).

    For a matrix (m, n) with row axis 0 and column axis 1: `row` is (m, 1), `col` is (1, n).
    """

    shape: Shape  # the whole tensor, also when this process holds only a shard of it
    row_axes: Shape  # indexed by `row`, averaged away in `col`; () when not factored
    col_axes: Shape  # indexed by `col`, averaged away in `row`; () when not factored
    scale_axes: Shape  # averaged away in RMS(X): all axes, or all but the batch axes
    clip_axes: Shape  # the same for RMS(U)
    batch_axes: Shape
    reason: str  # why these axes, in words, for memory_report

    @property
    def factored(self) -> bool:
        return bool(self.row_axes)

    def count(self, axes: Shape) -> int:
        """Elements averaged over `axes` of the whole tensor; 1 for an empty one, never 0."""
        return max(1, math.prod([self.shape[a] for a in axes]))

    def prescale(self) -> float:
        """A power of two s such that row and column sums of (s*G)**2 cannot overflow."""
        return small_unit(max(self.count(self.row_axes), self.count(self.col_axes)))

    def unit(self) -> float:
        """The same for the sum over the whole tensor."""
        return small_unit(math.prod(self.shape))


def small_unit(terms: int) -> float:
    """A power of two s such that s*s is at most 8/terms.

    Squares of a float32 gradient at 2**60 are finite, but adding 4096 of them is not. No smaller
    than that: squares at 2**-60 are close to where float32 is flushed to 0.
    """
    return math.ldexp(1.0, -max(0, math.ceil((math.log2(max(1, terms)) - 3) / 2)))


def without(shape: Shape, axes: Shape) -> Shape:
    """`shape` with size 1 on `axes`: (4, 5, 6) without (1,) is (4, 1, 6)."""
    return tuple(1 if a in axes else s for a, s in enumerate(shape))


def layout(shape: Shape, options: Config, path: str = "") -> Layout:
    """The layout of a tensor of this shape. Raises ShapeError for axes that it does not have."""
    o = options
    key = (o.factored, o.factored_dims, o.min_dim_size_to_factor, o.batch_axes)
    try:
        return _layout(tuple(shape), *key, o.scale_scope, o.clip_scope)
    except ShapeError as error:
        raise ShapeError(f"tensor {path!r} of shape {tuple(shape)}: {error}") from None


@lru_cache(maxsize=65536)
def _layout(
    shape: Shape,
    factored: bool,
    dims: str | tuple[Axes, Axes],
    minimum: int,
    batch: Shape,
    scale_scope: str,
    clip_scope: str,
) -> Layout:
    batch = _normal(batch, len(shape), "batch_axes")
    row, col, reason = _choose(shape, factored, dims, minimum, batch)
    every = tuple(range(len(shape)))
    inner = tuple(a for a in every if a not in batch)
    scale_axes = inner if scale_scope == "block" else every
    clip_axes = inner if clip_scope == "block" else every
    return Layout(shape, row, col, scale_axes, clip_axes, batch, reason)


def _choose(
    shape: Shape, factored: bool, dims: str | tuple[Axes, Axes], minimum: int, batch: Shape
) -> tuple[Shape, Shape, str]:
    free = [a for a in range(len(shape)) if a not in batch]
    if not factored:
        return (), (), "factored=False"
    if not isinstance(dims, str):
        return _explicit(shape, dims, batch)
    if len(free) < 2:
        return (), (), f"only {len(free)} axis to factor" if free else "scalar"
    if math.prod(shape) == 0:
        return (), (), "empty"
    r, c = _pair(shape, dims, minimum, free)
    small = min(shape[r], shape[c])
    if small < minimum:
        return (), (), f"axis of size {small} < min_dim_size_to_factor={minimum}"
    if dims == "auto" and shape[r] + shape[c] > shape[r] * shape[c]:
        return (), (), f"{shape[r]} + {shape[c]} statistics would exceed {shape[r] * shape[c]}"
    return (r,), (c,), f"factored_dims={dims!r}"


def _pair(shape: Shape, dims: str, minimum: int, free: list[int]) -> tuple[int, int]:
    """(row axis, column axis) by the named rule; the caller checks the minimum size."""
    if dims == "conv" and len(free) > 2 and min(shape[free[0]], shape[free[1]]) >= minimum:
        return free[0], free[1]
    if dims in ("last", "conv"):
        return free[-2], free[-1]
    # State for a pair (r, c) is N/|r| + N/|c| numbers, so the cheapest pair is the two largest.
    sign = -1 if dims == "largest_first" else 1  # which of two equal axes counts as the larger
    second, largest = sorted(free, key=lambda a: (shape[a], sign * a))[-2:]
    if dims == "auto":
        return min(second, largest), max(second, largest)
    return second, largest


def _explicit(shape: Shape, dims: tuple[Axes, Axes], batch: Shape) -> tuple[Shape, Shape, str]:
    if len(shape) < 2:
        return (), (), "rank below 2"
    row, col = (_normal(d, len(shape), "factored_dims") for d in dims)
    if set(row) & set(col) or set(batch) & set(row + col):
        raise ShapeError(
            f"factored_dims={dims} and batch_axes={batch} share an axis. "
            f"Give every axis at most one role."
        )
    return row, col, f"factored_dims={dims}"


def _normal(axes: Axes, rank: int, name: str) -> Shape:
    items = (axes,) if isinstance(axes, int) else axes
    for a in items:
        if not -rank <= a < rank:
            raise ShapeError(
                f"{name} names axis {a}, but the tensor has {rank}. "
                f"Give this tensor its own {name} with a rule: rules=[(path, dict({name}=...))]."
            )
    normal = tuple(sorted(a % rank for a in items))
    if len(set(normal)) != len(normal):
        raise ShapeError(f"{name}={axes} names an axis twice.")
    return normal
