"""The array-API passes as XLA should see them."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from adafactor_core import ArrayPasses, ConfigError, Passes, Work
from adafactor_core._numerics import dtype_name
from adafactor_core._streaming import Blocks, block_limit, blocks

from ._scan import OneByOne, Scan, barrier

LARGER = 4  # than the blocks of eager libraries: each turn of a loop starts XLA's threads anew


def passes(scan: bool | None) -> tuple[Passes, ...]:
    """Raises ConfigError unless `scan` is True, False or None, which asks where this runs."""
    if scan is not None and not isinstance(scan, bool):
        raise ConfigError(f"scan must be True, False or None, got {scan!r}.")
    wanted = jax.default_backend() == "cpu" if scan is None else scan
    return (ScannedPasses() if wanted else WholePasses(),)


class WholePasses(ArrayPasses):
    """Whole tensors: the compiler fuses and blocks by itself."""

    def __init__(self) -> None:
        super().__init__(stream=False)

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        return [works]  # in what order they run is the compiler's to say

    def _in_parts(self, w: Work) -> bool:
        return w.whole.sharded or _split(w)


def _split(w: Work) -> bool:
    """Whether the tensor may lie in parts: not every trace knows the mesh of its arrays."""
    return jax.device_count() > 1 or jax.typeof(w.param).sharding.mesh.size > 1


class ScannedPasses(WholePasses):
    """Whole tensors, but for sums over large ones that XLA would not fuse on a CPU.

    It stores all of G*G for the sums over rows and columns, and 16-bit tensors widened before any
    sum, which takes most of a step. With everything else it does well.
    """

    def advance(self, works: Sequence[Work]) -> None:
        super().advance(works)
        _part_ways(works)

    def scale(self, works: Sequence[Work]) -> None:
        super().scale(works)
        _part_ways(works)

    def _blocks(self, w: Work, sweep: str) -> Blocks | None:
        sums: tuple[str, ...] = ("observe",)
        if "float16" in (dtype_name(w.param), dtype_name(w.grad)):
            sums = ("observe_param", "observe", "measure")
        # A loop over the blocks of an array in parts would gather it.
        if sweep not in sums or not w.layout.factored or _split(w):
            return None
        over = _large(w)
        if over is None:
            return None
        # XLA would run a loop over bfloat16 on all of the array, widened.
        how = OneByOne if dtype_name(w.grad) == "bfloat16" else Scan
        return how(over.shape, over.axis, over.run)


def _large(w: Work) -> Blocks | None:
    """Blocks for what is more than one."""
    scratch = w.options.max_scratch_bytes
    limit = block_limit(scratch, 8 if w.width == "float64" else 4)
    return blocks(tuple(w.param.shape), limit if scratch else limit * LARGER)


def _part_ways(works: Sequence[Work]) -> None:
    """Or two passes would have G*q, or a widened tensor, in common, and XLA store it in between."""
    for w in works:
        if _large(w) is not None:
            w.param, w.grad, w.q = barrier((w.param, w.grad, w.q))
