"""CompiledPasses: the passes of adafactor_core as Numba kernels over a table of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from adafactor_core import Moments, Work
from adafactor_core._formulas import factors
from adafactor_core._numerics import TINY, dtype_name

from . import _kernels as k
from ._compile import kernel
from ._table import Buffer, Describe, Ints, batches, box, cut, items, refusal
from ._threads import spread

# 16-bit floats go through their bits: uint16 stands for bfloat16, int16 for float16.
_CODES = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint16, "float16": np.int16}
_PARALLEL = 1 << 19  # from how many elements of a batch on a second thread pays


def describe(x: Any) -> Buffer:
    """A NumPy array's memory."""
    flags = x.flags
    address = x.__array_interface__["data"][0]
    return Buffer(address, dtype_name(x), flags.c_contiguous and flags.aligned)


class CompiledPasses:
    """Passes for arrays in CPU memory. Results agree with ArrayPasses to rounding.

    `describe` tells the memory of an array (address, dtype, contiguity), so that an adapter for
    another library's CPU arrays can use the same kernels. Serves float16, bfloat16, float32 and
    float64 parameters in C order; `serves` says why not where it does not.
    """

    def __init__(self, describe: Describe = describe) -> None:
        self._describe = describe

    def serves(self, work: Work) -> str:
        reason = refusal(work)
        if reason:
            return reason
        arrays = (work.param, work.grad, *(m for m in work.moments if m is not None))
        buffers = [self._describe(a) for a in arrays]
        if not all(b.contiguous for b in buffers):
            return "not contiguous in C order"
        if buffers[1].dtype == "float64" != work.width:
            return "a float64 gradient of a narrower tensor"
        return ""

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        return [Table(batch, self._describe) for batch in batches(works)]

    def observe(self, works: Sequence[Work]) -> None:
        table = _table(works)
        table.refresh()
        o = table.options
        if table.factored:
            table.outer[:] = 0.0
            table.inner[:] = 0.0
            table.each_item("observe", table.outer, table.inner, table.x2, *table.tags,
                            o.scale_parameter)  # fmt: skip
        else:
            table.each_item("measure_full", table.x2, table.u2, *table.tags,
                            o.scale_parameter, o.clip_threshold is not None)  # fmt: skip

    def advance(self, works: Sequence[Work]) -> None:
        table = _table(works)
        if table.factored:
            table.each_tensor("advance", table.outer, table.inner, table.p, table.q)

    def measure(self, works: Sequence[Work]) -> None:
        table = _table(works)
        if table.factored and table.options.clip_threshold is not None:
            # From the end: what observe read last, and apply reads first, is still in cache.
            arguments = (table.p, table.q, table.u2, table.tags[1])
            table.each_item("measure", *arguments, backwards=True)

    def scale(self, works: Sequence[Work]) -> None:
        table = _table(works)
        o = table.options
        x2 = table.mean_squares(table.x2, o.scale_scope) if o.scale_parameter else None
        u2 = table.mean_squares(table.u2, o.clip_scope) if o.clip_threshold is not None else None
        for into, value in zip(table.factors, factors(o, table[0].rates, x2, u2), strict=True):
            into[:] = value if isinstance(value, float) else value[table.scope]

    def apply(self, works: Sequence[Work]) -> None:
        table = _table(works)
        momentum = table.nums[0, :0] if table.options.beta1 is not None else None
        if table.factored:
            table.each_item("apply", table.p, table.q, *table.factors, *table.tags, momentum)
        else:
            moves = table.options.clip_threshold is None
            table.each_item("apply_full", *table.factors, *table.tags, momentum, moves)
        table.finish()


def _table(works: Sequence[Work]) -> Table:
    if not isinstance(works, Table):
        raise TypeError("CompiledPasses takes the batches that its own batches() made")
    return works


