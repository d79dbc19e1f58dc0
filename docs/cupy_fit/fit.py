"""Fills in missing pixels of handwritten digits by a low-rank model, in CuPy or NumPy.

python docs/cupy_fit/fit.py [--library cupy|numpy] [--steps N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from adafactor_core.schedules import cosine

sys.path.insert(0, str(Path(__file__).parents[1] / "_shared"))

from _plots import GRID, plt, save
from _record import write_json

HERE = Path(__file__).parent
RANK, SEEN = 6, 0.6  # of 64 pixels, and of all entries
SETTINGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "relative step (defaults)": lambda steps: {},
    "lr: warm-up, cosine to 0": lambda steps: {"lr": cosine(0.3, steps, warmup=steps // 20)},
    "the same, momentum 0.9": lambda steps: {
        "lr": cosine(0.3, steps, warmup=steps // 20), "beta1": 0.9
    },
}  # fmt: skip


class Problem(NamedTuple):
    """Pixels in [0, 1], (1797, 64), and which of them may be seen: 1 or 0."""

    pixels: Any
    seen: Any
    start: dict[str, Any]  # of the model left @ right: (1797, RANK), (RANK, 64)


def problem(xp: Any) -> Problem:
    pixels = load_digits().data.astype("float32") / 16.0
    rng = np.random.default_rng(0)
    seen = (rng.random(pixels.shape) < SEEN).astype("float32")
    left = 0.3 * rng.standard_normal((len(pixels), RANK)).astype("float32")
    right = 0.3 * rng.standard_normal((RANK, pixels.shape[1])).astype("float32")
    start = {"left": xp.asarray(left), "right": xp.asarray(right)}
    return Problem(xp.asarray(pixels), xp.asarray(seen), start)


def gradients(of: Problem, params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Of the mean squared error on what is seen, and the errors of every pixel."""
    left, right = params["left"], params["right"]
    errors = left @ right - of.pixels  # (1797, 64)
    shown = errors * of.seen * (2.0 / (SEEN * errors.size))
    return {"left": shown @ right.T, "right": left.T @ shown}, errors


def rms(errors: Any, where: Any) -> Any:
    """Over those pixels; an array that stays on the device."""
    return ((errors * errors * where).sum() / where.sum()) ** 0.5


def fitted(xp: Any, optimizer: Any, of: Problem, steps: int, **options: Any) -> dict[str, Any]:
    params = {name: x.copy() for name, x in of.start.items()}
    opt = optimizer(params, **options)
    curves = []
    begun = time.perf_counter()
    for _ in range(steps):
        grads, errors = gradients(of, params)
        curves.append(xp.stack([rms(errors, of.seen), rms(errors, 1.0 - of.seen)]))
        opt.step(grads)
    numbers = as_numpy(xp.stack(curves))  # the device is waited for here, once
    restored = as_numpy(params["left"] @ params["right"])
    return {
        "seen": numbers[:, 0].tolist(),
        "held out": numbers[:, 1].tolist(),
        "seconds": time.perf_counter() - begun,
        "memory": opt.memory_report(),
        "restored": restored,
    }


def as_numpy(x: Any) -> Any:
    return x.get() if hasattr(x, "get") else np.asarray(x)


def library(name: str | None) -> tuple[str, Any, Any]:
    """Its name, its module and the optimizer for its arrays; CuPy where there is a GPU."""
    if name is None:
        try:
            found = importlib.import_module("cupy").is_available()
        except ImportError:
            found = False
        name = "cupy" if found else "numpy"
    optimizer = importlib.import_module(f"adafactor_{name}").Adafactor
    return name, importlib.import_module(name), optimizer


def draw(of: Problem, runs: dict[str, dict[str, Any]], path: Path) -> None:
    pixels, seen = as_numpy(of.pixels), as_numpy(of.seen)
    best = min(runs.values(), key=lambda run: run["held out"][-1])["restored"]
    with plt.rc_context(GRID):
        figure = plt.figure(figsize=(11, 3.6), layout="constrained")
        curves, images = figure.subfigures(1, 2, width_ratios=[1.2, 1])
        axes = curves.subplots()
        for color, (name, run) in zip(("#0072B2", "#D55E00", "#009E73"), runs.items(), strict=True):
            axes.plot(run["held out"], color=color, label=name)
            axes.plot(run["seen"], color=color, linestyle=":", linewidth=1)
        axes.set(xlabel="step", ylabel="RMS error of pixels in [0, 1]", yscale="log")
        axes.set_title("held out (solid), seen (dotted)")
        axes.legend()
        grid = images.subplots(3, 8)
        rows = {"seen": pixels * seen, "restored": best, "true": pixels}
        for line, (name, shown) in zip(grid, rows.items(), strict=True):
            for k, cell in enumerate(line):
                cell.imshow(shown[k].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
                cell.set(xticks=[], yticks=[], ylabel=name if k == 0 else "")
        images.suptitle("the first eight digits")
        save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--library", choices=("cupy", "numpy"), help="default: CuPy on a GPU")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    name, xp, optimizer = library(given.library)
    of = problem(xp)
    runs = {
        label: fitted(xp, optimizer, of, given.steps, **options(given.steps))
        for label, options in SETTINGS.items()
    }
    print(f"{name}, {given.steps} steps\n{runs['relative step (defaults)']['memory']}\n")
    for label, run in runs.items():
        ends = f"seen {run['seen'][-1]:.4f}, held out {run['held out'][-1]:.4f}"
        print(f"{label}: {ends}, {run['seconds']:.1f} s")
    given.out.mkdir(parents=True, exist_ok=True)
    draw(of, runs, given.out / "fit.png")
    every = max(1, given.steps // 100)
    record = {
        "library": name,
        "steps": given.steps,
        "runs": {
            label: {
                "seen": run["seen"][::every],
                "held out": run["held out"][::every],
                "ends": [run["seen"][-1], run["held out"][-1]],
                "seconds": run["seconds"],
            }
            for label, run in runs.items()
        },
    }
    write_json(given.out / "fit.json", record, "cupy-cuda12x", "scikit-learn")
    print(f"written: {given.out / 'fit.json'}, fit.png")


if __name__ == "__main__":
    main()
