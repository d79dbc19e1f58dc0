"""Triton kernels over all elements: observe and measure of adafactor_core._sweeps.

A program takes one tile: `items` has (tensor, slice, row tile, column tile) per program. A factored
tensor is seen as (A, R, B, C, D) as in adafactor_numpy._kernels: for each pair (a, b), a slice, a
matrix of R rows with C*D contiguous columns, whose row statistic has D entries per row. An
unfactored tensor is a matrix of rows as wide as a chunk, the last of them cut off.

Tiles are walked in chunks; what they add up is stored per tile and added up by the next kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tools import (
    EPS_AFTER,
    EPS_IN,
    FAST,
    FLAT,
    FULL,
    GENERAL,
    HIGH,
    ITEM,
    KIND,
    LENGTH,
    N_COL,
    N_INNER,
    N_OUTER,
    N_P,
    N_Q,
    OUTER,
    PER_ROW,
    PRESCALE,
    RATE,
    ROWS,
    SHARE,
    SIZE,
    SLIM,
    SLOT,
    TALL,
    TILE_ROWS,
    TINY,
    UNIT,
    WIDE,
    B,
    C,
    D,
    R,
    X,
    at_least,
    cell,
    given,
    moved,
    number,
    place,
)


@triton.jit
def tile(items, ints, i, WIDE_: tl.constexpr, FAST_: tl.constexpr, FACTORED: tl.constexpr):
    """(tensor, slice, first row, rows, first column, columns, D, where row 0 starts)"""
    t, ab = tl.load(items + i * 4), tl.load(items + i * 4 + 1)
    rt, ct = tl.load(items + i * 4 + 2), tl.load(items + i * 4 + 3)
    r, d, length = cell(ints, t, R), cell(ints, t, D), cell(ints, t, LENGTH)
    height = cell(ints, t, TILE_ROWS)
    r0 = rt * height
    count = tl.minimum(r - r0, height).to(tl.int32)
    j0 = ct * WIDE_
    if FACTORED:
        b = cell(ints, t, B)
        width = cell(ints, t, C) * d
        base = ((ab // b) * r + r0) * length + (ab % b) * width
        columns = tl.minimum(width - j0, WIDE_).to(tl.int32)
    else:
        base = r0 * WIDE_
        columns = tl.minimum(cell(ints, t, SIZE) - base, WIDE_).to(tl.int32)
    if FAST_:
        base, length = tl.multiple_of(base, 8), tl.multiple_of(length, 8)
        columns = tl.multiple_of(columns, 8)
    return t, ab, r0, count, j0, columns, d.to(tl.int32), base + j0, length


@triton.jit
def first_of(address, kind: tl.constexpr, base, FAST_: tl.constexpr):
    p = address.to(tl.pointer_type(kind))
    if FAST_:
        p = tl.multiple_of(p, 16)
    return p + base


@triton.jit
def mask(r, j, count, columns, left, WIDE_: tl.constexpr, FACTORED: tl.constexpr):
    """`left`: elements from row 0 of the tile on, which cut an unfactored tensor's last row."""
    if FACTORED:
        ok = (r < count)[:, None] & (j < columns)[None, :]
    else:
        ok = (r < count)[:, None] & (r.to(tl.int64)[:, None] * WIDE_ + j[None, :] < left)
    return ok


