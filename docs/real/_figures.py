"""The figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from _plots import GRID, save
from matplotlib.axes import Axes

STYLES: dict[str, dict[str, Any]] = {
    "transformers": {"color": "#56B4E9", "lw": 5.5, "zorder": 2.0},
    "transformers, nudged": {"color": "#999999", "lw": 1.0, "zorder": 2.1},
    "ours": {"color": "#D55E00", "lw": 1.8, "ls": (0, (6, 4)), "zorder": 2.2},
    "ours, own defaults": {"color": "#000000", "lw": 1.6, "ls": (0, (1, 3)), "zorder": 2.3},
    "AdamW": {"color": "#CC79A7", "lw": 1.3, "zorder": 1.9},
}


def draw(path: Path, record: Mapping[str, Any]) -> None:
    """Held-out loss of every setting, and how far ours is from Hugging Face's."""
    steps, settings, others = record["steps"], record["settings"], record["others"]
    with mpl.rc_context(GRID):
        figure, axes = plt.subplots(
            2, len(settings), figsize=(13, 7.5), height_ratios=(3, 2), sharex=True, sharey="row",
            layout="constrained", squeeze=False,
        )  # fmt: skip
        for (top, bottom), (name, setting) in zip(axes.T, settings.items(), strict=True):
            shown = ["AdamW"] if name != "defaults" else ["AdamW", "ours, own defaults"]
            kinds = setting["kinds"]
            runs = {k: kinds[k]["runs"] for k in ("transformers", "ours")}
            _losses(top, steps, runs | {k: others[k]["runs"] for k in shown})
            top.set_title(f"{name}: {_words(setting['transformers_options'])}", fontsize="medium")
            for kind in ("transformers, nudged", "ours"):
                _differences(bottom, kind, kinds[kind]["runs"])
            bottom.axhline(0, color=STYLES["transformers"]["color"], lw=2, zorder=1.5)
            bottom.set(xlabel="step")
        axes[0, 0].set_ylabel("held-out loss (nats per character)")
        axes[1, 0].set_ylabel("loss / transformers' - 1, in 1e-7")
        legend = {"loc": "lower left", "ncols": 2, "markerscale": 2, "fontsize": "small"}
        axes[1, 0].legend(title=f"single batches, {record['seeds']} seeds", **legend)
        figure.suptitle("A small T5 under our Adafactor and under Hugging Face's, with its options")
        save(figure, path)


def _words(options: Mapping[str, Any]) -> str:
    return ",\n".join(f"{k}={v}" for k, v in options.items()) or "no options"


def _losses(ax: Axes, steps: Sequence[int], runs: Mapping[str, Any]) -> None:
    for kind, of_seeds in runs.items():
        mean = np.mean([run["held_out"] for run in of_seeds], axis=0)
        ax.plot(steps, mean, label=f"{kind}: {mean[-1]:.4f}", **STYLES[kind])
    title = f"mean of {len(of_seeds)} seeds; loss at the end"
    ax.legend(title=title, fontsize="small", title_fontsize="small")


def _differences(ax: Axes, kind: str, of_seeds: Sequence[Mapping[str, Any]]) -> None:
    style = {"color": STYLES[kind]["color"], "zorder": STYLES[kind]["zorder"]}
    for k, run in enumerate(of_seeds):
        values = 1e7 * np.array(run["train_differences"])
        label = None if k else kind
        ax.plot(np.arange(1, len(values) + 1), values, ".", ms=5, mew=0, label=label, **style)
