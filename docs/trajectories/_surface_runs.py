"""Every optimizer on every surface, with the best of the rates in the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from _descents import LABELS, RATES, STEPS, descend, height
from _surfaces import SURFACES, Surface


@dataclass(frozen=True)
class Run:
    """`lr` is None for the relative step. `trials`: by rate, what it was chosen by."""

    lr: float | None
    path: np.ndarray  # (steps + 1, 2)
    values: np.ndarray  # (steps + 1,)
    trials: dict[float, float]


def all_runs(steps: int = STEPS) -> dict[str, dict[str, Run]]:
    """By surface and optimizer."""
    return {
        key: {name: best(name, surface, steps) for name in LABELS}
        for key, surface in SURFACES.items()
    }


def best(name: str, surface: Surface, steps: int) -> Run:
    """The run with the lowest mean of log10(f)."""
    runs = [one(name, surface, lr, steps) for lr in ((None,) if name == "relative" else RATES)]
    heights = [height(run.values, steps) for run in runs]
    found = runs[int(np.argmin(heights))]
    trials = {r.lr: h for r, h in zip(runs, heights, strict=True) if r.lr and np.isfinite(h)}
    return Run(found.lr, found.path, found.values, trials)


def one(name: str, surface: Surface, lr: float | None, steps: int) -> Run:
    def gradient(x: np.ndarray) -> np.ndarray:
        return np.array(surface.gradient(x[0], x[1]))

    path = descend(name, gradient, surface.start, lr, steps)
    with np.errstate(over="ignore", invalid="ignore"):
        values = surface.value(path[:, 0], path[:, 1])
    return Run(lr, path, values, {})
