"""What a state file says, schema version 1: a Record as JSON, and what has to hold for it.

Every rule is checked by `check`, which writing and reading go through alike: what can be written
can be read. The format in words: docs/interchange.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._factoring import without
from .._numerics import NARROW, TRAINABLE, Shape, wide_name
from .._rounding import scale_shape
from ._entries import RANK, Contents, Entry, shape_of
from ._json import MalformedError, dump, is_int, parse, text_of
from ._raw import Raw
from ._record import SLOTS, Record, TensorRecord

FORMAT, VERSION = "adafactor-core state", 1
COUNTER = 2**31 - 1  # counters are int32 in every framework
BUFFERS = ("float32", "float64", "bfloat16", "float16", "int8")
KEYS = {"step", "skipped", "variant", "options", "notes", "tensors"}
TENSOR_KEYS = {
    "path", "shape", "dtype", "row_axes", "col_axes", "slots", "skipped", "step"
}  # fmt: skip

Name = Callable[[str], str]
"""A path as a container can have it in a name."""


def arrays(record: Record, name: Name = str) -> list[tuple[str, Raw]]:
    """All slots by their names in a file, "row/layers.0.w", in the record's order."""
    return [(f"{s}/{name(t.path)}", raw) for t in record.tensors for s, raw in t.slots.items()]


def metadata(record: Record) -> dict[str, str]:
    """Raises MalformedError for a record that no file can hold."""
    from .. import __version__  # which is not there yet while the package is being imported

    tensors = [
        {
            "path": t.path,
            "shape": list(t.shape),
            "dtype": t.dtype,
            "row_axes": list(t.row_axes),
            "col_axes": list(t.col_axes),
            "slots": {slot: raw.dtype for slot, raw in t.slots.items()},
            "skipped": t.skipped,
            "step": t.step,
        }
        for t in record.tensors
    ]
    whole = {
        "step": record.step,
        "skipped": record.skipped,
        "variant": record.variant,
        "options": dict(record.options),
        "notes": list(record.notes),
        "tensors": tensors,
    }
    try:
        text = dump(whole)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedError(f"the record cannot be JSON ({error})") from None
    return {
        "format": FORMAT,
        "schema_version": str(VERSION),
        "writer": f"adafactor-core {__version__}",
        "record": text,
    }


def is_state(given: Mapping[str, str]) -> bool:
    """Whether metadata says that the file is a state, of whatever version."""
    return given.get("format") == FORMAT


def record(found: Contents, raw: Callable[[Entry], Raw], name: Name = str) -> Record:
    """The record that a file holds. Raises MalformedError unless everything in it fits."""
    given = found.metadata
    if not is_state(given):
        raise MalformedError(f"its metadata does not say format={FORMAT!r}")
    version = given.get("schema_version", "")
    if not (version.isascii() and version.isdigit() and 0 < len(version) <= 9):
        raise MalformedError(f"it has the schema version {version[:30]!r}, which is no number")
    if int(version) != VERSION:
        raise MalformedError(
            f"it has schema version {int(version)}, and this adafactor-core reads {VERSION}. "
            f"Update it: pip install --upgrade adafactor-core"
        )
    whole = parse(given.get("record", ""), "its record")
    if not isinstance(whole, dict) or whole.keys() != KEYS:
        raise MalformedError(f"its record is no object of {', '.join(sorted(KEYS))}")
    if not isinstance(whole["tensors"], list) or not isinstance(whole["notes"], list):
        raise MalformedError("its record has no list of tensors, or none of notes")
    entries = dict(found.entries)
    tensors = tuple(_tensor(row, entries, raw, name) for row in whole["tensors"])
    if entries:
        odd = min(entries)[:200]
        raise MalformedError(f"it has the array {odd!r}, which its record does not name")
    read = Record(
        whole["step"], tensors, whole["skipped"], whole["variant"], whole["options"],
        tuple(whole["notes"]),
    )  # fmt: skip
    check(read)
    return read


def _tensor(
    row: Any, entries: dict[str, Entry], raw: Callable[[Entry], Raw], name: Name
) -> TensorRecord:
    if not isinstance(row, dict) or row.keys() != TENSOR_KEYS:
        raise MalformedError(f"a tensor is no object of {', '.join(sorted(TENSOR_KEYS))}")
    path, dtypes = row["path"], row["slots"]
    if not text_of(path) or not isinstance(dtypes, dict):
        raise MalformedError("a tensor has a path that is no text, or slots that are no object")
    what = f"tensor {path[:200]!r}"
    slots: dict[str, Raw] = {}
    for slot, dtype in dtypes.items():
        entry = entries.pop(f"{slot}/{name(path)}", None)
        if entry is None:
            raise MalformedError(f"{what} should have {slot[:30]!r}, and no array has its name")
        if entry.dtype == "uint16" and dtype == "bfloat16":  # npz has no other name for it
            entry = entry._replace(dtype="bfloat16")
        if entry.dtype != dtype:
            raise MalformedError(f"{what} has {slot} in {entry.dtype}, its record says {dtype!r}")
        slots[slot] = raw(entry)
    return TensorRecord(
        path, shape_of(row["shape"], what), row["dtype"], _axes(row["row_axes"], what),
        _axes(row["col_axes"], what), slots, row["skipped"], row["step"],
    )  # fmt: skip


