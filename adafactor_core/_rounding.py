"""Rounding to 16-bit formats and to int8: to nearest, or by a draw that is a hash of a position.

The hash and the formulas are those of docs/numerics.md. No generator and no state: the same bits
in every library, for every block, shard and resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._errors import ConfigError, DTypeError, ShapeError
from ._numerics import (
    Array,
    Namespace,
    Shape,
    at_least,
    at_most,
    binade,
    bits_of,
    device,
    dtype_name,
    namespace,
    part,
)

PARAMETER, MOMENTUM = 0, 1  # streams: a parameter and its momentum are rounded independently
STORED_BITS = {"bfloat16": 7, "float16": 10}  # of the significand
LARGEST = {"bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": 65504.0}
LEAST_NORMAL = 2.0**-14  # of float16; below it the spacing is 2**-24 throughout
BLOCK = 128  # entries of the last axis that share one scale of an int8 buffer

_WEYL, _LAST = 0x9E3779B9, 0x2C1B3C6D
_MASK = 0xFFFFFFFF


def signed(word: int) -> int:
    """A 32-bit word as the Python int that int32 arrays take."""
    word &= _MASK
    return word - (1 << 32) if word >> 31 else word


def _shifted(x: Any, k: int) -> Any:
    """x >> k without the sign: int32 arrays shift it in, and few libraries have uint32."""
    return x >> k if isinstance(x, int) else (x >> k) & ((1 << (32 - k)) - 1)


def _times(x: Any, factor: int) -> Any:
    return (x * factor) & _MASK if isinstance(x, int) else x * signed(factor)


def fold(h: Any, word: Any) -> Any:
    """The key `h` with one more 32-bit word in it; Python ints, or int32 arrays of rank >= 1.

    Not arrays of rank 0: NumPy makes them scalars, which warn where arrays wrap.
    """
    x: Any = h ^ word
    x = (x + _WEYL) & _MASK if isinstance(x, int) else x + signed(_WEYL)
    x = x ^ _shifted(x, 16)
    x = _times(x, 0x7FEB352D)
    x = x ^ _shifted(x, 15)
    x = _times(x, 0x846CA68B)
    return x ^ _shifted(x, 16)


def _crc_table() -> tuple[int, ...]:
    table = list(range(256))
    for _ in range(8):
        table = [(n >> 1) ^ 0xEDB88320 if n & 1 else n >> 1 for n in table]
    return tuple(table)


_CRC = _crc_table()


def name_word(path: str) -> int:
    """CRC-32 of the path. Not zlib's, which torch.compile cannot trace."""
    crc = _MASK
    for byte in path.encode():
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ _MASK


def step_key(seed: int, t: Any) -> Any:
    """The key of a step; `t` an int, or an int32 array of shape (1,)."""
    key = fold(fold(0, seed & _MASK), (seed >> 32) & _MASK)
    return fold(key, t) if isinstance(t, int) else fold(signed(key), t)


class Draws(NamedTuple):
    """Which random bits one tensor gets."""

    path: str
    offset: Shape  # where the local part starts in the whole tensor
    shape: Shape  # of the whole tensor

    def tensor_key(self, key: Any, stream: int) -> Any:
        """`key`: of the step, an int, or an int32 array of shape (1,)."""
        for word in (name_word(self.path), stream):
            key = fold(key, word if isinstance(key, int) else signed(word))
        return key

    def bits(self, key: Any, x: Array, at: Sequence[int], stream: int) -> Array:
        """int32 random bits in the shape of `x`, a block that starts `at` in the local part."""
        xp, place = namespace(x), device(x)
        sizes, starts, whole = [*x.shape] or [1], [*at] or [0], [*self.shape] or [1]
        starts = [a + b for a, b in zip(starts, self.offset or (0,), strict=True)]
        rank = len(sizes)
        key = self.tensor_key(key, stream)
        if not isinstance(key, int):
            key = xp.reshape(key, (1,) * rank)

        def along(axis: int, stride: int) -> Array:
            # The start is added afterwards: int32 wraps, an arange beyond 2**31 is an error.
            start = starts[axis]
            start = signed(start) if isinstance(start, int) else start  # of a block in a scan
            steps = xp.arange(sizes[axis], dtype=xp.int32, device=place) + start
            shape = tuple(-1 if a == axis else 1 for a in range(rank))
            return xp.reshape(steps * signed(stride), shape)

        if rank == 1:
            row = fold(key, 0)
            row = signed(row) if isinstance(row, int) else row
        else:
            strides = [math.prod(whole[a + 1 : -1]) for a in range(rank - 1)]
            index = along(0, strides[0])
            for axis in range(1, rank - 1):
                index = index + along(axis, strides[axis])
            row = fold(signed(key), index) if isinstance(key, int) else fold(key, index)
        e = along(rank - 1, _WEYL) + row  # (..., n): a new array, so it may be written
        e ^= _shifted(e, 15)
        e *= signed(_LAST)
        return e if x.shape else xp.reshape(e, ())


