"""The algorithm: observe, advance, measure, scale, apply (docs/algorithm.md has the equations).

Each pass reads its tensor once. What crosses a block, a device or a rank is a sum, so the same
functions serve cache blocks, shards and whole tensors. Comments give shapes for a matrix (m, n)
with row axis 0 and column axis 1: row (m, 1), col (1, n), RMS scopes (1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ._factoring import without
from ._formulas import averaged, direction, factors, floored, full, moved, source
from ._numerics import Array, Shape, at_least, square_root, sum_squares_to, sum_to, wide
from ._streaming import Blocks, block_limit, blocks, sweep
from ._work import Partial, Work


class Passes(Protocol):
    """What a backend replaces. Each method takes tensors through one pass of the table above.

    A kernel is held to the results of ArrayPasses; tests compare the two over all options served.
    """

    def serves(self, work: Work) -> str:
        """Why these passes cannot take the tensor with its options; empty if they can."""
        ...

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        """The tensors grouped as they should go through all passes together."""
        ...

    def observe(self, works: Sequence[Work]) -> None: ...
    def advance(self, works: Sequence[Work]) -> None: ...
    def measure(self, works: Sequence[Work]) -> None: ...
    def scale(self, works: Sequence[Work]) -> None: ...
    def apply(self, works: Sequence[Work]) -> None: ...


class ArrayPasses:
    """The passes in plain array API, for any namespace; streamed over blocks where it can write."""

    def __init__(self, *, stream: bool = True) -> None:
        self._stream = stream

    def serves(self, work: Work) -> str:
        return ""

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        return [[w] for w in works]  # one tensor at a time: it stays in cache

    def observe(self, works: Sequence[Work]) -> None:
        for w in works:
            _observe(w, self._blocks(w))

    def advance(self, works: Sequence[Work]) -> None:
        for w in works:
            if w.layout.factored:
                _advance(w)

    def measure(self, works: Sequence[Work]) -> None:
        for w in works:
            if w.clips and not w.measured:
                _measure(w, self._blocks(w))

    def scale(self, works: Sequence[Work]) -> None:
        for w in works:
            _scale(w)

    def apply(self, works: Sequence[Work]) -> None:
        for w in works:
            _apply(w, self._blocks(w))

    def _blocks(self, w: Work) -> Blocks | None:
        if not (self._stream and w.writable):
            return None
        limit = block_limit(w.options.max_scratch_bytes, 8 if w.width == "float64" else 4)
        return blocks(tuple(w.param.shape), limit)


def _observe(w: Work, over: Blocks | None) -> None:
    """Partial sums of G*G along rows and columns, and of X*X."""
    plan, xp = w.layout, w.xp
    shape = tuple(w.param.shape)
    axes: dict[str, Shape] = {}  # what is summed, and over which axes
    if plan.factored:
        axes |= {"row": plan.col_axes, "col": plan.row_axes}
    if w.options.scale_parameter:
        axes["x2"] = plan.scale_axes
    # Nothing stands between observe and the rest of a full slot, so one sweep does both.
    joined = w.alone and w.clips and not plan.factored
    if joined:
        axes["u2"] = plan.clip_axes
    to = {name: without(shape, summed) for name, summed in axes.items()}

    def block(g: Array, x: Array, v: Array, m: Array) -> tuple[list[Array], list[Array]]:
        sums, values = [], []
        if plan.factored:
            g_small = wide(xp, g, w.dtype) * w.prescale  # (m, n)
            sums.append(sum_squares_to(xp, g_small, to["row"]))  # (m, 1)
            sums.append(sum_squares_to(xp, g_small, to["col"]))  # (1, n)
        if w.options.scale_parameter:
            sums.append(sum_squares_to(xp, wide(xp, x, w.dtype), to["x2"]))  # (1, 1)
        if joined:
            values = [full(w, g, v)]
            u = direction(w, source(w, g, m)[0], None, None, values[0])
            sums.append(sum_squares_to(xp, u, to["u2"]))
        return sums, values

    if not axes:
        return
    ins = (w.grad, w.param, w.moments.full, w.moments.momentum if w.on_gradient else None)
    outs = [w.out("full")] if joined else []
    sums, new = sweep(xp, w.dtype, block, ins, list(to.values()), outs, over)
    for (name, summed), value in zip(axes.items(), sums, strict=True):
        w.partials[name] = Partial(w.path, name, value, summed)
    if plan.factored:
        _observe_mean(w)
    if joined:
        w.new = w.new._replace(full=new[0])
        w.measured = True


def _observe_mean(w: Work) -> None:
    """The two sums behind mean(R): they cross shards too, in the same reduction as the rest."""
    plan, xp, sums = w.layout, w.xp, w.partials
    shape = without(tuple(w.param.shape), plan.row_axes + plan.col_axes)
    rows = 1.0 / plan.count(plan.row_axes)
    new = sum_to(xp, sums["row"].value * rows, shape)  # (1, 1)
    row: Array = w.moments.row
    old = sum_to(xp, row * rows, shape)  # (1, 1)
    both = plan.row_axes + plan.col_axes
    sums["mean"] = Partial(w.path, "mean", new, both)
    sums["old_mean"] = Partial(w.path, "old_mean", old, plan.row_axes)


def _advance(w: Work) -> None:
    """R, C <- averages; p = sqrt(mean(R)/R), q = 1/sqrt(C), so that U = G*q*p."""
    plan, b, eps = w.layout, w.rates.b, w.eps1
    inside = eps if w.options.eps1_mode == "grad_sq" else 0.0
    after = eps if w.options.eps1_mode == "stats" else 0.0
    unscale = 1.0 / (w.prescale * w.prescale)
    by_row = unscale / plan.count(plan.col_axes)
    by_col = unscale / plan.count(plan.row_axes)
    sums = w.partials

    row = moved(w.moments.row, sums["row"].value * by_row + inside, b)  # (m, 1)
    col = moved(w.moments.col, sums["col"].value * by_col + inside, b)  # (1, n)
    mean = moved(sums["old_mean"].value, sums["mean"].value * by_row + inside, b)  # (1, 1)
    if w.options.eps1_mode == "clamp":
        mean = at_least(mean, eps)
    # Three roots, not sqrt(mean/row): with a dead row at 1e-30 that quotient overflows.
    w.p = square_root(mean) / square_root(floored(w, row, after))  # (m, 1)
    w.q = 1.0 / square_root(floored(w, col, after))  # (1, n)
    w.new = w.new._replace(row=w.put("row", row), col=w.put("col", col))


def _measure(w: Work, over: Blocks | None) -> None:
    """Partial sums of U*U; a full V moves here."""
    plan, xp = w.layout, w.xp
    to = without(tuple(w.param.shape), plan.clip_axes)

    def block(g: Array, p: Array, q: Array, v: Array, m: Array) -> tuple[list[Array], list[Array]]:
        values = [] if plan.factored else [full(w, g, v)]
        u = direction(w, source(w, g, m)[0], p, q, values[0] if values else None)
        return [sum_squares_to(xp, u, to)], values  # (1, 1)

    m = w.moments.momentum if w.on_gradient else None
    outs = [] if plan.factored else [w.out("full")]
    ins = (w.grad, w.p, w.q, w.moments.full, m)
    (u2,), new = sweep(xp, w.dtype, block, ins, [to], outs, over)
    w.partials["u2"] = Partial(w.path, "u2", u2, plan.clip_axes)
    if new:
        w.new = w.new._replace(full=new[0])
    w.measured = True


def _scale(w: Work) -> None:
    plan, sums = w.layout, w.partials
    x2 = u2 = None
    if "x2" in sums:
        x2 = sums["x2"].value * (1.0 / plan.count(plan.scale_axes))  # (1, 1)
    if "u2" in sums:
        u2 = sums["u2"].value * (1.0 / plan.count(plan.clip_axes))  # (1, 1)
    w.before, w.after, w.decay = factors(w.options, w.rates, x2, u2)


def _apply(w: Work, over: Blocks | None) -> None:
    """D = -alpha*Uc with momentum and weight decay, and X + D where parameters are wanted."""
    o, xp = w.options, w.xp
    late = not w.measured and not w.layout.factored  # clipping is off: V has not moved yet
    wants_x = w.emit == "param" or w.decays
    averages = o.beta1 is not None and not w.on_gradient
    names = (["full"] if late else []) + (["momentum"] if o.beta1 is not None else [])

    def block(
        g: Array,
        x: Array,
        p: Any,
        q: Array,
        v: Array,
        m: Array,
        before: Any,
        after: Any,
        decay: Any,
    ) -> tuple[list[Array], list[Array]]:
        values = []
        if late:
            v = full(w, g, v)
            values.append(v)
        z, kept = source(w, g, m)
        d = direction(w, z, p, q, v, before)
        if averages:
            used, kept = averaged(w, m, d)
            d = used * after
        if wants_x:
            x = wide(xp, x, w.dtype)
        if w.decays:
            d = d - x * decay
        return [], [*values, *kept, x + d if w.emit == "param" else d]

    v = w.moments.full if late else w.new.full
    ins = (w.grad, w.param if wants_x else None, w.p, w.q, v, w.moments.momentum)
    outs = [w.out(name) for name in (*names, "result")]
    _, new = sweep(xp, w.dtype, block, (*ins, w.before, w.after, w.decay), [], outs, over)
    *kept, w.result = new
    w.new = w.new._replace(**dict(zip(names, kept, strict=True)))
