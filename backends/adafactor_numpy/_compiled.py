"""CompiledPasses: the passes of adafactor_core as Numba kernels over a table of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import numpy as xp

from adafactor_core import Metrics, Work
from adafactor_core._box import box, last, refusal
from adafactor_core._decisions import MARGIN
from adafactor_core._formulas import factors
from adafactor_core._metrics import of_scopes
from adafactor_core._numerics import LARGEST, TINY, device, dtype_name
from adafactor_core._prepare import claimed
from adafactor_core._rounding import PARAMETER, fold, name_word, signed
from adafactor_core._work import Whole

from . import _kernels as k
from ._compile import kernel
from ._table import Buffer, Describe, Ints, batches, cut, items
from ._threads import spread

# 16-bit floats go through their bits: uint16 stands for bfloat16, int16 for float16.
_CODES = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint16, "float16": np.int16}
_OLD, _NEW = (k.OUTER, k.INNER), (k.NEW_OUTER, k.NEW_INNER)
_PARALLEL = 1 << 19  # from how many elements of a batch on a second thread pays


def describe(x: Any) -> Buffer:
    """A NumPy array's memory."""
    flags = x.flags
    address = x.__array_interface__["data"][0]
    return Buffer(address, dtype_name(x), flags.c_contiguous and flags.aligned)


def address(x: Any) -> int:
    """Where a NumPy array's memory starts."""
    start: int = x.__array_interface__["data"][0]
    return start


class CompiledPasses:
    """Passes for arrays in CPU memory. Results agree with ArrayPasses to rounding.

    `describe` tells the memory of an array (address, dtype, contiguity), `address` its address
    alone, so that an adapter for another library's CPU arrays can use the same kernels. Batches
    hold for gradients of the dtypes and contiguity that they were made for. Serves float16,
    bfloat16, float32 and float64 parameters in C order; `serves` says why not where it does not.
    """

    def __init__(
        self, describe: Describe = describe, address: Callable[[Any], int] = address
    ) -> None:
        self._describe, self._address = describe, address

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
        return [Table(batch, self._describe, self._address) for batch in batches(works)]

    def observe(self, works: Sequence[Work]) -> None:
        table = _table(works)
        table.refresh()
        if table.factored:
            table.outer[:] = 0.0
            table.inner[:] = 0.0
            table.each_item("observe", table.outer, table.inner, table.x2, *table.tags,
                            table.scaled)  # fmt: skip
        else:
            # Before the norm is known U is not, but whether V overflows is.
            measures = table.whole.guarded or (table.clips and not table.whole.normed)
            table.measure_full(table.scaled, measures, table.told)

    def squares(self, works: Sequence[Work]) -> Any:
        table = _table(works)
        squares = table.squares()
        if table.whole.guarded:
            limit = LARGEST[table[0].width]
            x2 = np.bincount(table.items[:, k.TENSOR], table.x2, len(table))
            table.normal = (squares <= limit) & (x2 <= limit * MARGIN)
            if not table.factored:
                peaks = np.bincount(table.items[:, k.TENSOR], table.peaks, len(table))
                table.normal &= peaks < np.inf
            squares = np.where(table.normal, squares, 0.0)
        return float(np.sum(squares * (table.whole.unit / table.units) ** 2))

    def advance(self, works: Sequence[Work]) -> None:
        table = _table(works)
        table.nums[:, k.GAIN] = table.gain
        if table.factored:
            table.each_tensor("advance", table.outer, table.inner, table.p, table.q, table.peaks)

    def measure(self, works: Sequence[Work]) -> None:
        table = _table(works)
        if table.factored and table.clips:
            # From the end: what observe read last, and apply reads first, is still in cache.
            arguments = (table.p, table.q, table.u2, table.tags[1])
            table.each_item("measure", *arguments, backwards=True)
        if not table.factored and table.whole.normed and (table.clips or table.whole.guarded):
            table.measure_full(False, True, None)

    def judge(self, works: Sequence[Work]) -> Any:
        table = _table(works)
        limit = LARGEST[table[0].width] * MARGIN
        sums = (table.items, table.peaks, table.x2, table.u2)
        odd = kernel("judge")(*sums, limit, not table.factored, table.fine)
        if table.whole.normed:  # what the norm leaves out must not move
            table.fine &= table.normal
            odd = len(table) - int(np.count_nonzero(table.fine))
        if odd:
            for t in np.flatnonzero(~table.fine):
                table[t].fine = False
        return odd

    def scale(self, works: Sequence[Work]) -> None:
        table = _table(works)
        o = table.options
        x2 = table.mean_squares(table.x2, o.scale_scope) if o.scale_parameter else None
        u2 = table.mean_squares(table.u2, o.clip_scope) if o.clip_threshold is not None else None
        with np.errstate(invalid="ignore", over="ignore") if table.whole.guarded else nullcontext():
            found = factors(o, table[0].rates, x2, u2)
        for into, value in zip(table.factors, found, strict=True):
            into[:] = value if isinstance(value, float) else value[table.scope]

    def apply(self, works: Sequence[Work]) -> None:
        table = _table(works)
        # A verdict over tensors that others took as well may be an array in CPU memory.
        if table.whole.fine is not None and not np.asarray(table.whole.fine):
            table.fine[:] = False
        elif table.whole.options.nonfinite != "skip_tensor":
            table.fine[:] = True
        some = table.tags[0]
        averages = some if table.options.beta1 is not None else None
        draws = some if table.rounds == "stochastic" else None
        keeps = some if table.rounds == "kahan" else None
        how = (table.keys, table.fine, *table.tags, table.momentum_tag, averages, draws, keeps)
        if table.factored:
            table.each_item("apply", table.p, table.q, *table.factors, *how, table.whole.guarded)
        else:
            table.each_item("apply_full", *table.factors, *how, None if table.stores else some)
        table.finish()

    def metrics(self, works: Sequence[Work]) -> Sequence[Metrics]:
        return _table(works).metrics()


