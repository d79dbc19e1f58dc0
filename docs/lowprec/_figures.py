"""The figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from _plots import GRID, save
from matplotlib.axes import Axes

STYLES: dict[str, dict[str, Any]] = {
    "float32": {"color": "#56B4E9", "lw": 5.5, "zorder": 2.0},
    "float32, bf16 arithmetic": {"color": "#999999", "lw": 2.6, "zorder": 2.1},
    "nearest": {"color": "#D55E00", "lw": 1.8, "zorder": 2.2},
    "stochastic": {"color": "#000000", "lw": 1.6, "ls": (0, (6, 4)), "zorder": 2.3},
    "kahan": {"color": "#009E73", "lw": 1.6, "ls": (0, (1, 2)), "zorder": 2.4},
}


def draw_frozen(path: Path, backend: str, cases: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """The mean of the parameter over the steps."""
    titles = {
        "gradient": "gradients of one sign, lr 1e-3",
        "decay": "weight decay alone, 1e-2 x lr 1e-2",
    }
    with mpl.rc_context(GRID):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        for ax, (case, runs) in zip(axes, cases.items(), strict=True):
            for run in ("float32", "nearest", "stochastic", "kahan"):
                means = runs[run]
                ax.plot(means, label=f"{run}: {means[-1]:.4f}", **STYLES[run])
            ax.set(xlabel="step")
            ax.set_title(titles[case], fontsize="medium")
            ax.legend(title="rounding: mean at the end")
        axes[0].set_ylabel("mean of the parameter (64x64, all ones at first)")
        figure.suptitle(f"bfloat16 parameters under Adafactor, beside float32 ({backend})")
        save(figure, path)


def draw_training(path: Path, experiments: Mapping[str, Any]) -> None:
    """Held-out loss of "scratch" and "tune", and how far above float32's it is."""
    titles = {
        "scratch": "from scratch: {steps} steps, peak rate {peak:g}",
        "tune": "then fine-tuned on other text: {steps} steps, peak rate {peak:g}",
    }
    with mpl.rc_context(GRID):
        figure, axes = plt.subplots(
            2, 2, figsize=(11, 8), height_ratios=(3, 2), sharex="col", layout="constrained"
        )
        for (top, bottom), (name, title) in zip(axes.T, titles.items(), strict=True):
            e = experiments[name]
            _losses(top, e["runs"])
            _excess(bottom, e["runs"])
            top.set_title(title.format(**e["setting"]), fontsize="medium")
        axes[0, 0].set_ylabel("held-out loss (nats per character)")
        axes[1, 0].set_ylabel("above float32 (%)")
        figure.suptitle("A small transformer in pure bfloat16, by rounding of the parameters")
        save(figure, path)


def _style(kind: str) -> dict[str, Any]:
    return STYLES[kind.removeprefix("bf16 ")]


def _curves(of_seeds: list[dict[str, Any]]) -> tuple[list[int], np.ndarray]:
    """Steps, and losses of shape (seeds, evaluations)."""
    steps = [int(t) for t in of_seeds[0]["held_out"]]
    return steps, np.array([list(run["held_out"].values()) for run in of_seeds])


def _losses(ax: Axes, runs: Mapping[str, Any]) -> None:
    for kind, of_seeds in runs.items():
        steps, losses = _curves(of_seeds)
        mean = losses.mean(axis=0)
        ax.plot(steps, mean, label=f"{kind}: {mean[-1]:.3f}", **_style(kind))
    ax.legend(title=f"mean of {len(losses)} seeds; loss at the end")


def _excess(ax: Axes, runs: Mapping[str, Any]) -> None:
    first = next(iter(runs))
    reference = _curves(runs[first])[1]
    for kind, of_seeds in runs.items():
        steps, losses = _curves(of_seeds)
        if kind != first:
            above = 100 * (losses / reference - 1)
            style = _style(kind)
            ax.plot(steps, above.mean(axis=0), **style)
            ax.plot(steps, above.T, color=style["color"], lw=0.6, alpha=0.5)
    _one_percent(ax)
    ax.set_xlabel("step")
    ax.legend(title="thin: single seeds", loc="lower right")


def _one_percent(ax: Axes) -> None:
    ax.axhspan(-1, 1, color="#56B4E9", alpha=0.2, lw=0, label="within 1 %")
    ax.axhline(0, color="#56B4E9", lw=1)
