"""What the Triton kernels share: columns of their tables, loads, rounding, random bits.

Kernels get the address of every tensor as an integer in a table, so that one launch walks all
tensors of a batch.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

# Columns of the integer table, a row per tensor: addresses first. Statistics are read at OUTER and
# INNER and written at NEW_...: to the same place, or beside it where a step may still be refused.
COLUMNS = [
    "X",
    "OUTER",
    "INNER",
    "NEW_OUTER",
    "NEW_INNER",
    "FULL",
    "MOMENTUM",
    "COMPENSATION",
    "KIND",
    "R",
    "B",
    "C",
    "D",
    "LENGTH",
    "SIZE",
    "TILE_ROWS",
    "ROW_TILES",
    "COL_TILES",
    "N_OUTER",
    "ROWS",
    "N_INNER",
    "N_COL",
    "N_P",
    "N_Q",
    "ITEM",
    "ITEMS",
    "SLOT",
    "NAME",
    "LAST",
    "SCOPE",
    "SCOPED",
    "PART",
    "PARTS",
    "RATE",
]
# Columns of the table of float32 numbers, a row per tensor.
NUMBERS = [
    "PRESCALE",
    "UNIT",
    "EPS_IN",
    "EPS_AFTER",
    "PER_OUTER",
    "PER_INNER",
    "PER_ROW",
    "SHARE",
    "PER_X",
    "PER_U",
    "WEIGHT",
]

WIDTH = tl.constexpr(len(COLUMNS))
X, OUTER, INNER, NEW_OUTER, NEW_INNER, FULL, MOMENTUM, COMPENSATION = map(tl.constexpr, range(8))
KIND, R, B, C, D, LENGTH, SIZE, TILE_ROWS, ROW_TILES, COL_TILES = map(tl.constexpr, range(8, 18))
N_OUTER, ROWS, N_INNER, N_COL, N_P, N_Q, ITEM, ITEMS, SLOT = map(tl.constexpr, range(18, 27))
NAME, LAST, SCOPE, SCOPED, PART, PARTS, RATE = map(tl.constexpr, range(27, 34))

COUNT = tl.constexpr(len(NUMBERS))
PRESCALE, UNIT, EPS_IN, EPS_AFTER, PER_OUTER, PER_INNER = map(tl.constexpr, range(6))
PER_ROW, SHARE, PER_X, PER_U, WEIGHT = map(tl.constexpr, range(6, 11))

# How a tensor is walked. FAST: its rows start at multiples of 16 bytes, which the compiler has to
# be told before it loads more than one element at a time.
FAST, GENERAL, UNFACTORED = map(tl.constexpr, range(3))
# A chunk has 4096 elements, but 2048 where more than G and X or addresses take registers.
TALL, FLAT, WIDE = tl.constexpr(8), tl.constexpr(4), tl.constexpr(512)
HIGH, SLIM = tl.constexpr(8), tl.constexpr(256)

PARAMETER = tl.constexpr(0)  # stream of random bits, as in adafactor_core._rounding
TINY = tl.constexpr(1.1754943508222875e-38)
LARGEST = tl.constexpr((2 - 2.0**-23) * 2.0**127)
# The interpreter truncates where hardware rounds to nearest.
TRUNCATES = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"))


@triton.jit
def cell(table, t, column: tl.constexpr):
    """An entry of the integer table."""
    return tl.load(table + t * WIDTH + column)


@triton.jit
def number(nums, t, column: tl.constexpr):
    return tl.load(nums + t * COUNT + column)


@triton.jit
def place(table, t, column: tl.constexpr, kind: tl.constexpr):
    """The address in this column as a pointer."""
    return cell(table, t, column).to(tl.pointer_type(kind))


@triton.jit
def given(x, i):
    """A number of the host as it is, or the entry of a device array: nobody waits for it."""
    # Two conditions: Triton evaluates both sides of an `and`. The interpreter leaves floats alone.
    if not isinstance(x, float):  # noqa: SIM102
        if x.dtype.is_ptr():
            x = tl.load(x + i)
    return x


@triton.jit
def moved(old, new, b):
    """Not old + b*(new - old): at b = 1 a large old value would swallow a small new one."""
    return (old - old * b) + new * b


@triton.jit
def shown(x):
    """NaN for infinity: dividing by an overflowed statistic would hide it in a 0."""
    return tl.where(x < float("inf"), x, float("nan"))


@triton.jit
def at_least(x, low):
    """Not tl.maximum, which drops NaN."""
    return tl.where(x < low, low, x)


@triton.jit
def total(values, start, stop, BLOCK: tl.constexpr):
    """The sum of values[start:stop], in one order whatever runs beside it."""
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(start, stop, BLOCK):
        at = k + tl.arange(0, BLOCK)
        acc += tl.load(values + at, at < stop, 0.0)
    return tl.sum(acc, 0)


@triton.jit
def folded(h, word):
    """`fold` of adafactor_core._rounding, on uint32."""
    x = (h ^ word) + 0x9E3779B9
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def drawn(row, j):
    """The bits of element `j` of a row of the last axis; `row`: its key."""
    e = row + j * 0x9E3779B9
    e = e ^ (e >> 15)
    return e * 0x2C1B3C6D


@triton.jit
def narrowed(x, KIND_: tl.constexpr):
    """To nearest, ties to even."""
    if TRUNCATES and tl.bfloat16 == KIND_:
        bits = x.to(tl.uint32, bitcast=True)
        up = bits + (((bits >> 16) & 1) + 0x7FFF)
        x = tl.where(x == x, (up & 0xFFFF0000).to(tl.float32, bitcast=True), x)
    return x.to(KIND_)


@triton.jit
def narrowed_at_random(x, e, KIND_: tl.constexpr):
    """`to_grid` of adafactor_core._rounding with random bits `e`."""
    bits = x.to(tl.uint32, bitcast=True)
    size = tl.abs(x)
    if tl.bfloat16 == KIND_:
        y = ((bits + (e >> 16)) & 0xFFFF0000).to(tl.float32, bitcast=True)
        most = 3.3895313892515355e38
    else:
        r = e >> 19
        y = ((bits + r) & 0xFFFFE000).to(tl.float32, bitcast=True)
        # Below 2**-14 the spacing stays what it is there.
        steps = tl.floor(size * 16777216.0 + r.to(tl.float32) * 0.0001220703125)
        fixed = tl.where(x < 0, -steps, steps) * 5.9604644775390625e-08
        y = tl.where(size < 6.103515625e-05, fixed, y)
        most = 65504.0
    return narrowed(tl.where(size <= most, y, x), KIND_)
