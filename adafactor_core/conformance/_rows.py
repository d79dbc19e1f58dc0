"""A row of the table of named cases, and the shapes that rows share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ._cases import Case
from ._numbers import Fault, fill, spoil
from ._trees import Tree

STEPS = 5
W = {"w": (4, 3)}
ALL_RANKS = {"s": (), "v": (3,), "w": (4, 3), "c": (2, 3, 2)}
BLOCKS = {"layers": [{"w": (2, 3), "b": (3,)}, {"w": (3, 2), "b": (2,)}], "head": (4,)}


class Row(NamedTuple):
    """One case before its numbers are drawn."""

    name: str
    options: dict[str, Any]
    shapes: Tree = W
    kind: str = "plain"
    steps: int = STEPS
    faults: Sequence[Fault] = ()
    grad_scale: tuple[float | None, ...] | None = None


def per_value(
    prefix: str, option: str, values: Iterable[Any], base: Mapping[str, Any], **row: Any
) -> list[Row]:
    """One row per value of an option."""
    return [Row(f"{prefix}-{value}", {**base, option: value}, **row) for value in values]


def build(row: Row) -> Case:
    """Put numbers into a row, the same ones always: the name is the seed."""
    rng = np.random.default_rng(crc32(row.name.encode()))
    params, grads = spoil(fill(rng, zeros(row.shapes), row.kind, row.steps), row.faults)
    return Case(row.name, row.options, params, grads, row.grad_scale)


def zeros(shapes: Tree) -> Tree:
    """A tree of shapes as a tree of arrays; here a tuple is a shape, not a container."""
    if isinstance(shapes, tuple):
        return np.zeros(shapes)
    if isinstance(shapes, dict):
        return {key: zeros(child) for key, child in shapes.items()}
    return [zeros(child) for child in shapes]
