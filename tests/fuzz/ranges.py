"""What float32 (or float64) cannot hold, read off the float64 oracle: the only excuses there are.

An excuse is asked for only where a result differs, and is counted by its name. docs/fuzz.md lists
them. Everything else that differs is a failure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .draw import FuzzCase
from .reference import EPSILON, Array, Track, normalised, seen

LARGEST = {
    "float32": float(np.finfo(np.float32).max),
    "float64": float(np.finfo(np.float64).max),
    "bfloat16": (2 - 2.0**-7) * 2.0**127,
    "float16": 65504.0,
}
LEAST = {"float32": 2.0**-126, "float64": 2.0**-1022}  # normal
DIGITS = {"float32": 24, "float64": 53}
SHARE = 2.0**-17  # of the largest number: sums beyond it a policy may call not finite


def top(x: Array) -> float:
    """max|x|; infinite if anything is not finite, 0 for nothing."""
    found = float(np.max(np.abs(x), initial=0.0))
    return found if math.isfinite(found) else math.inf


def bottom(x: Array) -> float:
    """The smallest |x| that is not 0."""
    x = np.abs(x)
    return float(np.min(x, initial=math.inf, where=x > 0))


def total(x: Array) -> float:
    """The sum of squares, which may be infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(np.sum(x * x))
    return found if math.isfinite(found) else math.inf


def overflow(track: Track, k: int, limit: float) -> str:
    """Which quantity of step k is beyond `limit`; "" if none."""
    if found := _large_gradient(track, k, limit):
        return found
    with np.errstate(all="ignore"):
        u = normalised(track, k)
        if total(track.before(k)) > limit:
            return "squares of the parameter overflow"
        if total(u) > limit * 1e-4:
            return "squares of U overflow or nearly so"
        held = [track.updates[k], u if track.average(k) is None else track.average(k)]
        if any(top(x) > limit for x in held):
            return "the update overflows"
        if top(track.params[k]) > LARGEST[track.dtype] * (1 - 2.0**-8):
            return "the parameter overflows"
        if _buffer_overflows(track, k):
            return "the momentum buffer overflows"
    return ""


def _large_gradient(track: Track, k: int, limit: float) -> str:
    with np.errstate(all="ignore"):
        if track.wide == "float64" and max(top(track.high[k]), top(track.before(k))) > 2.0**250:
            return "beyond the oracle's own range"
        if track.norms[k]:
            return track.norms[k]
        if max(total(track.grads[k]), total(track.high[k])) > limit:
            most = top(track.high[k]) ** 2 * 2.0 / track.start.size  # of sums of scaled squares
            sure = most > limit and "row" in track.moments[k]
            return f"squares of the gradient {'overflow' if sure else 'overflow or nearly so'}"
        if any(top(v) > limit for n, v in track.moments[k].items() if n in ("row", "col", "full")):
            return "statistics overflow"
    return ""


def _buffer_overflows(track: Track, k: int) -> bool:
    held, dtype = track.average(k), track.options["momentum_dtype"]
    return held is not None and dtype == "float16" and top(held) > 65504.0 * (1 - 2.0**-8)


def underflow(track: Track, k: int) -> str:
    """Which quantity of step k has lost digits to the least normal number; "" if none."""
    if found := _small_gradient(track, k):
        return found
    least, o = LEAST[track.wide] * 2.0 ** DIGITS[track.wide], track.options
    if o["scale_parameter"] and o["eps2"] == 0.0 and top(track.before(k)) ** 2 < least:
        return "squares of the parameter underflow"
    if track.average(k) is not None and bottom(track.average(k)) < least:
        return "the momentum underflows"
    if top(track.params[k]) < least or 0 < top(track.updates[k]) < least:
        return "the parameter underflows"
    return ""


def _small_gradient(track: Track, k: int) -> str:
    least = LEAST[track.wide] * 2.0 ** DIGITS[track.wide]
    o, m = track.options, track.moments[k]
    after = 0.0
    if o["eps1_mode"] == "stats" and not isinstance(o["eps1"], str):
        after = o["eps1"]
    stats = [m[n] for n in ("row", "col", "full") if n in m]
    if after < least * 2.0**10 and min(map(bottom, stats), default=1.0) < least:
        return "squares of the gradient underflow"
    g = track.grads[k]
    eps = EPSILON[track.dtype] if o["eps1"] == "finfo" else o["eps1"]
    # Squares are taken before the loss scale is divided out: below what size is nothing left?
    hidden = o["eps1_mode"] == "grad_sq" and eps >= least * max(1.0, track.unscale) ** 2
    if not hidden and min(bottom(g), bottom(track.low[k])) ** 2 < least:
        return "squares of the gradient underflow"
    if min(bottom(g), bottom(track.low[k])) < least:
        return "the gradient underflows"
    if track.gains[k] < least:
        return "the factor of the global norm underflows"
    return ""


def excuse(
    track: Track, k: int, values: bool, rounds: bool = False, about: str = "parameters"
) -> str:
    """Why steps up to `k` may differ; `values`: in their digits, not only in being finite.

    `rounds`: and that a momentum was rounded to the other side is among the reasons.
    """
    if about == "statistics":  # they see gradients alone
        below = (_small_gradient(track, j) for j in range(k + 1))
        above = (_large_gradient(track, j, LARGEST[track.wide]) for j in range(k + 1))
        return _first(below) or _first(above)
    if rounds:
        return "a momentum on the boundary between two stored values"
    if values and _growth(track, k) > 50.0:
        return "a parameter that has grown or changed by a factor of 50, and errors with it"
    if values and (found := _first(underflow(track, j) for j in range(k + 1))):
        return found
    return _first(overflow(track, j, LARGEST[track.wide]) for j in range(k + 1))


def _growth(track: Track, k: int) -> float:
    """By how much the updates could multiply errors of the parameter, through its RMS."""
    if not track.options["scale_parameter"]:
        return 1.0
    pairs = [(top(track.updates[j]), top(track.before(j))) for j in range(k + 1)]
    return math.prod(1.0 + update / x for update, x in pairs if x)


def twice(track: Track) -> bool:
    """Whether a float64 momentum is rounded at float32's precision: on the way to 16 bits, as
    ml_dtypes does, or since the factor of the global norm is no better."""
    dtype = track.options["momentum_dtype"]
    narrow = dtype in ("bfloat16", "float16") or (dtype == "int8" and track.mixed)
    return track.wide == "float64" and track.options["beta1"] is not None and narrow


def _first(reasons: Iterator[str]) -> str:
    return next(filter(None, reasons), "")


def odd_for_sure(case: FuzzCase, step: int, path: str, x: Array) -> bool:
    """Whether a policy has to call this tensor not finite: NaN or infinity, also in `x`."""
    g = seen(case, step, path)
    return not (np.isfinite(g).all() and np.isfinite(x).all())


def may_be_odd(track: Track, probe: Track | None, x: Array) -> str:
    """Why a tensor without NaN may be called not finite; `probe`: the oracle's step with it."""
    limit = LARGEST[track.wide] * SHARE
    if total(x) > limit:
        return "squares of the parameter near the limit"
    if probe is None:
        return ""
    found = _first(overflow(probe, k, limit) for k in range(len(probe.grads)))
    return found if not found or "nearly" in found else f"{found} or nearly so"


def values_of(x: Any) -> Array:
    """Any array as float64."""
    return np.asarray(x).astype(np.float64)
