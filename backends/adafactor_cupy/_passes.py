"""KernelPasses: the passes of adafactor_core as CUDA kernels, each one launch for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adafactor_core import Metrics, Work
from adafactor_core._box import refusal
from adafactor_core._numerics import dtype_name

from ._table import DTYPES, Kernels, Table

_BY = {"alpha": 0, "lr": 1, "none": 2}


class KernelPasses:
    """Passes for arrays on a GPU. Results agree with ArrayPasses to rounding.

    Serves float16, bfloat16 and float32 parameters in C order under the common options; `serves`
    names the reason where it does not. All tensors of one set of options and dtypes go together:
    five launches, and two for `max_grad_norm`, however many they are.
    """

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def serves(self, work: Work) -> str:
        reason = refusal(work) or _own_refusal(work)
        if reason:
            return reason
        arrays = (work.param, work.grad, *(m for m in work.moments if m is not None))
        return "" if all(a.flags.c_contiguous for a in arrays) else "not contiguous in C order"

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        found: dict[Any, list[Work]] = {}
        for w in works:
            found.setdefault((w.param.dtype, w.grad.dtype, id(w.options)), []).append(w)
        return [Table(batch, self._kernels) for batch in found.values()]

    def observe(self, works: Sequence[Work]) -> None:
        t = _table(works)
        t.refresh()
        into = [t.at(a) for a in (t.outer, t.inner, t.x2, t.u2, t.g2)]
        flags = (t.options.scale_parameter, t.clips and not t.normed, t.normed)
        t.launch("observe", t.grads, *into, *_rates(t, "b"), *_gain(t), *map(np.int64, flags))

    def squares(self, works: Sequence[Work]) -> Any:
        t = _table(works)
        t.launch("squares", *[t.at(a) for a in (t.outer, t.g2, t.norms)])
        t.launch("total", t.at(t.norms), np.int64(len(t)), t.at(t.norm))
        return t.norm

    def advance(self, works: Sequence[Work]) -> None:
        t = _table(works)
        arrays = [t.at(a) for a in (t.outer, t.inner, t.p, t.q, t.means)]
        t.launch("advance", *arrays, *_rates(t, "b"), *_gain(t))

    def measure(self, works: Sequence[Work]) -> None:
        t = _table(works)
        if t.clips and (t.normed or any(t.factored)):
            arrays = [t.at(a) for a in (t.p, t.q, t.means, t.u2)]
            t.launch("measure", t.grads, *arrays, *_rates(t, "b"), *_gain(t), np.int64(t.normed))

    def scale(self, works: Sequence[Work]) -> None:
        t = _table(works)
        o = t.options
        averages = 0 if o.beta1 is None else 1 if o.momentum_on == "scaled_update" else 2
        flags = (o.scale_parameter, o.weight_decay_first, _BY[o.weight_decay_by], t.clips, averages)
        most = math.inf if o.max_parameter_scale is None else o.max_parameter_scale
        numbers = (-1.0 if o.maximize else 1.0, o.eps2, most, 1.0 / (o.clip_threshold or 1.0))
        t.launch(
            "scale", *[t.at(a) for a in (t.x2, t.u2, t.factors)],
            *_rates(t, "step_size", "lr", "weight_decay"),
            *map(np.int64, flags), *map(np.float32, numbers),
        )  # fmt: skip

    def apply(self, works: Sequence[Work]) -> None:
        t = _table(works)
        arrays = [t.at(a) for a in (t.p, t.q, t.means, t.factors)]
        flags = (t[0].key if t[0].rounds == "stochastic" else 0, not t.clips)
        rates = (*_rates(t, "b"), *_gain(t), *_rates(t, "beta1"))
        t.launch("apply", t.grads, *arrays, *rates, *map(np.int64, flags))
        t.finish()

    def judge(self, works: Sequence[Work]) -> Any:
        raise NotImplementedError("tensors under a policy on non-finite numbers are not served")

    def metrics(self, works: Sequence[Work]) -> Sequence[Metrics]:
        raise NotImplementedError("tensors with telemetry are not served")


def _own_refusal(work: Work) -> str:
    """What these kernels leave out of what `refusal` lets pass."""
    whole = work.whole
    if dtype_name(work.param) not in DTYPES:
        return f"{work.param.dtype} parameters"
    if dtype_name(work.grad) not in DTYPES:
        return f"{work.grad.dtype} gradients"
    if whole.guarded:
        return f"nonfinite={whole.options.nonfinite!r}"
    if whole.options.telemetry:
        return "telemetry"
    if work.draws and not isinstance(work.key, int):
        return "a step counter on the device with random rounding"
    return "batch_axes" if work.layout.batch_axes else ""


def _table(works: Sequence[Work]) -> Table:
    if not isinstance(works, Table):
        raise TypeError("KernelPasses takes the batches that its own batches() made")
    return works


def _rates(t: Table, *names: str) -> list[Any]:
    return [x for name in names for x in t.rate(getattr(t[0].rates, name))]


def _gain(t: Table) -> tuple[Any, Any]:
    return t.rate(t[0].here(t[0].whole.gain))
