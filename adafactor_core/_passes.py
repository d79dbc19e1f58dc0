"""The algorithm: observe, advance, measure, scale, apply (docs/algorithm.md has the equations).

Each pass reads its tensor once. What crosses a block, a device or a rank is a sum, so the same
functions serve cache blocks, shards and whole tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from . import _sweeps as sweeps
from ._decisions import find_odd, gathered, judged, marked, share_of_norm
from ._metrics import Metrics, metrics_of
from ._numerics import quiet
from ._rounding import BLOCK
from ._streaming import Blocks, block_limit, blocks
from ._work import Work


class Passes(Protocol):
    """What a backend replaces. Each method takes tensors through one pass of the table above.

    A kernel is held to the results of ArrayPasses; tests compare the two over all options served.
    """

    def serves(self, work: Work) -> str:
        """Why these passes cannot take the tensor with its options; empty if they can."""
        ...

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        """The tensors grouped as they should go through all passes together."""
        ...

    def observe(self, works: Sequence[Work]) -> None: ...
    def advance(self, works: Sequence[Work]) -> None: ...
    def measure(self, works: Sequence[Work]) -> None: ...
    def scale(self, works: Sequence[Work]) -> None: ...
    def apply(self, works: Sequence[Work]) -> None: ...

    def squares(self, works: Sequence[Work]) -> Any:
        """After observe, if `wants_squares`: the sum of (unit*G)**2, a number or 0-D array."""
        ...

    def judge(self, works: Sequence[Work]) -> Any:
        """After measure, if `guarded`: how many of the tensors are not finite."""
        ...

    def metrics(self, works: Sequence[Work]) -> Sequence[Metrics]:
        """After apply, with `telemetry`."""
        ...


class ArrayPasses:
    """The passes in plain array API, for any namespace.

    `stream`: over blocks, where the library can write to parts of arrays.
    """

    _joins = False  # whether one sum over two columns costs less than two sums

    def __init__(self, *, stream: bool = True) -> None:
        self._stream = stream

    def serves(self, work: Work) -> str:
        return ""

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        return [[w] for w in works]  # one tensor at a time: it stays in cache

    def observe(self, works: Sequence[Work]) -> None:
        for w in works:
            with quiet(w.xp) if w.whole.guarded else nullcontext():
                sweeps.observe_param(w, self._blocks(w, "observe_param"))
                sweeps.observe(w, self._blocks(w, "observe"))
                if w.layout.factored:
                    sweeps.observe_mean(w, self._joins)
                if w.whole.guarded and w.whole.normed:
                    w.partials["g2"] = marked(w)

    def advance(self, works: Sequence[Work]) -> None:
        for w in works:
            if w.layout.factored:
                with quiet(w.xp) if w.whole.guarded else nullcontext():
                    sweeps.advance(w)

    def measure(self, works: Sequence[Work]) -> None:
        for w in works:
            with quiet(w.xp) if w.whole.guarded else nullcontext():
                if w.measures and not w.measured:
                    sweeps.measure(w, self._blocks(w, "measure"))
                if w.whole.guarded:
                    find_odd(w)

    def scale(self, works: Sequence[Work]) -> None:
        for w in works:
            with quiet(w.xp) if w.whole.guarded else nullcontext():
                sweeps.scale(w)

    def apply(self, works: Sequence[Work]) -> None:
        for w in works:
            if w.stays is True:
                sweeps.stay(w)
            else:
                sweeps.apply(w, self._blocks(w, "apply"))

    def squares(self, works: Sequence[Work]) -> Any:
        return gathered([share_of_norm(w) for w in works])

    def judge(self, works: Sequence[Work]) -> Any:
        return gathered([judged(w) for w in works])

    def metrics(self, works: Sequence[Work]) -> Sequence[Metrics]:
        return [metrics_of(w) for w in works]

    def _blocks(self, w: Work, sweep: str) -> Blocks | None:
        """How a function of `_sweeps` cuts the tensor; None: not at all."""
        if not (self._stream and w.writable):
            return None
        busy = w.rounds != "nearest" or "int8" in w.options.momentum_dtype
        limit = block_limit(w.options.max_scratch_bytes, 8 if w.width == "float64" else 4, busy)
        aligned = BLOCK if w.moments.momentum_scale is not None else 1
        return blocks(tuple(w.param.shape), limit, aligned)
