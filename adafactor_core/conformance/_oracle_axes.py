"""Which axes the oracle factors: brute force from the words of docs/options.md."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import combinations
from math import prod
from typing import Any

Axes = tuple[tuple[int, ...], tuple[int, ...]]


def batch_axes(shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """The stacked axes, counted from the start."""
    return _normal(options["batch_axes"], len(shape))


def factored_axes(shape: tuple[int, ...], options: Mapping[str, Any]) -> Axes | None:
    """(row axes, column axes) of a tensor of this shape, or None for a full second moment."""
    batch = batch_axes(shape, options)
    free = [axis for axis in range(len(shape)) if axis not in batch]
    if not options["factored"] or len(free) < 2:
        return None
    rule = options["factored_dims"]
    if not isinstance(rule, str):
        row, col = (_normal(axes, len(shape)) for axes in rule)
        return row, col
    pair = _RULES[rule](shape, free, options["min_dim_size_to_factor"])
    return pair and ((pair[0],), (pair[1],))


def _normal(axes: Any, rank: int) -> tuple[int, ...]:
    return tuple(axis % rank for axis in ((axes,) if isinstance(axes, int) else axes))


def _auto(shape: tuple[int, ...], free: list[int], minimum: int) -> tuple[int, int] | None:
    """The cheapest of all pairs, later axes on a tie; None where a full slot costs less."""

    def cost(pair: tuple[int, int]) -> Fraction:  # state entries per parameter
        return Fraction(1, shape[pair[0]]) + Fraction(1, shape[pair[1]])

    eligible = [axis for axis in free if shape[axis] >= minimum]
    pairs = sorted(combinations(eligible, 2), key=lambda pair: (cost(pair), -pair[1], -pair[0]))
    if not pairs or prod(shape) * cost(pairs[0]) > prod(shape):
        return None
    return pairs[0]


def _last(shape: tuple[int, ...], free: list[int], minimum: int) -> tuple[int, int] | None:
    row, col = free[-2:]
    return (row, col) if min(shape[row], shape[col]) >= minimum else None


def _largest(shape: tuple[int, ...], free: list[int], minimum: int) -> tuple[int, int] | None:
    row, col = sorted(free, key=lambda axis: (shape[axis], axis))[-2:]
    return (row, col) if shape[row] >= minimum else None


def _largest_first(shape: tuple[int, ...], free: list[int], minimum: int) -> tuple[int, int] | None:
    col, row = sorted(free, key=lambda axis: (-shape[axis], axis))[:2]
    return (row, col) if shape[row] >= minimum else None


def _conv(shape: tuple[int, ...], free: list[int], minimum: int) -> tuple[int, int] | None:
    row, col = free[:2]
    if len(free) > 2 and min(shape[row], shape[col]) >= minimum:
        return row, col
    return _last(shape, free, minimum)


_RULES = {
    "auto": _auto,
    "last": _last,
    "largest": _largest,
    "largest_first": _largest_first,
    "conv": _conv,
}
