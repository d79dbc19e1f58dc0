"""Trains a small network on handwritten digits with Adafactor, in one framework or several.

    python docs/demo/digits.py              NumPy
    python docs/demo/digits.py torch jax    and these, from the same weights and the same batches

Writes figures and a JSON record. Needs: pip install '.[demo]' in a checkout
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_shared"))

NEEDED = {"numpy": "numpy", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
NAMES = ("numpy", "torch", "jax")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; 2 where something asked for is unknown or not installed."""
    options = parse(argv)
    names = ["numpy", *dict.fromkeys(n for n in options.frameworks if n != "numpy")]
    missing = {p: d for p, d in NEEDED.items() if not find_spec(p)}
    missing |= {n: n for n in names if not find_spec(n)}
    if missing:
        print(
            f"digits.py: not installed: {', '.join(missing.values())}. "
            f"Install with: pip install {' '.join(missing.values())}; "
            f"or leave out the frameworks that you do not need.",
            file=sys.stderr,
        )
        return 2
    run(names, options)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. An unknown framework ends here, with status 2."""
    parser = argparse.ArgumentParser(description="Adafactor on handwritten digits.")
    parser.add_argument("frameworks", nargs="*", metavar="FRAMEWORK", help=", ".join(NAMES))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--activation", choices=("tanh", "relu"), default="tanh")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for results")
    parser.add_argument("--quick", action="store_true", help="60 steps, to see that it runs")
    options = parser.parse_args(argv)
    unknown = [n for n in options.frameworks if n not in NAMES]
    if unknown:
        parser.error(f"unknown framework: {', '.join(unknown)}. Known: {', '.join(NAMES)}.")
    if options.quick:
        options.steps = min(options.steps, 60)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    return options


def run(names: Sequence[str], options: argparse.Namespace) -> None:
    """Trains, prints the table, writes the files."""
    from _figures import save_all
    from _frameworks import ROWS, Float64, NumPy
    from _report import save, summary, table
    from _training import make_task, train

    import adafactor_core as af

    steps = options.steps
    task = make_task(steps, options.seed, options.activation)
    relative = af.Config()  # the paper's: no learning rate to choose
    cosine = af.Config(lr=lambda t: 0.03 * (1 + math.cos(math.pi * t / steps)) / 2)
    runs = {"numpy": train(NumPy, task, relative, "numpy", compare=False)}
    for name in names[1:]:
        runs[name] = train(ROWS[name], task, relative, name)
    runs["float64"] = train(Float64, task, relative, "float64")
    runs["cosine lr"] = train(NumPy, task, cosine, "cosine lr", compare=False)
    runs["Adam"] = train(NumPy, task, af.variants.algorithm1(), "Adam", compare=False)

    rows = [summary(name, run) for name, run in runs.items()]
    print(f"\n{table(rows)}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {**vars(options), "frameworks": names, "out": str(options.out)}
    for path in (*save_all(options.out, runs), save(options.out, settings, runs, rows)):
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
