"""The figures of the page. Colours and dashes are those of the interactive page in light mode."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from _factorization import RANK, RUNS, SNAPSHOT, Fit
from _descents import LABELS, SMALLEST
from _page import colors
from _plots import GRID, plt
from _surface_runs import Run
from _surfaces import SURFACES, Surface
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from PIL import Image

COLORS = colors()
STYLES: dict[str, dict[str, Any]] = {
    "sgd": {"color": COLORS["sgd"], "ls": (0, (1, 1.4)), "lw": 1.8},
    "momentum": {"color": COLORS["momentum"], "ls": (0, (5, 2)), "lw": 1.6},
    "adam": {"color": COLORS["adam"], "ls": (0, (5, 1.5, 1, 1.5)), "lw": 1.6},
    "relative": {"color": COLORS["relative"], "ls": "-", "lw": 3.4},
    "absolute": {"color": COLORS["absolute"], "ls": "-", "lw": 1.4},
}
MARKERS = {"sgd": "s", "momentum": "^", "adam": "D", "relative": "o", "absolute": "v"}
SHADES = LinearSegmentedColormap.from_list("slate", [COLORS["low"], COLORS["high"]])
FONT = {"font.size": 9.0, "axes.titlesize": 10.0}


def draw_surfaces(path: Path, runs: Mapping[str, Mapping[str, Run]]) -> None:
    """The paths over contour lines, each run from its start to its last point."""
    with mpl.rc_context({**FONT, "contour.linewidth": 0.5}):
        figure, axes = plt.subplots(2, 4, figsize=(12.4, 7.3), layout="constrained")
        for ax, (key, surface) in zip(axes.flat, SURFACES.items(), strict=True):
            _contours(ax, surface)
            for name, run in runs[key].items():
                style = {**STYLES[name], "label": LABELS[name]}
                halo = {**STYLES[name], "color": "white", "ls": "-", "alpha": 0.7}
                if name != "absolute":  # it often lies on the other, which is wider
                    ax.plot(*run.path.T, **{**halo, "lw": STYLES[name]["lw"] + 1.4})
                ax.plot(*run.path.T, **style, marker=MARKERS[name], markevery=[-1], ms=5)
            ax.plot(*surface.start, "o", color="black", ms=5, mfc="white", zorder=5)
            for minimum in surface.minima:
                ax.plot(*minimum, "x", color="black", ms=6, mew=1.4, zorder=5)
            ax.set_title(surface.title)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        steps = len(runs["bowl"]["relative"].values) - 1
        figure.suptitle(f"{steps} steps from the circle; × is a minimum. Each rate: best of a grid")
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """A PNG file of 256 colours, a third of the size.

    The most frequent ones keep areas as they are, those far apart keep thin lines.
    """
    memory = io.BytesIO()
    figure.savefig(memory, dpi=110, format="png")
    plt.close(figure)
    shown = Image.open(memory).convert("RGB")
    tones, places, counts = np.unique(
        np.asarray(shown).reshape(-1, 3), axis=0, return_inverse=True, return_counts=True
    )
    frequent = tones[np.argsort(counts)[-128:]]
    apart = shown.quantize(128, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = np.concatenate([frequent, np.reshape(apart, (-1, 3))]).astype(np.int64)
    # Not Pillow's own mapping, which is rough: white would become almost white.
    nearest = [np.argmin(np.sum((palette - tone) ** 2, axis=1)) for tone in tones.astype(np.int64)]
    few = Image.fromarray(np.array(nearest, np.uint8)[places.reshape(shown.height, shown.width)])
    few.putpalette(palette.astype(np.uint8).tobytes())
    few.save(path, optimize=True)


def _contours(ax: Axes, surface: Surface) -> None:
    left, bottom, side = surface.span
    x, y = np.meshgrid(*(np.linspace(a, a + side, 241) for a in (left, bottom)))
    z = surface.value(x, y)
    bands = np.searchsorted(surface.levels, z).astype(float)
    ax.imshow(
        bands, cmap=SHADES, extent=(left, left + side, bottom, bottom + side), origin="lower",
        vmin=0, vmax=len(surface.levels),
    )  # fmt: skip
    ax.contour(x, y, z, levels=surface.levels, colors=COLORS["contour"])
    ax.set(xlim=(left, left + side), ylim=(bottom, bottom + side), aspect="equal")


def draw_losses(path: Path, runs: Mapping[str, Mapping[str, Run]]) -> None:
    """f along the same runs."""
    with mpl.rc_context({**GRID, **FONT}):
        figure, axes = plt.subplots(2, 4, figsize=(12.4, 6.2), sharex=True, layout="constrained")
        for ax, (key, surface) in zip(axes.flat, SURFACES.items(), strict=True):
            for name, run in runs[key].items():
                shown = np.where(run.values >= SMALLEST, run.values, np.nan)
                ax.plot(shown, **STYLES[name], label=LABELS[name])
            ax.set(yscale="log", title=surface.title)
            if key == "rastrigin":
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_formatter("{x:g}")
        for ax in axes[-1]:
            ax.set(xlabel="step")
        for ax in axes[:, 0]:
            ax.set(ylabel="f, above its minimum")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle("f along the same runs; below 1e-16 nothing is drawn")
        save(figure, path)


def draw_factorization(
    path: Path, fits: Mapping[str, Fit], moments: Mapping[str, np.ndarray]
) -> None:
    """Loss, what is kept, and the second moment in full and from its factors."""
    with mpl.rc_context({**GRID, **FONT}):
        figure = plt.figure(figsize=(12.4, 5.2), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
        curves, bars = left.subplots(1, 2, width_ratios=(1.7, 1))
        _curves(curves, fits)
        _bars(bars, fits)
        _moments(right, moments)
        save(figure, path)


def _style(name: str) -> dict[str, Any]:
    style = dict(STYLES[name.split(",")[0]])
    return {**style, "ls": (0, (3, 1.5)), "lw": 1.1} if "full" in name else style


def _curves(ax: Axes, fits: Mapping[str, Fit]) -> None:
    for name, fit in fits.items():
        rate = "" if fit.lr is None else f" {fit.lr:g}"
        excess = np.where(fit.excess >= SMALLEST, fit.excess, np.nan)
        ax.plot(excess, **_style(name), label=RUNS[name][2] + rate)
    ax.set(yscale="log", xlabel="step", ylabel=f"loss above the best of rank {RANK} (no unit)")
    ax.set_title(f"569 x 30 measurements as a product of rank {RANK}")
    ax.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def _bars(ax: Axes, fits: Mapping[str, Fit]) -> None:
    names = [n for n in fits if not n.startswith("absolute")]
    words = {"sgd": "SGD", "momentum": "momentum", "adam": "Adam", "relative": "Adafactor"}
    labels = [words.get(n, "Adafactor,\nnot factored") for n in names]
    heights = [fits[n].numbers for n in names]
    colors = [STYLES[n.split(",")[0]]["color"] for n in names]
    shown = ax.barh(labels, heights, color=colors)
    ax.bar_label(shown, [f"{h:,}" for h in heights], padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.3)
    ax.grid(visible=False, axis="y")
    ax.set(xlabel="numbers kept for 2,995 parameters")
    ax.set_title("optimizer state")


def _moments(figure: Any, moments: Mapping[str, np.ndarray]) -> None:
    norm = LogNorm(moments["full"].min(), max(moments["full"].max(), moments["estimate"].max()))
    axes = figure.subplots(2, 1, sharex=True)
    rows, columns = moments["full"].shape
    titles = {
        "full": f"V of the right factor in full: {rows * columns} numbers",
        "estimate": f"R C / mean(R), as Adafactor sees it: {rows + columns} numbers",
    }
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        image = ax.imshow(moments[key], norm=norm, cmap="cividis", aspect="auto")
        ax.set(title=title, ylabel="row", yticks=range(rows))
        ax.grid(visible=False)
    axes[-1].set(xlabel=f"column (after step {SNAPSHOT})")
    figure.colorbar(image, ax=axes, label="V, mean of squared gradients")
