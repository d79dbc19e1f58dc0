"""The array-API passes as XLA should see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType

from adafactor_core import ArrayPasses, ConfigError, Passes, Work
from adafactor_core._numerics import dtype_name
from adafactor_core._streaming import Blocks, block_limit, blocks
from adafactor_core._sweeps import observe_param

from ._calls import CalledPasses
from ._scan import OneByOne, Scan, barrier

LARGER = 4  # than the blocks of eager libraries: each turn of a loop starts XLA's threads anew


def check_scan(scan: Any) -> None:
    """Raises ConfigError unless `scan` is True, False or None, which asks where this runs."""
    if scan is not None and not isinstance(scan, bool):
        raise ConfigError(f"scan must be True, False or None, got {scan!r}.")


def passes(scan: bool | None) -> tuple[Passes, ...]:
    """For one trace, or one eager step."""
    whole = XlaPasses(scan)
    return CalledPasses(whole, XlaPasses(scan=False), on_one_cpu), whole


class XlaPasses(ArrayPasses):
    """Whole tensors, which the compiler fuses and blocks by itself; on a CPU with some help.

    There XLA stores all of G*G for the sums over rows and columns, and 16-bit tensors widened
    before any sum, which would take most of a step.
    """

    _joins = True  # to compile, and to all-reduce

    def __init__(self, scan: bool | None) -> None:
        super().__init__(stream=False)
        self._scan = scan

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        return [works]  # in what order they run is the compiler's to say

    def advance(self, works: Sequence[Work]) -> None:
        super().advance(works)
        self._part_ways(works)
        for w in works:
            if not (_on_one_device(w) or w.whole.normed):
                # Again, and XLA drops the first: with the sums of observe there would be three of
                # each matrix at a time, and XLA for TPUs merges at most 256 into one all-reduce.
                observe_param(w, None)

    def scale(self, works: Sequence[Work]) -> None:
        super().scale(works)
        self._part_ways(works)

    def _part_ways(self, works: Sequence[Work]) -> None:
        """Or two passes would have G*q, or a widened tensor, in common, and XLA store it."""
        for w in works:
            if self._large(w) is not None or not _on_one_device(w):
                w.param, w.grad, w.q = barrier((w.param, w.grad, w.q))

    def _blocks(self, w: Work, sweep: str) -> Blocks | None:
        sums: tuple[str, ...] = ("observe",)
        if "float16" in (dtype_name(w.param), dtype_name(w.grad)):
            sums = ("observe_param", "observe", "measure")
        over = self._large(w) if sweep in sums and w.layout.factored else None
        if over is None or w.moments.momentum_scale is not None:  # which has axes of its own
            return None
        # XLA would run a loop over bfloat16 on all of the array, widened.
        how = OneByOne if dtype_name(w.grad) == "bfloat16" else Scan
        return how(over.shape, over.axis, over.run)

    def _large(self, w: Work) -> Blocks | None:
        """Blocks for what is more than one, where blocks are wanted."""
        if not (on_one_cpu(w) if self._scan is None else self._scan and _on_one_device(w)):
            return None
        scratch = w.options.max_scratch_bytes
        limit = block_limit(scratch, 8 if w.width == "float64" else 4)
        return blocks(tuple(w.param.shape), limit if scratch else limit * LARGER)


def on_one_cpu(w: Work) -> bool:
    # Asked in the step: building an optimizer must not start JAX's backends.
    return jax.default_backend() == "cpu" and _on_one_device(w)


def _on_one_device(w: Work) -> bool:
    """Not every trace knows the mesh of its arrays, so several devices are a mesh too.

    A loop over the blocks of an array in parts would gather it, and is an error where axes are
    part of types, as under shard_map.
    """
    auto = all(kind == AxisType.Auto for kind in _mesh(w).axis_types)
    return auto and jax.device_count() == 1 and _mesh(w).size <= 1


def _mesh(w: Work) -> Any:
    return jax.typeof(w.param).sharding.mesh
