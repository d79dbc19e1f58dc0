"""memory_report: what the state of these parameters costs, before any of it is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._config import Config, as_config, resolve
from ._errors import DTypeError
from ._factoring import Shape, layout
from ._numerics import WIDTHS, dtype_name, wide_name
from ._state import named_slots
from ._tree import Tree, check_dtype, flatten


class TensorMemory(NamedTuple):
    """One tensor. Sizes in bytes; axes are () where the second moment is kept in full."""

    path: str
    shape: Shape
    dtype: str
    row_axes: Shape
    col_axes: Shape
    reason: str
    param_bytes: int
    state_bytes: int
    adam_bytes: int  # two full slots in the compute dtype


class MemoryReport(NamedTuple):
    """All tensors; `print(report)` shows a table. Counters (4 bytes each) are not counted."""

    tensors: tuple[TensorMemory, ...]

    @property
    def param_bytes(self) -> int:
        return sum(t.param_bytes for t in self.tensors)

    @property
    def state_bytes(self) -> int:
        return sum(t.state_bytes for t in self.tensors)

    @property
    def adam_bytes(self) -> int:
        return sum(t.adam_bytes for t in self.tensors)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("tensor", "shape", "dtype", "factored", "param", "state", "Adam", "why")
        ]
        rows += [
            (
                t.path or "(array)", str(t.shape), t.dtype,
                f"{axes_text(t.row_axes)} x {axes_text(t.col_axes)}" if t.row_axes else "no",
                *map(size_text, (t.param_bytes, t.state_bytes, t.adam_bytes)), t.reason,
            )
            for t in self.tensors
        ]  # fmt: skip
        sizes = map(size_text, (self.param_bytes, self.state_bytes, self.adam_bytes))
        rows.append(("total", "", "", "", *sizes, ""))
        return table(rows)


def memory_report(params: Tree, config: Config | None = None) -> MemoryReport:
    """State bytes per tensor, the axes factored and why, beside Adam's.

    `params`: as for init, or anything with `.shape` and `.dtype` at the leaves
    (jax.ShapeDtypeStruct, meta tensors). Allocates nothing. Raises ConfigError, DTypeError or
    ShapeError.
    """
    leaves = flatten(params)
    options = resolve(as_config(config), leaves.paths)
    columns = zip(leaves.paths, leaves.arrays, options, strict=True)
    return MemoryReport(tuple(_tensor(path, x, o) for path, x, o in columns))


def _tensor(path: str, x: Any, o: Config) -> TensorMemory:
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise DTypeError(
            f"tensor {path!r} is a {type(x).__name__}, expected an array or anything with .shape "
            f"and .dtype."
        )
    check_dtype(x, path)
    shape: Shape = tuple(x.shape)
    dtype = dtype_name(x)
    plan = layout(shape, o, path)
    found = named_slots(shape, dtype, plan, o)
    found.pop("skipped", None)
    state = sum(math.prod(slot.shape) * WIDTHS[slot.dtype] for slot in found.values())
    n = math.prod(shape)
    return TensorMemory(
        path, shape, dtype, plan.row_axes, plan.col_axes, plan.reason,
        n * WIDTHS[dtype], state, 2 * n * WIDTHS[wide_name(dtype)],
    )  # fmt: skip


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, their columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(n) for c, n in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)


def axes_text(axes: Shape) -> str:
    """Axes for a table."""
    return ",".join(map(str, axes))


def size_text(n: int) -> str:
    """Bytes for a table."""
    if n < 10_000:
        return f"{n} B"
    if n < 1_000_000:
        return f"{n / 1e3:.1f} kB"
    return f"{n / 1e6:.1f} MB" if n < 10_000_000_000 else f"{n / 1e9:.1f} GB"
