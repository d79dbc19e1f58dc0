"""Trains a small T5 of Hugging Face's with our Adafactor, with theirs, and with AdamW.

    python docs/real/train.py [--seeds 2] [--out DIR] [--quick]

The model reads 64 characters of the standard library's help pages and writes the next 32. All runs
of a seed share initial values and batches. Writes train.json and train.png.
Needs torch, transformers, numpy, matplotlib, tqdm; ours takes Numba where it is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_shared"))


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, prints the tables, writes the files."""
    parser = argparse.ArgumentParser(description="A small T5: our Adafactor and Hugging Face's.")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    options = parser.parse_args(argv)
    if options.quick and options.out == Path(__file__).parent:
        parser.error("--quick needs --out: it must not replace the measured results")
    run(options.seeds, options.quick, options.out)


def run(seeds: int, quick: bool, out: Path) -> None:
    """Here are the imports that take seconds."""
    from _figures import draw
    from _record import write_json
    from _report import print_tables
    from _runs import measured

    record = measured(seeds, quick)
    print_tables(record)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "train.json", record, "transformers")
    draw(out / "train.png", record)
    for file in ("train.json", "train.png"):
        print(f"written: {out / file}")


if __name__ == "__main__":
    main()
