"""A Record under other names, with axes in another order where the other model has them so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from .._errors import ShapeError, StateError, TreeError
from .._numerics import Shape
from .._tree import some
from ..interchange import Raw, Record, TensorRecord
from ._numbers import permuted

New = str | tuple[str, Sequence[int] | None]
NameMap = Mapping[str, New] | Callable[[str], New]
"""Old path -> new path, or (new path, axes): axis k of the new tensor is `axes[k]` of the old."""

LINEAR = (1, 0)
"""A linear layer's weight, (out, in) in torch and (in, out) in flax."""


def to_channels_last(rank: int) -> Shape:
    """A convolution's weight of this rank: (out, in, *window) in torch, (*window, in, out) in
    flax."""
    return (*range(2, rank), 1, 0)


def inverse(names: Mapping[str, New]) -> dict[str, New]:
    """The map of the way back."""
    out: dict[str, New] = {}
    for old, new in names.items():
        path, axes = _pair(new)
        out[path] = old if axes is None else (old, tuple(axes.index(k) for k in range(len(axes))))
    return out


def renamed(record: Record, names: NameMap) -> Record:
    """`record` for a model that calls its tensors otherwise, or has their axes in another order.

    Everything moves along: factored axes, rows, columns, momentum, compensation. Nothing is
    rounded. Only what has to be permuted is copied, one array at a time, when it is read. Raises
    TreeError for a tensor without a new name and for a name given twice; ShapeError for axes that
    are no permutation; StateError for int8 momentum whose last axis moves, because its scales are
    of 128 entries of that axis.
    """
    if isinstance(names, Mapping):
        missing = {t.path for t in record.tensors} - names.keys()
        unknown = names.keys() - {t.path for t in record.tensors}
        if missing or unknown:
            raise TreeError(
                f"the name map is for other tensors. Without a new name: {some(missing)}; not in "
                f"the record: {some(set(unknown))}."
            )
    tensors = []
    for t in record.tensors:
        new = names[t.path] if isinstance(names, Mapping) else names(t.path)
        tensors.append(_moved(t, *_pair(new)))
    paths = [t.path for t in tensors]
    if len(set(paths)) != len(paths):
        twice = next(p for p in paths if paths.count(p) > 1)
        raise TreeError(f"the name map has {twice!r} for two tensors. Give each its own.")
    rules = record.options.get("rules")
    options = {k: v for k, v in record.options.items() if k != "rules"}
    if rules:
        options["rules"] = _rules(rules, record.tensors, tensors)
    return replace(record, tensors=tuple(tensors), options=options)


def _pair(new: Any) -> tuple[str, Shape | None]:
    if isinstance(new, str):
        return new, None
    path, axes = new
    return path, None if axes is None else tuple(int(a) for a in axes)


def _moved(t: TensorRecord, path: str, axes: Shape | None) -> TensorRecord:
    if axes is None:
        return replace(t, path=path)
    if sorted(axes) != list(range(len(t.shape))):
        raise ShapeError(
            f"tensor {t.path!r} of shape {t.shape}: {axes} is no order of its axes. Give each of "
            f"{tuple(range(len(t.shape)))} once."
        )
    if "momentum_scale" in t.slots and axes[-1:] != (len(axes) - 1,):
        raise StateError(
            f"tensor {t.path!r} of shape {t.shape} has int8 momentum, whose scales belong to its "
            f"last axis, and {axes} moves that. Make it float32 first, with reshaped()."
        )
    slots: dict[str, Raw] = {s: permuted(raw, axes, t.path) for s, raw in t.slots.items()}
    return replace(
        t,
        path=path,
        shape=tuple(t.shape[a] for a in axes),
        row_axes=tuple(sorted(axes.index(a) for a in t.row_axes)),
        col_axes=tuple(sorted(axes.index(a) for a in t.col_axes)),
        slots=slots,
    )


def _rules(
    rules: Any, before: Sequence[TensorRecord], after: Sequence[TensorRecord]
) -> list[list[Any]]:
    """By new paths: a pattern over the old ones says nothing about them."""
    out = []
    for old, new in zip(before, after, strict=True):
        for pattern, options in rules:
            if fnmatchcase(old.path, pattern):
                out.append([new.path, options])
                break
    return out
