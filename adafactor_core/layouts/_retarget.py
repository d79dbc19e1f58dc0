"""One tensor's slots under other axes and dtypes: exact where they can be, else only on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from .._errors import StateError
from .._factoring import without
from .._numerics import Shape, wide_name
from .._rounding import dequantised, quantised, scale_shape
from .._tree import some
from ..interchange import Raw, Record, TensorRecord
from ..interchange._arrays import numpy, zeros
from ..interchange._raw import computed
from ._numbers import converted, encoded, rebuilt, reduced, survives, values


class Target(NamedTuple):
    """What a tensor's state has to be. `momentum`: its dtype, None without; `afresh`: whether it
    may start at 0 without a word."""

    row_axes: Shape
    col_axes: Shape
    statistics: str
    momentum: str | None
    momentum_on: str
    compensation: bool = False
    counts: bool = False
    afresh: bool = False


class Losses:
    """What cannot be converted exactly: an error, or a note where that was asked for."""

    def __init__(self, approximate: bool) -> None:
        self._approximate = approximate
        self._found: dict[str, list[str]] = {}

    def __call__(self, path: str, what: str, instead: str = "") -> None:
        """Raises StateError unless `approximate`."""
        if not self._approximate:
            advice = f"{instead} Or " if instead else ""
            raise StateError(
                f"tensor {path!r} cannot be converted exactly: {what}. {advice}"
                f"{'pass' if advice else 'Pass'} approximate=True to have it so."
            )
        self._found.setdefault(what, []).append(path)

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{what}: {some(set(paths))}" for what, paths in self._found.items())


def momentum_on(options: Mapping[str, Any], path: str) -> str:
    """What the momentum of this tensor is the average of, by the options of a Record."""
    base = str(options.get("momentum_on", "scaled_update"))
    for pattern, rule in options.get("rules", ()):
        if fnmatchcase(path, pattern):
            return str(rule.get("momentum_on", base))
    return base


def retargeted(t: TensorRecord, record: Record, to: Target, lose: Losses) -> dict[str, Raw]:
    """The slots of `t` as `to` wants them. Raises StateError for what cannot be."""
    out = statistics(t, to, lose)
    out |= _momentum(t, record, to, lose)
    kept = t.slots.get("compensation")
    if kept is not None and not to.compensation and not _all_zero(kept):
        lose(
            t.path,
            "what rounding has cut off so far (compensation) is dropped",
            "Add it to the parameter in float32 first, which loses nothing.",
        )
    if to.compensation:
        out["compensation"] = zeros(t.dtype, t.shape) if kept is None else kept
    if t.skipped and not to.counts:
        lose(t.path, "the number of its skipped steps is dropped, and with it the age of its decay")
    return out


def cast(raw: Raw, dtype: str, path: str, name: str, lose: Losses) -> Raw:
    """In `dtype`; a loss unless every number survives."""
    if raw.dtype != dtype and not survives(raw, dtype):
        lose(path, f"{name} is rounded from {raw.dtype} to {dtype}", _ADVICE.get(name, ""))
    return converted(raw, dtype)


_ADVICE = {
    "momentum": "Choose its dtype with options={'momentum_dtype': 'float32'}, and build the "
    "optimizer so.",
}


def statistics(t: TensorRecord, to: Target, lose: Losses) -> dict[str, Raw]:
    """row and col, or full."""
    slots = t.slots
    axes = {"row": to.col_axes, "col": to.row_axes} if to.row_axes else {"full": ()}
    if (t.row_axes, t.col_axes) == (to.row_axes, to.col_axes):
        found = {name: slots[name] for name in axes}
    elif t.row_axes and (t.row_axes, t.col_axes) == (to.col_axes, to.row_axes):
        found = {"row": slots["col"], "col": slots["row"]}
    else:
        full = _full(t, lose)
        dtype = wide_name(t.dtype)
        found = {name: _reduced(full, t.shape, drop, dtype) for name, drop in axes.items()}
    return {name: cast(raw, to.statistics, t.path, name, lose) for name, raw in found.items()}


def _full(t: TensorRecord, lose: Losses) -> Callable[[], Any]:
    """The second moment of every element, when called."""
    slots = t.slots
    if not t.row_axes:
        return lambda: values(slots["full"])
    row, col, row_axes = slots["row"], slots["col"], t.row_axes
    if all(t.shape[a] == 1 for a in t.row_axes):  # col was averaged over nothing
        return lambda: values(col).reshape(t.shape)
    if all(t.shape[a] == 1 for a in t.col_axes):
        return lambda: values(row).reshape(t.shape)
    lose(
        t.path,
        "its second moment is rebuilt from rows and columns, R C / mean(R), because the axes "
        "differ",
        "Use factored_dims and min_dim_size_to_factor that give it the axes "
        f"{t.row_axes} and {t.col_axes}.",
    )
    return lambda: rebuilt(values(row), values(col), row_axes)


def _reduced(full: Callable[[], Any], shape: Shape, axes: Shape, dtype: str) -> Raw:
    made = without(shape, axes)

    def make() -> bytes:
        v = full()
        return encoded((reduced(v, axes) if axes else v).reshape(-1), dtype)

    return computed(dtype, made, make)


def _momentum(t: TensorRecord, record: Record, to: Target, lose: Losses) -> dict[str, Raw]:
    m, scale = t.slots.get("momentum"), t.slots.get("momentum_scale")
    if m is not None and to.momentum is None:
        lose(t.path, "its momentum is dropped: the target keeps none")
        return {}
    if to.momentum is None:
        return {}
    if m is None:
        if record.step and not to.afresh:
            lose(
                t.path,
                "momentum starts at 0: the source kept none",
                "Build the target without momentum.",
            )
        m, scale = zeros(wide_name(t.dtype), t.shape), None
        if to.momentum == "int8":
            scales = zeros(wide_name(t.dtype), scale_shape(t.shape))
            return {"momentum": zeros("int8", t.shape), "momentum_scale": scales}
    elif record.step and (has := momentum_on(record.options, t.path)) != to.momentum_on:
        raise StateError(
            f"tensor {t.path!r}: its momentum is an average of {_OF[has]}, the target's of "
            f"{_OF[to.momentum_on]}, and the one does not follow from the other. Leave it behind "
            f"with momentum=False."
        )
    if to.momentum == m.dtype == "int8":
        assert scale is not None
        return {"momentum": m, "momentum_scale": scale}
    if scale is not None:
        m = _dequantised(m, scale, wide_name(t.dtype))
    if to.momentum != "int8":
        return {"momentum": cast(m, to.momentum, t.path, "momentum", lose)}
    lose(t.path, f"momentum is rounded from {m.dtype} to int8", _ADVICE["momentum"])
    return _quantised(m, wide_name(t.dtype))


_OF = {
    "scaled_update": "updates times step sizes ('scaled_update')",
    "update": "updates before the step size ('update')",
    "grad": "gradients ('grad')",
}


def _dequantised(m: Raw, scale: Raw, dtype: str) -> Raw:
    def make() -> bytes:
        q = values(m).astype(dtype)
        return encoded(dequantised(numpy(), q, values(scale)).reshape(-1), dtype)

    return computed(dtype, m.shape, make)


def _quantised(m: Raw, dtype: str) -> dict[str, Raw]:
    def both() -> tuple[Any, Any]:
        tiny = float(numpy().finfo(dtype).tiny)
        q, scale = quantised(numpy(), values(m).astype(dtype), None, tiny)
        return q.astype("int8"), scale

    return {
        "momentum": computed("int8", m.shape, lambda: encoded(both()[0], "int8")),
        "momentum_scale": computed(dtype, scale_shape(m.shape), lambda: encoded(both()[1], dtype)),
    }


def _all_zero(raw: Raw) -> bool:
    return not any(any(bytes(chunk)) for chunk in raw.chunks())
