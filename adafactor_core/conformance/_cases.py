"""One case: options as plain data, parameters, a gradient per step. Everything else runs cases."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import _oracle
from ._rounding import round_to
from ._trees import Tree, leaves, map_leaves

# Plain arithmetic, because under jit `t` is a traced number.
SCHEDULES: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "inverse_sqrt": lambda peak: lambda t: peak * t**-0.5,
    "linear": lambda start, slope: lambda t: start + slope * t,
    "exponential": lambda start, rate: lambda t: start * rate**t,
}


@dataclass(frozen=True)
class Case:
    """`options`: what `Config` takes, as JSON can hold it (see `decode`). Arrays: float64 NumPy.

    `grad_scale`: what the gradients of each step are to be divided by; None: never anything.
    """

    name: str
    options: Mapping[str, Any]
    params: Tree
    grads: tuple[Tree, ...]
    grad_scale: tuple[float | None, ...] | None = None

    def attempts(self) -> Iterator[tuple[Tree, float | None]]:
        """(gradients, grad_scale) of each step."""
        scales = self.grad_scale or (None,) * len(self.grads)
        return zip(self.grads, scales, strict=True)

    def at(self, dtype: str) -> "Case":
        """The case with parameters and gradients rounded to `dtype`."""

        def narrow(tree: Tree) -> Tree:
            return map_leaves(lambda array: round_to(array, dtype), tree)

        grads = tuple(narrow(grad) for grad in self.grads)
        return replace(self, params=narrow(self.params), grads=grads)

    def fits(self, dtype: str) -> bool:
        """Whether `dtype` has the range for it: nothing overflows or vanishes."""
        rounded = self.at(dtype)
        before = leaves([self.params, *self.grads])
        after = leaves([rounded.params, *rounded.grads])
        return all(
            np.array_equal(np.isfinite(after[path]), np.isfinite(x))
            and np.array_equal(after[path] != 0, x != 0)
            for path, x in before.items()
        )

    def expected(self, dtype: str) -> _oracle.Trajectory:
        """What the oracle makes of it."""
        rounded = self.at(dtype)
        options = decode(self.options)
        return _oracle.run(rounded.params, rounded.grads, options, dtype, self.grad_scale)


def decode(
    options: Mapping[str, Any], relative_step: Callable[..., Any] = SimpleNamespace
) -> dict[str, Any]:
    """Options from data: schedules by name, lists as tuples, `step_size` by `relative_step`."""
    return {key: _decode(key, value, relative_step) for key, value in options.items()}


def _decode(key: str, value: Any, relative_step: Callable[..., Any]) -> Any:
    if key == "step_size" and value is not None:
        return relative_step(**value)
    if key == "rules":
        return tuple((pattern, decode(given, relative_step)) for pattern, given in value)
    if isinstance(value, Mapping):
        numbers = dict(value)
        return SCHEDULES[numbers.pop("schedule")](**numbers)
    if isinstance(value, list):
        return tuple(_decode("", item, relative_step) for item in value)
    return value
