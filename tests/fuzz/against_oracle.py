"""Verdicts, NaN and numbers of one subject, held to the oracle."""

from __future__ import annotations

from copy import deepcopy

import numpy as np

from adafactor_core.conformance._oracle_rounding import spread
from adafactor_core.conformance._rounding import spacing
from adafactor_core.conformance._tolerances import KAHAN, TABLE

from . import ranges, reference
from .draw import FuzzCase
from .ranges import excuse, top, values_of
from .reference import Array, Track
from .subjects import Snap
from .tally import Tally

NARROW = ("bfloat16", "float16")
ENTRIES, FLIPS = "16-bit entries after the last step", "16-bit entries after it that differ"


def verdicts(case: FuzzCase, snaps: list[Snap], tracks: dict[str, Track], tally: Tally) -> None:
    """Every policy: who was called not finite, counters, and that `step` stands still or moves."""
    policy = case.options["nonfinite"]
    before: Snap | None = None
    for step, now in enumerate(snaps):
        past = before.step if before else 0
        if policy == "propagate":
            tally.check("counters", now.step == past + 1 and now.skipped is None, f"step {step}")
        else:
            _verdict(case, step, now, before, tracks, tally)
        before = now


def _verdict(
    case: FuzzCase,
    step: int,
    now: Snap,
    before: Snap | None,
    tracks: dict[str, Track],
    tally: Tally,
) -> None:
    policy, past = case.options["nonfinite"], before.step if before else 0
    for path, track in tracks.items():
        x = values_of((before.params if before else case.params)[path])
        flagged, where = path in now.odd, f"step {step} {path!r}"
        if ranges.odd_for_sure(case, step, path, x):
            tally.check("odd is seen", flagged, f"{where} is not finite, and not skipped")
        elif flagged:
            why = ranges.may_be_odd(track, probe(case, step, path, now, track), x)
            tally.check("fine is not skipped", bool(why), f"{where} is finite, and skipped")
            tally.excuse("verdict", why) if why else None
        else:
            tally.check("fine is not skipped", True)
    wants_step = policy == "skip_tensor" or not now.odd
    right = now.moved == wants_step and now.step == past + wants_step
    tally.check("counters", right, f"step {step}: step {past} -> {now.step}, odd {set(now.odd)}")
    if policy != "raise":
        skips = (before.skipped if before else 0) or 0
        fine = now.skipped == skips + bool(now.odd)
        tally.check("counters", fine, f"step {step}: skipped {skips} -> {now.skipped}")


def probe(case: FuzzCase, step: int, path: str, now: Snap, track: Track) -> Track | None:
    """The oracle's trajectory up to a step that was refused, and with it; None beside a NaN."""
    found, done = deepcopy(track), sum(at < step for at in track.at)
    for name in ("at", "gains", "grads", "high", "low", "norms", "taken"):
        setattr(found, name, getattr(found, name)[:done])
    found.given = found.given[: found.taken[-1] + 1 if done else 0]
    found.params, found.updates, found.moments = [], [], []
    reference.take(found, case, step, {p for p in case.params if p in now.odd and p != path})
    if not np.isfinite(found.grads[-1]).all():
        return None
    with np.errstate(all="ignore"):
        reference.run(found)
    return found


def numbers(
    name: str, case: FuzzCase, snaps: list[Snap], tracks: dict[str, Track], tally: Tally
) -> None:
    """No NaN that the oracle does not have, and its numbers where the oracle has all options."""
    for path, track in tracks.items():
        if not track.start.size:  # how it is kept is nobody's concern
            continue
        reached = np.abs(track.start)
        for k, at in enumerate(track.at):
            here, where = snaps[at], f"{name} step {at} {path!r}"
            reached = np.maximum(reached, np.abs(track.params[k]))
            if not _finite(where, case, here, path, track, k, tally):
                break
            if not np.isfinite(track.params[k]).all():
                break
            if not _close(where, here, path, track, k, reached, tally):
                break


def _finite(
    where: str, case: FuzzCase, here: Snap, path: str, track: Track, k: int, tally: Tally
) -> bool:
    """Of slices (over batch axes) in which the oracle is finite, all is; else something is not."""
    slots = {n: here.slots[f"{path}.{n}"] for n in track.moments[k] if f"{path}.{n}" in here.slots}
    pairs = {"param": (track.params[k], here.params[path])}
    pairs |= {n: (track.moments[k][n], x) for n, x in slots.items()}
    spoiled = not all(np.isfinite(theirs).all() for theirs, _ in pairs.values())
    if spoiled and not _apart(track):
        ours = [np.isfinite(values_of(x)).all() for _, x in pairs.values()]
        if ranges.total(track.start) < np.inf and all(ours) and track.start.size:
            if why := excuse(track, k, True):
                tally.excuse("NaN stays visible", why)
            else:
                idle = np.isfinite(track.params[k]).all()
                tally.check("NaN stays visible", idle, f"{where}: finite, unlike the oracle")
        else:
            tally.check("NaN stays visible", True)
        return False
    for name, (theirs, ours) in pairs.items():
        bad = np.isfinite(theirs) & ~np.isfinite(values_of(ours))
        if spoiled:
            bad = bad & _untouched(track, k, theirs.shape)
        if bad.any() and (why := excuse(track, k, False)):
            tally.excuse("finite where the oracle is", why)
            return False
        if not tally.check(
            "finite where the oracle is", not bad.any(), f"{where} {name}: {int(bad.sum())} entries"
        ):
            return False
    return not spoiled


