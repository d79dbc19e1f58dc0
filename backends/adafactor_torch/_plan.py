"""What a step over the same tensors need not look up again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from array_api_compat import torch as xp

from adafactor_core import ArrayPasses, Metrics, Work
from adafactor_core._order import Group, arrange
from adafactor_core._prepare import given_up, make_work, own_rates
from adafactor_core._schedules import Clock, Rates
from adafactor_core._state import NO_MOMENTS
from adafactor_core._work import Whole

from ._kernels import kernel_passes
from ._rows import Row, on_cpu
from ._traced import TracedPasses


class Plan:
    """The records of some tensors and who takes them; made anew when an array was replaced."""

    def __init__(self, compiled: bool | None) -> None:
        self._compiled = compiled
        self._identity: tuple[Any, ...] = ()
        self._works: list[Work] = []
        self._kinds: tuple[Any, ...] = ()
        self._groups: Sequence[Sequence[Group]] = ()

    def works(self, rows: list[Row], whole: Whole) -> list[Work]:
        """The records at the start of a step. Raises StateError for a state that does not fit."""
        # Somebody may have put another tensor under a parameter, or another array into its state.
        tracing = torch.compiler.is_compiling()
        identity = () if tracing else tuple(r.identity() for r in rows)
        if tracing or self._identity != identity:
            for row in rows:
                row.check()
        clocks: dict[int, Clock] = {}
        for row in rows:
            counter = row.state["step"]
            if id(counter) not in clocks:
                clocks[id(counter)] = Clock(int(counter.numpy()) if on_cpu(counter) else counter)
        going = [clocks[id(row.state["step"])] for row in rows]
        if tracing:  # it keeps nothing
            return [_work(r, clock, whole) for r, clock in zip(rows, going, strict=True)]
        if self._identity != identity:
            self._works = [_work(r, clock, whole) for r, clock in zip(rows, going, strict=True)]
            self._identity, self._groups = identity, ()
        rates = self._rates(rows, going, whole)  # of all: one may be refused, and no gradient kept
        for row, work, clock, at in zip(rows, self._works, going, rates, strict=True):
            key = clock.key(whole.options.seed, row.param) if work.draws else None
            work.again(row.grad, at, whole, key)
        return self._works

    def _rates(self, rows: list[Row], clocks: list[Clock], whole: Whole) -> list[Rates]:
        own = whole.options.nonfinite == "skip_tensor"
        lags = [row.lag() if own else NO_MOMENTS for row in rows]
        held = [k for k, lag in enumerate(lags) if isinstance(lag.skipped, torch.Tensor)]
        found = _rates_of_many(rows, self._works, clocks, held)
        each = enumerate(zip(rows, self._works, clocks, lags, strict=True))
        return [
            found.get(k) or own_rates(clock, whole, row.options, row.param, work.width, lag)
            for k, (row, work, clock, lag) in each
        ]

    def groups(self, works: list[Work], rows: list[Row]) -> Sequence[Sequence[Group]]:
        """Who takes which records, in the order to `run` them."""
        if torch.compiler.is_compiling():
            return arrange(works, (TracedPasses(),))
        kinds = (works[0].whole.sharded, *(_kind(w.grad) for w in works))
        if not self._groups or self._kinds != kinds:
            passes = kernel_passes(self._compiled, [w.param for w in works])
            # Kernels take batches of one clock.
            clocked: dict[int, list[Work]] = {}
            for row, work in zip(rows, works, strict=True):
                clocked.setdefault(id(row.state["step"]), []).append(work)
            parts = [arrange(ws, (*passes, ArrayPasses())) for ws in clocked.values()]
            found = [together for part in parts for together in part]
            if works[0].whole.joint:
                found = [[group for together in found for group in together]]
            self._kinds, self._groups = kinds, found
        return self._groups

    def metrics(self) -> dict[str, Metrics]:
        """By parameter, of the last step that went by this plan, if it had telemetry."""
        told_of = self._works and self._works[0].whole.options.telemetry
        return told(self._groups) if told_of else {}


def told(groups: Sequence[Sequence[Group]]) -> dict[str, Metrics]:
    """The metrics of a step that has been taken."""
    pairs = [pair for together in groups for pair in together]
    return {w.path: m for p, ws in pairs for w, m in zip(ws, p.metrics(ws), strict=True)}


def _rates_of_many(
    rows: list[Row], works: list[Work], clocks: list[Clock], which: list[int]
) -> dict[int, Rates]:
    """Of tensors with a decay each, on a device: as many operations as for one of them."""
    found: dict[int, Rates] = {}
    alike: dict[Any, list[int]] = {}
    for k in which:
        kind = (id(clocks[k]), id(rows[k].options), works[k].width, rows[k].param.device)
        alike.setdefault(kind, []).append(k)
    for places in alike.values():
        first, row = places[0], rows[places[0]]
        lags = torch.stack([rows[k].state["skipped"] for k in places])
        at = clocks[first].rates(row.options, row.param, works[first].width, lags)
        varies = isinstance(at.b, torch.Tensor) and at.b.ndim == 1
        bs = at.b.unbind() if varies else [at.b] * len(places)
        found |= {k: at._replace(b=b) for k, b in zip(places, bs, strict=True)}
    return found


def _kind(g: torch.Tensor) -> tuple[Any, ...]:
    """What of a gradient decides who takes it, beside its shape."""
    return g.dtype, g.is_contiguous(), g.is_neg()


def _work(row: Row, clock: Clock, whole: Whole) -> Work:
    moments = row.moments()
    origin = row.placed.offset if row.placed else (0,) * row.param.ndim
    work = make_work(
        row.path, row.options, row.plan, xp, row.param, row.grad,
        moments._replace(skipped=row.lag().skipped), clock, "param", whole, origin,
    )  # fmt: skip
    work.moments = moments
    work.into = given_up(work)
    return work
