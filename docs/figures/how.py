"""The figures of docs/how.md: python docs/figures/how.py. Writes PNG files and how.json here.

A 64-128-64-10 network learns scikit-learn's digits, as in docs/demo; every number comes from the
library. Needs numpy, scikit-learn, matplotlib, tqdm.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "_shared"), str(HERE.parent / "demo")]

import matplotlib as mpl  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from _network import by_hand  # noqa: E402
from _plots import GRID, save  # noqa: E402
from _record import write_json  # noqa: E402
from _training import Task, make_task  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

import adafactor_core as af  # noqa: E402
from adafactor_core._schedules import rates  # noqa: E402

STEPS, CHANGE, SEED = 600, 300, 0
LAYER = 1  # the hidden one, (128, 64): the first sees pixels that are always 0
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
RATES, SEEDS = (1.0, 10.0), (0, 1, 2)  # multiples of the relative step
CLIPPED: dict[str, dict[str, Any]] = {"no clip": {"clip_threshold": None}, "clip at 1": {}}


def gradients(task: Task, config: af.Config, change: int | None = None) -> Iterator[Any]:
    """(loss, gradients, state after the step); from step `change` on all labels are others."""
    params: Any = task.start
    state = af.init(params, config)
    for t, batch in enumerate(task.batches, 1):
        y = task.y[batch]
        y = np.roll(y, 1, axis=1) if change is not None and t > change else y
        loss, grads = by_hand(params, task.x[batch], y, task.activation)
        params, state = af.step(params, grads, state, config)
        yield float(loss), grads, state


def moments(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """V of a layer kept in full, and R C / mean(R), after the same gradients."""
    full = af.Config(factored=False)
    beside = af.init(task.start, full)
    for _, grads, state in gradients(task, af.Config()):  # noqa: B007 - the last one is wanted
        _, beside = af.update(grads, beside, task.start, full)
    factors = state.moments[LAYER]["weight"]
    estimate = factors.row * factors.col / factors.row.mean()
    return beside.moments[LAYER]["weight"].full, estimate


def rank1(v: np.ndarray, estimate: np.ndarray) -> Figure:
    """V, its estimate, and by how much an entry's step differs."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.4), layout="constrained")
    by_size = np.argsort(v.mean(1)), np.argsort(v.mean(0))
    shown = [np.log10(x[np.ix_(*by_size)]) for x in (v, estimate)]
    low, high = np.quantile(shown[0], [0.01, 0.99])
    for ax, x, title in zip(axes, shown, ("$V$: 128 x 64 = 8192 numbers",
                            "$RC/$mean$(R)$: 128 + 64 = 192 numbers"), strict=False):  # fmt: skip
        image = ax.imshow(x, vmin=low, vmax=high, aspect="auto", cmap="viridis")
        ax.set(title=title, xlabel="column, sorted by mean", ylabel="row, sorted by mean")
        ax.grid(False)
    figure.colorbar(image, ax=axes[:2], label="$\\log_{10}$ of the mean squared gradient")
    axes[2].hist(np.sqrt(v / estimate).ravel(), bins=60, color=BLUE)
    axes[2].axvline(1, color="black", lw=1)
    axes[2].set(title="step, as a multiple of that with $V$", ylabel="entries")
    axes[2].set_xlabel("$\\sqrt{V / \\hat V}$")
    return figure


