"""Optimizer state: what is kept between steps, how it starts, and whether it fits."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._config import Config
from ._errors import StateError
from ._factoring import Layout, without
from ._numerics import (
    EPSILON,
    Array,
    DType,
    Namespace,
    Shape,
    device,
    dtype_called,
    dtype_name,
    is_narrow,
    wide_dtype,
)
from ._rounding import scale_shape


class Moments(NamedTuple):
    """The slots of one tensor; None where unused. A NamedTuple, so a pytree in torch and JAX.

    `row` has size 1 on the column axes, `col` size 1 on the row axes, `full` the tensor's shape:
    means of squared gradients, float32 (float64 for float64 tensors) whatever the tensor's dtype.
    `momentum` has the tensor's shape and `momentum_dtype`; for int8, `momentum_scale` has an entry
    per 128 of its last axis. `compensation` has the tensor's shape and dtype (`rounding="kahan"`).
    `skipped`, 0-D int32: at how many steps this tensor was not finite (`nonfinite="skip_..."`).
    """

    row: Array | None
    col: Array | None
    full: Array | None
    momentum: Array | None
    momentum_scale: Array | None = None
    compensation: Array | None = None
    skipped: Array | None = None


class State(NamedTuple):
    """`step`: completed steps, a 0-D int32 array or an int. `moments`: params' tree of Moments.

    `skipped`, like `step`: at how many steps a tensor or everything was skipped; None unless
    `nonfinite` is "skip_tensor" or "skip_step". `metrics`: params' tree of Metrics of the last
    step; None without `telemetry`.
    """

    step: Array | int
    moments: Any
    skipped: Array | int | None = None
    metrics: Any = None


NO_MOMENTS = Moments(None, None, None, None)


class Slot(NamedTuple):
    """Shape and dtype of one slot."""

    shape: Shape
    dtype: DType


Slots = dict[str, Slot]
"""The slots that a tensor has under its options, by the names of Moments."""


def slots(xp: Namespace, x: Array, plan: Layout, o: Config) -> Slots:
    """The slots for `x` (the local shard, if sharded). Raises DTypeError for a missing dtype."""
    dtype, shape = wide_dtype(xp, x), tuple(x.shape)
    if plan.factored:
        found = {
            "row": Slot(without(shape, plan.col_axes), dtype),
            "col": Slot(without(shape, plan.row_axes), dtype),
        }
    else:
        found = {"full": Slot(shape, dtype)}
    if o.beta1 is not None:
        wide_buffer = o.momentum_dtype == "float32"
        buffer = dtype if wide_buffer else dtype_called(xp, o.momentum_dtype, x)
        found["momentum"] = Slot(shape, buffer)
        if o.momentum_dtype == "int8":
            found["momentum_scale"] = Slot(scale_shape(shape), dtype)
    if o.rounding == "kahan" and is_narrow(x):
        found["compensation"] = Slot(shape, x.dtype)
    if counts(o):
        found["skipped"] = Slot((), xp.int32)
    return found


def named_slots(shape: Shape, dtype: str, plan: Layout, o: Config) -> Slots:
    """The slots of a tensor that is not at hand, with their dtypes by name."""
    return slots(_Named(), _Tensor(shape, dtype), plan, o)


class _Tensor(NamedTuple):
    shape: Shape
    dtype: str


class _Named:
    """A namespace whose dtypes are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


def counts(o: Config) -> bool:
    """Whether the state has counters of what was skipped."""
    return o.nonfinite in ("skip_tensor", "skip_step")


def draws_bits(o: Config, x: Array) -> bool:
    """Whether the tensor's step needs random bits."""
    rounded = o.rounding == "stochastic" and is_narrow(x)
    buffer = o.beta1 is not None and o.momentum_dtype != "float32"
    return rounded or (buffer and o.momentum_rounding == "stochastic")


def zeros(xp: Namespace, x: Array, plan: Layout, o: Config) -> Moments:
    """The state before the first step, on the device of `x`."""
    made = {
        name: xp.zeros(slot.shape, dtype=slot.dtype, device=device(x))
        for name, slot in slots(xp, x, plan, o).items()
    }
    return NO_MOMENTS._replace(**made)


REMEDY = (
    "use the config it was made with, convert_state(params, state, config), or start over with "
    "init(params, config)"
)


def check(moments: Any, wanted: Slots, path: str, remedy: str = REMEDY) -> None:
    """Raises StateError when `moments` are not those of this tensor under these options."""
    if not isinstance(moments, Moments):
        raise StateError(
            f"the state of tensor {path!r} is a {type(moments).__name__}, not Moments. "
            f"Pass the state that init() or the last step returned for these parameters."
        )
    for name, has in zip(Moments._fields, moments, strict=True):
        want = wanted.get(name)
        array: Any = has if hasattr(has, "shape") and hasattr(has, "dtype") else None
        got = has if array is None else Slot(tuple(array.shape), array.dtype)
        if want != got:
            raise StateError(
                f"the state of tensor {path!r} does not fit: {name} should be {_words(want)}, "
                f"got {_words(got)}. It was made for other shapes or options; {remedy}."
            )


def _words(slot: Any) -> str:
    if slot is None:
        return "absent"
    return (
        f"{slot[1]} of shape {slot[0]}" if isinstance(slot, tuple) else f"a {type(slot).__name__}"
    )


def eps1(x: Array, o: Config) -> float:
    """eps1 as a number. "finfo" is resolved per tensor: torch.optim lets the first one's stick."""
    return EPSILON[dtype_name(x)] if o.eps1 == "finfo" else float(o.eps1)
