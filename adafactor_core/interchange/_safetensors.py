"""The safetensors container: a length, a JSON header, and the arrays without gaps.

Written here and not by the `safetensors` package, which takes whole arrays in memory; the tests
hold the two against each other. Format: docs/interchange.md.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from .._numerics import WIDTHS
from ._entries import LIMIT, Contents, Entry, shape_of
from ._json import MalformedError, dump, is_int, parse, text_of
from ._raw import Raw

NAMES = {
    "float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
DTYPES = {short: name for name, short in NAMES.items()}
METADATA = "__metadata__"


def write(
    file: BinaryIO, arrays: Sequence[tuple[str, Raw]], metadata: Mapping[str, str]
) -> Generator[int, None, None]:
    """Writes everything; yields the number of bytes of every chunk once it is written."""
    file.write(header(arrays, metadata))
    for _, raw in arrays:
        for chunk in raw.chunks():
            file.write(chunk)
            yield len(chunk)


def header(arrays: Iterable[tuple[str, Raw]], metadata: Mapping[str, str]) -> bytes:
    """Everything before the first array, which begins at a multiple of 8."""
    found: dict[str, Any] = {METADATA: dict(metadata)}
    end = 0
    for name, raw in arrays:
        start, end = end, end + raw.nbytes
        found[name] = {
            "dtype": NAMES[raw.dtype], "shape": list(raw.shape), "data_offsets": [start, end]
        }  # fmt: skip
    text = dump(found).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > LIMIT:
        raise MalformedError(f"its header would have {len(text)} bytes, and {LIMIT} is the limit")
    return len(text).to_bytes(8, "little") + text


def contents(file: BinaryIO, size: int) -> Contents:
    """Of an open file of `size` bytes. Raises MalformedError unless all of it is as it should."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise MalformedError(f"it has {size} bytes, and a header's length alone takes 8")
    if length > LIMIT:
        raise MalformedError(f"its header would have {length} bytes, and {LIMIT} is the limit")
    if length > size - 8:
        raise MalformedError(f"its header should have {length} bytes, and {size - 8} are left")
    table = parse(file.read(length), "its header")
    if not isinstance(table, dict):
        raise MalformedError("its header is no JSON object")
    metadata = table.pop(METADATA, {})
    check_metadata(metadata)
    entries = {name: _entry(name, row, 8 + length) for name, row in table.items()}
    _check_places(entries, 8 + length, size)
    return Contents(entries, metadata)


def check_metadata(metadata: Any) -> None:
    """Raises MalformedError for what is no mapping of texts to texts."""
    texts = isinstance(metadata, dict) and all(
        text_of(key) and text_of(value) for key, value in metadata.items()
    )
    if not texts:
        raise MalformedError(f"its {METADATA} is no object of strings")


def _entry(name: str, row: Any, data: int) -> Entry:
    what = f"array {name[:200]!r}"
    if not text_of(name) or not isinstance(row, dict):
        raise MalformedError(f"{what} is described by no JSON object")
    if row.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedError(f"{what} is not described by dtype, shape and data_offsets alone")
    dtype = row["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedError(f"{what} has the unknown dtype {str(dtype)[:30]!r}")
    shape, at = shape_of(row["shape"], what), row["data_offsets"]
    if not isinstance(at, list) or len(at) != 2 or not all(is_int(n) and n >= 0 for n in at):
        raise MalformedError(f"{what} has data_offsets that are not two ints >= 0")
    entry = Entry(DTYPES[dtype], shape, data + at[0])
    if at[1] - at[0] != entry.nbytes:
        raise MalformedError(
            f"{what} of {entry.dtype} and shape {shape} takes {entry.nbytes} bytes, and its "
            f"data_offsets leave it {at[1] - at[0]}"
        )
    return entry


def _check_places(entries: Mapping[str, Entry], data: int, size: int) -> None:
    end = data
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].start, pair[1].nbytes)):
        if entry.start != end:
            how = "overlaps what is before it" if entry.start < end else "leaves a hole before it"
            raise MalformedError(f"array {name[:200]!r} {how}")
        end += entry.nbytes
    if end != size:
        how = "is cut short" if end > size else "has bytes that belong to nothing"
        raise MalformedError(f"its arrays end at byte {end}, and it has {size}: it {how}")


def widest_first(arrays: Iterable[tuple[str, Raw]]) -> list[tuple[str, Raw]]:
    """In the order in which each begins at a multiple of its width, so that it can be mapped."""
    return sorted(arrays, key=lambda pair: -WIDTHS[pair[1].dtype])
