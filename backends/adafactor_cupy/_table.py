"""A batch of tensors as tables that kernels walk, with the room for their partial sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from adafactor_core import Work
from adafactor_core._box import box, last
from adafactor_core._numerics import dtype_name
from adafactor_core._prepare import claimed
from adafactor_core._rounding import name_word

from . import _cut as c

Array = Any
Host = np.ndarray[Any, Any]
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # as the kernels call them


class Instance(NamedTuple):
    """What kernels are compiled for: names of DTYPES, `m` of the momentum or "" without one."""

    x: str
    g: str
    m: str
    rounding: str


class Kernels(Protocol):
    """Kernels of this package on the current device and stream."""

    def launch(self, instance: Instance, name: str, blocks: int, arguments: Sequence[Any]) -> None:
        """`arguments`: NumPy scalars."""
        ...

    def upload(self, values: Host) -> Array:
        """A copy on the device, which later launches find there; the host does not wait."""
        ...

    def room(self, entries: int) -> Array:
        """Float32 memory, not filled."""
        ...

    def address(self, x: Array) -> int: ...


class Table(list[Work]):
    """Tensors with one set of options and dtypes."""

    def __init__(self, works: Sequence[Work], kernels: Kernels) -> None:
        super().__init__(works)
        self._kernels = kernels
        first = works[0]
        self.options, self.clips = first.options, first.clips
        self.normed = first.whole.normed
        self.factored = [w.layout.factored for w in works]
        x, g = (DTYPES[dtype_name(a)] for a in (first.param, first.grad))
        held = first.moments.momentum
        m = "" if held is None else DTYPES[dtype_name(held)]
        self._instance = Instance(x, g, m, first.rounds)
        self._new = [claimed(w) for w in self]
        self._seen: list[int] = []
        self._held: list[Array] = []
        self._grads: Array = None
        self._lay_out()

    def _lay_out(self) -> None:
        boxes = [box(w) for w in self]
        how = c.cuts(
            boxes, self.factored, self[0].param.dtype.itemsize, self.options.max_scratch_bytes
        )
        total = sum(b.a * b.r * b.length for b in boxes)
        coarse: list[c.Item] = []
        fine: list[c.Item] = []
        thin: list[c.Item] = []
        ints, numbers, at = [], [], [0] * 5  # of outer, inner, p, q, means
        for t, (w, b, cut, f) in enumerate(zip(self, boxes, how, self.factored, strict=True)):
            mine = c.coarse(t, b, cut, f)
            other = c.fine(t, b, b.a * b.r * b.length / total, f)
            lanes, tiles = (max(item[k] for item in mine) + 1 for k in (6, 7))
            rows, cols = (b.rows, b.cols) if f else (0, 0)
            chunks = -(-b.r // cut.chunk)
            ints.append(
                (
                    b.r, b.c, b.d, b.b * b.d, b.length, b.a * b.r * b.length, int(f), at[0], rows,
                    at[1], cols, tiles, lanes, at[2], at[3], at[4], chunks, last(w),
                    name_word(w.path), len(coarse), len(mine), len(fine), len(other),
                )
            )  # fmt: skip
            numbers.append(self._numbers(w, b.c, b.r))
            coarse += [(*item, len(coarse) + k) for k, item in enumerate(mine)]
            fine += [(*item, len(fine) + k) for k, item in enumerate(other)]
            if f:
                thin += c.statistics(t, b, cut)
                sizes = (rows * tiles, cols * lanes, rows, cols, b.a * b.b * b.d * chunks)
                at = [start + size for start, size in zip(at, sizes, strict=True)]
        up, room = self._kernels.upload, self._kernels.room
        self._items = {
            name: (len(items), up(np.array(items, np.int64))) if items else (0, None)
            for name, items in (("observe", coarse), ("measure", fine), ("advance", thin))
        }
        self._items["apply"] = self._items["measure"]
        none = self._items["observe"][1]
        self._items |= {
            "scale": (len(self), none),
            "squares": (len(self), none),
            "total": (1, none),
        }
        self._tables = [
            up(np.array(rows, dtype))
            for rows, dtype in (
                (ints, np.int64),
                (
                    [self._addresses(w, b.swapped) for w, b in zip(self, boxes, strict=True)],
                    np.int64,
                ),
                (numbers, np.float32),
            )
        ]
        self.outer, self.inner, self.p, self.q, self.means = (room(max(1, n)) for n in at)
        self.x2, self.u2 = room(len(coarse)), room(len(fine))
        self.factors = room(3 * len(self))
        self.g2, self.norms, self.norm = (
            room(n if self.normed else 1) for n in (len(coarse), len(self), 1)
        )

    def _numbers(self, w: Work, c_size: int, r_size: int) -> tuple[float, ...]:
        mode, unscale = w.options.eps1_mode, 1.0 / w.prescale**2
        inside, after = (w.eps1 if mode == name else 0.0 for name in ("grad_sq", "stats"))
        entries = math.prod(w.layout.shape)
        per = (unscale / c_size, unscale / r_size, 1.0 / r_size)
        return (w.prescale, *per, inside, after, 1.0 / entries, w.unit, w.whole.unit / w.unit)

    def _addresses(self, w: Work, swapped: bool) -> tuple[int, ...]:
        outer, inner = ("col", "row") if swapped else ("row", "col")
        names = ("result", outer, inner, "full", "momentum", "compensation")
        return tuple(self._kernels.address(w.into[n]) if n in w.into else 0 for n in names)

    def refresh(self) -> None:
        """Tells the device where the gradients are, if that has changed."""
        self._held.clear()
        addresses = [self._kernels.address(w.grad) for w in self]
        if addresses != self._seen:
            self._grads = self._kernels.upload(np.array(addresses, np.int64))
            self._seen = addresses

    @property
    def grads(self) -> np.int64:
        return self.at(self._grads)

    def at(self, array: Array) -> np.int64:
        """As an argument of a kernel."""
        return np.int64(self._kernels.address(array))

    def rate(self, value: Any) -> tuple[Any, Any]:
        """A scalar of the step as two arguments: a number, or where it lies on the device."""
        if value is None or isinstance(value, int | float):
            return np.float32(1.0 if value is None else value), np.int64(0)
        self._held.append(value)  # not to be freed before the launch that reads it is queued
        return np.float32(0.0), self.at(value)

    def launch(self, name: str, *arguments: Any) -> None:
        blocks, items = self._items[name]
        if blocks:
            tables = [self.at(a) for a in (*self._tables, items)]
            self._kernels.launch(self._instance, name, blocks, (*tables, *arguments))

    def finish(self) -> None:
        """Hands the results over where the core looks for them."""
        for w, new in zip(self, self._new, strict=True):
            w.result, w.new = w.into["result"], new
