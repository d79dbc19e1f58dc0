"""`python -m adafactor_core inspect FILE`: what a state file holds, and whether it is well."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from .._errors import DTypeError, StateFileError
from .._numerics import WIDTHS, wide_name
from . import _schema as schema
from ._file import read, read_arrays
from ._health import Health, health, summary
from ._json import dump
from ._progress import on_terminal
from ._raw import Raw
from ._record import Record, TensorRecord

EPILOG = (
    "exit status: 0 a state whose numbers can be what they should be; 1 no state, or one with NaN, "
    "infinities or negative squares; 2 no such file, or wrong usage."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="adafactor-core inspect", description="What a state file holds.", epilog=EPILOG
    )
    parser.add_argument("file", metavar="FILE", help="safetensors or npz")
    parser.add_argument(
        "--no-health", action="store_true", help="do not read the numbers (needs no NumPy)"
    )
    given = parser.parse_args(argv)
    try:
        return _inspect(given.file, looks=not given.no_health)
    except BrokenPipeError:  # of the output, no file's
        raise
    except (OSError, DTypeError) as error:
        print(error, file=sys.stderr)
        return 2


def _inspect(file: str, looks: bool) -> int:
    try:
        record = read(file)
    except StateFileError as error:
        return _foreign(file, error)
    found = health(record, _counting(record)) if looks else {}
    for line in report(record, found):
        print(line)
    bad = [key for key, h in found.items() if h.wrong(key[1])]
    if bad:
        print(f"\nnot well: {', '.join(f'{slot} of {path!r}' for path, slot in bad[:5])}")
        return 1
    return 0


def report(record: Record, found: Mapping[tuple[str, str], Health]) -> list[str]:
    """Lines of text: the record as a whole, then its tensors."""
    size = sum(raw.nbytes for t in record.tensors for raw in t.slots.values())
    adam = sum(2 * math.prod(t.shape) * WIDTHS[wide_name(t.dtype)] for t in record.tensors)
    entries = sum(math.prod(t.shape) for t in record.tensors)
    lines = [
        f"adafactor-core state, schema version {schema.VERSION}",
        f"step       {record.step}" + _skipped(record.skipped),
        f"variant    {_shown(record.variant) or '(none named)'}",
        f"options    {_shown(dump(dict(record.options))) if record.options else '(the defaults)'}",
        f"tensors    {len(record.tensors)}, {entries:,} parameters",
        f"bytes      {size:,}; Adam's state would have {adam:,}",
        *(f"note       {_shown(note)}" for note in record.notes),
        "",
    ]
    for t in record.tensors:
        own = _skipped(t.skipped) if t.step is None else f", step {t.step}{_skipped(t.skipped)}"
        name = _shown(t.path) or "(the bare array)"
        lines.append(f"{name}  {t.dtype} {list(t.shape)}, {_axes(t)}{own}")
        held = (f"{s} {raw.dtype} {list(raw.shape)} {raw.nbytes:,} B" for s, raw in t.slots.items())
        lines.append(f"    {'; '.join(held)}")
        if found:
            lines += [f"    {line}" for line in summary(t, dict(found))]
    return [line.rstrip() for line in lines]


def _shown(text: str) -> str:
    """For a terminal: what is in a file must not move its cursor, nor fill it."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 500 else f"{text[:500]} ..."


def _axes(t: TensorRecord) -> str:
    return f"rows {list(t.row_axes)}, columns {list(t.col_axes)}" if t.row_axes else "not factored"


def _skipped(count: int | None) -> str:
    return "" if count is None else f", {count} skipped"


def _counting(record: Record) -> Callable[[int], None]:
    show, done = on_terminal("reading"), 0
    total = sum(raw.nbytes for t in record.tensors for raw in t.slots.values())

    def count(size: int) -> None:
        nonlocal done
        done += size
        if show is not None:
            show(done, total)

    return count


def _foreign(file: str, error: StateFileError) -> int:
    """A file that is no state: why not, and what it looks like, as far as it can be read."""
    print(error, file=sys.stderr)
    try:
        arrays, metadata = read_arrays(file)
    except StateFileError:
        return 1
    if schema.is_state(metadata):  # one that contradicts itself: its arrays tell nothing
        return 1
    size = sum(raw.nbytes for raw in arrays.values())
    kind = "npz" if os.fspath(file).lower().endswith(".npz") else "safetensors"
    print(f"{kind}, but no adafactor-core state: {len(arrays)} arrays, {size:,} bytes")
    if metadata:
        print(f"metadata   {_shown(', '.join(sorted(metadata)))}")
    for name, raw in list(arrays.items())[:20]:
        print(f"{_shown(name)}  {_words(raw)}")
    if len(arrays) > 20:
        print(f"and {len(arrays) - 20} more")
    return 1


def _words(raw: Raw) -> str:
    return f"{raw.dtype} {list(raw.shape)} {raw.nbytes:,} B"
