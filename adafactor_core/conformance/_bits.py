"""Stochastic rounding bit for bit: inputs that anyone can make again, and what becomes of them.

In vectors.json a row is what `af.stochastic_round` takes. `sha256` is that of the 16-bit patterns
of the result, little endian, in C order; NaN is 0x7fc0 in bfloat16 and 0x7e00 in float16. Element n
of the input is `special[n]`, and after those comes from u = 1664525 u + 1013904223 (mod 2^32),
starting at u = 0: a float32 with the sign u >> 31, the exponent field `lowest` + (u >> 23 & 255)
mod `exponents`, and the significand field u & 0x7fffff. Rows of few elements also list both as hex:
the float32 bits of `input` and `patterns`.
"""

from collections.abc import Mapping
from hashlib import sha256
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._oracle_rounding import draws, stochastic
from ._rounding import round_to

Array = npt.NDArray[np.float64]
Patterns = npt.NDArray[np.uint16]

FEW = 64  # elements up to which a row lists its numbers
INF, NAN = float("inf"), float("nan")
UP, DOWN = 1 + 2.0**-23, 1 - 2.0**-24  # from a power of two to its float32 neighbours
COMMON = [3.1415927410125732, 0.0, -0.0, 1.0, UP, DOWN, 2 * DOWN, -1.0, -2 * DOWN]
SPECIAL = {
    "bfloat16": [
        *COMMON, *(1 + 2.0**-k for k in (7, 8, 9, 16, 22)), -1 - 2.0**-8, 1 + 3 * 2.0**-8,
        2 - 2.0**-8, 2 - 2.0**-7, 2.0**-126, 2.0**-126 * UP, 2.0**-100 * DOWN, 2.0**100 * UP,
        *((1.0 - 2.0**-8 + k) * 2.0**128 for k in (0, 2.0**-24, 2.0**-9 - 2.0**-24, 2.0**-9)),
        -(2 - 2.0**-23) * 2.0**127, INF, -INF, NAN,
    ],
    "float16": [
        *COMMON, *(1 + 2.0**-k for k in (10, 11, 12, 16, 22)), -1 - 2.0**-11, 1 + 3 * 2.0**-11,
        2 - 2.0**-11, 2 - 2.0**-10, 65472.0, 65503.0, 65503.99609375, 65504.0,
        65504.00390625, 65519.99609375, 65520.0, -65535.0, 1e5, INF, -INF, NAN,
        *(2.0**-k for k in (13, 14, 15, 24, 25, 26, 37, 38, 100)), 2.0**-14 * UP, 2.0**-14 * DOWN,
        -(2.0**-14) + 2.0**-25, *(k * 2.0**-24 for k in (1.5, -2.25, 3.0, 1022.5, 1023 + 2.0**-13)),
    ],
}  # fmt: skip
EXPONENTS = {"bfloat16": (1, 254), "float16": (100, 44)}  # lowest field, how many


class Row(NamedTuple):
    """One call. `offset` and `whole`: where `shape` lies in a larger tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    seed: int = 0
    t: int = 1
    path: str = ""
    stream: int = 0
    offset: tuple[int, ...] | None = None
    whole: tuple[int, ...] | None = None


def _rows(dtype: str) -> list[Row]:
    return [
        Row(f"{dtype}-special", dtype, (len(SPECIAL[dtype]),)),
        Row(f"{dtype}-scalar", dtype, (), seed=1),
        Row(f"{dtype}-path", dtype, (4, 16), path="layers.0.w"),
        Row(f"{dtype}-unicode", dtype, (8, 7), path="Schicht.é中", t=3),
        Row(f"{dtype}-stream", dtype, (4, 16), path="layers.0.w", stream=1),
        Row(f"{dtype}-seed", dtype, (60, 1), seed=2**32 + 1, t=1000),
        Row(f"{dtype}-large-seed", dtype, (33, 129), seed=2**64 - 1, t=2**31 - 1, path="w"),
        Row(f"{dtype}-vector", dtype, (5000,), seed=12345, t=77, path="b"),
        Row(f"{dtype}-rank-3", dtype, (7, 5, 67), seed=3, t=2, path="c"),
        Row(f"{dtype}-rank-4", dtype, (2, 3, 4, 31), seed=4, t=9, path="d"),
        Row(f"{dtype}-part", dtype, (5, 30), seed=3, path="w", offset=(7, 40), whole=(33, 129)),
        Row(f"{dtype}-deep-part", dtype, (2, 3, 9), offset=(4, 1, 3), whole=(7, 5, 67)),
        Row(f"{dtype}-tail", dtype, (40,), offset=(2**24 - 3,), whole=(2**25,)),
        Row(f"{dtype}-far", dtype, (3, 8), offset=(2**20, 2**10), whole=(2**21, 2**11)),
    ]


TABLE = [row for dtype in SPECIAL for row in _rows(dtype)]


def inputs(row: Row) -> Array:
    """The numbers that go in; all of them float32, none subnormal there."""
    count = prod(row.shape)
    lowest, exponents = EXPONENTS[row.dtype]
    bits, u = [], 0
    for _ in range(count - len(SPECIAL[row.dtype])):
        u = (1664525 * u + 1013904223) % 2**32
        field = lowest + (u >> 23 & 255) % exponents
        bits.append(u >> 31 << 31 | field << 23 | u & 0x7FFFFF)
    special = np.array(SPECIAL[row.dtype][:count])
    made = np.array(bits, np.uint32).view(np.float32).astype(np.float64)
    return np.concatenate([special, made]).reshape(row.shape)


def expected(row: Row) -> Array:
    """What the oracle makes of them."""
    e = draws(
        row.shape, seed=row.seed, t=row.t, path=row.path, stream=row.stream,
        offset=row.offset, whole=row.whole,
    )  # fmt: skip
    return stochastic(inputs(row), row.dtype, e)


def patterns(x: Array, dtype: str) -> Patterns:
    """The 16 bits of each value. What lies beyond the largest one goes to nearest first."""
    x = np.where(np.isfinite(x), round_to(x, dtype), x)
    if dtype == "float16":
        bits = x.astype(np.float16).view(np.uint16)
    else:
        bits = (x.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7E00 if dtype == "float16" else 0x7FC0), bits)


def digest(bits: Patterns) -> str:
    """The hash of a row."""
    return sha256(np.ascontiguousarray(bits).astype("<u2").tobytes()).hexdigest()


def encode(row: Row) -> dict[str, Any]:
    """A row as the file has it; what is the default is left out."""
    given = {key: value for key, value in row._asdict().items() if value is not None}
    bits, x = patterns(expected(row), row.dtype), inputs(row)
    lowest, exponents = EXPONENTS[row.dtype]
    entry = {**given, "lowest": lowest, "exponents": exponents, "sha256": digest(bits)}
    if bits.size <= FEW:
        words = x.astype(np.float32).view(np.uint32).ravel().tolist()
        entry["input"] = " ".join(f"{word:08x}" for word in words)
        entry["patterns"] = " ".join(f"{word:04x}" for word in bits.ravel().tolist())
    if row.name.endswith("-special"):
        entry["special"] = entry["input"]
    return entry


def decode(entry: Mapping[str, Any]) -> tuple[Row, str]:
    """A row of the file, and its hash."""
    found = {key: entry[key] for key in Row._fields if key in entry}
    tuples = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
    return Row(**{**found, **tuples}), entry["sha256"]
