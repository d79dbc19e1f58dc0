"""Triton kernels over what is small: advance and scale, and what decisions are made from.

They add up what the tiles of _triton_kernels.py left, each sum in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tools import (
    COL_TILES,
    EPS_AFTER,
    EPS_IN,
    INNER,
    ITEM,
    ITEMS,
    KIND,
    LARGEST,
    N_COL,
    N_INNER,
    N_OUTER,
    N_P,
    N_Q,
    NEW_INNER,
    NEW_OUTER,
    OUTER,
    PART,
    PARTS,
    PER_INNER,
    PER_OUTER,
    PER_U,
    PER_X,
    RATE,
    ROW_TILES,
    ROWS,
    SLOT,
    TINY,
    UNFACTORED,
    UNIT,
    WEIGHT,
    B,
    D,
    R,
    at_least,
    cell,
    given,
    moved,
    number,
    place,
    shown,
    total,
)

BLOCK = tl.constexpr(1024)  # entries of R per program, and of sums at a time
HEIGHT, ACROSS = tl.constexpr(32), tl.constexpr(128)  # column sums: row tiles, entries of C
MARGIN = tl.constexpr(2.0**-16)  # as in adafactor_core._decisions


@triton.jit
def _rooted(x, after):
    return tl.sqrt_rn(shown(at_least(x + after, TINY)))


@triton.jit
def _count_odd(x, ok):
    # A comparison: it is false for NaN.
    return tl.sum(tl.where(ok & ((x <= LARGEST) == 0), 1.0, 0.0), 0)


@triton.jit
def _advance_rows(
    ints, nums, outer, totals, olds, p, t, ab, start, rate, by, odd, GUARDED: tl.constexpr
):
    d, b_count = cell(ints, t, D), cell(ints, t, B)
    r_count = cell(ints, t, R)
    k = start + tl.arange(0, BLOCK)
    ok = k < r_count * d
    at = ((ab // b_count) * r_count + k // d) * b_count * d + (ab % b_count) * d + k % d
    rows, tiles = cell(ints, t, ROWS), cell(ints, t, COL_TILES)
    source = outer + cell(ints, t, N_OUTER) + at
    acc = tl.zeros([BLOCK], tl.float32)
    for ct in range(tiles):
        acc += tl.load(source + ct * rows, ok, 0.0)
    count = tiles * cell(ints, t, ROW_TILES)
    slot = cell(ints, t, SLOT) + ab * count * d
    mean, old_mean = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if d == 1:
        mean += total(totals, slot, slot + count, BLOCK)
        old_mean += total(olds, slot, slot + count, BLOCK)
    else:
        for tile in range(count):
            mean += tl.load(totals + slot + tile * d + k % d, ok, 0.0)
            old_mean += tl.load(olds + slot + tile * d + k % d, ok, 0.0)
    per, eps = number(nums, t, PER_OUTER), number(nums, t, EPS_IN)
    # Not gain*gain, which may underflow where the mean makes up for it.
    old = tl.load(place(ints, t, OUTER, tl.float32) + at, ok, 0.0)
    new = moved(old, acc * per * by * by + eps, rate)
    mean = moved(old_mean, mean * per * by * by + eps, rate)
    tl.store(place(ints, t, NEW_OUTER, tl.float32) + at, new, ok)
    # Two roots and not that of a quotient, which overflows with a dead row.
    factor = tl.div_rn(tl.sqrt_rn(mean), _rooted(new, number(nums, t, EPS_AFTER)))
    tl.store(p + cell(ints, t, N_P) + at, factor, ok)
    if GUARDED:
        tl.store(odd, _count_odd(new, ok))


@triton.jit
def _advance_cols(ints, nums, inner, q, t, start, rate, by, odd, GUARDED: tl.constexpr):
    cols, tiles = cell(ints, t, N_COL), cell(ints, t, ROW_TILES)
    k = start + tl.arange(0, ACROSS)
    ok = k < cols
    acc = tl.zeros([HEIGHT, ACROSS], tl.float32)
    source = inner + cell(ints, t, N_INNER) + k
    for first in range(0, tiles, HEIGHT):
        rt = first + tl.arange(0, HEIGHT)
        both = (rt < tiles)[:, None] & ok[None, :]
        acc += tl.load(source[None, :] + rt[:, None] * cols, both, 0.0)
    seen = tl.sum(acc, 0) * number(nums, t, PER_INNER) * by * by + number(nums, t, EPS_IN)
    new = moved(tl.load(place(ints, t, INNER, tl.float32) + k, ok, 0.0), seen, rate)
    tl.store(place(ints, t, NEW_INNER, tl.float32) + k, new, ok)
    factor = tl.div_rn(by + tl.zeros_like(new), _rooted(new, number(nums, t, EPS_AFTER)))
    tl.store(q + cell(ints, t, N_Q) + k, factor, ok)
    if GUARDED:
        tl.store(odd, _count_odd(new, ok))


@triton.jit(do_not_specialize=["b_step"])
def advance(
    parts, ints, nums, outer, inner, totals, olds, p, q, odd, b, b_step, gain,
    GUARDED: tl.constexpr,
):  # fmt: skip
    """R, C <- averages, and the thin factors of U = G*q*p; `parts`: (tensor, slice, start).

    The slice is -1 where C is meant. `odd` counts what is not finite.
    """
    i = tl.program_id(0)
    t, ab = tl.load(parts + i * 3), tl.load(parts + i * 3 + 1)
    start = tl.load(parts + i * 3 + 2).to(tl.int64) * 128
    rate, by = given(b, cell(ints, t, RATE) * b_step), given(gain, 0)
    if ab >= 0:
        _advance_rows(ints, nums, outer, totals, olds, p, t, ab, start, rate, by, odd + i, GUARDED)
    else:
        _advance_cols(ints, nums, inner, q, t, start, rate, by, odd + i, GUARDED)


@triton.jit(do_not_specialize=["lr_step", "size_step", "decay_step"])
def scale(
    scopes, ints, nums, x2, u2, factors, lr, lr_step, step_size, size_step, weight_decay,
    decay_step,
    SCALED: tl.constexpr, EPS2: tl.constexpr, MOST: tl.constexpr, THRESHOLD: tl.constexpr,
    BY: tl.constexpr, FIRST: tl.constexpr, AVERAGES: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """`factors` of adafactor_core._formulas per scope: (tensor, tiles of X*X, tiles of U*U)."""
    at = scopes + tl.program_id(0) * 5
    t = tl.load(at)
    k = cell(ints, t, RATE)
    rate, alpha = given(lr, k * lr_step), given(step_size, k * size_step)
    decay = given(weight_decay, k * decay_step)
    if SCALED:
        mean = total(x2, tl.load(at + 1), tl.load(at + 2), BLOCK) * number(nums, t, PER_X)
        rms = tl.sqrt_rn(mean)
        if FIRST:
            rms = rms * tl.abs(1.0 - decay * (rate if BY == "lr" else 1.0))
        size = at_least(rms, EPS2)
        if MOST is not None:
            size = tl.where(size > MOST, MOST, size)
        alpha = alpha * size
    clip = 1.0
    if THRESHOLD is not None:
        mean = total(u2, tl.load(at + 3), tl.load(at + 4), BLOCK) * number(nums, t, PER_U)
        over = at_least(tl.sqrt_rn(shown(mean)) * (1.0 / THRESHOLD), 1.0)
        clip = tl.div_rn(1.0 + tl.zeros_like(over), over)
    if BY == "alpha":
        decay = decay * alpha
    elif BY == "lr":
        decay = decay * rate
    if AVERAGES is None:
        before, after = -SIGN * alpha * clip, 1.0
    elif AVERAGES == "update":
        before, after = SIGN * clip, -1.0 * alpha
    else:
        before, after = SIGN * alpha * clip, -1.0
    into = factors + tl.program_id(0) * 3
    tl.store(into, before)
    tl.store(into + 1, after)
    tl.store(into + 2, decay)


@triton.jit
def squares(
    ints, nums, totals, x2, peaks, into, normal, unit, GUARDED: tl.constexpr
):  # fmt: skip
    """The sum of (unit*G)**2 by tensor, and under a policy 0 for one that cannot move."""
    t = tl.program_id(0)
    slot, item, count = cell(ints, t, SLOT), cell(ints, t, ITEM), cell(ints, t, ITEMS)
    value = total(totals, slot, slot + count * cell(ints, t, D), BLOCK) * number(nums, t, WEIGHT)
    if GUARDED:
        fine = (value <= LARGEST) & (total(x2, item, item + count, BLOCK) <= LARGEST * MARGIN)
        if cell(ints, t, KIND) == UNFACTORED:
            fine = fine & (total(peaks, item, item + count, BLOCK) <= LARGEST)
        value = tl.where(fine, value, 0.0)
        tl.store(normal + t, fine.to(tl.uint8))
    ratio = unit / number(nums, t, UNIT)
    tl.store(into + t, value * (ratio * ratio))


@triton.jit
def judge(
    ints, odd, x2, u2, peaks, normal, fine, bad, CLIPS: tl.constexpr, NORMED: tl.constexpr
):  # fmt: skip
    """Which tensors are finite: find_odd of adafactor_core._decisions."""
    t = tl.program_id(0)
    item, count = cell(ints, t, ITEM), cell(ints, t, ITEMS)
    part = cell(ints, t, PART)
    good = total(x2, item, item + count, BLOCK) <= LARGEST * MARGIN
    if CLIPS:
        good = good & (total(u2, item, item + count, BLOCK) <= LARGEST * MARGIN)
    if cell(ints, t, KIND) == UNFACTORED:
        good = good & (total(peaks, item, item + count, BLOCK) <= LARGEST)
    else:
        good = good & (total(odd, part, part + cell(ints, t, PARTS), BLOCK) == 0.0)
    if NORMED:
        good = good & (tl.load(normal + t) != 0)
    tl.store(fine + t, good.to(tl.uint8))
    tl.store(bad + t, tl.where(good, 0.0, 1.0))


@triton.jit
def probe(into):
    """Whether a kernel can be compiled and launched at all."""
    tl.store(into, 1.0)
