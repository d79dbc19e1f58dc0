"""Peak scratch of an in-place step: NumPy's own count, and the growth of resident memory."""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

from contestants import Contestant
from fresh import in_fresh_process
from peers import ENTRIES, UnsupportedError
from problems import LARGE, Problem

MIB = 1 << 20
TARGET = 8 * MIB
LIMIT = MIB  # the max_scratch_bytes tried
STEPS = 3  # from the first step on: what an optimizer keeps between steps counts, too
# "beyond the row and column vectors themselves": four working copies of both in float64
VECTORS = 4 * 8 * (LARGE[0][0] + LARGE[0][1])

Row = dict[str, Any]

JUDGED = ("compiled", "plain", "adafactor_torch")
# (contestant, dtype, max_scratch_bytes)
CASES = [
    *[(n, d, m) for n in JUDGED for d in ("float32", "bfloat16") for m in (None, LIMIT)],
    *[(n, "float32", None) for n in ("core-numpy", "core-torch")],
    *[(n, d, None) for n in ("torch-loop", "hf") for d in ("float32", "bfloat16")],
]  # fmt: skip
COUNTED_KEY = ("counted_bytes",)
COUNTED = (*JUDGED, "core-numpy")  # NumPy tells tracemalloc what it allocates


def run_scratch(repeats: int | None, quick: bool) -> dict[str, Any]:
    """A row per case; each figure comes from a process of its own, and is the worst of repeats."""
    rounds = repeats or (1 if quick else 2)
    rows: dict[str, Row] = {}
    for name, dtype, limit in CASES:
        label = f"{ENTRIES[name].label}, {dtype}" + (", max_scratch_bytes=1 MiB" if limit else "")
        row: Row = {"label": label, "contestant": name, "dtype": dtype, "max_scratch_bytes": limit}
        problem = Problem(LARGE, dtype, max_scratch_bytes=limit)
        rows[f"{name}-{dtype}" + ("-limited" if limit else "")] = row | _case(name, problem, rounds)
    return {
        "kind": "scratch",
        "title": "peak scratch of an in-place step, one 4096x4096 tensor",
        "repeats": rounds,
        "rows": rows,
        "targets": [_verdict(r) for r in rows.values() if r["contestant"] in JUDGED],
        "notes": [
            "counted: tracemalloc's peak over the first three steps, which holds every NumPy "
            "allocation and what is kept from step to step, but nothing that Numba allocates "
            "inside a kernel. resident: growth of the process's peak resident memory over the "
            "same steps, in a fresh process, which holds all memory touched, to about a quarter of "
            "a MiB, and what malloc holds back. Verdicts on plain NumPy go by the counted figure, "
            "those on the compiled passes by the larger one. adafactor_torch runs the compiled "
            "passes; what torch allocates (its state, some KiB) is in the resident figure alone.",
        ],
    }


def _case(name: str, problem: Problem, rounds: int) -> Row:
    row: Row = {}
    for key, measure in (("counted_bytes", counted), ("resident_bytes", resident)):
        if key == "counted_bytes" and name not in COUNTED:
            continue
        try:
            found = [in_fresh_process(measure, name, problem) for _ in range(rounds)]
        except (ImportError, UnsupportedError) as error:
            return {"skipped": str(error)}
        except Exception as error:
            return {"skipped": f"failed, {type(error).__name__}: {error}"}
        row[key] = max((n for n in found if n is not None), default=None)
    return row


def _verdict(row: Row) -> dict[str, Any]:
    """tracemalloc sees all that plain NumPy allocates, but not what kernels do."""
    limit = row["max_scratch_bytes"]
    bound = TARGET if limit is None else limit + VECTORS
    keys = COUNTED_KEY if row["contestant"] == "plain" else ("counted_bytes", "resident_bytes")
    found = [row[k] for k in keys if row.get(k) is not None]
    words = "below" if limit is None else "at most its bound and the vectors,"
    return {
        "text": f"{row['label']}: {words} {bound / MIB:g} MiB",
        "value": max(found) / MIB if found else None,
        "met": (max(found) < bound if limit is None else max(found) <= bound) if found else None,
    }


def _ready(name: str, problem: Problem) -> Contestant:
    """Compiled and loaded on a small problem of the same kind, before the real one is built."""
    build = ENTRIES[name].build
    warm = build(replace(problem, shapes=((1024, 1024),), _made={}))
    warm.step()
    warm.step()
    contestant = build(problem)
    gc.collect()
    return contestant


def counted(name: str, problem: Problem) -> int:
    """Bytes that Python's and NumPy's allocators handed out beyond the start of the steps."""
    contestant = _ready(name, problem)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(STEPS):
        contestant.step()
        gc.collect()  # also empties Python's lists of freed tuples, some 100 kB a step
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before


def resident(name: str, problem: Problem) -> int | None:
    """Bytes by which the process's peak grew; None where the system (not Linux) cannot tell."""
    refs = Path("/proc/self/clear_refs")
    if not refs.exists():
        return None
    contestant = _ready(name, problem)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # memory freed before would otherwise be used again, unseen
    refs.write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    for _ in range(STEPS):
        contestant.step()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return int(kib) * 1024
