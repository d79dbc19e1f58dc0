"""Tensors as kernels see them: five sides, of which two are factored. Ints only."""

from __future__ import annotations

import math
from typing import NamedTuple

from ._work import Work


class Box(NamedTuple):
    """A factored tensor as (A, R, B, C, D); an unfactored one as C = its size.

    R is the outer factored axis and C the inner one, A, B and D whatever lies before, between and
    behind them. The statistic of R has A*R*B*D entries, that of C has A*B*C*D.
    """

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
