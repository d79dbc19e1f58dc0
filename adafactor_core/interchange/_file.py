"""State files: read and checked at once, their arrays when asked for; replaced as a whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .._errors import StateFileError
from . import _npz as npz
from . import _safetensors as safetensors
from . import _schema as schema
from ._entries import Contents, Entry
from ._json import MalformedError
from ._raw import Raw
from ._record import Record

Path_ = str | os.PathLike[str]
Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those of all, after every chunk."""


def read(file: Path_) -> Record:
    """The state in this file, safetensors or npz by its first bytes, checked in all it says.

    Arrays are read from the file when asked for, so keep it until then: one that was replaced or
    changed meanwhile is an error, never a mixture. Raises StateFileError for a file that is no
    state, is damaged or of a later schema version; FileNotFoundError or PermissionError.
    """
    with _naming(file):
        found, raw, name = _opened(file)
        return schema.record(found, raw, name)


def read_arrays(file: Path_) -> tuple[dict[str, Raw], dict[str, str]]:
    """Arrays by name, and metadata: of any safetensors or stored npz file. Raises as `read`."""
    with _naming(file):
        found, raw, _ = _opened(file)
        return {name: raw(e) for name, e in found.entries.items()}, dict(found.metadata)


def write(file: Path_, record: Record, *, progress: Progress | None = None) -> None:
    """Writes a state: npz where the name ends in ".npz", else safetensors.

    The file appears, or is replaced, when all of it is on the disk: whoever reads it meanwhile, and
    whatever kills the process, finds the old one or the new one whole. Needs room for both. Arrays
    go through memory 8 MiB at a time. Raises StateFileError for a record that contradicts itself,
    and OSError, after which the old file is as it was.
    """
    with _naming(file, "write"):
        schema.check(record)
        text = schema.metadata(record)
        zipped = os.fspath(file).lower().endswith(".npz")
        arrays = schema.arrays(record, npz.quoted if zipped else str)
        try:
            _write(file, arrays, text, zipped, progress)
        except ValueError as error:
            raise MalformedError(str(error)) from None


def _write(
    file: Path_,
    arrays: list[tuple[str, Raw]],
    text: dict[str, str],
    zipped: bool,
    progress: Progress | None,
) -> None:
    done, total = 0, sum(raw.nbytes for _, raw in arrays)
    with replacing(file) as out:
        chunks = npz.write(out, arrays, text) if zipped else _chunks(out, arrays, text)
        with closing(chunks):  # or what it holds open would be closed after the file
            for size in chunks:
                done += size
                if progress is not None:
                    progress(done, total)


def _chunks(
    out: BinaryIO, arrays: list[tuple[str, Raw]], text: dict[str, str]
) -> Generator[int, None, None]:
    arrays = safetensors.widest_first(arrays)
    out.write(safetensors.header(arrays, text))
    for _, raw in arrays:
        for chunk in raw.chunks():
            out.write(chunk)
            yield len(chunk)


@contextmanager
def replacing(file: Path_) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of `file` when the block ends well.

    Until then it lies beside it under a hidden name, and is removed if the block raises. Links are
    followed. Whoever is killed leaves the hidden file, which nothing reads.
    """
    at = Path(os.path.realpath(file))
    hidden = at.with_name(f".{at.name[:100]}.{secrets.token_hex(6)}.tmp")
    out = open(hidden, "xb")  # noqa: SIM115 - closed before it is renamed, as Windows wants
    try:
        try:
            yield out
            out.flush()
            os.fsync(out.fileno())
        finally:
            out.close()
        os.replace(hidden, at)
    except BaseException:
        with suppress(OSError):
            hidden.unlink()
        raise
    if os.name == "posix":  # a folder is a file as well, and its entry has to last
        folder = os.open(at.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _opened(file: Path_) -> tuple[Contents, Callable[[Entry], Raw], schema.Name]:
    if os.path.isdir(file):
        raise MalformedError("it is a folder")
    with open(file, "rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        start = opened.read(9)
        opened.seek(0)
        # A header of 67 MB has this length too, and then begins with a brace.
        zipped = start.startswith(npz.MAGIC) and start[8:] != b"{"
        kind = npz if zipped else safetensors
        found = kind.contents(opened, size)
        source = _Source(os.path.abspath(file), _identity(opened))
    return found, source.raw, npz.quoted if zipped else str


class _Source:
    """Arrays in a file that is opened for each read: a file kept open could not be replaced on
    Windows, and would be kept as long as anybody had one of its arrays."""

    def __init__(self, file: str, identity: tuple[int, ...]) -> None:
        self._file, self._identity = file, identity

    def raw(self, entry: Entry) -> Raw:
        def read(start: int, stop: int) -> bytes:
            with open(self._file, "rb") as opened:
                if _identity(opened) != self._identity:
                    raise StateFileError(
                        f"{self._file} has changed since it was read. Read it again."
                    )
                opened.seek(entry.start + start)
                return opened.read(stop - start)

        return Raw(entry.dtype, entry.shape, read)


def _identity(opened: BinaryIO) -> tuple[int, ...]:
    s = os.fstat(opened.fileno())
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns


REMEDY = {
    "read": "Use a file that save_state wrote, whole; `python -m adafactor_core convert` makes one "
    "of other optimizers' checkpoints.",
    "write": "Nothing was written.",
}


@contextmanager
def _naming(file: Path_, doing: str = "read") -> Iterator[None]:
    try:
        yield
    except MalformedError as error:
        what = "no state file that can be read" if doing == "read" else "not written"
        reason = str(error).rstrip(".")
        raise StateFileError(f"{os.fspath(file)} is {what}: {reason}. {REMEDY[doing]}") from None
