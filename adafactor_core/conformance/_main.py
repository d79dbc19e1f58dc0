"""The command line of the kit: `python -m adafactor_core conformance --namespace numpy`."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ._core_checks import CORE_CHECKS
from ._namespaces import DTYPES, ROWS, UnavailableError
from ._report import Result, exit_code, headings, line, run, summary
from ._subjects import CoreSubject, core_subjects


def main(argv: Sequence[str]) -> int:
    """Judge and print. Returns 0 if all is well, 1 on a failure, 2 for a missing library."""
    options = _parser().parse_args(argv)
    try:
        subjects = list(_subjects(options))
    except UnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(headings())
    results = []
    for subject in subjects:
        for result in _results(subject, options):
            results.append(result)
            _progress("")
            print(line(result, options.verbose), flush=True)
    print(summary(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return exit_code(results)


def _results(subject: CoreSubject, options: Namespace) -> Iterator[Result]:
    dtypes = options.dtype or DTYPES
    return run(subject, dtypes, options.check, options.cases, options.seed, _progress)


def _subjects(options: Namespace) -> Iterator[CoreSubject]:
    """Those named, or all rows of the table that this machine has.

    Raises UnavailableError for a missing one that was named.
    """
    for name in options.namespace or ROWS:
        try:
            yield from core_subjects(name, options.mode, options.device)
        except UnavailableError as error:
            if options.namespace:
                raise
            print(f"not here: {error}", file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m adafactor_core conformance",
        description="Compare Adafactor on an array library with a float64 oracle.",
    )
    add = parser.add_argument
    add(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help=f"{', '.join(ROWS)}, or any module with array-API functions; repeatable, default: "
        "whatever is installed",
    )
    add("--device", help="torch: cuda, jax: gpu, array_api_strict: device1, ...")
    add("--dtype", action="append", default=[], choices=DTYPES, help="repeatable, default: all")
    add("--mode", choices=("eager", "jit"), help="default: eager, and jit where it is the norm")
    add("--check", action="append", default=[], choices=CORE_CHECKS, help="repeatable")
    add("--cases", type=int, default=20, metavar="N", help="random cases (default 20)")
    add("--seed", type=int, default=0, metavar="S", help="seed of the first random case")
    add("--json", type=Path, metavar="FILE", help="also write all results there")
    add("-v", "--verbose", action="store_true", help="all failures, and where the worst error is")
    return parser  # fmt: skip


def _progress(text: str) -> None:
    """Show what runs, on a terminal only; the next text overwrites it."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)
