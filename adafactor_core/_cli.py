"""The command line: `python -m adafactor_core COMMAND`, also installed as `adafactor-core`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# Name: module with `main(argv) -> exit status`, imported late; what it does.
COMMANDS = {
    "conformance": (".conformance", "check an array library against the float64 oracle"),
    "memory": ("._memory", "what the optimizer states of a model take, beside Adam's"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (0 passed, 1 a check failed, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="adafactor-core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)  # each has options of its own
    arguments = list(sys.argv[1:] if argv is None else argv)
    known, rest = parser.parse_known_args(arguments)
    try:
        command = import_module(COMMANDS[known.command][0], __package__)
    except ImportError as error:  # the kit needs NumPy, the core does not
        print(error, file=sys.stderr)
        return 2
    return int(command.main(rest))
