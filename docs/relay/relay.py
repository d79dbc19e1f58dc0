"""One training run through four frameworks: every 10 steps the next one takes over from two files.

    python docs/relay/relay.py [numpy torch jax fsdp2] [--steps 120] [--hop 10] [--out DIR]

Ends where a run in NumPy alone ends. Writes relay.json and relay.png.
Needs torch, jax, scikit-learn, matplotlib; or the frameworks that are named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "_shared"))

from _hops import Done, Leg, Params, Ranks, Task, in_jax, in_numpy, in_torch, start, state_file

BATCH = 64
NAMES = {"numpy": "NumPy", "torch": "torch", "jax": "JAX", "fsdp2": "torch FSDP2, 2 ranks"}
COLOURS = {"numpy": "#56B4E9", "torch": "#D55E00", "jax": "#009E73", "fsdp2": "#CC79A7"}
Hop = Callable[[Task, Leg, Params, int], Done]


def make_task(steps: int, seed: int) -> Task:
    """scikit-learn's digits; batches drawn with replacement."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    return Task(
        (images / 16).astype(np.float32),
        np.eye(10, dtype=np.float32)[labels],
        rng.integers(len(images), size=(steps, BATCH)),
    )


def relay(runs: Sequence[str], task: Task, begin: Params, hop: int, folder: Path) -> dict[str, Any]:
    """The run that hops, and what each state file says."""
    from adafactor_core import interchange

    ranks = Ranks() if "fsdp2" in runs else None
    hops: dict[str, Any] = {
        "numpy": in_numpy, "torch": in_torch, "jax": in_jax, "fsdp2": ranks
    }  # fmt: skip
    done, legs, steps = Done([], []), [], len(task.batches)
    try:
        come: Path | None = None
        for first, name in zip(range(0, steps, hop), cycle(runs), strict=False):
            leg = Leg(first, min(first + hop, steps), come, folder / f"{first:04d}")
            leg.go.mkdir(parents=True)
            took: Hop = hops[name]
            found = took(task, leg, begin, steps)
            done.losses.extend(found.losses)
            done.params.extend(found.params)
            saved = interchange.read(state_file(leg.go))
            size = state_file(leg.go).stat().st_size
            legs.append({"framework": name, "to_step": saved.step, "file_bytes": size})
            come = leg.go
            print(f"steps {first + 1:3} to {leg.last:3}: {NAMES[name]}, loss {done.losses[-1]:.4f}")
    finally:
        if ranks is not None:
            ranks.close()
    return {"done": done, "legs": legs}


def difference(a: Params, b: Params) -> float:
    """The largest max|a - b| / max|b| over the tensors."""
    return max(float(np.abs(a[n] - b[n]).max() / np.abs(b[n]).max()) for n in b)


def draw(record: dict[str, Any], hop: int, path: Path) -> None:
    from _plots import GRID, plt, save

    steps = np.arange(1, record["steps"] + 1)
    with plt.rc_context(GRID):
        figure, (loss, apart) = plt.subplots(
            2, 1, figsize=(9, 6), sharex=True, layout="constrained", height_ratios=[3, 2]
        )
        loss.plot(
            steps, record["losses"]["NumPy alone"], color="#999999", lw=5, label="NumPy alone"
        )
        seen: set[str] = set()
        for k, leg in enumerate(record["legs"]):
            part, name = slice(k * hop, (k + 1) * hop), leg["framework"]
            label = None if name in seen else NAMES[name]
            seen.add(name)
            curve = record["losses"]["relay"][part]
            loss.plot(steps[part], curve, color=COLOURS[name], lw=2, marker=".", label=label)
            for axes in (loss, apart):
                axes.axvspan(k * hop + 0.5, (k + 1) * hop + 0.5, color=COLOURS[name], alpha=0.12)
        loss.set(ylabel="loss of the batch", title="one run, a state file every few steps")
        loss.legend(ncols=2)
        apart.semilogy(steps, np.maximum(record["differences"], 1e-9), color="black", lw=1.5)
        apart.axhline(1e-6, color="#D55E00", ls="--", lw=1)
        apart.set(xlabel="step", ylabel="difference to NumPy alone")
        save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both, writes the files; 1 where they end more than 1e-6 apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("frameworks", nargs="*", metavar="FRAMEWORK", help=", ".join(NAMES))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--hop", type=int, default=10, help="steps between two files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args(argv)
    runs = given.frameworks or list(NAMES)
    if unknown := set(runs) - NAMES.keys():
        parser.error(f"unknown framework: {', '.join(unknown)}. Known: {', '.join(NAMES)}.")

    from _record import write_json

    task, begin = make_task(given.steps, given.seed), start(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        leg = Leg(0, given.steps, None, Path(folder))
        alone = in_numpy(task, leg, begin, given.steps)
        moved = relay(runs, task, begin, given.hop, Path(folder) / "hops")
    pairs = list(zip(moved["done"].params, alone.params, strict=True))
    record = {
        "steps": given.steps,
        "hop": given.hop,
        "parameters": sum(x.size for x in begin.values()),
        "legs": moved["legs"],
        "losses": {"relay": moved["done"].losses, "NumPy alone": alone.losses},
        "differences": [difference(a, b) for a, b in pairs],
        "moved": {n: float(np.abs(x - begin[n]).max()) for n, x in alone.params[-1].items()},
    }
    worst, last = max(record["differences"]), record["differences"][-1]
    print(f"largest difference to NumPy alone: {worst:.1e}; at the end {last:.1e}")
    given.out.mkdir(parents=True, exist_ok=True)
    draw(record, given.hop, given.out / "relay.png")
    write_json(given.out / "relay.json", record, "scikit-learn")
    print(f"written: {given.out / 'relay.json'}, relay.png")
    return 0 if worst <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
