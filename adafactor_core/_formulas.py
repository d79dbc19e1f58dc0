"""The formulas on one block: second moment, direction, momentum, and the scalar factors.

`w` holds what does not depend on the block. Shapes in comments: a matrix (m, n), row axis 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ._config import Config
from ._numerics import (
    TINY,
    Array,
    Shape,
    at_least,
    at_most,
    device,
    dtype_name,
    exposed,
    square_root,
    wide,
)
from ._rounding import MOMENTUM, PARAMETER, STORED_BITS, dequantised, quantised, to_grid
from ._schedules import Rates
from ._work import Work


def moved(old: Array, new: Array, b: Any) -> Array:
    """old + b*(new - old). Not in that form: at b = 1 a large old value would swallow a small new
    one and leave 0, and not (1-b)*old either: rounding 1-b biases the average when b is small."""
    return (old - old * b) + new * b


def floored(w: Work, statistic: Array, after: float) -> Array:
    """`statistic + after`, but at least the smallest normal number, whose root is not 0."""
    if after >= TINY[w.width]:
        return statistic + after
    return at_least(statistic + after if after else statistic, TINY[w.width])


def full(w: Work, g: Array, v: Array) -> Array:
    """The full second moment after this step, for tensors that are not factored."""
    g = gained(w, g)
    square = g * g
    if w.options.eps1_mode == "grad_sq":
        square = square + w.eps1
    return moved(v, square, w.rates.b)


def gained(w: Work, g: Array) -> Array:
    """The gradient in the compute dtype, unscaled and clipped; maybe `g` itself."""
    g = wide(w.xp, g, w.dtype)
    return g if w.gain is None else g * w.gain


def source(w: Work, g: Array, m: Buffer) -> tuple[Array, list[Array]]:
    """What U is made of: the gradient, or its average, which then comes with the slots to keep."""
    g = gained(w, g)
    if not w.on_gradient:
        return g, []
    return averaged(w, m, -g if w.options.maximize else g)


def direction(w: Work, z: Array, p: Any, q: Any, v: Array, times: Any = None) -> Array:
    """U = z / sqrt(V) before clipping, and `times` a factor of its scope; a new array.

    Two thin factors: never their product, which under- and overflows.
    """
    clamp = w.options.eps1_mode == "clamp"
    highest = min(1.0 / w.eps1, 3e38) if clamp else 0.0
    if w.layout.factored:
        u = z * q  # (m, n)
        if clamp:  # p*q <= highest, without forming p*q
            p = at_most(p, highest / at_least(q, highest * 1e-38))
        u *= p if times is None else p * times
        return u
    after = w.eps1 if w.options.eps1_mode == "stats" else 0.0
    safe = w.options.eps1_mode == "grad_sq" and w.eps1 > 1e6 * TINY[w.width]
    v = v if safe else floored(w, v, after)
    # Not 1/sqrt(v): that is 0, and nothing would be seen, where squares have overflowed.
    thin = square_root(v) / v
    u = z * (at_most(thin, highest) if clamp else thin)
    return u if times is None else u * times


class Buffer(NamedTuple):
    """A block of the momentum: values, the scales of an int8 buffer, and where the block starts."""

    values: Array
    scale: Array | None
    at: Shape

    def held(self, w: Work) -> Array:
        """The average as it was stored."""
        m = wide(w.xp, self.values, w.dtype)
        return m if self.scale is None else dequantised(w.xp, m, self.scale)

    def bits(self, w: Work) -> Array | None:
        if w.options.momentum_rounding == "nearest":
            return None
        return w.bits(self.values, self.at, MOMENTUM)

    def kept(self, w: Work, new: Array) -> list[Array]:
        """The slots for the average `new`: rounded values, and the scales of an int8 buffer."""
        name = dtype_name(self.values)
        if name == "int8":
            return [*quantised(w.xp, new, self.bits(w), TINY[w.width])]
        e = self.bits(w) if name in STORED_BITS else None
        if e is None:
            return [new]  # the cast that stores it rounds to nearest
        return [to_grid(w.xp, wide(w.xp, new, w.xp.float32), name, e)]

    def stored(self, w: Work, new: Array) -> tuple[Array, list[Array]]:
        """The average as the next step will find it, and the slots for it."""
        kept = self.kept(w, new)
        if self.scale is not None:
            return dequantised(w.xp, *kept), kept
        return self.nearest(w, kept[0]), kept

    def nearest(self, w: Work, x: Array) -> Array:
        if self.scale is not None:
            return x
        return wide(w.xp, w.xp.astype(x, self.values.dtype, copy=False), w.dtype)


def averaged(w: Work, m: Buffer, z: Array) -> tuple[Array, list[Array]]:
    """(value to use, slots to keep) of beta1*m + (1 - beta1)*z; see momentum_arithmetic."""
    beta1: Any = w.rates.beta1
    old = m.held(w)
    if w.options.momentum_arithmetic == "weak":
        number = isinstance(beta1, float)
        place = device(m.values)
        weight = w.xp.asarray(beta1, dtype=w.dtype, device=place) if number else beta1
        new = m.nearest(w, old * m.nearest(w, weight)) + z * (1.0 - beta1)
    elif w.options.momentum_arithmetic == "buffer":
        # Numbers of 8 bits often average to a tie. `old * beta1 + z * (1 - beta1)` in float32 then
        # rounds down, 0.9 being a little less there; from the difference it is the tie, as in
        # torch's lerp. From the nearer end: beta1=0 has to give z.
        z = m.nearest(w, z)
        if not isinstance(beta1, float):  # on which end is not known
            new = old * beta1 + z * (1.0 - beta1)
        else:
            step = z - old
            new = z - step * beta1 if beta1 <= 0.5 else old + step * (1.0 - beta1)
        return m.stored(w, new)
    else:
        new = old * beta1 + z * (1.0 - beta1)
    return new, m.kept(w, new)


def rounded(w: Work, x: Array, d: Array, c: Array | None, at: Shape) -> list[Array]:
    """X + D as it is stored, or the update that leads there; with "kahan", and what is left over.

    `x`, `d` wide; `c` the compensation, which is in `d` already; the block starts `at`.
    """
    xp = w.xp
    total = x + d
    if w.rounds == "nearest":
        return [total if w.emit == "param" else d]
    name = dtype_name(w.param)
    e = w.bits(x, at, PARAMETER) if w.rounds == "stochastic" else None
    y = to_grid(xp, total, name, e)
    result = y if w.emit == "param" else y - x
    return [result] if c is None else [total - y, result]


def step_size(o: Config, r: Rates, x2: Any) -> Any:
    """alpha, what U is multiplied by; `x2`: the mean square of X, idle without scale_parameter."""
    if not o.scale_parameter:
        return r.step_size
    if not o.weight_decay_first and o.eps2 * o.eps2 > 1e-30:
        # The larger of RMS and eps2 either way; but a root of 0 has no derivative for JAX to take.
        x2 = at_least(x2, 0.25 * o.eps2 * o.eps2)
    rms = square_root(x2)
    if o.weight_decay_first:
        by: Any = r.lr if o.weight_decay_by == "lr" else 1.0
        rms = rms * abs(1.0 - r.weight_decay * by)
    size = at_least(rms, o.eps2)
    if o.max_parameter_scale is not None:
        size = at_most(size, o.max_parameter_scale)
    return r.step_size * size


def clip_factor(o: Config, u2: Any) -> Any:
    """1/max(1, RMS(U)/d); `u2`: the mean square of U, idle without clip_threshold."""
    if o.clip_threshold is None:
        return 1.0
    return 1.0 / at_least(square_root(exposed(u2)) * (1.0 / o.clip_threshold), 1.0)


def factors(o: Config, r: Rates, x2: Any, u2: Any) -> tuple[Any, Any, Any]:
    """The scale pass: what U, the update and X are multiplied by, from mean squares of X and U.

    Returns `(before, after, decay)`: D = after * average(before * U) - decay * X, where without
    momentum `after` is 1. Elementwise, so a kernel may pass vectors with an entry per tensor.
    """
    alpha, clip = step_size(o, r, x2), clip_factor(o, u2)
    by: Any = {"alpha": alpha, "lr": r.lr, "none": 1.0}[o.weight_decay_by]
    decay = r.weight_decay * by
    sign = -1.0 if o.maximize else 1.0  # of the gradient
    if o.beta1 is None:
        return -sign * alpha * clip, 1.0, decay
    if o.momentum_on == "grad":  # the average has taken the sign of the gradient already
        return -1.0 * alpha * clip, 1.0, decay
    if o.momentum_on == "update":
        return sign * clip, -1.0 * alpha, decay
    return sign * alpha * clip, -1.0, decay
