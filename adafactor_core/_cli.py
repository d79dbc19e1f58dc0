"""The command line: `python -m adafactor_core COMMAND`, also installed as `adafactor-core`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (0 passed, 1 a check failed, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="adafactor-core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "conformance",
        help="check an array library against the float64 oracle",
        add_help=False,  # the kit has its own, with its own options
    )
    arguments = list(sys.argv[1:] if argv is None else argv)
    known, rest = parser.parse_known_args(arguments)
    assert known.command == "conformance"
    # Imported late: the kit needs NumPy, the core does not.
    try:
        from .conformance import main as conformance
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2

    return conformance(rest)
