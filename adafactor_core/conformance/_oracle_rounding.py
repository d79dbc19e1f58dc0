"""The oracle's draws, stochastic rounding and int8 blocks, from docs/numerics.md.

Keys are plain Python integers and rounding is floating-point arithmetic on whole units, where the
core counts in bits.
"""

from itertools import product
from zlib import crc32

import numpy as np
import numpy.typing as npt

from ._rounding import FORMATS, round_to, spacing

Array = npt.NDArray[np.float64]
Draws = npt.NDArray[np.uint64]  # 32 bits each

SIXTEEN_BIT = ("bfloat16", "float16")
MASK = 2**32 - 1
BLOCK = 128  # entries of int8 momentum under one scale


def mix(x: int) -> int:
    """All 32 bits of `x` into each of them."""
    x = (x ^ x >> 16) * 0x7FEB352D & MASK
    x = (x ^ x >> 15) * 0x846CA68B & MASK
    return x ^ x >> 16


def fold(h: int, w: int) -> int:
    """A key from a key and a word."""
    return mix(((h ^ w) + 0x9E3779B9) & MASK)


def draws(
    shape: tuple[int, ...],
    *,
    seed: int,
    t: int,
    path: str,
    stream: int,
    offset: tuple[int, ...] | None = None,
    whole: tuple[int, ...] | None = None,
) -> Draws:
    """`e` of every element of a tensor, or of the part at `offset` of a `whole` one."""
    if not shape:
        return draws((1,), seed=seed, t=t, path=path, stream=stream).reshape(())
    offset, whole = offset or (0,) * len(shape), whole or shape
    key = 0
    for word in (seed & MASK, seed >> 32 & MASK, t, crc32(path.encode()), stream):
        key = fold(key, word)
    starts = []
    for leading in product(*map(range, offset[:-1], map(sum, zip(offset, shape, strict=True)))):
        i = 0
        for index, size in zip(leading, whole, strict=False):
            i = i * size + index
        starts.append(fold(key, i & MASK))
    j = np.arange(offset[-1], offset[-1] + shape[-1], dtype=np.uint64)
    e = (np.array(starts, np.uint64)[:, None] + j * np.uint64(0x9E3779B9)) & np.uint64(MASK)
    e = (e ^ e >> np.uint64(15)) * np.uint64(0x2C1B3C6D) & np.uint64(MASK)
    return e.reshape(shape)


def stochastic(x: Array, dtype: str, e: Draws) -> Array:
    """`x`, as a float32 number, on one of its two neighbours in a 16-bit dtype."""
    x = round_to(x, "float32")
    significand, _, largest = FORMATS[dtype]
    bits = 24 - significand  # of a float32 significand that the dtype has no room for
    unit = spacing(x, dtype)
    steps = np.abs(x) / unit + (e >> np.uint64(32 - bits)) * 2.0**-bits
    if dtype == "float16":
        steps = np.where(np.abs(x) < 2.0**-14, round_to(steps, "float32"), steps)
    rounded = np.copysign(np.floor(steps) * unit, x)
    return np.where(np.abs(x) <= largest, rounded, round_to(x, dtype))


def rounded(x: Array, dtype: str, e: Draws | None) -> Array:
    """To nearest, or with draws stochastically; float32 and float64 are left alone here."""
    if dtype not in SIXTEEN_BIT:
        return x
    return round_to(x, dtype) if e is None else stochastic(x, dtype, e)


def scales(m: Array) -> Array:
    """One per block of the last axis; a scalar is a block."""
    if not m.ndim:
        return np.asarray(np.abs(m) / 127)
    starts = range(0, m.shape[-1], BLOCK)
    blocks = [np.abs(m[..., at : at + BLOCK]).max(-1, keepdims=True) for at in starts]
    return np.concatenate([m[..., :0], *blocks], axis=-1) / 127


def quantised(m: Array, scale: Array, e: Draws | None) -> Array:
    """`q` in -127..127. A block without a number in it (NaN) holds nothing: its scale is NaN."""
    step = spread(scale, m.shape)
    v = np.divide(m, step, out=np.zeros(m.shape), where=step > 0)
    q = np.rint(v) if e is None else np.floor(v + (e >> np.uint64(16)) * 2.0**-16)
    return np.asarray(np.nan_to_num(np.clip(q, -127, 127)))


def spread(scale: Array, shape: tuple[int, ...]) -> Array:
    """The scale of each entry."""
    return np.repeat(scale, BLOCK, axis=-1)[..., : shape[-1]] if shape else scale
