"""`python -m adafactor_core variants`: the table; `variants NAME`; `variants diff A B`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from .._errors import AdafactorError
from . import get, names
from ._table import details, summary

WIDTH = 100


def main(argv: Sequence[str]) -> int:
    """Returns 0, or 2 for a name that is none or a library that is missing."""
    words = _parser().parse_intermixed_args(argv)
    try:
        if words.names[:1] == ["diff"]:
            decay = {} if words.weight_decay is None else {"weight_decay": words.weight_decay}
            return _diff(words.names[1:], words.lr, decay)
        if len(words.names) > 1:
            raise AdafactorError(f"one name at a time, got {' '.join(words.names)}.")
        print(_record(words.names[0]) if words.names else _table())
    except (AdafactorError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m adafactor_core variants",
        description="List the named variants, show one (variants NAME), or say how two differ and "
        "show it on a drawn example (variants diff A B).",
    )
    parser.add_argument("names", nargs="*", metavar="NAME | diff A B")
    parser.add_argument("--lr", type=float, help="diff: the rate of both (default: each one's own)")
    parser.add_argument("--weight-decay", type=float, metavar="WD", help="diff: of both")
    return parser


def _table() -> str:
    rows = [("name", "options", "source")]
    rows += [(v.name, summary(v), v.citation) for v in map(get, names())]
    width = max(len(name) for name, *_ in rows)
    lines = []
    for name, *cells in rows:
        text = "\n".join(fill(cell, WIDTH - width - 2) for cell in cells)
        for k, line in enumerate(text.splitlines()):
            lines.append(f"{name if k == 0 else '':{width}}  {line}")
    return "\n".join(lines)


def _record(name: str) -> str:
    lines = [name]
    for heading, items in details(get(name)):
        lines.append(f"  {heading}")
        lines += [
            fill(item, WIDTH, initial_indent="    ", subsequent_indent="    ") for item in items
        ]
    return "\n".join(lines)


def _diff(pair: Sequence[str], lr: float | None, options: Mapping[str, Any]) -> int:
    if len(pair) != 2:
        raise AdafactorError("diff takes two names, as in: variants diff transformers torch")
    from ._diff import report  # needs NumPy

    print(report(get(pair[0]), get(pair[1]), lr, options))
    return 0
