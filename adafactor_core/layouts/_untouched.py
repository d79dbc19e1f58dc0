"""Tensors that no gradient has reached: torch keeps nothing for them, a Record zeros."""

from __future__ import annotations

from collections.abc import Sequence

from .._config import Config
from .._factoring import layout, without
from .._rounding import scale_shape
from ..interchange import Record, TensorRecord
from ..interchange._arrays import zeros
from ._find import by_tensor
from ._format import Format
from ._params import Param
from ._retarget import wide


def begun(fmt: Format, param: Param, o: Config, others: Sequence[TensorRecord]) -> TensorRecord:
    """What `fmt` would begin with for `param`; with momentum where `others` have it, or `o` says.

    Its step is 0 where tensors count for themselves, None where their group counts.
    """
    path, shape, dtype = param
    plan, means = layout(shape, o, path), wide(dtype)
    if plan.factored:
        rows, cols = without(shape, plan.col_axes), without(shape, plan.row_axes)
        held = {"row": zeros(means, rows), "col": zeros(means, cols)}
    else:
        held = {"full": zeros(means, shape)}
    buffer = _buffer(fmt, o, others)
    if buffer is not None:
        narrow = buffer in ("int8", "bfloat16", "float16")
        held["momentum"] = zeros(buffer if narrow else means, shape)
        if buffer == "int8":
            held["momentum_scale"] = zeros(means, scale_shape(shape))
    if fmt.ours and o.rounding == "kahan" and dtype in ("float16", "bfloat16"):
        held["compensation"] = zeros(dtype, shape)
    counts = fmt.ours and o.nonfinite in ("skip_tensor", "skip_step")
    alone = any("{id}" in key and by_tensor(key) for key in fmt.counters)
    return TensorRecord(
        *param,
        plan.row_axes,
        plan.col_axes,
        held,
        0 if counts else None,
        0 if alone else None,
    )


def untouched(t: TensorRecord, record: Record) -> bool:
    """Whether a tensor has begun and no more, where others have gone on: all of it is zeros."""
    return t.step == 0 and record.step > 0 and not t.skipped


def _buffer(fmt: Format, o: Config, others: Sequence[TensorRecord]) -> str | None:
    """The dtype of momentum."""
    if fmt.ours:
        return None if o.beta1 is None else o.momentum_dtype
    kept = [t.slots["momentum"].dtype for t in others if "momentum" in t.slots]
    return kept[0] if kept else None
