"""The command line: `python -m adafactor_core COMMAND`, also installed as `adafactor-core`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__

# Module with a `main(argv) -> exit status`, and what it does. Imported late: most commands need
# NumPy, the core does not. Each has its own options.
COMMANDS = {
    "conformance": (".conformance", "check an array library against the float64 oracle"),
    "convert": (".layouts._main", "turn one optimizer's checkpoint into another's"),
    "inspect": (".interchange._inspect", "show what a state file holds, and whether it is well"),
    "memory": ("._memory", "what the optimizer states of a model take, beside Adam's"),
    "variants": (".variants._main", "list the named variants, show one, or compare two"),
}


CLOSED = 128 + 13
"""The status that shells give a program which SIGPIPE ends."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (0 passed, 1 a check failed, 2 wrong usage).

    141 where the reader of its output has gone, as in `adafactor-core variants | head -1`.
    """
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # what is buffered would fail when nobody can catch it any more
    except BrokenPipeError:
        # Python flushes once more as it ends, and would tell of the same error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


def _run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="adafactor-core", description=__doc__)
    parser.add_argument("--version", action="version", version=f"adafactor-core {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, purpose) in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    known, rest = parser.parse_known_args(arguments)
    module, _ = COMMANDS[known.command]
    try:
        command = import_module(module, __package__).main
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    status: int = command(rest)
    return status
