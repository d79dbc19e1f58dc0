"""Tables, and the JSON record that the page and play.html take their numbers from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _descents import LABELS, MOMENTUM, RATES
from _factorization import RANK, RUNS, SNAPSHOT, Fit, Problem
from _record import write_json
from _steps import section
from _surface_runs import Run
from _surfaces import SURFACES


def surface_table(record: Mapping[str, Any]) -> str:
    """Markdown: f after the last step, and the rate."""
    lines = [["surface, start", *LABELS.values()], ["---"] * (1 + len(LABELS))]
    for key, found in record["surfaces"].items():
        cells = [_cell(run["f"], run["lr"]) for run in found["runs"].values()]
        place = ", ".join(f"{c:.4g}".replace("-", "−") for c in found["start"])
        lines.append([f"{SURFACES[key].title}, ({place})", *cells])
    return _markdown(lines)


def fits_table(record: Mapping[str, Any]) -> str:
    """Markdown: what is left above the best approximation, and what is kept."""
    lines = [["optimizer", "numbers kept", "loss above the best"], ["---"] * 3]
    for name, fit in record["factorization"]["runs"].items():
        label = RUNS[name][2]
        if name.endswith("full"):
            label = f"{RUNS[name.split(',')[0]][2]}, not factored"
        lines.append([label, f"{fit['numbers_kept']:,}", _cell(fit["excess"], fit["lr"])])
    return _markdown(lines)


def filled(page: str, record: Mapping[str, Any]) -> str:
    """The text with its generated tables replaced, each between <!-- name --> and <!-- end -->."""
    tables = {
        "steps": section(),
        "surfaces": surface_table(record),
        "factorization": fits_table(record),
    }
    for name, table in tables.items():
        between = re.compile(rf"(?<=<!-- {name} -->).*?(?=<!-- end -->)", re.S)
        page = between.sub(f"\n\n{table}\n\n".replace("\\", r"\\"), page)
    return page


def _cell(value: float, lr: float | None) -> str:
    shown = "< 1e-16" if value < 1e-16 else f"{value:.2g}"
    return shown if lr is None else f"{shown} ({lr:g})"


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def record_of(
    runs: Mapping[str, Mapping[str, Run]],
    of: Problem,
    fits: Mapping[str, Fit],
    moments: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Rates, ends and a hundred values of every run."""
    off = np.abs(np.log(moments["estimate"] / moments["full"]))
    return {
        "rates_tried": RATES,
        "momentum": MOMENTUM,
        "steps": len(runs["bowl"]["relative"].values) - 1,
        "surfaces": {
            key: {
                "start": SURFACES[key].start,
                "runs": {
                    name: {
                        "lr": run.lr,
                        "end": run.path[-1].tolist(),
                        "f": float(run.values[-1]),
                        "mean_log10_f_by_rate": {f"{lr:g}": h for lr, h in run.trials.items()},
                        "values": _thinned(run.values),
                    }
                    for name, run in by_name.items()
                },
            }
            for key, by_name in runs.items()
        },
        "factorization": {
            "shape": of.matrix.shape,
            "rank": RANK,
            "floor": of.floor,
            "steps": len(fits["relative"].excess) - 1,
            "runs": {
                name: {
                    "lr": fit.lr,
                    "numbers_kept": fit.numbers,
                    "excess": float(fit.excess[-1]),
                    "values": _thinned(fit.excess),
                }
                for name, fit in fits.items()
            },
            "second_moment": {
                "after_step": SNAPSHOT,
                "typical_factor_off": float(np.exp(np.median(off))),
                "largest_factor_off": float(np.exp(np.max(off))),
            },
        },
    }


def _thinned(values: np.ndarray) -> list[float]:
    return [float(f"{v:.6g}") for v in values[:: max(1, len(values) // 100)]]


def write(path: Path, record: Mapping[str, Any]) -> None:
    write_json(path, record, "scikit-learn", "matplotlib")
