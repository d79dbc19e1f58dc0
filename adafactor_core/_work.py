"""One tensor on its way through one step: the record that passes read and fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ._config import Config
from ._factoring import Layout
from ._numerics import Array, DType, Namespace, Shape, assign, is_narrow, move
from ._rounding import Draws, scale_shape
from ._schedules import Rates
from ._state import NO_MOMENTS, Moments
from ._streaming import Out


class Partial(NamedTuple):
    """A sum over the part of a tensor that this process holds, to be added up across shards."""

    path: str  # of the tensor
    name: str
    value: Array  # dims kept
    axes: Shape  # tensor axes that were summed: add over the shards that split any of these


@dataclass(slots=True)
class Whole:
    """What concerns all tensors of a step together."""

    options: Config
    sharded: bool = False
    unscale: Any = None  # 1/grad_scale, a number or 0-D array; None: 1
    unit: float = 1.0  # a power of two so small that sums of (unit*G)**2 cannot overflow
    gain: Any = None  # what multiplies every gradient: unscale and the clip of the global norm
    fine: Any = None  # whether all is finite, where the tensors stand or fall together

    @property
    def normed(self) -> bool:
        return self.options.max_grad_norm is not None

    @property
    def guarded(self) -> bool:
        return self.options.nonfinite != "propagate"

    @property
    def joint(self) -> bool:
        """All tensors go through a pass before the next: a decision over all comes between."""
        return self.sharded or self.normed or self.options.nonfinite in ("skip_step", "raise")


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
    whole: Whole
    writable: bool  # the library takes out[block] = value
    into: dict[str, Array]  # arrays to write results to, by slot name or "result"
    draws: Draws | None = None  # which random bits the tensor gets, if any are needed
    key: Any = None  # of this step's random bits
    prescale: float = 1.0

    partials: dict[str, Partial] = field(default_factory=dict)
    p: Any = None  # sqrt(mean(R)/R)
    q: Any = None  # 1/sqrt(C), times the gain of gradients where that `folds`
    measured: bool = False
    peak: Any = None  # mean of a full V that has not been stored yet
    fine: Any = None  # whether this tensor is finite: a bool or an array of one; None: it is
    counted: bool = False  # whether a kernel has moved `moments.skipped` along with the verdict
    before: Any = 1.0  # factors of U, of its average, and of X: see factors() in _formulas.py
    after: Any = 1.0
    decay: Any = 0.0

    new: Moments = NO_MOMENTS
    result: Array = None

    @property
    def alone(self) -> bool:
        """No reduction or decision stands between observe and the rest."""
        return not (self.whole.sharded or self.whole.normed or self.whole.guarded)

    @property
    def clips(self) -> bool:
        return self.options.clip_threshold is not None

    @property
    def on_gradient(self) -> bool:
        return self.options.beta1 is not None and self.options.momentum_on == "grad"

    @property
    def decays(self) -> bool:
        return not (isinstance(self.rates.weight_decay, float) and self.rates.weight_decay == 0.0)

    @property
    def wants_squares(self) -> bool:
        """Whether somebody asks for the gradient's norm."""
        return self.whole.normed or self.whole.options.telemetry

    @property
    def rounds(self) -> str:
        """How X + D is rounded; "nearest" also where the storing cast does it."""
        return self.options.rounding if is_narrow(self.param) else "nearest"

    @property
    def unit(self) -> float:
        """A power of two so small that the sum of (unit*G)**2 over the tensor cannot overflow."""
        return self.layout.unit()

    @property
    def measures(self) -> bool:
        """Whether U is measured before it is applied; telemetry alone can wait, on one process."""
        return self.clips or (self.whole.options.telemetry and self.whole.sharded)

    @property
    def folds(self) -> bool:
        """Whether the gain of gradients goes into `q`, at no cost, instead of into each element."""
        clamp = self.options.eps1_mode == "clamp"
        return self.layout.factored and not clamp and not self.on_gradient

    @property
    def gain(self) -> Any:
        """What every gradient element is to be multiplied by, None for 1."""
        return None if self.folds else self.here(self.whole.gain)

    @property
    def stays(self) -> Any:
        """Whether everything stays as it is, or may: False if nobody asks."""
        verdict = self.whole.fine if self.whole.fine is not None else self.fine
        if verdict is None or isinstance(verdict, bool):
            return verdict is False
        return self.xp.logical_not(move(verdict, self.param, verdict.dtype))

    def here(self, value: Any) -> Any:
        """A scalar of the whole step, for use with this tensor."""
        return None if value is None else move(value, self.param, self.dtype)

    def bits(self, x: Array, at: Shape, stream: int) -> Array:
        """Random bits for `x`, a block that starts `at`."""
        assert self.draws is not None
        return self.draws.bits(self.key, x, at, stream)

    def again(self, grad: Array, rates: Rates, whole: Whole, key: Any) -> None:
        """Readies the record for the next step of an in-place optimizer, whose arrays stay."""
        self.grad, self.rates, self.whole, self.key = grad, rates, whole, key
        self.partials, self.measured, self.peak = {}, False, None
        self.fine, self.counted = None, False
        self.new, self.result = NO_MOMENTS, None

    def out(self, name: str) -> Out:
        """Where the new value of a slot, or the "result", goes."""
        if name == "result":
            dtype = self.dtype if self.emit == "update" else self.param.dtype
            return Out(self.into.get(name), dtype)
        old = getattr(self.moments, name)
        shape = scale_shape(tuple(self.param.shape)) if name == "momentum_scale" else None
        return Out(self.into.get(name), old.dtype, shape)

    def put(self, name: str, value: Array) -> Array:
        """Keeps a small slot, in place where the caller gave its array up."""
        array = self.into.get(name)
        if array is None:
            return value
        assign(array, (), value)
        return array
