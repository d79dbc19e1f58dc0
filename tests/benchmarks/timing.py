"""One race: all contestants of a work in this process, taking turns, garbage collection off."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from contestants import Contestant, Entry
from peers import ENTRIES, UnsupportedError
from problems import Array, Problem
from works import Race, verdicts

WARM = 3  # steps of every contestant before anything is timed; the checks look at their result
SETTLE = 0.01  # seconds before each turn: the thread pools of the one before stop spinning

Row = dict[str, Any]


def run_race(name: str, race: Race, repeats: int | None, quick: bool) -> dict[str, Any]:
    """The record of one work: a row per contestant, and the verdicts."""
    rounds = repeats or (3 if quick else race.repeats)
    inner = 1 if quick else race.inner
    listed = {n: ENTRIES[n] for n in race.contestants}
    rows: dict[str, Row] = {n: {"label": e.label, "kind": e.kind} for n, e in listed.items()}
    ready = _prepare(race.problem, listed, rows)
    for contestant, times in _take_turns(name, ready, rounds, inner).items():
        rows[contestant] |= _summary(times)
    _ratios(rows)
    return {
        "kind": "times",
        "title": race.title,
        "dtype": race.problem.dtype,
        "tensors": len(race.problem.shapes),
        "parameters": race.problem.size,
        "repeats": rounds,
        "steps_per_sample": inner,
        "rows": rows,
        "targets": verdicts(race, rows),
    }


def _prepare(
    problem: Problem, listed: Mapping[str, Entry], rows: dict[str, Row]
) -> dict[str, Contestant]:
    """Builds, warms up and checks. What fails leaves its reason in its row."""
    ready: dict[str, Contestant] = {}
    reference: list[Array] | None = None
    for name, entry in listed.items():
        try:
            contestant = entry.build(problem)
            before = [g.copy() for g in problem.grads]
            for _ in range(WARM):
                contestant.step()
            found = contestant.read()
            _check(problem, before, found)
        except (ImportError, UnsupportedError) as error:
            rows[name]["skipped"] = str(error)
            continue
        except Exception as error:
            rows[name]["skipped"] = f"failed, {type(error).__name__}: {error}"
            print(f"{name}: {rows[name]['skipped']}", file=sys.stderr)
            continue
        ready[name] = contestant
        if entry.adafactor:
            if reference is None:
                reference = [x.astype(np.float32) for x in found]
            else:
                rows[name]["deviation"] = _deviation(found, reference)
    return ready


def _check(problem: Problem, grads: list[Array], found: list[Array]) -> None:
    """A contestant that did nothing, or changed what all share, is out."""
    for i, (x, old, g, same) in enumerate(
        zip(found, problem.start, problem.grads, grads, strict=True)
    ):
        if np.array_equal(x, old):
            raise RuntimeError(f"tensor {i} did not change in {WARM} steps")
        if not np.isfinite(x.astype(np.float32, copy=False)).all():
            raise RuntimeError(f"tensor {i} is not finite after {WARM} steps")
        if not np.array_equal(g, same):
            raise RuntimeError(f"the gradient of tensor {i} was overwritten")


def _deviation(found: list[Array], reference: list[Array]) -> float:
    """max|a - b| / max|b|, the worst tensor."""
    pairs = zip(found, reference, strict=True)
    return max(float(np.abs(a.astype(np.float32) - b).max() / np.abs(b).max()) for a, b in pairs)


def _take_turns(
    name: str, ready: Mapping[str, Contestant], rounds: int, inner: int
) -> dict[str, list[float]]:
    """Milliseconds per step, one sample per contestant and round; round 0 is not kept."""
    times: dict[str, list[float]] = {n: [] for n in ready}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds + 1):
            _progress(name, turn, rounds)
            for contestant, (step, _) in ready.items():
                sample = _sample(step, inner)
                if turn:
                    times[contestant].append(sample)
            gc.collect()
    finally:
        gc.enable()
    return times


def _sample(step: Callable[[], Any], inner: int) -> float:
    """One untimed step, so that a contestant follows itself as in training, then `inner`."""
    time.sleep(SETTLE)
    step()
    start = time.perf_counter_ns()
    for _ in range(inner):
        step()
    return (time.perf_counter_ns() - start) / inner / 1e6


def _progress(name: str, turn: int, rounds: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if turn == rounds else ""
        print(f"\r{name}: round {turn}/{rounds} ", end=end, file=sys.stderr, flush=True)


def _summary(times: list[float]) -> Row:
    low, q1, median, q3 = np.quantile(times, [0.0, 0.25, 0.5, 0.75]).tolist()
    samples = [round(t, 5) for t in times]
    return {"median_ms": median, "min_ms": low, "q1_ms": q1, "q3_ms": q3, "samples_ms": samples}


def _ratios(rows: dict[str, Row]) -> None:
    """Medians over the faster floor's, and over those of our two optimizers."""
    timed = {n: r["median_ms"] for n, r in rows.items() if "median_ms" in r}
    floors = [t for n, t in timed.items() if rows[n]["kind"] == "floor"]
    for name, t in timed.items():
        rows[name]["over_floor"] = t / min(floors) if floors else None
        for ours in ("compiled", "plain"):
            rows[name][f"over_{ours}"] = t / timed[ours] if ours in timed else None