def clipping() -> tuple[Figure, dict[str, Any]]:
    """RMS(U) and loss where the labels change in the middle of a run; a line per seed."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    numbers: dict[str, Any] = {}
    for seed in SEEDS:
        task = make_task(STEPS, seed, "tanh")
        for ax, lr in zip(axes[1:], RATES, strict=True):
            for (name, options), color in zip(CLIPPED.items(), (ORANGE, BLUE), strict=True):
                config = af.Config(lr, step_size=af.RelativeStep(), telemetry=True, **options)
                run = list(gradients(task, config, CHANGE))
                rms = [float(state.metrics[LAYER]["weight"].update_rms) for _, _, state in run]
                losses = np.array([loss for loss, _, _ in run])
                record = numbers.setdefault(f"{lr:g} x relative step, {name}", [])
                record.append(
                    {
                        "seed": seed,
                        "largest_update_rms": max(rms[CHANGE:]),
                        "steps_with_update_rms_above_2": sum(x > 2 for x in rms[CHANGE:]),
                        "loss_steps_251_to_300": float(losses[CHANGE - 50 : CHANGE].mean()),
                        "loss_steps_301_to_400": float(losses[CHANGE : CHANGE + 100].mean()),
                        "loss_steps_551_to_600": float(losses[-50:].mean()),
                    }
                )
                style = {"color": color, "lw": 1.1, "label": name if seed == 0 else None}
                smooth = np.convolve(losses, np.ones(10) / 10, "valid")
                ax.semilogy(range(10, STEPS + 1), smooth, **style)
                if lr == 1 and seed == 0:
                    axes[0].semilogy(range(1, STEPS + 1), rms, **style)
    axes[0].axhline(1, color="black", lw=0.8)
    axes[0].set(title="RMS of $U$ before clipping", xlabel="step")
    for ax, lr in zip(axes[1:], RATES, strict=True):
        times = "" if lr == 1 else f"{lr:g} x "
        ax.set(title=f"training loss, {times}the relative step", xlabel="step")
    for ax in axes:
        ax.axvline(CHANGE, color="grey", lw=0.8)
    axes[2].legend()
    return figure, numbers


def decays() -> Figure:
    """The weight of the newest gradient, and the relative step."""
    t = np.unique(np.geomspace(1, 1e5, 200).astype(int))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, color, config in (
        ("Adafactor: $t^{-0.8}$", BLUE, af.Config()),
        ("Adam, $\\beta_2 = 0.999$", ORANGE, af.Config(decay_type="adam", decay_rate=0.999)),
        ("Adam, $\\beta_2 = 0.99$", PINK, af.Config(decay_type="adam", decay_rate=0.99)),
        ("Adafactor, beta2_cap=0.999", GREEN, af.Config(beta2_cap=0.999)),
    ):
        b = [rates(config, int(n), "float64").b for n in t]
        dashed = "--" if "cap" in name else "-"
        left.loglog(t, b, color=color, ls=dashed, label=name)
    left.set(title="$b_t = 1 - \\beta_{2,t}$: weight of the newest $G^2$", xlabel="step")
    left.legend()
    for name, color, step in (
        ("RelativeStep()", BLUE, af.RelativeStep()),
        ("RelativeStep(warmup_init=True)", GREEN, af.RelativeStep(warmup_init=True)),
    ):
        rho = [rates(af.Config(step_size=step), int(n), "float64").step_size for n in t]
        right.loglog(t, rho, color=color, label=name)
    right.set(title="$\\rho_t$: the relative step", xlabel="step")
    right.legend()
    return figure


def main() -> None:
    """Draws all and records what the page quotes."""
    task = make_task(STEPS, SEED, "tanh")
    v, estimate = moments(task)
    factor = np.sqrt(v / estimate)
    quantiles = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    numbers: dict[str, Any] = {
        "steps": STEPS,
        "seed": SEED,
        "spread_of_v": float(np.quantile(v, 0.99) / np.quantile(v, 0.01)),
        "sqrt_v_over_estimate": {str(q): float(np.quantile(factor, q)) for q in quantiles},
    }
    with mpl.rc_context(GRID):
        save(rank1(v, estimate), HERE / "rank1.png")
        figure, numbers["clipping"] = clipping()
        save(figure, HERE / "clipping.png")
        save(decays(), HERE / "decay.png")
    write_json(HERE / "how.json", numbers, "scikit-learn", "matplotlib")


if __name__ == "__main__":
    main()
