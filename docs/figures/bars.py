"""The bars of README.md, docs/benchmarks.md and docs/how.md: python docs/figures/bars.py.

Times come from docs/benchmarks.json, bytes from memory_report: nothing is measured here.
Needs numpy, matplotlib, and scikit-learn and tqdm, which docs/demo imports.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "_shared"), str(HERE.parent / "demo")]

import matplotlib as mpl  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
from _memory import MODELS, point  # noqa: E402
from _plots import GRID, save  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

KINDS = {"ours": "#0072B2", "peer": "#E69F00", "adamw": "#999999"}
NAMES = {
    "compiled": "adafactor_numpy",
    "adafactor_torch": "adafactor_torch",
    "adafactor_torch-graph": "adafactor_torch, torch.compile",
    "adafactor_jax": "adafactor_jax",
    "plain": "adafactor_numpy, no Numba",
    "torch-loop": "torch.optim.Adafactor",
    "torch-foreach": "torch.optim.Adafactor, foreach",
    "hf": "transformers Adafactor",
    "optax": "optax.adafactor, jit",
    "adamw-fused": "torch AdamW, fused",
    "adamw-foreach": "torch AdamW, foreach",
}
WORKS = {
    "large": "one 4096x4096 float32 tensor",
    "t5": "T5-small, 35 M parameters in 49 tensors",
    "small": "120 small tensors, 0.6 M parameters",
    "bf16": "one 4096x4096 bfloat16 tensor",
}
FRONT = ("adafactor_torch", "compiled", "adafactor_jax", "adamw-fused", "optax", "hf", "torch-loop")


def bench() -> dict[str, Any]:
    """The record of docs/benchmarks.md."""
    record: dict[str, Any] = json.loads((HERE.parent / "benchmarks.json").read_text())
    return record


def kind(name: str) -> str:
    """Who made it."""
    if name.startswith("adamw"):
        return "adamw"
    return "peer" if name in ("torch-loop", "torch-foreach", "hf", "optax") else "ours"


def floor(rows: dict[str, Any]) -> float:
    """`p -= g` in the faster of the two libraries, as the tables count."""
    return min(row["median_ms"] for row in rows.values() if row["kind"] == "floor")


def times(ax: Axes, rows: dict[str, Any], names: list[str]) -> None:
    """Medians with quartiles, the floor, and the limit of 2 x floor."""
    low = floor(rows)
    for y, name in enumerate(reversed(names)):
        row = rows[name]
        error = [[row["median_ms"] - row["q1_ms"]], [row["q3_ms"] - row["median_ms"]]]
        ax.barh(y, row["median_ms"], color=KINDS[kind(name)], xerr=error, error_kw={"lw": 1})
        ax.annotate(f"{row['median_ms']:.3g}", (row["q3_ms"], y), xytext=(5, 0),
                    textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    ax.set_yticks(range(len(names)), [NAMES[n] for n in reversed(names)])
    lines = [(low, "-", "floor: p -= g"), (2 * low, "--", "2 x floor, the limit here")]
    for x, ls, label in lines:
        ax.axvline(x, color="#D55E00", lw=1.2, ls=ls, label=label)
    ax.legend(loc="upper right")
    ax.set_xlabel("milliseconds per step")
    ax.set_xlim(0, max(rows[n]["q3_ms"] for n in names) * 1.13)
    ax.grid(axis="y", visible=False)


def machine(record: dict[str, Any]) -> str:
    """In one line, from the record."""
    m = record["machine"]
    p = m["packages"]
    shown = ", ".join(f"{n} {p[n]}" for n in ("numpy", "numba", "torch", "jax", "optax"))
    return f"{m['cores']}-core {m['cpu']} VM, Python {m['python']}, {shown}; medians and quartiles"


def work(record: dict[str, Any], name: str) -> Figure:
    """All contestants of one table."""
    rows = record["works"][name]["rows"]
    shown = sorted((n for n in NAMES if n in rows), key=lambda n: rows[n]["median_ms"])
    figure, ax = plt.subplots(figsize=(9, 0.36 * len(shown) + 1.5), layout="constrained")
    times(ax, rows, shown)
    ax.set_title(f"{WORKS[name]}: {record['works'][name]['repeats']} repeats")
    figure.supxlabel(machine(record), fontsize=8)
    return figure


def memory(ax: Axes, names: list[str]) -> None:
    """State as a multiple of the float32 parameters, with the bytes beside it."""
    for y, name in enumerate(reversed(names)):
        found = point(name, MODELS[name])
        for up, color, size in (
            (0.2, KINDS["adamw"], found.adam),
            (-0.2, KINDS["ours"], found.adafactor),
        ):
            share = size / (4 * found.params)
            ax.barh(y + up, share, 0.38, color=color)
            ax.annotate(f"{amount(size)}", (share, y + up), xytext=(5, 0),
                        textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    ax.set_yticks(
        range(len(names)),
        [f"{n}\n{point(n, MODELS[n]).params / 1e6:,.0f} M" for n in reversed(names)],
    )
    ax.set_xlim(0, 2.45)
    ax.set_xlabel("optimizer state / float32 parameters")
    ax.grid(axis="y", visible=False)


def amount(size: float) -> str:
    """Bytes for people."""
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= u)
    return f"{size / unit:.3g} {name}"


def front(record: dict[str, Any]) -> Figure:
    """Memory and time side by side."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.9), layout="constrained", width_ratios=[1, 1.15]
    )
    memory(left, list(MODELS))
    left.set_title("optimizer state: Adam and Adafactor")
    left.legend(
        handles=[plt.Rectangle((0, 0), 1, 1, color=KINDS[k]) for k in ("adamw", "ours")],
        labels=["Adam", "Adafactor"],
        loc="lower right",
    )
    times(right, record["works"]["large"]["rows"], list(FRONT))
    right.set_title("a step on one 4096x4096 float32 tensor")
    figure.supxlabel(f"right: {machine(record)}", fontsize=7.5)
    return figure


def main() -> None:
    """Draws all."""
    record = bench()
    with mpl.rc_context(GRID):
        save(front(record), HERE / "front.png")
        for name in WORKS:
            save(work(record, name), HERE / f"bench_{name}.png")
        figure, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
        memory(ax, list(MODELS))
        ax.set_title("state with the default options: Adam (grey), Adafactor (blue)")
        save(figure, HERE / "memory.png")


if __name__ == "__main__":
    main()