def _apart(track: Track) -> bool:
    """Whether slices of this tensor are independent; blocks of int8 run over the last axis."""
    o, rank = track.options, track.start.ndim
    if o["momentum_dtype"] == "int8" and rank - 1 in {a % rank for a in o["batch_axes"]}:
        return False
    return bool(o["batch_axes"]) and o["scale_scope"] == o["clip_scope"] == "block"


def _untouched(track: Track, k: int, shape: tuple[int, ...]) -> Array:
    """Entries in slices of the batch axes in which the oracle is finite throughout."""
    rank = track.start.ndim
    apart = {a % rank for a in track.options["batch_axes"]}
    inner = tuple(a for a in range(rank) if a not in apart)
    fine = np.isfinite(track.params[k]).all(axis=inner, keepdims=True)
    for slot in track.moments[k].values():
        fine = fine & np.isfinite(slot).all(axis=inner, keepdims=True)
    return np.broadcast_to(fine, shape)


def _close(
    where: str, here: Snap, path: str, track: Track, k: int, reached: Array, tally: Tally
) -> bool:
    tolerance = TABLE["float32" if track.mixed and track.dtype == "float64" else track.dtype]
    # 1e-5 and 1e-13 are promised in docs/numerics.md; the kit's 1e-6 is what it measures.
    statistics = max(1e-13, 10.0 * tolerance.moments * (track.dtype != "float64" or track.mixed))
    found = []
    ours, theirs = values_of(here.params[path]), track.params[k]
    difference = np.abs(ours - theirs)
    if track.dtype in NARROW:
        unit = np.maximum(spacing(reached, track.dtype), 1e-6 * top(reached))
        flips = int(np.sum(difference > 0))
        if k == len(track.at) - 1 and not (flips and excuse(track, k, True, track.close)):
            tally.note(ENTRIES, difference.size)
            tally.note(FLIPS, flips)
        worst, limit = top(difference / unit), 2.0
    else:
        worst, limit = top(difference) / (tolerance.params * top(reached) or 1.0), 1.0
    found.append(("oracle: parameters", worst, limit))
    floor = ranges.LEAST[track.wide] * 2.0 ** ranges.DIGITS[track.wide]
    for name in ("row", "col", "full"):
        if name in track.moments[k]:
            m = track.moments[k][name]
            error = np.abs(values_of(here.slots[f"{path}.{name}"]) - m) / np.maximum(m, floor)
            found.append(("oracle: statistics", top(error) / statistics, 1.0))
    found += _buffers(here, path, track, k, reached, tolerance.moments)
    for name, worst, limit in found:
        rounds = track.close or ranges.twice(track)
        about = name.removeprefix("oracle: ")
        if worst > limit and (why := excuse(track, k, True, rounds, about)):
            silent = "overflow" in why and "nearly" not in why
            if silent and not tally.check("overflow is seen", False, f"{where} {name}: {why}"):
                return False
            tally.excuse(name, why)
            return False
        if not tally.check(name, worst <= limit, f"{where}: {worst:.3g} times the tolerance"):
            return False
    return True


def _buffers(
    here: Snap,
    path: str,
    track: Track,
    k: int,
    reached: Array,
    tolerance: float,
) -> list[tuple[str, float, float]]:
    """Momentum, and what Kahan's compensation makes of the parameter."""
    found = []
    held, scale = track.average(k), here.slots.get(f"{path}.momentum_scale")
    if held is not None and track.dtype not in NARROW:
        ours = values_of(here.slots[f"{path}.momentum"])
        if scale is not None:
            ours = ours * spread(values_of(scale), ours.shape)
        buffer = track.options["momentum_dtype"]
        unit = tolerance * max(top(h) for j in range(k + 1) if (h := track.average(j)) is not None)
        if buffer == "int8":
            unit = np.maximum(unit, spread(track.moments[k]["momentum_scale"], ours.shape))
        elif buffer != "float32":
            unit = np.maximum(unit, spacing(held, buffer))
        error = np.abs(ours - held) / np.where(unit > 0, unit, 1.0)
        found.append(("oracle: momentum", top(error), 1.0))
    kept = track.moments[k].get("compensation")
    if kept is not None:
        ours = values_of(here.params[path]) + values_of(here.slots[f"{path}.compensation"])
        theirs = track.params[k] + kept
        least = 2.0**-24 if track.dtype == "float16" else 0.0  # of the compensation
        size = max(KAHAN[track.dtype] * top(reached), least)
        error = top(ours - theirs) / (size or 1.0)
        found.append(("oracle: parameter and compensation", error, k + 1.0))  # one of each step
    return found