class Table(list[Work]):
    """A batch of tensors with one set of options and dtypes, as arrays that kernels can walk."""

    def __init__(self, works: Sequence[Work], describe: Describe) -> None:
        super().__init__(works)
        first = works[0]
        self.options, self.factored = first.options, first.layout.factored
        self._describe = describe
        self._dtype = np.float64 if first.width == "float64" else np.float32
        self._lay_out()
        self.tags = tuple(np.empty(0, _CODES[describe(a).dtype]) for a in (first.param, first.grad))
        self._fill_addresses()

    def _lay_out(self) -> None:
        """Geometry: fixed for as long as the shapes are."""
        boxes = [box(w) for w in self]
        limit, size = self.options.max_scratch_bytes, np.dtype(self._dtype).itemsize
        cuts = [cut(b, limit, size) for b in boxes]
        rows = [b.rows * self.factored for b in boxes]
        cols = [b.cols * self.factored for b in boxes]
        outer = [n * c.tiles for n, c in zip(rows, cuts, strict=True)]
        inner = [n * c.lanes for n, c in zip(cols, cuts, strict=True)]
        listed = [
            item
            for t, (b, c) in enumerate(zip(boxes, cuts, strict=True))
            for item in items(t, b, c, self.factored)
        ]
        self._boxes = boxes
        self.items: Ints = np.array(listed, np.int64)
        starts = [np.cumsum([0, *sizes]) for sizes in (outer, inner, rows, cols)]
        self.ints: Ints = np.array(
            [
                (*b[:5], c.lanes, c.tiles, *(start[t] for start in starts), b.cols)
                for t, (b, c) in enumerate(zip(boxes, cuts, strict=True))
            ],
            np.int64,
        )
        self.outer = np.empty(sum(outer))  # float64: a row's sum runs over tiles
        self.inner = np.empty(sum(inner), self._dtype)
        self.p, self.q = np.empty(sum(rows), self._dtype), np.empty(sum(cols), self._dtype)
        self.x2, self.u2 = np.zeros(len(listed)), np.zeros(len(listed))
        self.factors = tuple(np.empty(len(listed), self._dtype) for _ in range(3))
        slices = np.cumsum([0, *(b.a for b in boxes)])
        self.scope = slices[self.items[:, k.TENSOR]] + self.items[:, k.SLICE]
        self._tensor_of_scope = np.repeat(np.arange(len(boxes)), [b.a for b in boxes])
        self._elements = sum(math.prod(w.layout.shape) for w in self)
        plans = [w.layout for w in self]
        self._counts = (
            np.array([p.count(p.scale_axes) for p in plans]),
            np.array([p.count(p.clip_axes) for p in plans]),
        )

    def _fill_addresses(self) -> None:
        self.addr: Ints = np.zeros((len(self), 6), np.int64)
        self.nums = np.zeros((len(self), 8), self._dtype)
        self._new = [self._claimed(w) for w in self]
        for t, (w, b) in enumerate(zip(self, self._boxes, strict=True)):
            if self.factored:
                outer, inner = ("col", "row") if b.swapped else ("row", "col")
                self._point(t, k.OUTER, w.into[outer])
                self._point(t, k.INNER, w.into[inner])
            else:
                self._point(t, k.FULL, w.into["full"])
            if "momentum" in w.into:
                self._point(t, k.MOMENTUM, w.into["momentum"])
            self._point(t, k.X, w.into["result"])
            unscale = 1.0 / w.prescale**2
            self.nums[t, k.PRESCALE] = w.prescale
            self.nums[t, k.PER_OUTER], self.nums[t, k.PER_INNER] = unscale / b.c, unscale / b.r
            self.nums[t, k.TINY] = TINY[w.width]
            self.nums[t, k.EPS_IN] = w.eps1 if w.options.eps1_mode == "grad_sq" else 0.0
            self.nums[t, k.EPS_AFTER] = w.eps1 if w.options.eps1_mode == "stats" else 0.0

    def _claimed(self, w: Work) -> Moments:
        """The slots to work on, in place: what was not given up is copied first."""
        for name, array in {**w.moments._asdict(), "result": w.param}.items():
            if array is not None and name not in w.into:
                w.into[name] = w.xp.asarray(array, copy=True)
        return Moments(*(None if m is None else w.into[n] for n, m in w.moments._asdict().items()))

    def _point(self, t: int, column: int, array: Any) -> None:
        self.addr[t, column] = self._describe(array).address

    def refresh(self) -> None:
        """What changes from step to step: the gradients' addresses and the rates."""
        for t, w in enumerate(self):
            self.addr[t, k.G] = self._describe(w.grad).address
        rates = self[0].rates
        self.nums[:, k.B] = rates.b
        if rates.beta1 is not None:
            self.nums[:, k.BETA1] = rates.beta1

    def each_item(self, name: str, *arguments: Any, backwards: bool = False) -> None:
        table = (self.ints, self.addr, self.nums, self.items)
        self._spread(name, (*table, *arguments), self.items, backwards)

    def each_tensor(self, name: str, *arguments: Any) -> None:
        self._spread(name, (self.ints, self.addr, self.nums, *arguments), self.ints)

    def _spread(
        self, name: str, arguments: tuple[Any, ...], over: Ints, backwards: bool = False
    ) -> None:
        run = kernel(name)
        threads = None if self._elements >= _PARALLEL else 1
        work = partial(run, *arguments)
        spread(work, len(over), threads, backwards=backwards)

    def mean_squares(self, per_item: Any, scope: str) -> Any:
        """Means over RMS scopes, one entry per slice of a tensor, in the compute dtype."""
        sums = np.bincount(self.scope, per_item, len(self._tensor_of_scope))
        of = self._tensor_of_scope
        if scope == "tensor" or not self.options.batch_axes:
            sums = np.bincount(of, sums, len(self))[of]
        counts = self._counts[0 if per_item is self.x2 else 1]
        return (sums / counts[of]).astype(self._dtype)

    def finish(self) -> None:
        """Hands the results over where the core looks for them."""
        for w, new in zip(self, self._new, strict=True):
            w.result = w.into["result"]
            w.new = new
