"""The npz container: a zip of stored .npy members, as np.savez writes and np.load reads.

Written and read here without NumPy: an .npy header is a line of text, and np.load would inflate
whatever a member asks for. bfloat16, which .npy has no name for, is stored as uint16.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, BinaryIO
from urllib.parse import quote

from ._entries import LIMIT, Contents, Entry, shape_of
from ._json import MalformedError, dump, parse
from ._raw import Raw, of_bytes
from ._safetensors import METADATA, check_metadata

MAGIC = b"PK\x03\x04"
DIRECTORY = 1 << 25  # bytes of a zip's directory: Python takes ten times that for its members
NAMES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "|i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "|u1", "bool": "|b1",
}  # fmt: skip
DTYPES = {text: name for name, text in NAMES.items() if name != "bfloat16"}
_HEADER = re.compile(
    rb"\{'descr': '([^']{1,10})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n"
)


def quoted(name: str) -> str:
    """A path as part of a member's name: a zip may not hold every character of it."""
    return quote(name, safe="")


def write(
    file: BinaryIO, arrays: Iterable[tuple[str, Raw]], metadata: Mapping[str, str]
) -> Generator[int, None, None]:
    """Writes all members; yields the bytes of every chunk of an array once it is written."""
    text = dump(dict(metadata)).encode("utf-8")
    rows = [(METADATA, said := of_bytes("uint8", (len(text),), text)), *arrays]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in rows:
            # With a date of its own, equal states would not be equal files.
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=raw.nbytes > LIMIT) as member:
                member.write(_npy(raw))
                for chunk in raw.chunks():
                    member.write(chunk)
                    if raw is not said:
                        yield len(chunk)


def _npy(raw: Raw) -> bytes:
    sizes = ", ".join(map(str, raw.shape)) + ("," if len(raw.shape) == 1 else "")
    fields = f"'descr': '{NAMES[raw.dtype]}', 'fortran_order': False, 'shape': ({sizes})"
    text = f"{{{fields}, }}".encode("ascii")
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


class _Bounded:
    """A file of which no more than DIRECTORY bytes are read at once, whatever it claims to have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, n: int = -1) -> bytes:
        if n > DIRECTORY:
            raise MalformedError(f"its directory would have {n} bytes, {DIRECTORY} is the limit")
        return self._file.read(1 << 17 if n < 0 else n)  # without a size: the last 64 KiB

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def contents(file: BinaryIO, size: int) -> Contents:
    """Of an open file of `size` bytes. Raises MalformedError unless all of it is as it should."""
    with _as_malformed(), zipfile.ZipFile(_Bounded(file)) as archive:
        members, end = archive.infolist(), archive.start_dir
    entries: dict[str, Entry] = {}
    spans = []
    for info in members:
        name = info.orig_filename.removesuffix(".npy")
        start = _stored(file, info, end)
        spans.append((info.header_offset, start + info.file_size, name))
        if name in entries:
            raise MalformedError(f"it has the member {name[:200]!r} twice")
        entries[name] = _entry(file, name, start, info.file_size)
    spans.sort()
    for (_, before, _), (start, _, name) in pairwise(spans):
        if start < before:
            raise MalformedError(f"its member {name[:200]!r} overlaps another")
    metadata: Any = {}
    if METADATA in entries:
        at = entries.pop(METADATA)
        if at.dtype != "uint8" or at.nbytes > LIMIT:
            raise MalformedError(f"its {METADATA} is not JSON in bytes, at most {LIMIT} of them")
        file.seek(at.start)
        metadata = parse(file.read(at.nbytes), f"its {METADATA}")
    check_metadata(metadata)
    return Contents(entries, metadata)


@contextmanager
def _as_malformed() -> Iterator[None]:
    """zipfile has errors of its own, and lets those of struct and of decoding through."""
    try:
        yield
    except MalformedError:
        raise
    except (
        zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, NotImplementedError, RuntimeError,
        ValueError, OverflowError, EOFError, OSError,
    ) as error:  # fmt: skip
        raise MalformedError(f"its zip directory cannot be read ({error})") from None


def _stored(file: BinaryIO, info: zipfile.ZipInfo, end: int) -> int:
    """Where the bytes of a member begin."""
    what = f"its member {info.orig_filename[:200]!r}"
    if info.orig_filename.endswith("data.pkl"):
        raise MalformedError("it is a torch file, which `convert --from FORMAT` reads")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise MalformedError(f"{what} is compressed; save it with np.savez, which stores")
    if info.flag_bits & 0x1 or not info.orig_filename.endswith(".npy"):
        raise MalformedError(f"{what} is encrypted, or no .npy")
    if not 0 <= info.header_offset <= end - 30:
        raise MalformedError(f"{what} begins outside of the file")
    file.seek(info.header_offset)
    local = file.read(30)
    if local[:4] != MAGIC:
        raise MalformedError(f"{what} does not begin where the directory says")
    name, extra = struct.unpack("<HH", local[26:30])
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > end:
        raise MalformedError(f"{what} reaches beyond the file: it is cut short")
    return int(start)


def _entry(file: BinaryIO, name: str, start: int, size: int) -> Entry:
    what = f"array {name[:200]!r}"
    file.seek(start)
    head = file.read(min(size, 12))
    version = head[6:8]
    if head[:6] != b"\x93NUMPY" or version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise MalformedError(f"{what} is no .npy of a version that is known")
    fixed = 10 if version == b"\x01\x00" else 12
    length = int.from_bytes(head[8:fixed], "little")
    if length > 10_000 or fixed + length > size:
        raise MalformedError(f"{what} has an .npy header of {length} bytes")
    file.seek(start + fixed)
    found = _HEADER.fullmatch(file.read(length))
    if not found:
        raise MalformedError(f"{what} has an .npy header that NumPy would not write")
    descr, order = found[1].decode("latin-1"), found[2]
    if descr not in DTYPES:
        why = "Python objects, which are never unpickled" if "O" in descr else "an unknown dtype"
        raise MalformedError(f"{what} has the dtype {descr!r}: {why}")
    shape = shape_of([int(n) for n in found[3].split(b",") if n.strip()], what)
    if order == b"True" and sum(n != 1 for n in shape) > 1:
        raise MalformedError(f"{what} is in Fortran's order; save it in C's")
    entry = Entry(DTYPES[descr], shape, start + fixed + length)
    if entry.nbytes != size - fixed - length:
        raise MalformedError(
            f"{what} of {entry.dtype} and shape {shape} takes {entry.nbytes} bytes, and its "
            f"member has {size - fixed - length}"
        )
    return entry
