"""Draws optimizer trajectories, works Adafactor out step by step, and builds play.html.

    python docs/trajectories/run.py [--out DIR] [--quick]

Writes figures, a JSON record and the interactive page; into docs/trajectories, README's tables too.
Needs: pip install '.[demo]' in a checkout
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "_shared")]

NEEDED = {"numpy": "numpy", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; 2 where something that is needed is not installed."""
    parser = argparse.ArgumentParser(description="Optimizer trajectories, Adafactor's among them.")
    parser.add_argument("--out", type=Path, default=Path("out/trajectories"), help="folder")
    parser.add_argument("--quick", action="store_true", help="40 steps, to see that it runs")
    options = parser.parse_args(argv)
    missing = [package for module, package in NEEDED.items() if not find_spec(module)]
    if missing:
        names = " ".join(missing)
        print(f"run.py: not installed: {names}. Try: pip install {names}", file=sys.stderr)
        return 2
    run(options.out, 40 if options.quick else None)
    return 0


def run(out: Path, steps: int | None) -> None:
    """All of it; `steps` shortens every run."""
    import _descents
    import _factorization
    import _surface_runs
    from _figures import draw_factorization, draw_losses, draw_surfaces
    from _page import assembled
    from _steps import section
    from _tables import filled, fits_table, record_of, surface_table, write

    tables = section()
    print(tables, flush=True)
    runs = _surface_runs.all_runs(steps or _descents.STEPS)
    of = _factorization.problem()
    fits = _factorization.all_fits(of, steps or _factorization.STEPS)
    moments = _factorization.second_moments(of)
    record = record_of(runs, of, fits, moments)
    print(f"\n{surface_table(record)}\n\n{fits_table(record)}\n")

    out.mkdir(parents=True, exist_ok=True)
    draw_surfaces(out / "surfaces.png", runs)
    draw_losses(out / "losses.png", runs)
    draw_factorization(out / "factorization.png", fits, moments)
    write(out / "record.json", record)
    (out / "play.html").write_text(assembled(record), encoding="utf-8")
    names = ["surfaces.png", "losses.png", "factorization.png", "record.json", "play.html"]
    page = out / "README.md"
    if page.exists():
        page.write_text(filled(page.read_text(encoding="utf-8"), record), encoding="utf-8")
        names.append(page.name)
    for name in names:
        print(f"written: {out / name}")


if __name__ == "__main__":
    sys.exit(main())
