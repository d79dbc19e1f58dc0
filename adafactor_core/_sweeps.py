"""The passes on one tensor, in array API, block by block where `over` says so.

Comments give shapes for a matrix (m, n) with row axis 0 and column axis 1: row (m, 1), col (1, n),
RMS scopes (1, 1). What crosses a block, a device or a rank is a sum.
"""

from __future__ import annotations

from typing import Any

from ._factoring import without
from ._formulas import (
    Buffer,
    averaged,
    direction,
    factors,
    floored,
    full,
    moved,
    rounded,
    source,
)
from ._numerics import (
    Array,
    Shape,
    at_least,
    choose,
    exposed,
    part,
    square_root,
    sum_squares_to,
    sum_to,
    wide,
)
from ._streaming import HERE, Blocks, sweep
from ._work import Partial, Work


def observe_param(w: Work, over: Blocks | None) -> None:
    """Partial sums of X*X, if somebody asks."""
    if not (w.options.scale_parameter or w.whole.options.telemetry or w.whole.guarded):
        return
    plan, xp = w.layout, w.xp
    to = without(tuple(w.param.shape), plan.scale_axes)

    def block(x: Array) -> tuple[list[Array], list[Array]]:
        return [sum_squares_to(xp, wide(xp, x, w.dtype), to)], []  # (1, 1)

    (x2,), _ = sweep(xp, w.dtype, block, (w.param,), [to], [], over)
    w.partials["x2"] = Partial(w.path, "x2", x2, plan.scale_axes)


def observe(w: Work, over: Blocks | None) -> None:
    """Partial sums of G*G along rows and columns."""
    plan, xp = w.layout, w.xp
    shape, every = tuple(w.param.shape), tuple(range(len(w.param.shape)))
    axes: dict[str, Shape] = {}  # what is summed, and over which axes
    if plan.factored:
        axes |= {"row": plan.col_axes, "col": plan.row_axes}
    elif w.wants_squares:
        axes["g2"] = every
    # A full V needs no sums: one sweep observes and measures, unless the gain is still to come.
    # V itself is stored here only where nothing can refuse the step any more.
    joined = not plan.factored and not w.whole.normed and (w.whole.guarded or w.alone)
    looks = w.whole.guarded and not plan.factored
    if joined and w.measures:
        axes["u2"] = plan.clip_axes
    if looks:
        axes["peak"] = every
    to = {name: without(shape, summed) for name, summed in axes.items()}
    stores = joined and w.alone and w.measures
    share = 1.0 / plan.count(every)

    def block(g: Array, v: Array, m: Array, s: Array, at: Shape) -> tuple[list[Array], list[Array]]:
        sums: dict[str, Array] = {}
        values = []
        if plan.factored:
            g_small = wide(xp, g, w.dtype) * w.prescale  # (m, n)
            sums["row"] = sum_squares_to(xp, g_small, to["row"])  # (m, 1)
            sums["col"] = sum_squares_to(xp, g_small, to["col"])  # (1, n)
        if "g2" in to:
            sums["g2"] = sum_squares_to(xp, wide(xp, g, w.dtype) * w.unit, to["g2"])  # (1, 1)
        if "u2" in to or looks:
            new = full(w, g, v)
            values = [new] * stores
        if "u2" in to:
            u = direction(w, source(w, g, Buffer(m, s, at))[0], None, None, new)
            sums["u2"] = sum_squares_to(xp, u, to["u2"])
        if looks:
            sums["peak"] = sum_to(xp, new * share, to["peak"])
        return [sums[name] for name in to], values

    if not axes:
        return
    v = w.moments.full if "u2" in axes or looks else None
    m, s = (w.moments.momentum, w.moments.momentum_scale) if w.on_gradient else (None, None)
    outs = [w.out("full")] if stores else []
    ins = (w.grad, v, m, s, HERE)
    sums, new = sweep(xp, w.dtype, block, ins, list(to.values()), outs, over)
    for (name, summed), value in zip(axes.items(), sums, strict=True):
        if name == "peak":
            w.peak = value
        else:
            w.partials[name] = Partial(w.path, name, value, summed)
    if plan.factored and w.wants_squares:
        # Two factors, the larger first: the sum of all squares may overflow on the way.
        rows = w.partials["row"].value * (w.unit / w.prescale) ** 2
        w.partials["g2"] = Partial(w.path, "g2", sum_to(xp, rows, without(shape, every)), every)
    if stores:
        w.new = w.new._replace(full=new[0])
    w.measured = "u2" in axes


