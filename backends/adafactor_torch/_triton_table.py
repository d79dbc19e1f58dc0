"""A batch of tensors as the Triton kernels see it: tables and sums on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from adafactor_core import Work
from adafactor_core._box import last
from adafactor_core._numerics import move
from adafactor_core._prepare import claimed
from adafactor_core._rounding import name_word
from adafactor_core._schedules import Rates
from adafactor_core._work import Whole

from ._triton_cut import UNFACTORED, Cut, cuts, items, parts, scopes
from ._triton_tools import COLUMNS, NUMBERS


def _starts(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes)]


def _aligned(w: Work) -> bool:
    """Whether every array may be read 16 bytes at a time."""
    arrays = [w.into["result"], w.grad, *(m for m in w.new if m is not None)]
    return all(a.data_ptr() % 16 == 0 for a in arrays)


class Table(list[Work]):
    """A batch of tensors of the same dtypes, whose options differ in numbers of a step at most.

    Made for gradients of these dtypes and of this alignment; `refresh` looks where they are.
    """

    def __init__(self, works: Sequence[Work]) -> None:
        super().__init__(works)
        self.options = works[0].options
        self._new = [claimed(w) for w in self]
        for w, new in zip(self, self._new, strict=True):
            w.new = new
        self._device = self[0].param.device
        # Tensors with the same rates read the same entry of vectors of those. Under "skip_tensor"
        # each has a decay of its own.
        own = self.whole.options.nonfinite == "skip_tensor"
        names = [id(w) if own else id(w.options) for w in self]
        places = {name: k for k, name in enumerate(dict.fromkeys(names))}
        self._rows = [places[name] for name in names]
        self._leaders = [self[self._rows.index(k)] for k in range(len(places))]
        self._numbers: list[float] = []
        self._held = self._floats(0)
        self._spares: dict[torch.dtype, torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []
        self._addresses: list[int] = []
        self._build([_aligned(w) for w in self])

    @property
    def whole(self) -> Whole:
        """What concerns all tensors of this step."""
        return self[0].whole

    @property
    def decays(self) -> bool:
        return any(w.decays for w in self._leaders)

    @property
    def tables(self) -> tuple[torch.Tensor, ...]:
        """What every kernel over tiles gets first."""
        return self.items, self.ints, self.nums

    def _build(self, aligned: Sequence[bool]) -> None:
        self._aligned = list(aligned)
        self.spans = found = cuts(self, aligned)
        tiles = _starts([c.tiles for c in found])
        programs = [parts(t, c) for t, c in enumerate(found)]
        scopes_ = [
            scopes(t, c, w, tiles[t]) for t, (c, w) in enumerate(zip(found, self, strict=True))
        ]
        factored = [c.kind != UNFACTORED for c in found]
        rows = _starts([c.box.rows * f for c, f in zip(found, factored, strict=True)])
        cols = _starts([c.box.cols * f for c, f in zip(found, factored, strict=True)])
        outer = _starts(
            [c.box.rows * c.col_tiles * f for c, f in zip(found, factored, strict=True)]
        )
        inner = _starts(
            [c.box.cols * c.row_tiles * f for c, f in zip(found, factored, strict=True)]
        )
        slots = _starts([c.tiles * c.box.d for c in found])
        part, scope = _starts(list(map(len, programs))), _starts(list(map(len, scopes_)))
        # Where new averages wait until it is settled whether the tensor moves.
        waits = self.whole.guarded
        self.waiting = self._floats(rows[-1] + cols[-1] if waits else 0)
        ints, nums = [], []
        for t, (w, c) in enumerate(zip(self, found, strict=True)):
            where = {
                "KIND": c.kind, "R": c.box.r, "B": c.box.b, "C": c.box.c, "D": c.box.d,
                "LENGTH": c.box.length, "SIZE": c.size, "TILE_ROWS": c.tile_rows,
                "ROW_TILES": c.row_tiles, "COL_TILES": c.col_tiles, "N_OUTER": outer[t],
                "ROWS": c.box.rows, "N_INNER": inner[t], "N_COL": c.box.cols, "N_P": rows[t],
                "N_Q": cols[t], "ITEM": tiles[t], "ITEMS": c.tiles, "SLOT": slots[t],
                "NAME": name_word(w.path), "LAST": last(w), "SCOPE": scope[t],
                "SCOPED": int(len(scopes_[t]) > 1), "PART": part[t],
                "PARTS": len(programs[t]), "RATE": self._rows[t], **self._places(w, c),
            }  # fmt: skip
            if waits and factored[t]:
                start = self.waiting.data_ptr()
                where["NEW_OUTER"] = start + 4 * rows[t]
                where["NEW_INNER"] = start + 4 * (rows[-1] + cols[t])
            ints.append([where[name] for name in COLUMNS])
            numbers = _numbers(w, c)
            nums.append([numbers[name] for name in NUMBERS])
        self.tiles, self.count_parts, self.count_scopes = tiles[-1], part[-1], scope[-1]
        self.ints = torch.tensor(ints, dtype=torch.int64).to(self._device)
        self.nums = torch.tensor(nums, dtype=torch.float32).to(self._device)
        self.items = self._table([i for t, c in enumerate(found) for i in items(t, c)], 4)
        self.parts = self._table([p for ps in programs for p in ps], 3)
        self.scopes = self._table([s for ss in scopes_ for s in ss], 5)
        self.p, self.q = self._floats(rows[-1]), self._floats(cols[-1])
        self.outer, self.inner = self._floats(outer[-1]), self._floats(inner[-1])
        # Only tiles at the left edge write to `olds`: the rest has to be 0.
        self.totals, self.olds = self._floats(slots[-1]), self._floats(slots[-1])
        self.x2, self.u2, self.peaks = (self._floats(tiles[-1]) for _ in range(3))
        self.odd, self.factors = self._floats(part[-1]), self._floats(3 * scope[-1])
        self.norms, self.bad = self._floats(len(self)), self._floats(len(self))
        self.normal, self.fine = (
            torch.ones(len(self), dtype=torch.uint8, device=self._device) for _ in range(2)
        )
        self.verdicts = self.fine.view(torch.bool).unbind()
        self.gain: Any = 1.0

    def _places(self, w: Work, c: Cut) -> dict[str, int]:
        """Addresses of what a step writes to; 0 for what the tensor does not have."""
        into = {name: a.data_ptr() for name, a in w.into.items()}
        outer, inner = ("col", "row") if c.box.swapped else ("row", "col")
        found = {
            "X": into["result"], "OUTER": into.get(outer, 0), "INNER": into.get(inner, 0),
            "FULL": into.get("full", 0), "MOMENTUM": into.get("momentum", 0),
            "COMPENSATION": into.get("compensation", 0),
        }  # fmt: skip
        return {**found, "NEW_OUTER": found["OUTER"], "NEW_INNER": found["INNER"]}

    def _floats(self, count: int) -> torch.Tensor:
        return torch.zeros(max(1, count), dtype=torch.float32, device=self._device)

    def _table(self, rows: Sequence[Sequence[int]], width: int) -> torch.Tensor:
        return torch.tensor(rows or [[0] * width], dtype=torch.int32).to(self._device)

    def number(self, x: Any) -> Any:
        """A scalar of the step for a kernel: a float, or a float32 array on the device."""
        moved = move(x, self[0].param, torch.float32)
        return moved if isinstance(moved, torch.Tensor) else float(moved)

    def refresh(self) -> None:
        """What changes from step to step: the gradients' addresses and the rates."""
        found = [w.grad.data_ptr() for w in self]
        if found != self._addresses:
            self._addresses = found
            aligned = [_aligned(w) for w in self]
            if any(old and not new for old, new in zip(self._aligned, aligned, strict=True)):
                self._build([a and b for a, b in zip(self._aligned, aligned, strict=True)])
            self.grads = self._sent(found, torch.int64)
        self.regain()
        self.scalars = self._scalars()
        if self._capturing():  # a graph reads them whenever it runs
            self._kept += [self.grads, self._held]

    @property
    def rate(self) -> tuple[Any, int]:
        return self.scalars["b"]

    def _scalars(self) -> dict[str, tuple[Any, int]]:
        """The rates as kernels take them: a scalar and 0, or a vector of the leaders' and 1."""
        columns = {n: [getattr(w.rates, n) for w in self._leaders] for n in Rates._fields}
        columns["beta1"] = [0.0 if x is None else x for x in columns["beta1"]]
        # One for each beta1 and not for each tensor: kernels read both with one stride.
        rest = {id(x): 1.0 - x for x in columns["beta1"]}
        columns["rest"] = [rest[id(x)] for x in columns["beta1"]]
        several = {n for n, xs in columns.items() if any(not _same(x, xs[0]) for x in xs)}
        if not several:
            return {n: (self.number(xs[0]), 0) for n, xs in columns.items()}
        numbers = [x if isinstance(x, float) else 0.0 for xs in columns.values() for x in xs]
        if numbers != self._numbers:
            self._numbers, self._held = numbers, self._sent(numbers, torch.float32)
        held = self._held.view(len(columns), -1)
        stacks: dict[tuple[int, ...], torch.Tensor] = {}  # the rate is often the step size
        found: dict[str, tuple[Any, int]] = {}
        for row, (n, xs) in enumerate(columns.items()):
            if n not in several:
                found[n] = self.number(xs[0]), 0
            elif all(isinstance(x, float) for x in xs):
                found[n] = held[row], 1
            else:
                key = tuple(map(id, xs))
                if key not in stacks:
                    floats = held[row].unbind()
                    stacks[key] = torch.stack([
                        y if isinstance(x, float) else self.number(x)
                        for x, y in zip(xs, floats, strict=True)
                    ])  # fmt: skip
                found[n] = stacks[key], 1
        return found

    def regain(self) -> None:
        """What gradients are multiplied by; after observe, the clip of the global norm is in it."""
        gain = self.whole.gain
        self.gain = 1.0 if gain is None else self.number(gain)

    def _sent(self, numbers: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        """On the device, without waiting for it."""
        values = torch.tensor(numbers, dtype=dtype)
        if self._device.type != "cuda":
            return values.to(self._device)
        capturing = self._capturing()
        # A graph copies from this memory whenever it runs, so it keeps memory of its own; and what
        # pins memory is not to be called while it is recorded.
        spare = self._spares.pop(dtype, None) if capturing else None
        pinned = values.pin_memory() if spare is None else spare.copy_(values)
        sent = pinned.to(self._device, non_blocking=True)
        if capturing:
            self._kept.append(pinned)
        elif dtype not in self._spares:
            self._spares[dtype] = torch.empty_like(values).pin_memory()
        return sent

    def _capturing(self) -> bool:
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def means(self, w: Work, c: Cut, name: str) -> torch.Tensor:
        """Mean squares of X or U per RMS scope of the last step."""
        sums: torch.Tensor = getattr(self, name)
        at = next(t for t, other in enumerate(self) if other is w)
        first = sum(s.tiles for s in self.spans[:at])
        kind, axes = (
            (self.options.scale_scope, w.layout.scale_axes)
            if name == "x2"
            else (self.options.clip_scope, w.layout.clip_axes)
        )
        count = c.box.a if self.options.batch_axes and kind == "block" else 1
        found = sums[first : first + c.tiles].reshape(count, -1).sum(1)
        return found * (1.0 / w.layout.count(axes))

    def finish(self) -> None:
        """Hands the results over where the core looks for them."""
        for w, new in zip(self, self._new, strict=True):
            w.result = w.into["result"]
            w.new = new


def _same(x: Any, y: Any) -> bool:
    return x is y or (isinstance(x, float) and isinstance(y, float) and x == y)


def _numbers(w: Work, c: Cut) -> dict[str, float]:
    unscale, plan = 1.0 / w.prescale**2, w.layout
    mode = w.options.eps1_mode
    return {
        "PRESCALE": w.prescale,
        "UNIT": w.unit,
        "EPS_IN": w.eps1 if mode == "grad_sq" else 0.0,
        "EPS_AFTER": w.eps1 if mode == "stats" else 0.0,
        "PER_OUTER": unscale / c.box.c,
        "PER_INNER": unscale / c.box.r,
        "PER_ROW": 1.0 / c.box.r,
        "SHARE": 1.0 / math.prod(plan.shape),
        "PER_X": 1.0 / plan.count(plan.scale_axes),
        "PER_U": 1.0 / plan.count(plan.clip_axes),
        "WEIGHT": c.box.r * (w.unit / w.prescale) ** 2 if plan.factored else 1.0,
    }
