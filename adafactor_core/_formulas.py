"""The formulas on one block: second moment, direction, momentum, and the scalar factors.

`w` holds what does not depend on the block. Shapes in comments: a matrix (m, n), row axis 0.
"""

from __future__ import annotations

from typing import Any

from ._config import Config
from ._numerics import TINY, Array, at_least, at_most, device, square_root, wide
from ._schedules import Rates
from ._work import Work


def moved(old: Array, new: Array, b: Any) -> Array:
    """old + b*(new - old). Not in that form: at b = 1 a large old value would swallow a small new
    one and leave 0, and not (1-b)*old either: rounding 1-b biases the average when b is small."""
    return (old - old * b) + new * b


def floored(w: Work, statistic: Array, after: float) -> Array:
    if after >= TINY[w.width]:
        return statistic + after
    return at_least(statistic + after if after else statistic, TINY[w.width])


def full(w: Work, g: Array, v: Array) -> Array:
    """The full second moment after this step, for tensors that are not factored."""
    g = wide(w.xp, g, w.dtype)
    square = g * g
    if w.options.eps1_mode == "grad_sq":
        square = square + w.eps1
    return moved(v, square, w.rates.b)


def source(w: Work, g: Array, m: Array) -> tuple[Array, list[Array]]:
    """What U is made of: the gradient, or its average, which then comes with the slot to keep."""
    g = wide(w.xp, g, w.dtype)
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
    root = square_root(v if safe else floored(w, v, after))
    u = z * at_most(1.0 / root, highest) if clamp else z / root
    return u if times is None else u * times


def averaged(w: Work, m: Array, z: Array) -> tuple[Array, list[Array]]:
    """(value to use, [value to store]) of beta1*m + (1 - beta1)*z; see momentum_arithmetic."""
    xp = w.xp
    beta1: Any = w.rates.beta1

    def rounded(x: Array) -> Array:
        return wide(xp, xp.astype(x, m.dtype, copy=False), w.dtype)

    old = wide(xp, m, w.dtype)
    if w.options.momentum_arithmetic == "weak":
        number = isinstance(beta1, float)
        weight = xp.asarray(beta1, dtype=w.dtype, device=device(m)) if number else beta1
        used = rounded(old * rounded(weight)) + z * (1.0 - beta1)
        return used, [used]
    if w.options.momentum_arithmetic == "buffer":
        new = rounded(old * beta1 + rounded(z) * (1.0 - beta1))
    else:
        new = old * beta1 + z * (1.0 - beta1)
    return new, [new]


def factors(o: Config, r: Rates, x2: Any, u2: Any) -> tuple[Any, Any, Any]:
    """The scale pass: what U, the update and X are multiplied by, from mean squares of X and U.

    Returns `(before, after, decay)`: D = after * average(before * U) - decay * X, where without
    momentum `after` is 1. Elementwise, so a kernel may pass vectors with an entry per tensor.
    """
    alpha: Any = r.step_size
    by: Any = {"alpha": None, "lr": r.lr, "none": 1.0}[o.weight_decay_by]
    if o.scale_parameter:
        rms = square_root(x2)
        if o.weight_decay_first:
            rms = rms * abs(1.0 - r.weight_decay * by)
        size = at_least(rms, o.eps2)
        if o.max_parameter_scale is not None:
            size = at_most(size, o.max_parameter_scale)
        alpha = alpha * size
    clip: Any = 1.0
    if o.clip_threshold is not None:
        clip = 1.0 / at_least(square_root(u2) * (1.0 / o.clip_threshold), 1.0)
    decay = r.weight_decay * (alpha if by is None else by)
    sign = -1.0 if o.maximize else 1.0  # of the gradient
    if o.beta1 is None:
        return -sign * alpha * clip, 1.0, decay
    if o.momentum_on == "grad":  # the average has taken the sign of the gradient already
        return -1.0 * alpha * clip, 1.0, decay
    if o.momentum_on == "update":
        return sign * clip, -1.0 * alpha, decay
    return sign * alpha * clip, -1.0, decay
