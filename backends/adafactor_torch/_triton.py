"""TritonPasses: the passes of adafactor_core as one launch each over all tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from array_api_compat import torch as xp

from adafactor_core import Metrics, Work
from adafactor_core._metrics import of_scopes
from adafactor_core._rounding import signed

from . import _triton_apply as last
from . import _triton_kernels as k
from . import _triton_small as small
from ._triton_cut import batches, why_not
from ._triton_table import Table

KINDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
WARPS = 8  # 16 elements of a chunk per thread


def launch(kernel: Any, count: int, like: torch.Tensor, *arguments: Any, **options: Any) -> None:
    """`count` programs on the device of `like` and its current stream."""
    there = (
        nullcontext() if like.is_cpu else torch.get_device_module(like.device).device(like.device)
    )
    with there:
        # Unfused, so that what was tested under the interpreter is what runs.
        kernel[(count,)](*arguments, **options, num_warps=WARPS, enable_fp_fusion=False)


@lru_cache(maxsize=16)
def unusable(device: torch.device) -> str:
    """Why nothing can be compiled for this device, as without a C compiler; empty if it can."""
    x = torch.zeros(1, dtype=torch.float32, device=device)
    try:
        launch(small.probe, 1, x, x)
    except Exception as error:  # Triton, a C compiler and a driver raise what they like
        return f"{type(error).__name__}: {error}"
    return ""


class TritonPasses:
    """Passes for torch tensors on `devices`. Results agree with ArrayPasses to rounding.

    Nothing waits for the device, and a step with the gradients in the same memory as before copies
    nothing to it, so that CUDA graphs can hold it. Serves contiguous float32, bfloat16 and float16
    parameters; `serves` says why not where it does not.
    """

    def __init__(self, devices: Sequence[str] = ("cuda", "xpu")) -> None:
        self._devices = devices

    def serves(self, work: Work) -> str:
        return why_not(work, self._devices)

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        return [Table(batch) for batch in batches(works)]

    def observe(self, works: Sequence[Work]) -> None:
        t = _table(works)
        t.refresh()
        w, guarded = t[0], t.whole.guarded
        scaled = t.options.scale_parameter or t.whole.options.telemetry or guarded
        sums = (t.outer, t.inner, t.totals, t.olds, t.x2, t.peaks)
        how = (KINDS[w.param.dtype], KINDS[w.grad.dtype], scaled, w.wants_squares, guarded)
        launch(k.observe, t.tiles, t.x2, *t.tables, t.grads, *sums, *t.rate, t.gain, *how)

    def squares(self, works: Sequence[Work]) -> Any:
        t = _table(works)
        return self._squares(t, t.whole.unit, t.whole.guarded).sum()

    def advance(self, works: Sequence[Work]) -> None:
        t = _table(works)
        t.regain()
        if t.count_parts:
            sums = (t.outer, t.inner, t.totals, t.olds, t.p, t.q, t.odd)
            launch(small.advance, t.count_parts, t.x2, t.parts, t.ints, t.nums, *sums, *t.rate,
                   t.gain, t.whole.guarded)  # fmt: skip

    def measure(self, works: Sequence[Work]) -> None:
        t = _table(works)
        if t[0].measures:
            kind = KINDS[t[0].grad.dtype]
            launch(k.measure, t.tiles, t.x2, *t.tables, t.grads, t.p, t.q, t.u2, *t.rate, t.gain,
                   kind)  # fmt: skip

    def judge(self, works: Sequence[Work]) -> Any:
        t = _table(works)
        sums = (t.odd, t.x2, t.u2, t.peaks, t.normal, t.fine, t.bad)
        launch(small.judge, len(t), t.x2, t.ints, *sums, t[0].measures, t.whole.normed)
        for w, fine in zip(t, t.verdicts, strict=True):
            w.fine = fine
        return t.bad.sum()

    def scale(self, works: Sequence[Work]) -> None:
        t = _table(works)
        o = t.options
        averages = None if o.beta1 is None else o.momentum_on
        rates = [*t.scalars["lr"], *t.scalars["step_size"], *t.scalars["weight_decay"]]
        size = (o.scale_parameter, o.eps2, o.max_parameter_scale, o.clip_threshold)
        how = (o.weight_decay_by, o.weight_decay_first, averages, -1.0 if o.maximize else 1.0)
        launch(small.scale, t.count_scopes, t.x2, t.scopes, t.ints, t.nums, t.x2, t.u2, t.factors,
               *rates, *size, *how)  # fmt: skip

    def apply(self, works: Sequence[Work]) -> None:
        t = _table(works)
        w, verdict = t[0], t.whole.fine
        if verdict is not False:
            fine, step = t.fine, 1
            if isinstance(verdict, torch.Tensor):
                fine, step = verdict.to(t.x2.device).view(torch.uint8), 0
            m = w.moments.momentum
            beta1 = (t.scalars["beta1"][0], *t.scalars["rest"])
            key = 0 if w.key is None else signed(w.key) if isinstance(w.key, int) else w.key
            kinds = [KINDS[a.dtype] for a in (w.param, w.grad, w.param if m is None else m)]
            how = (*kinds, w.rounds, m is not None, t.decays, t.whole.guarded)
            sums = (t.p, t.q, t.factors)
            launch(last.apply, t.tiles, t.x2, *t.tables, t.grads, *sums, *t.rate, t.gain, *beta1,
                   key, fine, step, *how)  # fmt: skip
        t.finish()

    def metrics(self, works: Sequence[Work]) -> Sequence[Metrics]:
        t = _table(works)
        unit = t.whole.unit
        norms = self._squares(t, unit, False).sqrt() * (1.0 / unit)
        found = []
        for w, c, norm in zip(t, t.spans, norms, strict=True):
            norm = norm if t.whole.unscale is None else norm * w.here(t.whole.unscale)
            x2, u2 = (t.means(w, c, name) for name in ("x2", "u2"))
            found.append(of_scopes(xp, w.param, w.options, w.rates, x2, u2, norm))
        return found

    def _squares(self, t: Table, unit: float, guarded: bool) -> torch.Tensor:
        sums = (t.totals, t.x2, t.peaks, t.norms, t.normal)
        launch(small.squares, len(t), t.x2, t.ints, t.nums, *sums, unit, guarded)
        return t.norms


def _table(works: Sequence[Work]) -> Table:
    if not isinstance(works, Table):
        raise TypeError("TritonPasses takes the batches that its own batches() made")
    return works
