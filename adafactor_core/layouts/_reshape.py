"""A Record under other options."""

from __future__ import annotations

from dataclasses import replace

from .._config import Config, resolve
from .._factoring import layout
from .._numerics import wide_name
from .._state import counts, named_slots
from ..interchange import Record, TensorRecord
from ..interchange._options import options_of
from ._retarget import Losses, Target, retargeted


def reshaped(
    record: Record, config: Config, *, momentum: bool = True, approximate: bool = False
) -> Record:
    """`record` with the axes, momentum and rounding of `config`: what its step needs.

    Exact, to the last bit, where axes are the same or change places; to rounding, where a full
    second moment is averaged over axes, which is what the factored one would have been. Anything
    else raises StateError, naming the tensor: a full moment or other axes have to be rebuilt from
    rows and columns, momentum is missing, dropped or rounded. With `approximate` it is done and
    listed in `notes`; `momentum=False` leaves momentum behind, so that it starts at 0 where
    `config` wants it. Momentum of another kind (`momentum_on`) raises in any case.
    """
    lose = Losses(approximate)
    made = []
    for t, o in zip(record.tensors, resolve(config, [t.path for t in record.tensors]), strict=True):
        plan = layout(t.shape, o, t.path)
        wanted = named_slots(t.shape, t.dtype, plan, o)
        to = Target(
            plan.row_axes,
            plan.col_axes,
            wide_name(t.dtype),
            wanted["momentum"].dtype if "momentum" in wanted else None,
            o.momentum_on,
            compensation="compensation" in wanted,
            counts=counts(o),
            afresh=not momentum,
        )
        old = t if momentum else still(t)
        made.append(
            TensorRecord(
                t.path,
                t.shape,
                t.dtype,
                plan.row_axes,
                plan.col_axes,
                retargeted(old, record, to, lose),
                (t.skipped or 0) if counts(o) else None,
                t.step,
            )
        )
    return replace(
        record,
        tensors=tuple(made),
        skipped=(record.skipped or 0) if counts(config) else None,
        variant="",
        options=options_of(config),
        notes=(*record.notes, *lose.notes()),
    )


def still(t: TensorRecord) -> TensorRecord:
    """Without momentum."""
    kept = {name: a for name, a in t.slots.items() if not name.startswith("momentum")}
    return replace(t, slots=kept)
