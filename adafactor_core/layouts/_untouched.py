"""Tensors that no gradient has reached: torch keeps nothing for them, a Record zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._config import Config
from .._factoring import layout
from .._numerics import NARROW
from .._state import named_slots
from ..interchange import Record, TensorRecord
from ..interchange._arrays import zeros
from ._find import by_tensor
from ._format import Format
from ._params import Param


def begun(fmt: Format, param: Param, o: Config, others: Sequence[TensorRecord]) -> TensorRecord:
    """What `fmt` would begin with for `param`; with momentum where `others` have it, or `o` says.

    Its step is 0 where tensors count for themselves, None where their group counts.
    """
    plan = layout(param.shape, o, param.path)
    wanted = named_slots(param.shape, param.dtype, plan, o if fmt.ours else _like(o, others))
    held = {name: zeros(s.dtype, s.shape) for name, s in wanted.items() if name != "skipped"}
    alone = any("{id}" in key and by_tensor(key) for key in fmt.counters)
    return TensorRecord(
        *param,
        plan.row_axes,
        plan.col_axes,
        held,
        0 if "skipped" in wanted else None,
        0 if alone else None,
    )


def _like(o: Config, others: Sequence[TensorRecord]) -> Config:
    """`o`, with momentum as the others have it, and no more slots than that."""
    kept = [t.slots["momentum"].dtype for t in others if "momentum" in t.slots]
    dtype = kept[0] if kept and kept[0] in NARROW else "float32"
    return replace(
        o, beta1=0.0 if kept else None, momentum_dtype=dtype, rounding="nearest",
        nonfinite="propagate",
    )  # fmt: skip


def untouched(t: TensorRecord, record: Record) -> bool:
    """Whether a tensor has begun and no more, where others have gone on: all of it is zeros."""
    return t.step == 0 and record.step > 0 and not t.skipped
