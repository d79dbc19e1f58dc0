"""Judges adafactor_jax by the conformance kit; a program, since a mesh needs eight devices.

python tests/jax_kit.py jit, or nox -s conformance_jax for every mode. With --write the rows go to
docs/conformance_jax.json, beside those of other runs, and all of them to docs/conformance_jax.md.
"""

import json
import os
import platform
import sys
import warnings
from argparse import ArgumentParser
from pathlib import Path

import jax

import adafactor_core as af
from _jax import MESHES, MODES, AsJax, judged
from adafactor_core import conformance as kit

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- below: written by tests/jax_kit.py -->"
KEY = ("mode", "executor", "dtype")
ORDER = [*MODES, "whole", "scanned", *kit.DTYPES]


def key(row):
    return tuple(row[name] for name in KEY)


def write(rows):
    """Rows of the same mode, executor and dtype are replaced."""
    file, page = DOCS / "conformance_jax.json", DOCS / "conformance_jax.md"
    old = json.loads(file.read_text()) if file.exists() else []
    found = {key(row): row for row in [*old, *rows]}
    found = sorted(found.values(), key=lambda row: [ORDER.index(part) for part in key(row)])
    file.write_text(json.dumps(found, indent=1) + "\n")
    page.write_text(page.read_text().partition(MARK)[0] + f"{MARK}\n\n{written(found)}\n")


def written(rows):
    head = [*KEY, "cases", "divided", "failures", "worst error / tolerance", "s"]
    lines = [head, ["---"] * len(head), *map(cells, rows)]
    table = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    failures = [f"* {' '.join(key(row))}, {text}" for row in rows for text in row["failures"]]
    where = sorted({row["with"] for row in rows})
    return "\n\n".join(filter(None, (table, "\n".join(failures), *where)))


def cells(row):
    worst, check, _ = row["worst"]
    numbers = row["cases"], row["divided"] or "", len(row["failures"]), f"{worst:.2f}, {check}"
    return [*key(row), *numbers, round(row["seconds"])]


def machine():
    model = [row for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row]
    flags = [f"XLA_FLAGS={given}"] if (given := os.environ.get("XLA_FLAGS")) else []
    python = f"Python {platform.python_version()}"
    return ", ".join([f"jax {jax.__version__}", python, model[0].split(": ")[1], *flags])


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES, nargs="+", help=f"not {MESHES} beside others")
    parser.add_argument("--dtype", action="append", default=[], choices=kit.DTYPES)
    parser.add_argument("--scanned", action="store_true", help="sums taken block by block")
    parser.add_argument("--golden", action="append", help="these alone, default: all")
    parser.add_argument("--drawn", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="append", default=[], choices=kit.CORE_CHECKS)
    parser.add_argument("--eps1", type=float, help="whatever the case says, to see it fail")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", af.LowPrecisionWarning)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if {*given.mode} & {*MESHES}:  # where the executor that scans is never taken
        jax.config.update("jax_num_cpu_devices", 8)
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # see _jax_mesh.py
    wrong = {} if given.eps1 is None else {"eps1": given.eps1}
    failed = False
    for mode in given.mode:
        for dtype in given.dtype or kit.DTYPES:
            subject = AsJax("make_step", mode, given.scanned, **wrong)
            row = judged(subject, dtype, given.drawn, given.seed, given.golden, given.check)
            row["with"] = machine()
            print(json.dumps(row), flush=True)
            if given.write:
                write([row])
            failed |= bool(row["failures"]) or not row["cases"]
            jax.clear_caches()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
