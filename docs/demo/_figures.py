"""The three figures. Colours are Okabe and Ito's, which colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # files only, no window

import matplotlib.pyplot as plt
import numpy as np
from _memory import MODELS, MemoryPoint, model_point, square_point
from _training import BATCH, Run
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Later lines are thinner and dashed, so that curves that lie on each other can all be seen.
STYLES: dict[str, dict[str, Any]] = {
    "numpy": {"color": "#56B4E9", "lw": 5.0},
    "float64": {"color": "#999999", "lw": 2.5},
    "torch": {"color": "#D55E00", "lw": 1.8, "ls": (0, (5, 3))},
    "jax": {"color": "#000000", "lw": 1.4, "ls": (0, (1, 2))},
    "cosine lr": {"color": "#009E73", "lw": 1.4},
    "Adam": {"color": "#CC79A7", "lw": 1.4},
}
LABELS = {
    "cosine lr": "numpy, Adafactor with lr = cosine",
    "Adam": "numpy, Adam (variants.algorithm1)",
    "float64": "float64 (NumPy, core alone)",
}
EPSILON = float(np.finfo(np.float32).eps)
WINDOW = 20


def save_all(out: Path, runs: Mapping[str, Run]) -> list[Path]:
    """Writes the PNG files; returns their paths."""
    figures = {"loss": losses, "deviation": deviations, "memory": memory}
    paths = []
    for name, draw in figures.items():
        with mpl.rc_context({"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
            figure = draw(runs)
            paths.append(out / f"{name}.png")
            figure.savefig(paths[-1], dpi=130)
            plt.close(figure)
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
    _axes(left, f"training loss (nats, mean of the last {WINDOW} batches of {BATCH})")
    _axes(right, "held-out digits named wrong (%)")
    right.yaxis.set_major_formatter("{x:g}")
    left.legend()
    figure.suptitle("Adafactor on handwritten digits: the frameworks' curves lie on each other")
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
    bars = left.bar(("SGD", "Adafactor", "Adam"), heights, color=("#999999", "#0072B2", "#CC79A7"))
    left.bar_label(bars, [f"{h:g} kB" if h else "0" for h in heights], padding=2)
    left.margins(y=0.1)
    left.grid(visible=False, axis="x")
    left.set(ylabel="optimizer state (kB)", title="the network of this demo")
    _sublinear(right)
    figure.suptitle("Optimizer state in float32, as af.memory_report counts it")
    return figure


def _sublinear(ax: Axes) -> None:
    points = [model_point(name, shapes) for name, shapes in MODELS.items()]
    squares = [square_point(2**k) for k in range(5, 17)]
    sizes = [p.params for p in squares]
    ax.loglog(sizes, [p.adam for p in squares], color="#CC79A7", label="Adam, a matrix n x n")
    ax.loglog(sizes, [p.adafactor for p in squares], color="#0072B2", label="Adafactor, the same")
    for p in points:
        ax.plot(p.params, p.adam, "s", color="#CC79A7")
        ax.plot(p.params, p.adafactor, "o", color="#0072B2")
        ax.plot([p.params] * 2, [p.adafactor, p.adam], color="#999999", lw=0.8, zorder=0)
        _label(ax, p)
    ax.set(xlabel="parameters", ylabel="optimizer state (bytes)")
    ax.set_title("real shapes (SGD keeps nothing: no log axis has a 0)", fontsize="medium")
    ax.legend(loc="upper left")


def _label(ax: Axes, p: MemoryPoint) -> None:
    text = f"{p.name}\n{p.adam / p.adafactor:,.0f} x less"
    ax.annotate(
        text, (p.params, p.adafactor), (0, -8), textcoords="offset points",
        ha="center", va="top", fontsize="small",
    )  # fmt: skip
