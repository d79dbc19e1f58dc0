"""Calls in the words of another library become a Config: the machinery of `from_*_kwargs`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .._config import Config
from .._errors import ConfigError
from ..schedules import zero_based
from ._record import Options, Variant

Meaning = Callable[[Any, Options], Options]
"""Of an argument's value, and of the whole call with its defaults, to the options they mean."""


@dataclass(frozen=True)
class Call:
    """The constructor of one library: each argument's default and what it means here."""

    name: str  # as users write it, with the version whose arguments these are
    variant: Variant
    arguments: Mapping[str, tuple[Any, Meaning]]
    check: Callable[[Options], None] = lambda call: None  # refuses what the library refuses too

    def config(self, given: Mapping[str, Any]) -> Config:
        """Raises ConfigError for an argument that is unknown there or has no meaning here."""
        for name in given:
            if name not in self.arguments:
                raise ConfigError(f"{self.name} has no argument {name!r}. {self._hint(name)}")
        defaults = {name: default for name, (default, _) in self.arguments.items()}
        where = self.name
        try:
            call = {**defaults, **{name: _number(value) for name, value in given.items()}}
            options: dict[str, Any] = {}
            for name, (_, meaning) in self.arguments.items():
                where = f"{self.name}, {name}"
                options |= meaning(call[name], call)
            where = self.name
            self.check(call)
            return Config(**self.variant.resolve(options))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def _hint(self, name: str) -> str:
        if name in ("params", "parameters", "var_list"):
            return "Parameters go to the adapter; only the options are translated."
        near = difflib.get_close_matches(name, self.arguments, n=1)
        return f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(self.arguments)}."


def _number(value: Any) -> Any:
    """A one-element array or tensor as a Python number."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or not hasattr(value, "item"):
        return value
    if math.prod(shape) != 1:
        raise ConfigError(f"an array of shape {tuple(shape)} in the place of one value.")
    return value.item()


def same(option: str) -> Meaning:
    """The same thing under another name."""
    return lambda value, call: {option: value}


def rate(meaning: Meaning) -> Meaning:
    """A learning rate that is not optional there."""

    def given(value: Any, call: Options) -> Options:
        if value is None:
            raise ConfigError("the learning rate is None, which it refuses too. Give a number.")
        return meaning(value, call)

    return given


def number(option: str, variant: Variant, at_least: float | None = None) -> Meaning:
    """A number there, where `option` may also be None, or smaller."""

    def meaning(value: Any, call: Options) -> Options:
        if value is None:
            raise ConfigError(
                f"None in the place of a number, on which it fails too. Give a number, or use "
                f"af.{variant}(..., {option}=None), where None switches it off."
            )
        if at_least is not None and isinstance(value, Real) and not float(value) >= at_least:
            raise ConfigError(
                f"{value!r} is below {at_least:g}, which it refuses too. Give a larger number, or "
                f"use af.{variant}(..., {option}={value!r})."
            )
        return {option: value}

    return meaning


def unscheduled(option: str, variant: Variant, meaning: Meaning | None = None) -> Meaning:
    """`meaning`, or the same thing, of what is no function there, where `option` may be one."""

    def checked(value: Any, call: Options) -> Options:
        if callable(value):
            raise ConfigError(
                f"a function in the place of a number, on which it fails. Give a number, or use "
                f"af.{variant}(..., {option}=f), where f(t) gets the step, which counts from 1."
            )
        return (meaning or same(option))(value, call)

    return checked


def unless_none(option: str) -> Meaning:
    """The same, where None is the library's way to say our default."""
    return lambda value, call: {} if value is None else {option: value}


def scheduled(option: str) -> Meaning:
    """The same; a function there counts from 0."""

    def meaning(value: Any, call: Options) -> Options:
        if value is None:
            return {}
        return {option: zero_based(value) if callable(value) else value}

    return meaning


def exponent(value: Any, call: Options) -> Options:
    """`beta2 = 1 - t**-value`; of 0 the second moment is the last square alone."""
    return {"decay_type": "constant", "decay_rate": 0.0} if value == 0 else {"decay_rate": value}


def negative_exponent(value: Any, call: Options) -> Options:
    """`beta2 = 1 - t**value`."""
    if not isinstance(value, Real) or isinstance(value, bool) or not value <= 0:
        raise ConfigError(
            f"the exponent of beta2 = 1 - t**x must be <= 0, got {value!r}. The default is -0.8."
        )
    return exponent(-float(value), call)


def pair(first: Meaning, second: Meaning) -> Meaning:
    """Two values in one argument."""

    def meaning(value: Any, call: Options) -> Options:
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
            raise ConfigError(f"eps must be a pair (eps1, eps2), got {value!r}.")
        one, other = (_number(v) for v in value)
        return {**first(one, call), **second(other, call)}

    return meaning


def idle(value: Any, call: Options) -> Options:
    """Says how to compute, or a name: no number depends on it."""
    return {}


def only(*allowed: Any, instead: str) -> Meaning:
    """Has no meaning here, except for the values that switch it off."""

    def meaning(value: Any, call: Options) -> Options:
        if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
            raise ConfigError(f"this cannot be translated: {instead} (got {value!r})")
        return {}

    return meaning
