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

    def room(self, entries: int, dtype: str = "float32") -> Array:
        """Memory, not filled."""
        ...

    def address(self, x: Array) -> int: ...


class Table(list[Work]):
    """Tensors with one set of options and dtypes."""

    def __init__(self, works: Sequence[Work], kernels: Kernels) -> None:
        super().__init__(works)
        self._kernels = kernels
        first = works[0]
        self.options, self.clips = first.options, first.clips
        self.normed, self.guarded = first.whole.normed, first.whole.guarded
        self.factored = [w.layout.factored for w in works]
        x, g = (DTYPES[dtype_name(a)] for a in (first.param, first.grad))
        held = first.moments.momentum
        m = "" if held is None else DTYPES[dtype_name(held)]
        self._instance = Instance(x, g, m, first.rounds)
        self._new = [claimed(w) for w in self]
        self._held: list[Array] = []
        self._sent: dict[str, tuple[list[Any], Array]] = {}
        self.verdicts: list[Array] = []
        self._lay_out()

    def _lay_out(self) -> None:
        boxes = [box(w) for w in self]
        waits, limit = self.guarded, self.options.max_scratch_bytes
        how = c.cuts(boxes, self.factored, self[0].param.dtype.itemsize, limit, waits)
        total = sum(b.a * b.r * b.length for b in boxes)
        coarse: list[c.Item] = []
        fine: list[c.Item] = []
        thin: list[c.Item] = []
        scopes: list[c.Item] = []
        ints, numbers, thins, at = [], [], [], [0] * 5  # of outer, inner, p, q, means
        for t, (w, b, cut, f) in enumerate(zip(self, boxes, how, self.factored, strict=True)):
            mine = c.coarse(t, b, cut, f)
            other = c.fine(t, b, b.a * b.r * b.length / total, f)
            small = c.statistics(t, b, cut) if f else []
            runs = (len(coarse), len(mine)), (len(fine), len(other))
            own = c.scopes(t, b, self._sliced(w), *runs)
            lanes, tiles = (max(item[k] for item in mine) + 1 for k in (6, 7))
            rows, cols = (b.rows, b.cols) if f else (0, 0)
            chunks = -(-b.r // cut.chunk)
            ints.append(
                (
                    b.r, b.c, b.d, b.b * b.d, b.length, b.a * b.r * b.length, int(f), at[0], rows,
                    at[1], cols, tiles, lanes, at[2], at[3], at[4], chunks, last(w),
                    name_word(w.path), *runs[0], *runs[1], len(scopes), len(own), len(thin),
                    len(small),
                )
            )  # fmt: skip
            numbers.append(self._numbers(w, b.c, b.r))
            thins.append((at[2], at[3]))
            coarse += [(*item, len(coarse) + k) for k, item in enumerate(mine)]
            fine += [(*item, len(fine) + k) for k, item in enumerate(other)]
            thin += small
            scopes += own
            if f:
                sizes = (rows * tiles, cols * lanes, rows, cols, b.a * b.b * b.d * chunks)
                at = [start + size for start, size in zip(at, sizes, strict=True)]
        up, room = self._kernels.upload, self._kernels.room
        lists = {"observe": coarse, "measure": fine, "advance": thin, "scale": scopes}
        self._items = {
            name: (len(items), up(np.array(items, np.int64))) if items else (0, None)
            for name, items in lists.items()
        }
        self._items["apply"] = self._items["measure"]
        none = self._items["observe"][1]
        self._items |= {name: (len(self), none) for name in ("squares", "judge", "metrics")}
        self._items["total"], self.scopes = (1, none), self._items["scale"][1]
        # Where new averages wait until it is settled whether the tensor moves.
        self.waiting = room(at[2] + at[3] + 1 if waits else 1)
        start = self._kernels.address(self.waiting)
        places = [
            self._addresses(w, b.swapped, (start + 4 * p, start + 4 * (at[2] + q)) if waits else ())
            for w, b, (p, q) in zip(self, boxes, thins, strict=True)
        ]
        self._tables = [
            up(np.array(ints, np.int64)),
            up(np.array(places, np.int64)),
            up(np.array(numbers, np.float32)),
        ]
        self.outer, self.inner, self.p, self.q, self.means = (room(max(1, n)) for n in at)
        self.x2, self.u2 = room(len(coarse)), room(len(fine))
        self.factors = room(7 * len(scopes))
        self.g2 = room(len(coarse) if self[0].wants_squares else 1)
        self.peaks, self.odd = (room(max(1, len(x)) if waits else 1) for x in (coarse, thin))
        self.marks, self.norms, self.norm = room(len(self)), room(len(self)), room(1)
        self.fine, self.bad = room(len(self), "bool"), room(1, "int32")
        if waits:
            self.verdicts = [self.fine[k : k + 1] for k in range(len(self))]

    def _sliced(self, w: Work) -> tuple[bool, bool]:
        """Whether RMS(X), and RMS(U), are those of each slice along the batch axes."""
        o, batched = w.options, bool(w.layout.batch_axes)
        return batched and o.scale_scope == "block", batched and o.clip_scope == "block"

    def _numbers(self, w: Work, c_size: int, r_size: int) -> tuple[float, ...]:
        mode, unscale, plan = w.options.eps1_mode, 1.0 / w.prescale**2, w.layout
        inside, after = (w.eps1 if mode == name else 0.0 for name in ("grad_sq", "stats"))
        per = (unscale / c_size, unscale / r_size, 1.0 / r_size)
        scopes = (1.0 / plan.count(plan.scale_axes), 1.0 / plan.count(plan.clip_axes))
        share = 1.0 / math.prod(plan.shape)
        return (w.prescale, *per, inside, after, *scopes, share, w.unit, w.whole.unit / w.unit)

    def _addresses(self, w: Work, swapped: bool, beside: tuple[int, ...]) -> tuple[int, ...]:
        outer, inner = ("col", "row") if swapped else ("row", "col")
        names = ("result", outer, inner, "full", "momentum", "compensation")
        found = [self._kernels.address(w.into[n]) if n in w.into else 0 for n in names]
        skipped = self._kernels.address(w.into["skipped"]) if "skipped" in w.into else 0
        return (*found, *(beside or found[1:3]), skipped)

    def refresh(self) -> None:
        """What changes from step to step: where gradients are, and the averages' decay."""
        self._held.clear()
        self.grads = self._known("grads", [self._kernels.address(w.grad) for w in self], np.int64)
        rates = [w.rates.b for w in self]
        own = self[0].whole.options.nonfinite == "skip_tensor"
        if not own or all(b is rates[0] for b in rates):
            self.decay = (*self.rate(rates[0]), np.int64(0))
            return
        if all(isinstance(b, float) for b in rates):
            first, places = self._known("decay", rates, np.float32), list(range(len(rates)))
        else:
            # By distance from the first: where they are parts of one array, that never changes.
            found = [self._kernels.address(b) for b in rates]
            first, places = np.int64(found[0]), [(n - found[0]) // 4 for n in found]
            self._held += rates
        self.decay = np.float32(0.0), first, self._known("places", places, np.int64)

    def _known(self, name: str, values: list[Any], dtype: Any) -> np.int64:
        """Where these values are on the device; sent there if they are not."""
        held = self._sent.get(name)
        if held is None or held[0] != values:
            held = self._sent[name] = values, self._kernels.upload(np.array(values, dtype))
        return self.at(held[1])

    def at(self, array: Array) -> np.int64:
        """As an argument of a kernel."""
        return np.int64(self._kernels.address(array))

    def rate(self, value: Any) -> tuple[Any, Any]:
        """A scalar of the step as two arguments: a number, or where it lies on the device."""
        if value is None or isinstance(value, int | float):
            return np.float32(1.0 if value is None else value), np.int64(0)
        return np.float32(0.0), self.at(self.hold(value))

    def hold(self, value: Array) -> Array:
        """Not to be freed before the launch that reads it is queued."""
        self._held.append(value)
        return value

    def launch(self, name: str, *arguments: Any) -> None:
        blocks, items = self._items[name]
        if blocks:
            tables = [self.at(a) for a in (*self._tables, items)]
            self._kernels.launch(self._instance, name, blocks, (*tables, *arguments))

    def word(self, value: Any) -> tuple[Any, Any]:
        """The key of random bits, likewise."""
        if value is None or isinstance(value, int):
            return np.int64(value or 0), np.int64(0)
        return np.int64(0), self.at(self.hold(value))

    def room(self, entries: int) -> Array:
        return self._kernels.room(entries)

    def finish(self) -> None:
        """Hands the results over where the core looks for them."""
        for w, new in zip(self, self._new, strict=True):
            w.result, w.new = w.into["result"], new
