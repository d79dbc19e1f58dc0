"""Arithmetic on the bytes of arrays: widening, rounding, averaging. NumPy on the host, late."""

from __future__ import annotations

from typing import Any

from .._errors import StateError
from .._numerics import WIDTHS, Shape
from ..interchange import Raw
from ..interchange._arrays import decoded, numpy
from ..interchange._raw import computed

WIDER = {
    "bfloat16": ("bfloat16", "float32", "float64"),
    "float16": ("float16", "float32", "float64"),
    "float32": ("float32", "float64"),
    "float64": ("float64",),
}
"""What holds every number of a dtype."""


def encoded(values: Any, dtype: str) -> bytes:
    """To nearest, ties to even; what is too large becomes infinity, as in every library."""
    np = numpy()
    if dtype != "bfloat16":
        with np.errstate(over="ignore", invalid="ignore"):
            return bytes(values.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    bits = _to_odd(values).view("<u4")  # only what is no number can overflow here
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = values != values
    return bytes(np.where(nan, (bits >> 16) | 0x40, rounded).astype("<u2").tobytes())


def _to_odd(values: Any) -> Any:
    """float32; of float64 such that rounding it once more gives what rounding once would.

    To nearest twice is not to nearest: a number just above the middle between two of bfloat16 may
    become the middle first. So its last bit is set wherever something was cut off.
    """
    np = numpy()
    if values.dtype != np.float64:
        return values.astype("<f4")
    with np.errstate(over="ignore"):
        near = values.astype("<f4")
    toward = np.where(np.abs(near) > np.abs(values), np.nextafter(near, np.float32(0)), near)
    cut = (toward != values) & np.isfinite(toward)
    return np.where(cut, (toward.view("<u4") | 1).view("<f4"), toward).astype("<f4")


def converted(raw: Raw, dtype: str) -> Raw:
    """In another dtype, rounded to nearest where it is narrower; a chunk at a time."""
    if raw.dtype == dtype:
        return raw
    old, new = WIDTHS[raw.dtype], WIDTHS[dtype]

    def read(start: int, stop: int) -> memoryview:
        first, last = start // new, -(-stop // new)
        data = encoded(decoded(raw.read(first * old, last * old), raw.dtype), dtype)
        return memoryview(data)[start - first * new : stop - first * new]

    return Raw(dtype, raw.shape, read)


def survives(raw: Raw, dtype: str) -> bool:
    """Whether every number of it is one of `dtype` too. Reads it unless the dtypes tell."""
    if dtype in WIDER[raw.dtype]:
        return True
    np = numpy()
    for chunk in raw.chunks():
        values = decoded(chunk, raw.dtype)
        back = decoded(encoded(values, dtype), dtype)
        if not np.array_equal(back, values, equal_nan=True):
            return False
    return True


def values(raw: Raw) -> Any:
    """All of it in its shape; bfloat16 and float16 as float32."""
    found = decoded(raw.bytes(), raw.dtype).reshape(raw.shape)
    return found.astype("float32") if raw.dtype == "float16" else found


def rebuilt(row: Any, col: Any, row_axes: Shape) -> Any:
    """The estimate R C / mean(R) in float64 (paper, Algorithm 4, in means); 0 where R is all 0."""
    np = numpy()
    row, col = row.astype("float64"), col.astype("float64")
    mean = row.mean(axis=row_axes, keepdims=True)
    share = np.divide(row, mean, out=np.zeros_like(row), where=mean != 0)
    return share * col


def reduced(full: Any, axes: Shape) -> Any:
    """Its mean over these axes, dims kept, summed in float64."""
    return full.mean(axis=axes, keepdims=True, dtype="float64")


def permuted(raw: Raw, axes: Shape, path: str) -> Raw:
    """With its axes in this order. By a change of shape alone where only axes of size 1 move."""
    if len(axes) != len(raw.shape):
        raise StateError(
            f"tensor {path!r} has a slot of shape {raw.shape}, which has no axes {axes}."
        )
    shape = tuple(raw.shape[a] for a in axes)
    long = [a for a in axes if raw.shape[a] != 1]
    if long == sorted(long):
        return raw.reshape(shape)
    np = numpy()

    def make() -> bytes:
        # Bytes of unsigned words: no dtype has to be known, so nothing can be rounded.
        words = np.frombuffer(raw.bytes(), dtype=f"<u{WIDTHS[raw.dtype]}")
        return bytes(words.reshape(raw.shape).transpose(axes).tobytes())

    return computed(raw.dtype, shape, make)
