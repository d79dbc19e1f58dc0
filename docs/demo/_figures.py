"""The three figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from _memory import MODELS, MemoryPoint, point
from _plots import GRID, save
from _training import BATCH, Run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

STYLES: dict[str, dict[str, Any]] = {
    "numpy": {"color": "#56B4E9", "lw": 5.5, "zorder": 2.0},
    "float64": {"color": "#999999", "lw": 3.0, "zorder": 2.1},
    "torch": {"color": "#D55E00", "lw": 1.8, "ls": (0, (6, 4)), "zorder": 2.2},
    "jax": {"color": "#000000", "lw": 1.6, "ls": (0, (1, 3)), "zorder": 2.3},
    "cosine lr": {"color": "#009E73", "lw": 1.3},
    "Adam": {"color": "#CC79A7", "lw": 1.3},
}
LABELS = {
    "cosine lr": "numpy, lr: cosine from 0.03 to 0",
    "Adam": "numpy, Adam, lr 0.001",
    "float64": "float64 in NumPy, the yardstick",
}
EPSILON = float(np.finfo(np.float32).eps)
WINDOW = 20
BLUE, PINK = "#0072B2", "#CC79A7"


def save_all(out: Path, runs: Mapping[str, Run]) -> list[Path]:
    """Writes the PNG files; returns their paths."""
    figures = {"loss": losses, "deviation": deviations, "memory": memory}
    paths = []
    for name, draw in figures.items():
        paths.append(out / f"{name}.png")
        with mpl.rc_context(GRID):
            save(draw(runs), paths[-1])
    return paths


def losses(runs: Mapping[str, Run]) -> Figure:
    """Training loss and held-out error over steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for name, run in runs.items():
        window = min(WINDOW, len(run.losses))
        smooth = np.convolve(run.losses, np.ones(window) / window, "valid")
        style = {"label": LABELS.get(name, name), **STYLES.get(name, {})}
        left.plot(np.arange(window, len(run.losses) + 1), smooth, **style)
        error = [100 * (1 - a) for a in run.accuracy.values()]
        right.plot(list(run.accuracy), error, **style)
    _axes(left, f"training loss (nats), mean of {WINDOW} batches of {BATCH}")
    _axes(right, "held-out digits named wrong (%)")
    for ax in (left, right):
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.yaxis.set_minor_formatter("{x:g}")
    left.legend()
    figure.suptitle(
        "Adafactor on handwritten digits: the same weights and batches in every framework"
    )
    return figure


def deviations(runs: Mapping[str, Run]) -> Figure:
    """How far parameters are from NumPy's after each step."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    kinds = ("training_deviation", "optimizer_deviation")
    titles = ("each with its own gradients", "the optimizer alone, on NumPy's gradients")
    for ax, kind, title in zip(axes, kinds, titles, strict=True):
        for name, run in runs.items():
            values = getattr(run, kind)
            style = {**STYLES.get(name, {}), "lw": 1.3, "ls": "-"}
            if values:
                label = LABELS.get(name, name)
                ax.plot(np.arange(1, len(values) + 1), values, label=label, **style)
        ax.axhline(EPSILON, color="black", lw=0.8, ls=":", label="float32 epsilon, 1.2e-7")
        _axes(ax, "")
        ax.set_title(title, fontsize="medium")
    axes[0].set_ylabel("max|a - b| / max|b|, the worst tensor (no unit)")
    axes[0].legend()
    figure.suptitle("How far each backend's parameters are from adafactor_numpy's (float32)")
    return figure


def _axes(ax: Axes, label: str) -> None:
    ax.set(xlabel="step", ylabel=label, yscale="log")


def memory(runs: Mapping[str, Run]) -> Figure:
    """Optimizer state: this network as bars, real shapes against their parameter count."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), width_ratios=(1, 2), layout="constrained"
    )
    run = runs["numpy"]
    heights = [0.0, run.state_bytes / 1e3, run.adam_bytes / 1e3]
    bars = left.bar(("SGD", "Adafactor", "Adam"), heights, color=("#999999", BLUE, PINK))
    left.bar_label(bars, [f"{h:.1f} kB" if h else "0" for h in heights], padding=2)
    left.margins(y=0.1)
    left.grid(visible=False, axis="x")
    left.set(ylabel="optimizer state (kB)")
    left.set_title("the network of this demo", fontsize="medium")
    _sublinear(right)
    figure.suptitle("Optimizer state of float32 parameters, as af.memory_report counts it")
    return figure


def _sublinear(ax: Axes) -> None:
    squares = [point("", [(2**k, 2**k)]) for k in range(5, 18)]
    sizes = [p.params for p in squares]
    ax.loglog(sizes, [p.adam for p in squares], color=PINK, label="Adam, one n x n matrix")
    ax.loglog(
        sizes, [p.adafactor for p in squares], color=BLUE, label="Adafactor, one n x n matrix"
    )
    for name, shapes in MODELS.items():
        p = point(name, shapes)
        ax.plot([p.params] * 2, [p.adafactor, p.adam], color="#999999", lw=0.8, zorder=0)
        ax.plot(p.params, p.adam, "s", color=PINK)
        ax.plot(p.params, p.adafactor, "o", color=BLUE)
        _label(ax, p, "right" if name == "ResNet-50" else "left")
    ax.set(xlabel="parameters", ylabel="optimizer state (bytes)", xlim=(5e2, 2e11))
    ax.set_title("real models (markers); SGD keeps 0, which no log axis has", fontsize="medium")
    ax.legend(loc="upper left")


def _label(ax: Axes, p: MemoryPoint, side: str) -> None:
    adam = f"{p.adam / 1e6:.0f} MB" if p.adam < 1e9 else f"{p.adam / 1e9:.0f} GB"
    text = f"{p.name}\n{p.adafactor / 1e6:.1f} MB\nAdam: {adam}"
    shift = -7 if side == "right" else 7
    ax.annotate(
        text, (p.params, p.adafactor), (shift, 0), textcoords="offset points",
        ha=side, va="center", fontsize="small",
    )  # fmt: skip