def to_grid(xp: Namespace, x: Array, name: str, e: Array | None = None) -> Array:
    """Float32 `x` on the values of a 16-bit dtype, still float32; `e`: random bits, None: nearest.

    Casting there and back would be simpler, but XLA may drop such a pair of casts as excess
    precision (xla_allow_excess_precision). What lies beyond the largest finite value is left to
    the cast that stores it.
    """
    k = STORED_BITS[name]
    drop = 23 - k
    bits = bits_of(xp, x)
    size = xp.abs(x)
    r = None if e is None else _shifted(e, 9 + k)
    if bits is not None:
        add = ((bits >> drop) & 1) + ((1 << (drop - 1)) - 1) if r is None else r
        add = add + bits
        add &= -(1 << drop)
        y = add.view(xp.float32)
    else:
        finite = at_most(size, LARGEST[name])
        y = _by_arithmetic(xp, x, finite, binade(xp, at_least(finite, 2.0**-126)), k, r)
    if name == "float16":
        fixed = _by_arithmetic(xp, x, at_most(size, LEAST_NORMAL), LEAST_NORMAL, k, r)
        y = xp.where(size < LEAST_NORMAL, fixed, y)
    return xp.where(size <= LARGEST[name], y, x)


def _by_arithmetic(xp: Namespace, x: Array, size: Array, p: Any, k: int, r: Array | None) -> Array:
    """Multiples of p * 2**-k, the spacing of values that lie in [p, 2p)."""
    steps = size / p * 2.0**k  # exact
    if r is None:
        steps = xp.round(steps)
    else:
        steps = xp.floor(steps + xp.astype(r, x.dtype) * 2.0 ** (k - 23))
    return xp.copysign(steps * 2.0**-k * p, x)


def stochastic_round(
    x: Array,
    dtype: str,
    *,
    seed: int = 0,
    t: int = 1,
    path: str = "",
    stream: int = PARAMETER,
    offset: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
) -> Array:
    """Float32 `x` at random on the values of "bfloat16" or "float16", unbiased; float32 again.

    The draw is the optimizer's own: a hash of `(seed, t, path, stream, element)`
    (docs/numerics.md), the same bits on every library. `x` may be the part at `offset` of a tensor
    of `shape`. NaN, infinities and values beyond the largest finite one are unchanged. `stream`: 0
    for parameters, 1 for momentum. Raises DTypeError for arrays that are not float32, ConfigError
    for other dtypes, ShapeError for a part that does not fit.
    """
    xp = namespace(x)
    if dtype_name(x) != "float32":
        raise DTypeError(f"stochastic_round takes float32 arrays, got {x.dtype}. Cast it first.")
    if dtype not in STORED_BITS:
        raise ConfigError(f"dtype must be one of {', '.join(STORED_BITS)}, got {dtype!r}.")
    local = tuple(x.shape)
    whole = local if shape is None else tuple(shape)
    start = (0,) * len(local) if offset is None else tuple(offset)
    fits = len(local) == len(whole) == len(start)
    if not fits or any(o < 0 or o + n > m for o, n, m in zip(start, local, whole, strict=True)):
        raise ShapeError(
            f"a part of shape {local} at offset {start} does not fit into a tensor of shape "
            f"{whole}. Give the start and the whole shape, an int per axis."
        )
    e = Draws(path, start, whole).bits(step_key(seed, t), x, (0,) * len(local), stream)
    return to_grid(xp, x, dtype, e)


# int8 buffers: one scale per BLOCK entries of the last axis.


def scale_shape(shape: Shape) -> Shape:
    """(3, 300) -> (3, 3)."""
    return (*shape[:-1], -(-shape[-1] // BLOCK)) if shape else ()


def _blocked(xp: Namespace, x: Array) -> Array:
    """(..., n) -> (..., blocks, BLOCK), filled up with zeros."""
    x = x if x.shape else xp.reshape(x, (1,))
    n = x.shape[-1]
    missing = -n % BLOCK
    if missing:
        fill = xp.zeros((*x.shape[:-1], missing), dtype=x.dtype, device=device(x))
        x = xp.concat([x, fill], axis=-1)
    return xp.reshape(x, (*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK))


def _unblocked(xp: Namespace, x: Array, shape: Shape) -> Array:
    n = shape[-1] if shape else 1
    flat = xp.reshape(x, (*x.shape[:-2], x.shape[-2] * BLOCK))
    if flat.shape[-1] != n:
        flat = part(flat, (*[slice(None)] * (len(flat.shape) - 1), slice(0, n)))
    return xp.reshape(flat, shape)


def quantised(xp: Namespace, m: Array, e: Array | None, tiny: float) -> tuple[Array, Array]:
    """(whole numbers in -127..127, scale per block), both in m's dtype; q * scale is about m."""
    shape = tuple(m.shape)
    if not math.prod(shape):
        return m, xp.zeros(scale_shape(shape), dtype=m.dtype, device=device(m))
    blocks = _blocked(xp, m)  # (..., blocks, BLOCK)
    scale = xp.max(xp.abs(blocks), axis=-1, keepdims=True) * (1.0 / 127.0)  # (..., blocks, 1)
    steps = _unblocked(xp, blocks / at_least(scale, tiny), shape)
    if e is None:
        steps = xp.round(steps)
    else:
        steps = xp.floor(steps + xp.astype(_shifted(e, 16), m.dtype) * 2.0**-16)
    # Above 127 by rounding of the quotient, or by a draw. NaN stays in the scale: int8 has none.
    steps = at_least(at_most(steps, 127.0), -127.0)
    steps = xp.where(steps == steps, steps, 0.0)
    return steps, xp.reshape(scale, scale_shape(shape))


def dequantised(xp: Namespace, q: Array, scale: Array) -> Array:
    """q * scale; `q` wide."""
    shape = tuple(q.shape)
    if not math.prod(shape):
        return q
    scale = xp.reshape(scale, (*scale.shape, 1) if shape else (1, 1))
    return _unblocked(xp, _blocked(xp, q) * scale, shape)
