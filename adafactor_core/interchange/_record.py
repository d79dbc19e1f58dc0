"""A state that belongs to no framework: what files hold and converters translate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._numerics import Shape
from ._raw import Raw

SLOTS = ("row", "col", "full", "momentum", "momentum_scale", "compensation")


@dataclass(frozen=True)
class TensorRecord:
    """The state of one tensor.

    `path`: its name in the tree of parameters, keys joined by "."; `shape`, `dtype`: of the whole
    parameter. `row_axes`, `col_axes`: the axes that `row` and `col` are indexed by, () where it is
    not factored. `slots`: by the names in SLOTS, those it has, with dims kept, as in Moments.
    `skipped`: at how many steps it was not finite, None where nobody counts. `step`: its own
    completed steps, None where they are the record's: frameworks that step a parameter only when
    it has a gradient count per parameter.
    """

    path: str
    shape: Shape
    dtype: str
    row_axes: Shape
    col_axes: Shape
    slots: Mapping[str, Raw]
    skipped: int | None = None
    step: int | None = None


@dataclass(frozen=True)
class Record:
    """The state of an optimizer: completed steps, and its tensors in the order of their tree.

    `variant`: of which implementation the options are, "" where it has no name. `options`: those of
    Config that are not the defaults, as JSON has them; a schedule is only named. `skipped` as in
    State. `notes`: what a converter had to approximate, in words.
    """

    step: int
    tensors: tuple[TensorRecord, ...]
    skipped: int | None = None
    variant: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
