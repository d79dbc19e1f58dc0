"""How long the first step takes, with an empty and with a filled cache of compiled kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

SCRIPT = Path(__file__).with_name("first_step.py")
Row = dict[str, Any]


def run_latency(repeats: int | None, quick: bool) -> dict[str, Any]:
    """Rows of medians, in seconds; each repeat is a fresh folder, a cold and a warm process."""
    rounds = repeats or (1 if quick else 5)
    rows: dict[str, Row] = {}
    for dtype in ("float32", "bfloat16"):
        missing = [m for m in _needs(dtype) if find_spec(m) is None]
        if missing:
            rows[dtype] = {"label": dtype, "skipped": f"no module named {', '.join(missing)}"}
            continue
        found = [_cold_and_warm(dtype) for _ in range(rounds)]
        for i, cache in enumerate(("cold", "warm")):
            rows[f"{dtype}-{cache}"] = {
                "label": f"{dtype}, {cache} cache",
                **{key: median(pair[i][key] for pair in found) for key in found[0][i]},
            }
    return {
        "kind": "latency",
        "title": "first step of the compiled optimizer in a fresh process (256x256 and 256)",
        "repeats": rounds,
        "rows": rows,
        "targets": [],
        "notes": [
            "cold: the folder of compiled kernels is empty; warm: a second process with the same "
            "folder. construct: imports Numba, too."
        ],
    }


def _needs(dtype: str) -> tuple[str, ...]:
    return ("numba", "ml_dtypes") if dtype == "bfloat16" else ("numba",)


def _cold_and_warm(dtype: str) -> tuple[Row, Row]:
    with tempfile.TemporaryDirectory() as folder:
        return _process(dtype, folder), _process(dtype, folder)


def _process(dtype: str, folder: str) -> Row:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), dtype],
        env={**os.environ, "NUMBA_CACHE_DIR": folder},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    whole = time.perf_counter() - start
    row: Row = json.loads(done.stdout)
    return {**row, "process_s": whole}
