"""Everything that depends on `t` alone: decay, step size, weight decay, momentum decay.

Works on a Python int `t` (counter on the host) and on a 0-D float array (counter on the device,
jit) alike, so that a traced step needs no host sync and an eager one no array. On a GPU each
operation on such an array is a launch, so nothing is computed twice for two sets of options.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from numbers import Real
from typing import Any, NamedTuple

import array_api_compat as compat

from ._config import Config, RelativeStep
from ._errors import ConfigError, StateError
from ._numerics import (
    Array,
    at_least,
    at_most,
    choose,
    device,
    dtype_name,
    logarithm,
    minus_expm1,
    move,
    namespace,
    next_float,
    on_host,
    product,
    runs_at_once,
)
from ._rounding import step_key

Scalar = Any  # a Python float, or a 0-D array in the compute dtype
Known = dict[tuple[Any, ...], Any]

# What a tensor's step owes to these options is in its Rates, but for `decays` and the momentum.
TIMED = {
    "lr", "step_size", "decay_type", "decay_rate", "decay_offset", "beta2_cap", "beta1",
    "weight_decay",
}  # fmt: skip


class Rates(NamedTuple):
    """The scalars of one step. Python floats when `t` was an int, else 0-D arrays."""

    b: Scalar  # 1 - beta2_t; the primitive, because 1 - (1 - b) loses 3e-3 of it at t = 1e7
    lr: Scalar  # lr_t
    step_size: Scalar  # lr_t * rho_t: alpha without the parameter scale
    weight_decay: Scalar
    beta1: Scalar | None


def alike(o: Config, other: Config) -> bool:
    """Whether these options differ in numbers of a step at most: in what is in its Rates.

    Then kernels can take the tensors of both together, if they take rates per tensor.
    """
    if o is other:
        return True
    if (o.beta1 is None) != (other.beta1 is None):
        return False
    names = (f.name for f in fields(Config) if f.name not in TIMED)
    return all(getattr(o, name) == getattr(other, name) for name in names)


def rates(o: Config, t: Scalar, width: str, lag: Scalar = 0, known: Known | None = None) -> Rates:
    """The scalars of step `t` (completed steps + 1) for tensors computed in dtype `width`.

    `lag`: at how many of the steps the tensor was skipped, or an array of that for many tensors.
    Its average has moved as many times less, and `b` of the common t would leave the zeros that it
    started from in it. `known`: what other options of this step have found, if kept.
    Raises ConfigError for a schedule that returns anything but a finite number >= 0.
    """
    lr = 1.0 if o.lr is None else _at("lr", o.lr, t, width)
    beta1 = None if o.beta1 is None else _at("beta1", o.beta1, t, width, 1.0)
    decay = _at("weight_decay", o.weight_decay, t, width)
    high = math.inf if o.decay_type == "pow" else 1.0
    rate = _at("decay_rate", o.decay_rate, t, width, high)
    own = (o.decay_type, rate, o.decay_offset, o.beta2_cap, lag)
    b = _once(known, own, lambda: _second_moment(o, rate, t, lag))
    relative = o.step_size or (RelativeStep() if o.lr is None else None)
    if relative is None:
        return Rates(b, lr, lr, decay, beta1)
    size = (relative.cap, relative.warmup_init, lr)
    return Rates(b, lr, _once(known, size, lambda: _step_size(relative, lr, t)), decay, beta1)


def _once(known: Known | None, key: tuple[Any, ...], make: Callable[[], Scalar]) -> Scalar:
    # Arrays are not compared; a compiler's stand-ins for numbers cannot even be asked.
    if known is None or any(hasattr(part, "shape") for part in key):
        return make()
    if key not in known:
        known[key] = make()
    return known[key]


def _step_size(relative: RelativeStep, lr: Scalar, t: Scalar) -> Scalar:
    rho = t**-0.5
    if relative.warmup_init:
        rho = at_most(rho, 1e-6 * t)
    if relative.cap is None:  # the learning rate is the cap and not a multiplier (torch, Keras)
        return at_most(lr, rho)
    return product(lr, at_most(rho, relative.cap))


def _second_moment(o: Config, rate: Scalar, t: Scalar, lag: Scalar) -> Scalar:
    """b = 1 - beta2_t (paper, section 7.2 for "pow"; "adam" is Adam's bias correction)."""
    t = t if isinstance(lag, int) and lag == 0 else at_least(t - lag, 1)
    # Clamped: an offset beyond the counter gave NaN for good in optax (its PR 1791).
    t = at_least(t - o.decay_offset, 1) if o.decay_offset else t
    if o.decay_type == "pow":
        b = t**-rate
    elif o.decay_type == "constant":
        b = 1.0 - rate
    elif isinstance(rate, float) and rate == 0.0:
        b = 1.0
    else:
        # Exactly 1 at the start: an ulp less would let a large old average leak into a small one.
        b = choose(t <= 1, 1.0, (1.0 - rate) / minus_expm1(t * logarithm(rate)))
    return b if o.beta2_cap is None else at_least(b, 1.0 - o.beta2_cap)


def _at(name: str, value: Any, t: Scalar, width: str, high: float = math.inf) -> Scalar:
    """A number as it is, a schedule at `t`. Host values are checked; a traced one cannot be."""
    if not callable(value):
        return value
    got = value(t)
    if getattr(got, "shape", None) == () and not compat.is_numpy_array(got):
        xp = namespace(got)
        return xp.astype(got, getattr(xp, width), copy=False)
    scalar = isinstance(got, Real) or (compat.is_numpy_array(got) and got.shape == ())
    try:
        # A number even of a 0-D NumPy array: as float64 it would promote every tensor it meets.
        number = float(got) if scalar else math.nan
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or not 0 <= number < high:
        below = "" if high == math.inf else f" and < {high:g}"
        raise ConfigError(
            f"the schedule for {name} returned {got!r} at t={t}. It must return a finite number "
            f">= 0{below}, or a 0-D array, for every t >= 1."
        )
    return number


class Clock:
    """The scalars of a step, computed once per set of options, dtype and device."""

    def __init__(self, step: Array | int) -> None:
        check_counter(step)
        # A counter on the host stays a Python int: exact, and no array op per scalar.
        host = isinstance(step, int) or compat.is_numpy_array(step)
        self._step: Any = int(step) if host else step
        # Counted on here: later the current device may be that of a tensor, not the counter's.
        # torch does not mind, and can do it later in one operation with the cast.
        self._next: Any = None if compat.is_torch_array(step) else self._step + 1
        self._host = host
        self._keeps = not host and runs_at_once(step)
        self._known: dict[tuple[Any, ...], Rates] = {}
        self._parts: dict[tuple[Any, ...], Known] = {}
        self._keys: dict[tuple[Any, ...], Any] = {}
        self._times: dict[tuple[Any, ...], Any] = {}

    def rates(
        self, options: Config, x: Array, width: str, skipped: Array | int | None = None
    ) -> Rates:
        """`skipped`: the tensor's own counter, where its decay goes by its own steps; or an array
        of those of many, and then `b` is one."""
        lag: Any = skipped if isinstance(skipped, int) else 0
        if skipped is not None and not isinstance(skipped, int):
            xp = namespace(skipped)
            known = self._host and on_host(skipped)
            lag = int(skipped) if known else xp.astype(skipped, getattr(xp, width))
        place = None if self._host else str(device(x))
        if not isinstance(lag, int):
            return rates(options, self._t(x, width), width, lag)
        key = (id(options), width, place, lag)
        found = self._known.get(key)
        if found is None:
            parts = self._parts.setdefault((width, place), {}) if self._keeps else None
            found = self._known[key] = rates(options, self._t(x, width), width, lag, parts)
        return found

    def key(self, seed: int, x: Array) -> Any:
        """The key of this step's random draws: an int, or an int32 array on the device of `x`."""
        where = ("key", None if self._host else str(device(x)))
        found = self._keys.get(where)
        if found is None:
            if self._host:
                found = step_key(seed, self._next)
            else:
                if self._next is None:
                    self._next = self._step + 1
                xp = namespace(self._next)
                t = xp.reshape(move(self._next, x, xp.int32), (1,))
                found = step_key(seed, t)
            self._keys[where] = found
        return found

    def _t(self, x: Array, width: str) -> Any:
        if self._host:
            return self._next
        where = (str(device(x)), width)
        found = self._times.get(where)
        if found is None:
            dtype = getattr(namespace(self._step), width)
            count = next_float(self._step, dtype) if self._next is None else self._next
            found = self._times[where] = move(count, x, dtype)
        return found


def check_counter(step: Any) -> None:
    """Raises StateError unless `step` is a 0-D integer array, or an int >= 0."""
    array = getattr(step, "shape", None) == () and "int" in dtype_name(step)
    number = isinstance(step, int) and not isinstance(step, bool) and step >= 0
    if not array and not number:
        shape = getattr(step, "shape", None)
        got = f"{step!r}" if shape is None else f"shape {tuple(shape)}"
        raise StateError(
            f"state.step must be the number of completed steps, an int >= 0 or a 0-D integer "
            f"array, got a {type(step).__name__}: {got}. Pass the state that init() or the last "
            f"step returned."
        )
