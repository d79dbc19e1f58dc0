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
    wide_dtype,
)


class Moments(NamedTuple):
    """The slots of one tensor; None where unused. A NamedTuple, so a pytree in torch and JAX.

    `row` has size 1 on the column axes, `col` size 1 on the row axes, `full` the tensor's shape:
    means of squared gradients, float32 (float64 for float64 tensors) whatever the tensor's dtype.
    `momentum` has the tensor's shape and `momentum_dtype`.
    """

    row: Array | None
    col: Array | None
    full: Array | None
    momentum: Array | None


class State(NamedTuple):
    """`step`: completed steps, a 0-D int32 array or an int. `moments`: params' tree of Moments."""

    step: Array | int
    moments: Any


class Slot(NamedTuple):
    """Shape and dtype of one slot."""

    shape: Shape
    dtype: DType


class Slots(NamedTuple):
    """The slots that a tensor has under its options, by the names of Moments."""

    row: Slot | None
    col: Slot | None
    full: Slot | None
    momentum: Slot | None


def slots(xp: Namespace, x: Array, plan: Layout, o: Config) -> Slots:
    """The slots for `x` (the local shard, if sharded). Raises DTypeError for a missing dtype."""
    dtype, shape = wide_dtype(xp, x), tuple(x.shape)
    row = Slot(without(shape, plan.col_axes), dtype) if plan.factored else None
    col = Slot(without(shape, plan.row_axes), dtype) if plan.factored else None
    full = None if plan.factored else Slot(shape, dtype)
    if o.beta1 is None:
        return Slots(row, col, full, None)
    wide_buffer = o.momentum_dtype == "float32"
    buffer = dtype if wide_buffer else dtype_called(xp, o.momentum_dtype, x)
    return Slots(row, col, full, Slot(shape, buffer))


def zeros(xp: Namespace, x: Array, plan: Layout, o: Config) -> Moments:
    """The state before the first step, on the device of `x`."""

    def make(slot: Slot | None) -> Array | None:
        if slot is None:
            return None
        return xp.zeros(slot.shape, dtype=slot.dtype, device=device(x))

    return Moments(*map(make, slots(xp, x, plan, o)))


def check(moments: Any, wanted: Slots, path: str) -> None:
    """Raises StateError when `moments` are not those of this tensor under these options."""
    if not isinstance(moments, Moments):
        raise StateError(
            f"the state of tensor {path!r} is a {type(moments).__name__}, not Moments. "
            f"Pass the state that init() or the last step returned for these parameters."
        )
    for name, slot, has in zip(Moments._fields, wanted, moments, strict=True):
        want = None if slot is None else (slot.shape, slot.dtype)
        array: Any = has if hasattr(has, "shape") and hasattr(has, "dtype") else None
        got = has if array is None else (tuple(array.shape), array.dtype)
        if want != got:
            raise StateError(
                f"the state of tensor {path!r} does not fit: {name} should be {_words(want)}, "
                f"got {_words(got)}. It was made for other shapes or options; "
                f"use the config it was made with, or start over with init(params, config)."
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