def _axes(value: Any, what: str) -> Shape:
    if not isinstance(value, list) or len(value) > RANK or not all(map(is_int, value)):
        raise MalformedError(f"{what} has axes that are no list of ints")
    return tuple(value)


def check(r: Record) -> None:
    """Raises MalformedError, naming the tensor, unless it is a state that may have come about."""
    _check_counter(r.step, "its step")
    _check_counter(r.skipped, "its count of skipped steps", optional=True)
    if not text_of(r.variant) or not isinstance(r.options, Mapping):
        raise MalformedError("its variant is no text, or its options are no object")
    if not all(map(text_of, r.notes)) or not all(map(text_of, r.options)):
        raise MalformedError("its notes are no texts, or its options have no names")
    seen: set[str] = set()
    for t in r.tensors:
        if not text_of(t.path):
            raise MalformedError(f"the path {t.path!r} is no text that UTF-8 can hold")
        if t.path in seen:
            raise MalformedError(f"it has tensor {t.path[:200]!r} twice")
        seen.add(t.path)
        _check_tensor(t, f"tensor {t.path[:200]!r}")


def _check_counter(value: Any, what: str, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not is_int(value) or not 0 <= value <= COUNTER:
        raise MalformedError(f"{what} is no int from 0 to {COUNTER}")


def _check_tensor(t: TensorRecord, what: str) -> None:
    shape_of(list(t.shape), what)
    if t.dtype not in TRAINABLE:
        raise MalformedError(f"{what} has a dtype that is none of {', '.join(TRAINABLE)}")
    _check_counter(t.skipped, f"the skipped steps of {what}", optional=True)
    _check_counter(t.step, f"the step of {what}", optional=True)
    every = (*t.row_axes, *t.col_axes)
    fits = all(is_int(a) and 0 <= a < len(t.shape) for a in every)
    ascending = list(t.row_axes) == sorted(t.row_axes) and list(t.col_axes) == sorted(t.col_axes)
    if not fits or not ascending or len(set(every)) != len(every):
        raise MalformedError(
            f"{what} of shape {t.shape} cannot have the row axes {t.row_axes} and the column axes "
            f"{t.col_axes}: they must ascend, exist and have nothing in common"
        )
    wanted = expected(t)
    # Whether there is momentum, and in which dtype, is for options to say; so is compensation.
    needed = {"row", "col"} if t.row_axes or t.col_axes else {"full"}
    if "momentum" in t.slots and t.slots["momentum"].dtype == "int8":
        needed.add("momentum_scale")
    if bool(t.row_axes) != bool(t.col_axes) or not needed <= t.slots.keys():
        raise MalformedError(f"{what} lacks one of {', '.join(sorted(needed))}, or axes on a side")
    for slot, raw in t.slots.items():
        if slot not in wanted:
            raise MalformedError(f"{what} has {slot[:30]!r}, which it cannot have")
        shape, dtypes = wanted[slot]
        if tuple(raw.shape) != shape or raw.dtype not in dtypes:
            raise MalformedError(
                f"{what} of {t.dtype} and shape {t.shape} has {slot} in {raw.dtype} of shape "
                f"{tuple(raw.shape)}, and should have it in {' or '.join(dtypes)} of shape {shape}"
            )


def expected(t: TensorRecord) -> dict[str, tuple[Shape, tuple[str, ...]]]:
    """The slots that a tensor of this kind may have: shape, and the dtypes to choose from."""
    wide = (wide_name(t.dtype),)
    found: dict[str, tuple[Shape, tuple[str, ...]]] = {"momentum": (t.shape, BUFFERS)}
    if t.row_axes:
        found["row"] = without(t.shape, t.col_axes), wide
        found["col"] = without(t.shape, t.row_axes), wide
    else:
        found["full"] = t.shape, wide
    if "momentum" in t.slots and t.slots["momentum"].dtype == "int8":
        found["momentum_scale"] = scale_shape(t.shape), wide
    if t.dtype in NARROW:
        found["compensation"] = t.shape, (t.dtype,)
    assert found.keys() <= set(SLOTS)
    return found
