"""Whether a tensor's state in a file is the one that these options need, or else why it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._config import Config
from .._errors import StateError
from .._factoring import Layout
from .._numerics import Shape
from .._state import Moments, Slots, counts
from .._tree import some
from ._record import Record, TensorRecord
from ._schema import COUNTER


def by_path(record: Record, paths: Sequence[str]) -> list[TensorRecord]:
    """The tensors of a record in this order. Raises StateError that lists what differs."""
    known = {t.path: t for t in record.tensors}
    if known.keys() != set(paths):
        raise StateError(
            f"the state is of other tensors. Missing in it: {some(set(paths) - known.keys())}; "
            f"unknown to params: {some(known.keys() - set(paths))}. Rename them in one of the two: "
            f"they are matched by path, and the paths have to be the same."
        )
    if record.step >= COUNTER:
        raise StateError(f"the state has made {record.step} steps, and int32 cannot count on.")
    return [known[path] for path in paths]


def check_skips(record: Record, config: Config) -> None:
    """Raises StateError unless it counts skipped steps if and only if the options want it."""
    counted = record.skipped is not None
    if counts(config) != counted:
        has, needs = ("a", "none") if counted else ("no", "one")
        raise StateError(
            f"the state has {has} counter of skipped steps, nonfinite={config.nonfinite!r} needs "
            f"{needs}. {CONVERT.format(nonfinite_of(record))}"
        )


def nonfinite_of(record: Record) -> str:
    """The option under which the record was made, as far as it says."""
    by_default = "skip_tensor" if record.skipped is not None else "propagate"
    return f"nonfinite={record.options.get('nonfinite', by_default)!r}"


CONVERT = "Load it with {}, and go from there with convert_state(params, state, config)."


def fit(t: TensorRecord, plan: Layout, wanted: Slots) -> None:
    """Raises StateError unless this is the state of a tensor with these slots, whole ones."""
    what = f"the state of tensor {t.path!r}"
    if tuple(t.shape) != plan.shape:
        raise StateError(
            f"{what} is of shape {tuple(t.shape)}, the tensor itself of {plan.shape}. It belongs "
            f"to another model, or to a transposed weight: convert it with a name map."
        )
    axes, needed = (t.row_axes, t.col_axes), (plan.row_axes, plan.col_axes)
    if axes != needed:
        remedy = f"factored_dims={axes}" if t.row_axes else "factored=False"
        raise StateError(
            f"{what}, shape {plan.shape}, has {_factors(*axes)}; the config wants "
            f"{_factors(*needed)} ({plan.reason}). Use {remedy}, in a rule for it if others differ."
        )
    for name in Moments._fields[:-1]:
        has, want = t.slots.get(name), wanted.get(name)
        same = has is None and want is None
        if has is not None and want is not None:
            same = (has.dtype, tuple(has.shape)) == (_name(want.dtype), want.shape)
        if not same:
            raise StateError(
                f"{what}, shape {plan.shape}, has {name} {_words(has)}; the config needs it "
                f"{_words(want)}. {CONVERT.format(_option_of(name, t))}"
            )
    if ("skipped" in wanted) != (t.skipped is not None):
        has_, needs = ("no", "one") if t.skipped is None else ("a", "none")
        raise StateError(
            f"{what} has {has_} counter of skipped steps, the config needs {needs}. Use the "
            f"nonfinite option that it was saved with, and then convert_state."
        )


def _option_of(slot: str, t: TensorRecord) -> str:
    """Under which options a tensor has this slot as the record has it."""
    has = t.slots.get(slot)
    if slot in ("momentum", "momentum_scale"):
        buffer = t.slots.get("momentum")
        if buffer is None:
            return "beta1=None"
        dtype = "float32" if buffer.dtype == "float64" else buffer.dtype
        return f"a beta1 and momentum_dtype={dtype!r}"
    if slot == "compensation":
        return "rounding='nearest'" if has is None else "rounding='kahan'"
    return f"the tensor in {t.dtype}, as it was saved"


def _words(slot: Any) -> str:
    if slot is None:
        return "absent"
    return f"in {_name(slot.dtype)} of shape {tuple(slot.shape)}"


def _name(dtype: Any) -> str:
    """Of a Raw's dtype, and of a library's: NumPy's may be the class and not the dtype."""
    return str(getattr(dtype, "__name__", dtype)).rsplit(".", 1)[-1]


def _factors(rows: Shape, cols: Shape) -> str:
    return f"rows over axes {rows} and columns over {cols}" if rows else "a full second moment"