def observe_mean(w: Work, joined: bool) -> None:
    """The two sums behind mean(R): they cross shards too, in the same reduction as the rest.

    Nor is it the mean of the new R elsewhere: a share in that is below float32's normal numbers
    where a sum of squares is not yet, and XLA takes it for 0. `joined`: one sum over both, side by
    side. Not everywhere: NumPy, and what wraps it, adds pairwise only where numbers are adjacent.
    """
    plan, sums, xp = w.layout, w.partials, w.xp
    both, axis = plan.row_axes + plan.col_axes, plan.col_axes[0]
    to = without(tuple(w.param.shape), both)  # (1, 1)
    share = 1.0 / plan.count(plan.row_axes)
    rows = [sums["row"].value, w.moments.row]  # (m, 1)
    if joined:
        pair = tuple(2 if a == axis else n for a, n in enumerate(to))  # (1, 2)
        total = sum_to(xp, xp.concat(rows, axis=axis) * share, pair)
        at = [tuple(slice(k, k + 1) if a == axis else slice(None) for a in range(len(to)))
              for k in (0, 1)]  # fmt: skip
        new, old = (part(total, index) for index in at)
    else:
        new, old = (sum_to(xp, row * share, to) for row in rows)
    sums["mean"] = Partial(w.path, "mean", new, both)
    sums["old_mean"] = Partial(w.path, "old_mean", old, plan.row_axes)


def advance(w: Work) -> None:
    """R, C <- averages; p = sqrt(mean(R)/R), q = 1/sqrt(C), so that U = G*q*p."""
    plan, b, eps = w.layout, w.rates.b, w.eps1
    inside = eps if w.options.eps1_mode == "grad_sq" else 0.0
    after = eps if w.options.eps1_mode == "stats" else 0.0
    unscale = 1.0 / (w.prescale * w.prescale)
    by_row = unscale / plan.count(plan.col_axes)
    by_col = unscale / plan.count(plan.row_axes)
    gain = w.here(w.whole.gain)

    def seen(name: str, by: float) -> Array:
        """Mean squares of the gradient that the step sees, plus eps1."""
        mean = w.partials[name].value * by
        # Not gain*gain, which may underflow where the mean makes up for it.
        return (mean if gain is None else mean * gain * gain) + inside

    row = moved(w.moments.row, seen("row", by_row), b)  # (m, 1)
    col = moved(w.moments.col, seen("col", by_col), b)  # (1, n)
    mean = moved(w.partials["old_mean"].value, seen("mean", by_row), b)  # (1, 1)
    if w.options.eps1_mode == "clamp":
        mean = at_least(mean, eps)
    # Three roots, not sqrt(mean/row): with a dead row at 1e-30 that quotient overflows.
    w.p = square_root(mean) / square_root(exposed(floored(w, row, after)))  # (m, 1)
    root = square_root(exposed(floored(w, col, after)))
    w.q = (1.0 if gain is None or not w.folds else gain) / root  # (1, n)
    w.new = w.new._replace(row=row, col=col)


def measure(w: Work, over: Blocks | None) -> None:
    """Partial sums of U*U; a full V moves here, unless the step may still be refused."""
    plan, xp = w.layout, w.xp
    to = without(tuple(w.param.shape), plan.clip_axes)
    stores = not plan.factored and not w.whole.guarded

    def block(
        g: Array, p: Array, q: Array, v: Array, m: Array, s: Array, at: Shape
    ) -> tuple[list[Array], list[Array]]:
        new = None if plan.factored else full(w, g, v)
        u = direction(w, source(w, g, Buffer(m, s, at))[0], p, q, new)
        return [sum_squares_to(xp, u, to)], [new] * stores  # (1, 1)

    m, s = (w.moments.momentum, w.moments.momentum_scale) if w.on_gradient else (None, None)
    ins = (w.grad, w.p, w.q, w.moments.full, m, s, HERE)
    outs = [w.out("full")] if stores else []
    (u2,), moved = sweep(xp, w.dtype, block, ins, [to], outs, over)
    w.partials["u2"] = Partial(w.path, "u2", u2, plan.clip_axes)
    if stores:
        w.new = w.new._replace(full=moved[0])
    w.measured = True


