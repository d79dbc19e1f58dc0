"""The float64 oracle's trajectories for a case, given which steps each tensor took.

Tensors have dtypes of their own here, so each goes through the oracle alone. Who was skipped comes
from the subject, and is judged apart; global clipping and loss scaling are multiplied in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adafactor_core import conformance
from adafactor_core.conformance._oracle_rounding import spread

from .draw import Arrays, FuzzCase
from .subjects import SLOTS, Snap

Array = np.ndarray
FOLDED = ("max_grad_norm", "telemetry", "rules", "nonfinite")
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass
class Track:
    """One tensor through the oracle. Lists have an entry per step that it took: `at` says which."""

    path: str
    start: Array
    dtype: str
    options: dict[str, Any]
    given: list[Array] = field(default_factory=list)  # what the oracle gets: NaN at skipped steps
    taken: list[int] = field(default_factory=list)  # which of those the tensor took
    at: list[int] = field(default_factory=list)
    grads: list[Array] = field(default_factory=list)  # unscaled and clipped, float64
    high: list[Array] = field(default_factory=list)  # |g| before clipping, the larger of |g| as it
    low: list[Array] = field(default_factory=list)  # came in and unscaled; and the smaller
    gains: list[float] = field(default_factory=list)  # what the gradient was multiplied by
    unscale: float = 1.0
    norms: list[str] = field(default_factory=list)  # what is wrong with the norm of all gradients
    params: list[Array] = field(default_factory=list)
    updates: list[Array] = field(default_factory=list)
    moments: list[dict[str, Array]] = field(default_factory=list)
    close: bool = False  # a momentum on the boundary between two stored values
    mixed: bool = False  # a float64 tensor, clipped by a norm that float32 tensors are part of

    @property
    def wide(self) -> str:
        return "float64" if self.dtype == "float64" else "float32"

    def before(self, k: int) -> Array:
        return self.params[k - 1] if k else self.start

    def average(self, k: int) -> Array | None:
        """The momentum as numbers."""
        held, scale = (self.moments[k].get(n) for n in ("momentum", "momentum_scale"))
        return held if scale is None else held * spread(scale, held.shape)


def seen(case: FuzzCase, step: int, path: str) -> Array:
    """The gradient in the compute dtype of its tensor, as float64."""
    g = case.grads[step][path]
    if case.params[path].dtype != np.float64:
        g = g.astype(np.float32)
    return g.astype(np.float64)


def gain(case: FuzzCase, step: int, stays: set[str]) -> float:
    """What every gradient of a step is multiplied by; tensors that stay do not count."""
    by = 1.0 if case.grad_scale is None else 1.0 / float(case.grad_scale)
    most = case.options["max_grad_norm"]
    if most is None:
        return by
    parts = [np.linalg.norm(seen(case, step, p)) * by for p in case.params if p not in stays]
    norm = math.hypot(*parts) if parts else 0.0
    return by * (most / norm if not norm <= most else 1.0)


def norm_overflow(case: FuzzCase, step: int, stays: set[str]) -> str:
    """Whether the global norm is beyond the dtype of one of the tensors that count in it."""
    if case.options["max_grad_norm"] is None:
        return ""
    for path in case.params.keys() - stays:
        g = seen(case, step, path)
        wide = np.float64 if case.params[path].dtype == np.float64 else np.float32
        if not np.sum(g * g) <= np.finfo(wide).max:
            count = sum(x.size for x in case.params.values())
            sure = np.max(np.abs(g)) ** 2 * 2.0 / count > np.finfo(wide).max
            how = "overflow" if sure else "overflow or nearly so"
            return f"squares of a gradient {how}, and the global norm with them"
    return ""


def late(case: FuzzCase, step: int, params: Arrays, odd: set[str] | frozenset[str]) -> str:
    """Whether a tensor without NaN and infinity was skipped: for squares, its own or those of U."""
    if case.options["max_grad_norm"] is None:
        return ""
    for path in odd:
        both = seen(case, step, path), params[path].astype(np.float64)
        if all(np.isfinite(x).all() for x in both):
            return "a tensor that was skipped for its squares or its U counts in the global norm"
    return ""


def take(track: Track, case: FuzzCase, step: int, stays: set[str], why: str = "") -> None:
    """One more step, in which the tensors `stays` do not move."""
    g = seen(case, step, track.path)
    unscale = track.unscale = 1.0 if case.grad_scale is None else 1.0 / float(case.grad_scale)
    track.gains.append(gain(case, step, stays))
    track.taken.append(len(track.given))
    track.at.append(step)
    track.grads.append(g * track.gains[-1])
    track.given.append(track.grads[-1])
    track.high.append(np.abs(g) * max(1.0, unscale))
    track.low.append(np.abs(g) * min(1.0, unscale))
    track.norms.append(norm_overflow(case, step, stays) or why)


def follow(case: FuzzCase, snaps: list[Snap]) -> dict[str, Track]:
    """Path to track, for the steps that the subject took."""
    wide = {x.dtype == np.float64 for x in case.params.values()}
    mixed = case.options["max_grad_norm"] is not None and len(wide) == 2
    tracks = {}
    for path, x in case.params.items():
        start = x.astype(np.float64)
        tracks[path] = Track(path, start, x.dtype.name, case.of(path), mixed=mixed)
    for step, now in enumerate(snaps):
        stays = {p for p in case.params if now.stayed(p)}
        why = late(case, step, snaps[step - 1].params if step else case.params, now.odd)
        for path, track in tracks.items():
            if path not in stays:
                take(track, case, step, stays, why)
            elif now.moved:  # to the oracle a step with a NaN: counted, and not taken
                track.given.append(np.full(track.start.shape, np.nan))
    for track in tracks.values():
        run(track)
    return tracks


def run(track: Track) -> None:
    """Fills in what the oracle makes of it."""
    if not track.given:
        return
    o = {k: v for k, v in track.options.items() if k not in FOLDED}
    if len(track.taken) < len(track.given):
        o["nonfinite"] = "skip_tensor"
    grads = [{track.path: g} for g in track.given]
    done = conformance.oracle({track.path: track.start}, grads, o, track.dtype)
    track.close = bool(done.close)
    for k in track.taken:
        slots = {name: done.moments[k].get(f"{track.path}.{name}") for name in SLOTS}
        track.params.append(done.params[k][track.path])
        track.updates.append(done.updates[k][track.path])
        track.moments.append({name: x for name, x in slots.items() if x is not None})


def normalised(track: Track, k: int) -> Array:
    """|U| of step k from the oracle's own moments, before clipping."""
    o, m, g = track.options, track.moments[k], np.abs(track.grads[k])
    eps = EPSILON[track.dtype] if o["eps1"] == "finfo" else o["eps1"]
    if o["beta1"] is not None and o["momentum_on"] == "grad":
        g = np.abs(track.average(k))
    after = eps if o["eps1_mode"] == "stats" else 0.0
    if "full" in m:
        root = np.sqrt(m["full"] + after)
    else:
        row, col = m["row"], m["col"]
        shared = tuple(a for a, n in enumerate(row.shape) if n != 1 == col.shape[a])
        mean = np.mean(row, axis=shared, keepdims=True)
        if o["eps1_mode"] == "clamp":
            mean = np.maximum(mean, eps)
        root = np.sqrt((row + after) / mean) * np.sqrt(col + after)
    if o["eps1_mode"] == "clamp":
        root = np.maximum(root, eps)
    return np.divide(g, root, out=np.zeros_like(g), where=g != 0)