def _table(works: Sequence[Work]) -> Table:
    if not isinstance(works, Table):
        raise TypeError("CompiledPasses takes the batches that its own batches() made")
    return works


class Table(list[Work]):
    """A batch of tensors with one set of options and dtypes, as arrays that kernels can walk."""

    def __init__(
        self, works: Sequence[Work], describe: Describe, address: Callable[[Any], int]
    ) -> None:
        super().__init__(works)
        first = works[0]
        self.options, self.factored = first.options, first.layout.factored
        self.clips, self.rounds = first.clips, first.rounds
        self._describe, self._address = describe, address
        self._dtype = np.float64 if first.width == "float64" else np.float32
        self._lay_out()
        self.tags = tuple(np.empty(0, _CODES[describe(a).dtype]) for a in (first.param, first.grad))
        self.momentum_tag = self.nums_tag = np.empty(0, self._dtype)
        if first.moments.momentum is not None:
            self.momentum_tag = np.empty(0, _CODES[describe(first.moments.momentum).dtype])
        self._fill_addresses()

    @property
    def whole(self) -> Whole:
        """What concerns all tensors of this step."""
        return self[0].whole

    @property
    def gain(self) -> float:
        """What gradients are multiplied by."""
        return 1.0 if self.whole.gain is None else float(np.asarray(self.whole.gain))

    @property
    def scaled(self) -> bool:
        """Whether somebody asks for the mean square of X."""
        whole = self.whole
        return self.options.scale_parameter or whole.options.telemetry or whole.guarded

    @property
    def told(self) -> Any:
        """Not None if somebody asks for the gradient's norm."""
        return self.tags[0] if self[0].wants_squares else None

    @property
    def stores(self) -> bool:
        """Whether a full V is stored as it is measured; else it moves as it is applied."""
        return self[0].alone and self.clips

    def measure_full(self, scaled: bool, moves: bool, norm: Any) -> None:
        stores = self.tags[0] if self.stores else None
        sums = (self.x2, self.u2, self.g2, self.peaks)
        self.each_item("measure_full", *sums, *self.tags, scaled, moves, stores, norm)

    def squares(self) -> Any:
        """(unit*G)**2 summed over each tensor, in its own unit; before advance."""
        if not self.factored:
            return np.bincount(self.items[:, k.TENSOR], self.g2, len(self))
        sums = np.add.reduceat(self.outer, self.ints[:, k.N_OUTER])
        return sums * (self.units / self.nums[:, k.PRESCALE].astype(np.float64)) ** 2

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
                (*b[:5], c.lanes, c.tiles, *(start[t] for start in starts), b.cols, last(w))
                for t, (w, b, c) in enumerate(zip(self, boxes, cuts, strict=True))
            ],
            np.int64,
        )
        self.units = np.array([w.unit for w in self])
        self.names = np.array([name_word(w.path) for w in self], np.uint32).view(np.int32)
        self.keys = np.zeros(len(self), np.uint32)
        self.fine = np.ones(len(self), np.bool_)
        self.normal = self.fine  # whose gradients make up the norm
        self.outer = np.empty(sum(outer))  # float64: a row's sum runs over tiles
        self.inner = np.empty(sum(inner), self._dtype)
        self.p, self.q = np.empty(sum(rows), self._dtype), np.empty(sum(cols), self._dtype)
        self.x2, self.u2, self.g2 = (np.zeros(len(listed)) for _ in range(3))
        self.peaks = np.zeros(len(self) if self.factored else len(listed))
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
        self.addr: Ints = np.zeros((len(self), 9), np.int64)
        self.nums = np.zeros((len(self), 11), self._dtype)
        self._new = [claimed(w) for w in self]
        self._beside = [self._shadow(w) for w in self]
        for t, (w, b) in enumerate(zip(self, self._boxes, strict=True)):
            if self.factored:
                names = ("col", "row") if b.swapped else ("row", "col")
                for name, old, new in zip(names, _OLD, _NEW, strict=True):
                    self._point(t, old, w.into[name])
                    self._point(t, new, self._beside[t].get(name, w.into[name]))
            else:
                self._point(t, k.FULL, w.into["full"])
            for column, name in ((k.MOMENTUM, "momentum"), (k.COMPENSATION, "compensation")):
                if name in w.into:
                    self._point(t, column, w.into[name])
            self._point(t, k.X, w.into["result"])
            unscale = 1.0 / w.prescale**2
            self.nums[t, k.PRESCALE], self.nums[t, k.UNIT] = w.prescale, w.unit
            self.nums[t, k.PER_OUTER], self.nums[t, k.PER_INNER] = unscale / b.c, unscale / b.r
            self.nums[t, k.SHARE] = 1.0 / math.prod(w.layout.shape)
            self.nums[t, k.TINY] = TINY[w.width]
            self.nums[t, k.EPS_IN] = w.eps1 if w.options.eps1_mode == "grad_sq" else 0.0
            self.nums[t, k.EPS_AFTER] = w.eps1 if w.options.eps1_mode == "stats" else 0.0

    def _shadow(self, w: Work) -> dict[str, Any]:
        """Where new averages wait until it is settled whether the tensor moves."""
        if not (self.factored and w.whole.guarded):
            return {}
        return {name: w.xp.empty_like(w.into[name]) for name in ("row", "col")}

    def _point(self, t: int, column: int, array: Any) -> None:
        self.addr[t, column] = self._describe(array).address

    def refresh(self) -> None:
        """What changes from step to step: the gradients' addresses and the rates."""
        self.addr[:, k.G] = [self._address(w.grad) for w in self]
        rates = self[0].rates
        own = self.whole.options.nonfinite == "skip_tensor"
        self.nums[:, k.B] = [w.rates.b for w in self] if own else rates.b
        self.nums[:, k.GAIN] = self.gain  # clipping comes later
        if rates.beta1 is not None:
            self.nums[:, k.BETA1] = rates.beta1
        if self.rounds == "stochastic":
            named = fold(signed(self[0].key), self.names)
            self.keys[:] = fold(named, PARAMETER).view(np.uint32)

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

    def folded(self) -> Any:
        """`squares` once advance has added all tiles of a row up into the first."""
        starts = self.ints[:, k.N_OUTER]
        rows = [b.rows for b in self._boxes]
        sums = [self.outer[s : s + n].sum() for s, n in zip(starts, rows, strict=True)]
        return np.array(sums) * (self.units / self.nums[:, k.PRESCALE].astype(np.float64)) ** 2

    def metrics(self) -> list[Metrics]:
        """From the sums of the last step."""
        norms = np.sqrt(self.folded() if self.factored else self.squares()) / self.units
        if self.whole.unscale is not None:
            norms = norms * self.whole.unscale
        slices = np.bincount(self._tensor_of_scope)
        starts = np.cumsum([0, *slices])
        x2 = self.mean_squares(self.x2, self.options.scale_scope)
        u2 = self.mean_squares(self.u2, self.options.clip_scope)
        rows = zip(self, starts[:-1], starts[1:], norms, strict=True)
        return [
            self._placed(w, of_scopes(xp, x2, w.options, w.rates, x2[a:b], u2[a:b], norm))
            for w, a, b, norm in rows
        ]

    def _placed(self, w: Work, found: Metrics) -> Metrics:
        """As arrays of the library that the tensor is of."""
        place = device(w.param)
        return Metrics(*(w.xp.asarray(x.item(), dtype=w.dtype, device=place) for x in found))

    def finish(self) -> None:
        """Hands the results over where the core looks for them."""
        for w, new in zip(self, self._new, strict=True):
            w.result = w.into["result"]
            w.new = new
