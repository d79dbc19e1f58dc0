"""KernelPasses: the passes of adafactor_core as CUDA kernels, each one launch for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adafactor_core import Metrics, Work
from adafactor_core._box import refusal
from adafactor_core._numerics import dtype_name, move

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
        into = [t.at(a) for a in (t.outer, t.inner, t.x2, t.u2, t.g2, t.peaks, t.bad)]
        asked = t[0].whole.options.telemetry or t.guarded
        flags = (t.options.scale_parameter or asked, t.clips and not t.normed,
                 t[0].wants_squares, t.guarded)  # fmt: skip
        t.launch("observe", t.grads, *into, *t.decay, *_gain(t), *map(np.int64, flags))

    def squares(self, works: Sequence[Work]) -> Any:
        t = _table(works)
        self._squares(t, t.guarded)
        t.launch("total", t.at(t.norms), np.int64(len(t)), t.at(t.norm))
        return t.norm

    def _squares(self, t: Table, guarded: bool) -> None:
        arrays = [t.at(a) for a in (t.outer, t.g2, t.x2, t.peaks, t.marks, t.norms)]
        t.launch("squares", *arrays, np.int64(guarded))

    def advance(self, works: Sequence[Work]) -> None:
        t = _table(works)
        arrays = [t.at(a) for a in (t.outer, t.inner, t.p, t.q, t.means, t.odd)]
        t.launch("advance", *arrays, *t.decay, *_gain(t), np.int64(t.guarded))

    def measure(self, works: Sequence[Work]) -> None:
        t = _table(works)
        if t.clips and (t.normed or any(t.factored)):
            arrays = [t.at(a) for a in (t.p, t.q, t.means, t.u2)]
            flags = map(np.int64, (t.normed, t.guarded))
            t.launch("measure", t.grads, *arrays, *t.decay, *_gain(t), *flags)

    def judge(self, works: Sequence[Work]) -> Any:
        t = _table(works)
        arrays = (t.scopes, t.x2, t.u2, t.peaks, t.odd, t.marks, t.fine, t.bad)
        t.launch("judge", *[t.at(a) for a in arrays], *map(np.int64, (t.clips, t.normed)))
        for w, fine in zip(t, t.verdicts, strict=True):
            w.fine, w.counted = fine, True
        return t.bad

    def scale(self, works: Sequence[Work]) -> None:
        t = _table(works)
        o = t.options
        averages = 0 if o.beta1 is None else 1 if o.momentum_on == "scaled_update" else 2
        flags = (o.scale_parameter, o.weight_decay_first, _BY[o.weight_decay_by], t.clips,
                 averages, t[0].whole.options.telemetry)  # fmt: skip
        most = math.inf if o.max_parameter_scale is None else o.max_parameter_scale
        numbers = (-1.0 if o.maximize else 1.0, o.eps2, most, 1.0 / (o.clip_threshold or 1.0))
        t.launch(
            "scale", *[t.at(a) for a in (t.x2, t.u2, t.factors)],
            *_rates(t, "step_size", "lr", "weight_decay"),
            *map(np.int64, flags), *map(np.float32, numbers),
        )  # fmt: skip

    def apply(self, works: Sequence[Work]) -> None:
        t = _table(works)
        verdict, fine, each = t[0].whole.fine, t.fine, True
        if verdict is not None and not isinstance(verdict, bool):
            fine, each = t.hold(move(verdict, t[0].param, verdict.dtype)), False
        if verdict is not False:
            arrays = [t.at(a) for a in (t.p, t.q, t.means, t.factors)]
            rates = (*t.decay, *_gain(t), *_rates(t, "beta1"))
            key = t.word(t[0].key if t[0].rounds == "stochastic" else None)
            flags = map(np.int64, (each, t.guarded or not t.clips, t.guarded))
            t.launch("apply", t.grads, *arrays, *rates, *key, t.at(fine), *flags)
        t.finish()

    def metrics(self, works: Sequence[Work]) -> Sequence[Metrics]:
        t = _table(works)
        if not t.normed:  # then nobody has added the squares up
            self._squares(t, False)
        count = len(Metrics._fields)
        told, xp = t.room(count * len(t)), t[0].xp
        unscale = t.rate(t[0].here(t[0].whole.unscale))
        t.launch("metrics", *[t.at(a) for a in (t.factors, t.marks, told)], *unscale)
        found = [xp.reshape(told[k : k + 1], ()) for k in range(count * len(t))]
        return [Metrics(*found[k : k + count]) for k in range(0, len(found), count)]


def _own_refusal(work: Work) -> str:
    """What these kernels leave out of what `refusal` lets pass."""
    if dtype_name(work.param) not in DTYPES:
        return f"{work.param.dtype} parameters"
    if dtype_name(work.grad) not in DTYPES:
        return f"{work.grad.dtype} gradients"
    return ""


def _table(works: Sequence[Work]) -> Table:
    if not isinstance(works, Table):
        raise TypeError("KernelPasses takes the batches that its own batches() made")
    return works


def _rates(t: Table, *names: str) -> list[Any]:
    return [x for name in names for x in t.rate(getattr(t[0].rates, name))]


def _gain(t: Table) -> tuple[Any, Any]:
    return t.rate(t[0].here(t[0].whole.gain))
