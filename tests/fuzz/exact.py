"""What has to agree bit for bit: skips, donation, telemetry, resume, updates, blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import adafactor_core as af

from . import reference, subjects
from .draw import Arrays, FuzzCase
from .ranges import values_of
from .subjects import SLOTS, Snap
from .tally import Tally


def same_bits(a: Any, b: Any) -> bool:
    """Any NaN counts as any other; 0 and -0 differ."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.tobytes() == b.tobytes():
        return True
    a, b = values_of(a), values_of(b)
    odd = np.isnan(a)
    return bool(
        np.array_equal(odd, np.isnan(b))
        and np.array_equal(a[~odd], b[~odd])
        and np.array_equal(np.signbit(a[~odd]), np.signbit(b[~odd]))
    )


def differing(a: Arrays, b: Arrays) -> list[str]:
    """Names whose arrays differ."""
    if a.keys() != b.keys():
        return sorted(a.keys() ^ b.keys())
    return [name for name in a if not same_bits(a[name], b[name])]


def compare(name: str, ours: list[Snap], base: list[Snap], tally: Tally) -> bool:
    """Two runs in all that they show."""
    for step, (a, b) in enumerate(zip(ours, base, strict=True)):
        found = differing(a.params, b.params) + differing(a.slots, b.slots)
        counters = (a.step, a.skipped, a.counts, a.odd) == (b.step, b.skipped, b.counts, b.odd)
        if found or not counters:
            return tally.check(name, False, f"step {step}: {found or 'counters'}")
    return tally.check(name, True)


def skips(case: FuzzCase, snaps: list[Snap], tally: Tally, name: str = "pure") -> None:
    """A tensor that was skipped has every bit that it had."""
    past = start(case)
    for step, now in enumerate(snaps):
        for path in case.params:
            if now.stayed(path):
                before, after = of_tensor(past, path), of_tensor(now, path)
                found = differing(before, after)
                tally.check(f"skipped tensors keep every bit, {name}", not found,
                            f"step {step} {path!r}: {found}")  # fmt: skip
        past = now


def start(case: FuzzCase) -> Snap:
    """Before the first step."""
    return subjects.snap(case.params, af.init(case.params, case.config), None)


def of_tensor(snap: Snap, path: str) -> Arrays:
    slots = {f"{path}.{name}" for name in SLOTS} & snap.slots.keys()
    return {"": snap.params[path]} | {name: snap.slots[name] for name in slots}


def state_of(snap: Snap, paths: Any) -> af.State:
    """The state that a Snap is of, without metrics, for some tensors."""
    moments = {}
    for path in paths:
        m = {n: snap.slots.get(f"{path}.{n}") for n in SLOTS}
        count = snap.counts.get(path)
        m["skipped"] = None if count is None else np.asarray(count, np.int32)
        moments[path] = af.Moments(**m)
    skipped = None if snap.skipped is None else np.asarray(snap.skipped, np.int32)
    return af.State(np.asarray(snap.step, np.int32), moments, skipped)


def without_bad(case: FuzzCase, snaps: list[Snap], tally: Tally) -> None:
    """skip_tensor: the others move as in a step in which the bad ones are not there at all."""
    if case.options["nonfinite"] != "skip_tensor":
        return
    past = start(case)
    for step, now in enumerate(snaps):
        good = [p for p in case.params if p not in now.odd]
        if now.odd and good:
            rules = tuple(r for r in case.options["rules"] if r[0] in good)
            options = case.options | {"rules": rules}
            params, grads = ({p: t[p] for p in good} for t in (past.params, case.grads[step]))
            params, state = af.step(
                params, grads, state_of(past, good), af.Config(**options),
                grad_scale=case.grad_scale,
            )  # fmt: skip
            alone = subjects.snap(params, state, past)
            found = [p for p in good if differing(of_tensor(alone, p), of_tensor(now, p))]
            name = "others move as without the bad tensor"
            if found and (why := reference.late(case, step, past.params, now.odd)):
                tally.excuse(name, why)
            else:
                tally.check(name, not found, f"step {step}: {found}")
        past = now


def donated(case: FuzzCase, base: list[Snap], tally: Tally) -> None:
    compare("donate=True gives the same bits", subjects.pure(case, donate=True), base, tally)


def told(case: FuzzCase, base: list[Snap], tally: Tally) -> None:
    config = replace(case.config, telemetry=not case.options["telemetry"])
    compare("telemetry changes no bit", subjects.pure(case, config=config), base, tally)


def resumed(case: FuzzCase, base: list[Snap], tally: Tally) -> None:
    """Through copies before a random step, and before one that follows a skip if there is one."""
    if len(base) < 2:
        return
    after_skips = [k + 1 for k, s in enumerate(base[:-1]) if s.odd]
    at = after_skips[0] if after_skips else 1 + case.seed % (len(base) - 1)
    name = "resume after a skip" if after_skips else "resume"
    compare(f"{name}, pure", subjects.pure(case, resume=at), base, tally)


def resumed_in_place(case: FuzzCase, base: list[Snap], compiled: bool | None, tally: Tally) -> None:
    if len(base) < 2:
        return
    after_skips = [k + 1 for k, s in enumerate(base[:-1]) if s.odd]
    at = after_skips[0] if after_skips else 1 + case.seed % (len(base) - 1)
    name = "resume after a skip" if after_skips else "resume"
    again = subjects.in_place(case, compiled, resume=at)
    compare(f"{name}, in place", again, base, tally)


def added(case: FuzzCase, base: list[Snap], tally: Tally) -> None:
    """update: params + D, rounded once, has the bits of step."""

    def step(params: Arrays, grads: Arrays, state: af.State, config: af.Config, **more: Any) -> Any:
        more.pop("donate", None)
        d, state = af.update(grads, state, params, config, **more)
        new = {}
        for path, x in params.items():
            new[path] = np.asarray((x.astype(d[path].dtype) + d[path]).astype(x.dtype))
        return new, state

    ours = subjects.pure(case, step=step)
    for a, b in zip(ours, base, strict=True):
        for path, x in b.params.items():  # a skipped tensor's -0 stays, and -0 + 0 is 0
            zero = (values_of(x) == 0) & (values_of(a.params[path]) == 0)
            a.params[path] = np.where(zero, x, a.params[path]).astype(x.dtype)
    compare("params + update has the bits of step", ours, base, tally)


def reblocked(case: FuzzCase) -> FuzzCase | None:
    """The case with other blocks, if that makes any."""
    size = max(x.size for x in case.params.values())
    large, least = size > 32, 1024 if size <= 600 else 16384
    other = None if case.options["max_scratch_bytes"] else least
    return replace(case, options=case.options | {"max_scratch_bytes": other}) if large else None


def elementwise(case: FuzzCase) -> bool:
    """Whether nothing is summed up, so that blocks and shards may not change a bit."""
    o = [case.of(p) for p in case.params]
    return case.options["max_grad_norm"] is None and all(
        not (x["factored"] or x["scale_parameter"]) and x["clip_threshold"] is None for x in o
    )