@triton.jit
def _observe(
    i, items, ints, nums, grads, outer, inner, totals, olds, x2, peaks, b, b_step, gain,
    X_KIND: tl.constexpr, G_KIND: tl.constexpr, SCALED: tl.constexpr, NORMED: tl.constexpr,
    GUARDED: tl.constexpr, TALL_: tl.constexpr, WIDE_: tl.constexpr, FAST_: tl.constexpr,
    FACTORED: tl.constexpr,
):  # fmt: skip
    t, ab, r0, count, j0, columns, d, base, length = tile(items, ints, i, WIDE_, FAST_, FACTORED)
    left = cell(ints, t, SIZE) - base
    g_at = first_of(tl.load(grads + t), G_KIND, base, FAST_)
    x_at = first_of(cell(ints, t, X), X_KIND, base, FAST_)
    v_at = first_of(cell(ints, t, FULL), tl.float32, base, FAST_)
    j = tl.arange(0, WIDE_)
    over = number(nums, t, PRESCALE) if FACTORED else number(nums, t, UNIT)
    eps, share = number(nums, t, EPS_IN), number(nums, t, SHARE)
    rate, by = given(b, cell(ints, t, RATE) * b_step), given(gain, 0)
    rows = cell(ints, t, ROWS)
    b_count = cell(ints, t, B)
    # Of the first row of the tile, and from row to row.
    row = ((ab // b_count) * cell(ints, t, R) + r0) * b_count * d + (ab % b_count) * d
    row_step = b_count * d
    row_out = outer + cell(ints, t, N_OUTER) + (j0 // WIDE_) * rows + row
    acc = tl.zeros([TALL_, WIDE_], tl.float32)
    x_acc = tl.zeros([TALL_, WIDE_], tl.float32)
    v_acc = tl.zeros([TALL_, WIDE_], tl.float32)
    for k in range(0, count, TALL_):
        r = k + tl.arange(0, TALL_)
        ok = mask(r, j, count, columns, left, WIDE_, FACTORED)
        at = r.to(tl.int64)[:, None] * length + j[None, :]
        if FACTORED or NORMED or GUARDED:
            g = tl.load(g_at + at, ok, 0.0).to(tl.float32)
        if FACTORED or NORMED:
            square = (g * over) * (g * over)
            acc += square
        if GUARDED and not FACTORED:
            new = moved(tl.load(v_at + at, ok, 0.0), (g * by) * (g * by) + eps, rate)
            v_acc += tl.where(ok, new * share, 0.0)
        if SCALED:
            x = tl.load(x_at + at, ok, 0.0).to(tl.float32)
            x_acc += x * x
        if FACTORED:
            if FAST_:
                tl.store(row_out + r * row_step, tl.sum(square, 1), r < count)
            else:
                for e in range(d):
                    some = tl.where(((j0 + j) % d == e)[None, :], square, 0.0)
                    tl.store(row_out + r * row_step + e, tl.sum(some, 1), r < count)
    if SCALED:
        tl.store(x2 + i, tl.sum(x_acc))
    if GUARDED and not FACTORED:
        tl.store(peaks + i, tl.sum(v_acc))
    slot = cell(ints, t, SLOT) + (i - cell(ints, t, ITEM)) * d
    if FACTORED:
        col = tl.sum(acc, 0)
        a_length = (ab // b_count) * length + (ab % b_count) * (cell(ints, t, C) * d)
        rt = r0 // cell(ints, t, TILE_ROWS)
        col_out = inner + cell(ints, t, N_INNER) + rt * cell(ints, t, N_COL) + a_length + j0
        tl.store(col_out + j, col, j < columns)
        # Shares: the whole sum may overflow where those of rows and columns do not.
        per = number(nums, t, PER_ROW)
        old_at = place(ints, t, OUTER, tl.float32) + row
        for e in range(d):
            some = col if FAST_ else tl.where((j0 + j) % d == e, col, 0.0)
            tl.store(totals + slot + e, tl.sum(some * per, 0))
            if j0 == 0:
                old = tl.zeros([WIDE_], tl.float32)
                for k in range(0, count, WIDE_):
                    r = k + j
                    old += tl.load(old_at + r * row_step + e, r < count, 0.0) * per
                tl.store(olds + slot + e, tl.sum(old, 0))
    elif NORMED:
        tl.store(totals + slot, tl.sum(acc))


@triton.jit(do_not_specialize=["b_step"])
def observe(
    items, ints, nums, grads, outer, inner, totals, olds, x2, peaks, b, b_step, gain,
    X_KIND: tl.constexpr, G_KIND: tl.constexpr, SCALED: tl.constexpr, NORMED: tl.constexpr,
    GUARDED: tl.constexpr,
):  # fmt: skip
    """Partial sums of (s*G)**2 by rows and columns, of X*X, and what else is asked for."""
    i = tl.program_id(0)
    kind = cell(ints, tl.load(items + i * 4), KIND)
    if kind == FAST:
        _observe(i, items, ints, nums, grads, outer, inner, totals, olds, x2, peaks, b, b_step,
                 gain, X_KIND, G_KIND, SCALED, NORMED, GUARDED, TALL, WIDE, True, True)  # fmt: skip
    elif kind == GENERAL:
        _observe(i, items, ints, nums, grads, outer, inner, totals, olds, x2, peaks, b, b_step,
                 gain, X_KIND, G_KIND, SCALED, NORMED, GUARDED, HIGH, SLIM, False,
                 True)  # fmt: skip
    else:
        _observe(i, items, ints, nums, grads, outer, inner, totals, olds, x2, peaks, b, b_step,
                 gain, X_KIND, G_KIND, SCALED, NORMED, GUARDED, FLAT, WIDE, False,
                 False)  # fmt: skip


@triton.jit
def row_factors(p, r, j, count, columns, row_step, d, j0, FAST_: tl.constexpr):
    """p for a chunk: one per row, or one per element where axes lie behind the inner one."""
    if FAST_:
        found = tl.load(p + r * row_step, r < count, 0.0)[:, None]
    else:
        ok = (r < count)[:, None] & (j < columns)[None, :]
        found = tl.load(p + (r * row_step)[:, None] + ((j0 + j) % d)[None, :], ok, 0.0)
    return found


@triton.jit
def thin(v, after):
    """1/sqrt(V) without hiding an overflow in a 0."""
    safe = at_least(v + after, TINY)
    return tl.sqrt(safe) / safe


@triton.jit
def _measure(
    i, items, ints, nums, grads, p, q, u2, b, b_step, gain, G_KIND: tl.constexpr,
    TALL_: tl.constexpr, WIDE_: tl.constexpr, FAST_: tl.constexpr, FACTORED: tl.constexpr,
):  # fmt: skip
    t, ab, r0, count, j0, columns, d, base, length = tile(items, ints, i, WIDE_, FAST_, FACTORED)
    left = cell(ints, t, SIZE) - base
    g_at = first_of(tl.load(grads + t), G_KIND, base, FAST_)
    v_at = first_of(cell(ints, t, FULL), tl.float32, base, FAST_)
    j = tl.arange(0, WIDE_)
    eps, after = number(nums, t, EPS_IN), number(nums, t, EPS_AFTER)
    rate, by = given(b, cell(ints, t, RATE) * b_step), given(gain, 0)
    b_count = cell(ints, t, B)
    a_length = (ab // b_count) * length + (ab % b_count) * (cell(ints, t, C) * d)
    row = ((ab // b_count) * cell(ints, t, R) + r0) * b_count * d + (ab % b_count) * d
    p_at, q_at = p + cell(ints, t, N_P) + row, q + cell(ints, t, N_Q) + a_length + j0
    if FACTORED:
        by_col = tl.load(q_at + j, j < columns, 0.0)[None, :]
    acc = tl.zeros([TALL_, WIDE_], tl.float32)
    for k in range(0, count, TALL_):
        r = k + tl.arange(0, TALL_)
        ok = mask(r, j, count, columns, left, WIDE_, FACTORED)
        at = r.to(tl.int64)[:, None] * length + j[None, :]
        g = tl.load(g_at + at, ok, 0.0).to(tl.float32)
        if FACTORED:
            by_row = row_factors(p_at, r, j, count, columns, b_count * d, d, j0, FAST_)
            # Not p*q first: it overflows where a dead row meets a dead column.
            u = (g * by_col) * by_row
        else:
            g = g * by
            v = moved(tl.load(v_at + at, ok, 0.0), g * g + eps, rate)
            u = g * thin(v, after)
        acc += tl.where(ok, u * u, 0.0)
    tl.store(u2 + i, tl.sum(acc))


@triton.jit(do_not_specialize=["b_step"])
def measure(
    items, ints, nums, grads, p, q, u2, b, b_step, gain, G_KIND: tl.constexpr
):  # fmt: skip
    """Partial sums of U*U by tile."""
    # From the end: what observe read last may still be in the second-level cache.
    i = tl.num_programs(0) - 1 - tl.program_id(0)
    kind = cell(ints, tl.load(items + i * 4), KIND)
    if kind == FAST:
        _measure(i, items, ints, nums, grads, p, q, u2, b, b_step, gain, G_KIND, TALL, WIDE, True,
                 True)  # fmt: skip
    elif kind == GENERAL:
        _measure(i, items, ints, nums, grads, p, q, u2, b, b_step, gain, G_KIND, HIGH, SLIM, False,
                 True)  # fmt: skip
    else:
        _measure(i, items, ints, nums, grads, p, q, u2, b, b_step, gain, G_KIND, FLAT, WIDE, False,
                 False)  # fmt: skip
