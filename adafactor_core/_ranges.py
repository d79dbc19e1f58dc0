"""What a single option's value may be. Each function returns it as plain Python or raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

from ._errors import ConfigError

Schedule = Callable[[Any], Any]
"""`f(t) -> value`; `t` is completed steps + 1: an int on the host, a 0-D float array on device."""

Axes = int | tuple[int, ...]
Rule = tuple[str, Mapping[str, Any]]

DIMS = ("auto", "last", "largest", "largest_first", "conv")
BUFFERS = ("float32", "bfloat16", "float16", "int8")


def number(name: str, value: Any, low: float = 0.0, open_low: bool = False) -> float:
    try:
        real = isinstance(value, Real) and not isinstance(value, bool)
        number = float(value) if real else math.nan
    except OverflowError:  # an int beyond float64
        number = math.inf
    if not math.isfinite(number) or number < low or (open_low and number == low):
        bound = ">" if open_low else ">="
        raise ConfigError(f"{name} must be a finite number {bound} {low:g}, got {value!r}.")
    return number


def rate(name: str, value: Any) -> float | Schedule:
    return cast(Schedule, value) if callable(value) else number(name, value)


def optional_positive(name: str, value: Any) -> float | None:
    return None if value is None else number(name, value, open_low=True)


def fraction(name: str, value: Any) -> float:
    found = number(name, value)
    if found >= 1.0:
        raise ConfigError(f"{name} must be in [0, 1), got {value!r}.")
    return found


def integer(name: str, value: Any, low: int, high: float = math.inf) -> int:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        above = "" if high == math.inf else f" and <= {high}"
        raise ConfigError(f"{name} must be an int >= {low}{above}, got {value!r}.")
    return int(value)


def flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}.")


def choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def axes(name: str, value: Any) -> tuple[int, ...]:
    items = (value,) if isinstance(value, Integral) else value
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise ConfigError(f"{name} must be an int or a tuple of ints, got {value!r}.")
    for axis in items:
        if not isinstance(axis, Integral) or isinstance(axis, bool):
            raise ConfigError(f"{name} must be an int or a tuple of ints, got {value!r}.")
    return tuple(int(axis) for axis in items)


def dims(value: Any) -> str | tuple[Axes, Axes]:
    if isinstance(value, str):
        choice("factored_dims", value, DIMS)
        return value
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ConfigError(
            f"factored_dims must be one of {', '.join(map(repr, DIMS))} or a pair "
            f"(row axis, column axis), got {value!r}."
        )
    row, col = (axes("factored_dims", side) for side in value)
    if not row or not col:
        raise ConfigError(f"factored_dims needs an axis on each side, got {value!r}.")
    return row, col


def eps1(value: Any) -> float | str:
    if not isinstance(value, str):
        return number("eps1", value)
    choice("eps1", value, ("finfo",))
    return value


def dtype_name(value: Any) -> str:
    # torch.bfloat16, jnp.bfloat16, np.dtype("float32") and "float32" all end in the dtype's name.
    text = value if isinstance(value, str) else getattr(value, "__name__", None) or str(value)
    name = str(text).rsplit(".", 1)[-1]
    choice("momentum_dtype", name, BUFFERS)
    return name


def rules(value: Any) -> tuple[Rule, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(
            f"rules must be a list with a pair (pattern, options) per rule, got {value!r}."
        )
    rules = []
    for rule in value:
        if not isinstance(rule, Sequence) or isinstance(rule, str) or len(rule) != 2:
            raise ConfigError(f"a rule must be a pair (pattern, options), got {rule!r}.")
        pattern, options = rule
        named = isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
        if not isinstance(pattern, str) or not named:
            raise ConfigError(f"a rule must be (str, dict of options by name), got {rule!r}.")
        rules.append((pattern, dict(options)))
    return tuple(rules)
