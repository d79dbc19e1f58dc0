"""One tensor on its way through one step: the record that passes read and fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ._config import Config
from ._factoring import Layout
from ._numerics import Array, DType, Namespace, Shape
from ._schedules import Rates
from ._state import Moments
from ._streaming import Out

NO_MOMENTS = Moments(None, None, None, None)


class Partial(NamedTuple):
    """A sum over the part of a tensor that this process holds, to be added up across shards."""

    path: str  # of the tensor
    name: str
    value: Array  # dims kept
    axes: Shape  # tensor axes that were summed: add over the shards that split any of these


@dataclass(slots=True)
class Work:
    """Inputs of a step for one tensor, then what the passes find out, then the results."""

    path: str
    options: Config
    layout: Layout
    xp: Namespace
    dtype: DType  # of all arithmetic
    width: str  # its name
    param: Array
    grad: Array
    moments: Moments
    rates: Rates
    eps1: float
    emit: Literal["param", "update"]  # what `result` is: X + D in X's dtype, or D
    alone: bool  # no reduction or decision stands between observe and the rest
    writable: bool  # the library takes out[block] = value
    into: dict[str, Array]  # arrays to write results to, by slot name or "result"
    prescale: float = 1.0

    partials: dict[str, Partial] = field(default_factory=dict)
    p: Any = None  # sqrt(mean(R)/R)
    q: Any = None  # 1/sqrt(C)
    measured: bool = False
    before: Any = 1.0  # factors of U, of its average, and of X: see factors() in _formulas.py
    after: Any = 1.0
    decay: Any = 0.0

    new: Moments = NO_MOMENTS
    result: Array = None

    @property
    def clips(self) -> bool:
        return self.options.clip_threshold is not None

    @property
    def on_gradient(self) -> bool:
        return self.options.beta1 is not None and self.options.momentum_on == "grad"

    @property
    def decays(self) -> bool:
        return not (isinstance(self.rates.weight_decay, float) and self.rates.weight_decay == 0.0)

    def again(self, grad: Array, rates: Rates) -> None:
        """Readies the record for the next step of an in-place optimizer, whose arrays stay."""
        self.grad, self.rates = grad, rates
        self.partials, self.measured = {}, False
        self.new, self.result = NO_MOMENTS, None

    def out(self, name: str) -> Out:
        """Where the new value of a slot, or the "result", goes."""
        like = self.param if name == "result" else getattr(self.moments, name)
        update = name == "result" and self.emit == "update"
        return Out(self.into.get(name), self.dtype if update else like.dtype)

    def put(self, name: str, value: Array) -> Array:
        """Keeps a small slot, in place where the caller gave its array up."""
        array = self.into.get(name)
        if array is None:
            return value
        array[...] = value
        return array