def scale(w: Work) -> None:
    plan, sums = w.layout, w.partials
    x2 = u2 = None
    if w.options.scale_parameter:
        x2 = sums["x2"].value * (1.0 / plan.count(plan.scale_axes))  # (1, 1)
    if w.clips:
        u2 = sums["u2"].value * (1.0 / plan.count(plan.clip_axes))  # (1, 1)
    w.before, w.after, w.decay = factors(w.options, w.rates, x2, u2)


def apply(w: Work, over: Blocks | None) -> None:
    """D = -alpha*Uc with momentum and weight decay, and X + D where parameters are wanted."""
    o, xp, old = w.options, w.xp, w.moments
    late = not w.layout.factored and w.new.full is None  # V has not been stored yet
    draws = w.rounds != "nearest"
    wants_x = w.emit == "param" or w.decays or draws
    averages = o.beta1 is not None and not w.on_gradient
    names = ["full"] if late else []
    names += [
        n for n in ("momentum", "momentum_scale", "compensation") if getattr(old, n) is not None
    ]
    tells = w.whole.options.telemetry and not w.measured
    to_clip = without(tuple(w.param.shape), w.layout.clip_axes)
    stays = w.stays  # False, or an array: then what is refused is written back as it was

    def block(
        g: Array, x: Array, p: Any, q: Array, v: Array, m: Array, s: Array, c: Array,
        before: Any, after: Any, decay: Any, at: Shape,
    ) -> tuple[list[Array], list[Array]]:  # fmt: skip
        values = []
        olds = [v] if late else []
        olds += [a for a in (m, s, c) if a is not None]
        if late:
            v = full(w, g, v)
            values.append(v)
        buffer = Buffer(m, s, at)
        z, kept = source(w, g, buffer)
        sums = []
        if tells:  # not U * before for D: telemetry must not change a bit
            sums = [sum_squares_to(xp, direction(w, z, p, q, v), to_clip)]
        d = direction(w, z, p, q, v, before)
        if averages:
            used, kept = averaged(w, buffer, d)
            d = used * after
        if wants_x:
            x = wide(xp, x, w.dtype)
        if c is not None:
            c = wide(xp, c, w.dtype)
        if w.decays:
            d = d - (x if c is None else x + c) * decay
        if c is not None:
            d = d + c
        ends = rounded(w, x, d, c, at) if draws or w.emit == "param" else [d]
        values += [*kept, *ends]
        if stays is not False:
            # Each as wide as what replaces it: a momentum that was rounded at random is float32.
            olds = [wide(xp, a, b.dtype) for a, b in zip(olds, values[:-1], strict=True)]
            olds.append(x if w.emit == "param" else 0.0)
            values = [choose(stays, a, b) for a, b in zip(olds, values, strict=True)]
        return sums, values

    v = old.full if late else w.new.full
    x = w.param if wants_x or stays is not False else None
    ins = (w.grad, x, w.p, w.q, v, old.momentum, old.momentum_scale, old.compensation)
    outs = [w.out(name) for name in (*names, "result")]
    scalars = (w.before, w.after, w.decay, HERE)
    sums, new = sweep(xp, w.dtype, block, (*ins, *scalars), [to_clip] * tells, outs, over)
    if tells:
        w.partials["u2"] = Partial(w.path, "u2", sums[0], w.layout.clip_axes)
    *kept, w.result = new
    w.new = w.new._replace(**dict(zip(names, kept, strict=True)))
    for name in ("row", "col"):
        value = getattr(w.new, name)
        if value is not None:
            value = value if stays is False else choose(stays, getattr(old, name), value)
            w.new = w.new._replace(**{name: w.put(name, value)})


def stay(w: Work) -> None:
    """Nothing moves, as is known on the host: what was given up stays, the rest is copied."""

    def same(name: str, value: Array) -> Array:
        return value if name in w.into else w.xp.asarray(value, copy=True)

    if w.emit == "param":
        w.result = same("result", w.param)
    else:
        w.result = w.xp.zeros_like(w.param, dtype=w.dtype)
    kept = {n: same(n, a) for n, a in w.moments._asdict().items() if a is not None}
    w.new = w.new._replace(**kept)
