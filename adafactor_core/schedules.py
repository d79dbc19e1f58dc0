"""Schedules: functions of `t` for any option that takes one, and for other optimizers.

`t` is completed steps + 1. A Python number gives a Python float; a 0-D array gives a 0-D array of
its library, device and dtype (float32 for an integer one), with no host sync and no branch, so
that a schedule may run under jit. `t = 0` is answered too: it is what 0-based schedules start with.
Schedules are immutable, hashable and print as the call that made them. Usage: docs/schedules.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from . import _ranges as ranges
from ._errors import ConfigError
from ._numerics import at_least, at_most, choose, dtype_name, namespace, square_root
from ._ranges import Schedule

__all__ = ["cosine", "inverse_sqrt", "warmup", "wsd", "zero_based"]


@dataclass(frozen=True)
class warmup:  # noqa: N801
    """A number or any other schedule, times `min(1, t / steps)` (Goyal et al., arXiv 1706.02677).

    schedule: a finite number >= 0, or a function of `t`; it sees the same `t`.
    steps: int >= 0; from this step on the factor is 1. 0 is no warm-up.
    Raises ConfigError for a value out of range.
    """

    schedule: float | Schedule
    steps: int

    def __post_init__(self) -> None:
        _check(self, steps=0)

    def __call__(self, t: Any) -> Any:
        value = self.schedule(t) if callable(self.schedule) else self.schedule
        return _ramp(_clock(t), self.steps) * value


@dataclass(frozen=True)
class inverse_sqrt:  # noqa: N801
    """`peak * min(t / warmup, sqrt(warmup / t))`; `peak / sqrt(t)` without warm-up.

    Vaswani et al. (arXiv 1706.03762, section 5.3), scaled to reach `peak` at `t = warmup`.

    peak: finite number >= 0, the value at `t = warmup`, or at `t = 1` without warm-up.
    warmup: int >= 0, in steps.
    Raises ConfigError for a value out of range.
    """

    peak: float
    warmup: int = 0

    def __post_init__(self) -> None:
        _check(self, warmup=0)

    def __call__(self, t: Any) -> Any:
        t, start = _clock(t), float(max(self.warmup, 1))
        # Chosen until `start`: a GPU may divide equal numbers to something next to 1.
        fall = choose(t > start, square_root(start / at_least(t, start)), 1.0)
        return self.peak * fall * _ramp(t, self.warmup)


@dataclass(frozen=True)
class cosine:  # noqa: N801
    """Linear warm-up to `peak` at `t = warmup`, half a cosine down to `floor` at `t = total`.

    In between `floor + (peak - floor) * (1 + cos(pi * progress)) / 2` with
    `progress = (t - warmup) / (total - warmup)`; `floor` ever after (Loshchilov and Hutter,
    arXiv 1608.03983, without restarts).

    peak, floor: finite numbers, 0 <= floor <= peak.
    total, warmup: ints, 0 <= warmup < total, in steps; `total` includes the warm-up.
    Raises ConfigError for a value out of range.
    """

    peak: float
    total: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check(self, total=1, warmup=0)
        if self.warmup >= self.total:
            raise ConfigError(
                f"cosine.warmup={self.warmup} leaves no step for the decay: it must be < "
                f"total={self.total}. total counts the warm-up too: use a total of "
                f"{self.warmup + self.total}, or a shorter warm-up."
            )

    def __call__(self, t: Any) -> Any:
        t = _clock(t)
        return _ramp(t, self.warmup) * _fall(t, self, self.warmup, "cosine")


@dataclass(frozen=True)
class wsd:  # noqa: N801
    """Warmup-stable-decay: up to `peak`, constant, and down over the last `decay` steps.

    Linear warm-up to `peak` at `t = warmup`; `peak` until `t = total - decay`; then
    `floor + (peak - floor) * f(progress)`, which is `floor` at `t = total` and ever after
    (Hu et al., arXiv 2404.06395).

    peak, floor: finite numbers, 0 <= floor <= peak.
    total, warmup, decay: ints, in steps; warmup >= 0, decay >= 1, warmup + decay <= total.
    shape: `f(p)` is `1 - p` for "linear", `1 - sqrt(p)` for "sqrt" (Hägele et al.,
    arXiv 2405.18392), `(1 + cos(pi * p)) / 2` for "cosine".
    Raises ConfigError for a value out of range.
    """

    peak: float
    total: int
    warmup: int
    decay: int
    floor: float = 0.0
    shape: Literal["linear", "sqrt", "cosine"] = "linear"

    def __post_init__(self) -> None:
        _check(self, total=1, warmup=0, decay=1)
        ranges.choice("wsd.shape", self.shape, ("linear", "sqrt", "cosine"))
        if self.warmup + self.decay > self.total:
            raise ConfigError(
                f"wsd.warmup={self.warmup} and decay={self.decay} do not fit into "
                f"total={self.total}, which must be >= their sum. Use a total of at least "
                f"{self.warmup + self.decay}, or shorten one of them."
            )

    def __call__(self, t: Any) -> Any:
        t = _clock(t)
        return _ramp(t, self.warmup) * _fall(t, self, self.total - self.decay, self.shape)


@dataclass(frozen=True)
class zero_based:  # noqa: N801
    """A `schedule(count)` that counts from 0, as optax's and Keras's do, as a function of `t`.

    `count` is `t - 1`: an int on the host, and then the value becomes a Python float, or a 0-D
    int32 array.
    """

    schedule: Schedule

    def __call__(self, t: Any) -> Any:
        if type(t) in (int, float):
            return float(self.schedule(int(t) - 1))
        xp = namespace(t, "t")
        return self.schedule(xp.astype(t, xp.int32) - 1)


def _check(schedule: Any, **lows: int) -> None:
    """Makes every field plain Python: ints >= the given bound, numbers, and `floor <= peak`."""
    kind = type(schedule).__name__
    for name in (f.name for f in fields(schedule)):
        label, value = f"{kind}.{name}", getattr(schedule, name)
        if name in lows:
            value = ranges.integer(label, value, lows[name])
        elif name in ("peak", "floor"):
            value = ranges.number(label, value)
        elif name == "schedule":
            value = ranges.rate(label, value)
        object.__setattr__(schedule, name, value)
    floor = getattr(schedule, "floor", 0.0)
    if floor > getattr(schedule, "peak", math.inf):
        raise ConfigError(
            f"{kind}.floor={floor:g} is above peak={schedule.peak:g}. A floor must be in "
            f"[0, peak]: lower it, or exchange the two."
        )


def _clock(t: Any) -> Any:
    """A number or float array as it is; an integer array (optax's counter) as float32."""
    if type(t) in (int, float):
        return t
    xp = namespace(t, "t")
    return xp.astype(t, xp.float32) if "int" in dtype_name(t) else t


def _ramp(t: Any, steps: int) -> Any:
    """min(1, t / steps). Chosen from `steps` on: compilers turn the division into a product."""
    return choose(t >= float(steps), 1.0, t / float(max(steps, 1)))


def _fall(t: Any, s: cosine | wsd, start: int, shape: str) -> Any:
    """`peak` until `start`, `floor` from `total` on, never beyond the two by rounding."""
    span = float(s.total - start)
    # From what is left, which is exact near the end; 1 - progress or 1 + cos would cancel there.
    rest = at_least(float(s.total) - t, 0.0) / span  # beyond 1 before start, and then not chosen
    if shape == "cosine":
        rest = _sine(rest * (math.pi / 2)) ** 2  # (1 + cos(pi * progress)) / 2
    elif shape == "sqrt":  # 1 - sqrt(p) = (1 - p) / (1 + sqrt(p))
        rest = rest / (1.0 + square_root(at_least(t - float(start), 0.0) / span))
    value = at_most(s.floor + (s.peak - s.floor) * rest, s.peak)
    return choose(t > float(start), value, s.peak)


def _sine(x: Any) -> Any:
    """Of a Python number or an array."""
    return math.sin(x) if type(x) in (float, int) else namespace(x).sin(x)
