"""Times steps against the real peers, and measures scratch memory and first-step latency.

python tests/benchmarks/run.py [--work NAME ...] [--repeats N] [--out FILE.json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import machine
import table
from compile_time import run_compile
from fresh import in_fresh_process
from latency import run_latency
from scratch import run_scratch
from works import RACES

OUT = Path(__file__).parents[2] / "out" / "bench.json"


def race(name: str, repeats: int | None, quick: bool) -> dict[str, Any]:
    """A race in a process of its own: the works before it leave no threads or memory behind."""
    return in_fresh_process(_race, name, repeats, quick)


def _race(name: str, repeats: int | None, quick: bool) -> dict[str, Any]:
    from timing import run_race

    return run_race(name, RACES[name], repeats, quick)


WORKS: dict[str, Callable[[int | None, bool], dict[str, Any]]] = {
    **{name: partial(race, name) for name in RACES},
    "scratch": run_scratch,
    "latency": run_latency,
    "compile": run_compile,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--work", nargs="+", action="extend", choices=WORKS, help="which ones; default: all"
    )
    parser.add_argument("--repeats", type=int, help="samples per contestant; default: per work")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs")
    found = parser.parse_args()
    if found.repeats is not None and found.repeats < 1:
        parser.error("--repeats must be at least 1")
    return found


def main() -> None:
    options = arguments()
    record: dict[str, Any] = {
        "schema": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "machine": machine.describe(),
        "works": {},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(options.work or WORKS):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            work = WORKS[name](options.repeats, options.quick)
        except Exception as error:
            work = {"failed": f"{type(error).__name__}: {error}"}
        record["works"][name] = work
        record["load_after"] = machine.load()
        options.out.write_text(json.dumps(record, indent=1) + "\n")
        print(table.section(name, work) + "\n", flush=True)
    print(table.machine(record))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
