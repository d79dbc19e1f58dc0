"""Triton kernels over all elements: observe, measure and apply of adafactor_core._sweeps.

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
    COMPENSATION,
    EPS_AFTER,
    EPS_IN,
    FAST,
    FLAT,
    FULL,
    GENERAL,
    HIGH,
    INNER,
    ITEM,
    KIND,
    LAST,
    LENGTH,
    MOMENTUM,
    N_COL,
    N_INNER,
    N_OUTER,
    N_P,
    N_Q,
    NAME,
    NEW_INNER,
    NEW_OUTER,
    OUTER,
    PARAMETER,
    PER_ROW,
    PRESCALE,
    ROWS,
    SCOPE,
    SCOPED,
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
    drawn,
    folded,
    given,
    moved,
    narrowed,
    narrowed_at_random,
    number,
    place,
)


@triton.jit
def _tile(items, ints, i, WIDE_: tl.constexpr, FAST_: tl.constexpr, FACTORED: tl.constexpr):
    """(tensor, slice, first row, rows, first column, columns, D, where row 0 starts)"""
    t, ab = tl.load(items + i * 4), tl.load(items + i * 4 + 1)
    rt, ct = tl.load(items + i * 4 + 2), tl.load(items + i * 4 + 3)
    r, d, length = cell(ints, t, R), cell(ints, t, D), cell(ints, t, LENGTH)
    tile = cell(ints, t, TILE_ROWS)
    r0 = rt * tile
    count = tl.minimum(r - r0, tile).to(tl.int32)
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
def _start(address, kind: tl.constexpr, base, FAST_: tl.constexpr):
    p = address.to(tl.pointer_type(kind))
    if FAST_:
        p = tl.multiple_of(p, 16)
    return p + base


@triton.jit
def _mask(r, j, count, columns, left, WIDE_: tl.constexpr, FACTORED: tl.constexpr):
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
    t, ab, r0, count, j0, columns, d, base, length = _tile(items, ints, i, WIDE_, FAST_, FACTORED)
    left = cell(ints, t, SIZE) - base
    g_at = _start(tl.load(grads + t), G_KIND, base, FAST_)
    x_at = _start(cell(ints, t, X), X_KIND, base, FAST_)
    v_at = _start(cell(ints, t, FULL), tl.float32, base, FAST_)
    j = tl.arange(0, WIDE_)
    over = number(nums, t, PRESCALE) if FACTORED else number(nums, t, UNIT)
    eps, share = number(nums, t, EPS_IN), number(nums, t, SHARE)
    rate, by = given(b, t * b_step), given(gain, 0)
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
        ok = _mask(r, j, count, columns, left, WIDE_, FACTORED)
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
def _row_factors(p, r, j, count, columns, row_step, d, j0, FAST_: tl.constexpr):
    """p for a chunk: one per row, or one per element where axes lie behind the inner one."""
    if FAST_:
        found = tl.load(p + r * row_step, r < count, 0.0)[:, None]
    else:
        ok = (r < count)[:, None] & (j < columns)[None, :]
        found = tl.load(p + (r * row_step)[:, None] + ((j0 + j) % d)[None, :], ok, 0.0)
    return found


@triton.jit
def _thin(v, after):
    """1/sqrt(V) without hiding an overflow in a 0."""
    safe = at_least(v + after, TINY)
    return tl.sqrt(safe) / safe


@triton.jit
def _measure(
    i, items, ints, nums, grads, p, q, u2, b, b_step, gain, G_KIND: tl.constexpr,
    TALL_: tl.constexpr, WIDE_: tl.constexpr, FAST_: tl.constexpr, FACTORED: tl.constexpr,
):  # fmt: skip
    t, ab, r0, count, j0, columns, d, base, length = _tile(items, ints, i, WIDE_, FAST_, FACTORED)
    left = cell(ints, t, SIZE) - base
    g_at = _start(tl.load(grads + t), G_KIND, base, FAST_)
    v_at = _start(cell(ints, t, FULL), tl.float32, base, FAST_)
    j = tl.arange(0, WIDE_)
    eps, after = number(nums, t, EPS_IN), number(nums, t, EPS_AFTER)
    rate, by = given(b, t * b_step), given(gain, 0)
    b_count = cell(ints, t, B)
    a_length = (ab // b_count) * length + (ab % b_count) * (cell(ints, t, C) * d)
    row = ((ab // b_count) * cell(ints, t, R) + r0) * b_count * d + (ab % b_count) * d
    p_at, q_at = p + cell(ints, t, N_P) + row, q + cell(ints, t, N_Q) + a_length + j0
    if FACTORED:
        by_col = tl.load(q_at + j, j < columns, 0.0)[None, :]
    acc = tl.zeros([TALL_, WIDE_], tl.float32)
    for k in range(0, count, TALL_):
        r = k + tl.arange(0, TALL_)
        ok = _mask(r, j, count, columns, left, WIDE_, FACTORED)
        at = r.to(tl.int64)[:, None] * length + j[None, :]
        g = tl.load(g_at + at, ok, 0.0).to(tl.float32)
        if FACTORED:
            by_row = _row_factors(p_at, r, j, count, columns, b_count * d, d, j0, FAST_)
            # Not p*q first: it overflows where a dead row meets a dead column.
            u = (g * by_col) * by_row
        else:
            g = g * by
            v = moved(tl.load(v_at + at, ok, 0.0), g * g + eps, rate)
            u = g * _thin(v, after)
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


@triton.jit
def _copied(
    ints, t, SOURCE: tl.constexpr, INTO: tl.constexpr, start, step, count, BLOCK: tl.constexpr
):  # fmt: skip
    source, into = place(ints, t, SOURCE, tl.float32), place(ints, t, INTO, tl.float32)
    for k in range(0, count, BLOCK):
        at = k + tl.arange(0, BLOCK)
        ok = at < count
        where = start + at * step
        tl.store(into + where, tl.load(source + where, ok, 0.0), ok)


@triton.jit
def _bits(key, at, r, j, base, last, length, FAST_: tl.constexpr):
    """Random bits by place in the tensor: rows of its last axis, whichever axes are factored."""
    if FAST_:  # its columns are the last axis, so every row of a chunk lies in one row of that
        row = base // last + r * (length // last)
        e = drawn(folded(key, row.to(tl.uint32))[:, None], (base % last + j).to(tl.uint32)[None, :])
    else:
        where = base + at
        e = drawn(folded(key, (where // last).to(tl.uint32)), (where % last).to(tl.uint32))
    return e


@triton.jit
def _apply(
    i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest, key,
    X_KIND: tl.constexpr, G_KIND: tl.constexpr, M_KIND: tl.constexpr, ROUNDS: tl.constexpr,
    AVERAGES: tl.constexpr, DECAYS: tl.constexpr, WAITS: tl.constexpr, TALL_: tl.constexpr,
    WIDE_: tl.constexpr, FAST_: tl.constexpr, FACTORED: tl.constexpr,
):  # fmt: skip
    t, ab, r0, count, j0, columns, d, base, length = _tile(items, ints, i, WIDE_, FAST_, FACTORED)
    left = cell(ints, t, SIZE) - base
    g_at = _start(tl.load(grads + t), G_KIND, base, FAST_)
    x_at = _start(cell(ints, t, X), X_KIND, base, FAST_)
    v_at = _start(cell(ints, t, FULL), tl.float32, base, FAST_)
    m_at = _start(cell(ints, t, MOMENTUM), M_KIND, base, FAST_)
    c_at = _start(cell(ints, t, COMPENSATION), X_KIND, base, FAST_)
    j = tl.arange(0, WIDE_)
    eps, after = number(nums, t, EPS_IN), number(nums, t, EPS_AFTER)
    rate, by = given(b, t * b_step), given(gain, 0)
    b_count = cell(ints, t, B)
    a = ab // b_count
    scope = factors + 3 * (cell(ints, t, SCOPE) + a * cell(ints, t, SCOPED))
    times, then, less = tl.load(scope), tl.load(scope + 1), tl.load(scope + 2)
    a_length = a * length + (ab % b_count) * (cell(ints, t, C) * d)
    row_step = b_count * d
    row = (a * cell(ints, t, R) + r0) * row_step + (ab % b_count) * d
    p_at, q_at = p + cell(ints, t, N_P) + row, q + cell(ints, t, N_Q) + a_length + j0
    if FACTORED:
        by_col = tl.load(q_at + j, j < columns, 0.0)[None, :]
        if WAITS:  # the new R and C are not in their place yet
            if j0 == 0:
                for e in range(d):
                    _copied(ints, t, NEW_OUTER, OUTER, row + e, row_step, count, WIDE_)
            if r0 == 0:
                _copied(ints, t, NEW_INNER, INNER, a_length + j0, 1, columns, WIDE_)
    if ROUNDS == "stochastic":
        word = given(key, 0).to(tl.uint32, bitcast=True)
        named = folded(folded(word, cell(ints, t, NAME).to(tl.uint32)), PARAMETER)
    if AVERAGES:
        keep, take = given(beta1, 0), given(rest, 0)
    for k in range(0, count, TALL_):
        r = k + tl.arange(0, TALL_)
        ok = _mask(r, j, count, columns, left, WIDE_, FACTORED)
        at = r.to(tl.int64)[:, None] * length + j[None, :]
        g = tl.load(g_at + at, ok, 0.0).to(tl.float32)
        x = tl.load(x_at + at, ok, 0.0).to(tl.float32)
        if FACTORED:
            by_row = _row_factors(p_at, r, j, count, columns, row_step, d, j0, FAST_)
            change = (g * by_col) * (by_row * times)
        else:
            g = g * by
            v = moved(tl.load(v_at + at, ok, 0.0), g * g + eps, rate)
            tl.store(v_at + at, v, ok)
            change = (g * _thin(v, after)) * times
        if AVERAGES:
            m = tl.load(m_at + at, ok, 0.0).to(tl.float32) * keep + change * take
            tl.store(m_at + at, narrowed(m, M_KIND), ok)
            change = m * then
        if ROUNDS == "kahan":
            c = tl.load(c_at + at, ok, 0.0).to(tl.float32)
            if DECAYS:
                change = change - (x + c) * less
            whole = x + (change + c)
            y = narrowed(whole, X_KIND)
            tl.store(c_at + at, narrowed(whole - y.to(tl.float32), X_KIND), ok)
        else:
            if DECAYS:
                change = change - x * less
            if ROUNDS == "stochastic":
                bits = _bits(named, at, r, j, base, cell(ints, t, LAST), length, FAST_)
                y = narrowed_at_random(x + change, bits, X_KIND)
            else:
                y = narrowed(x + change, X_KIND)
        tl.store(x_at + at, y, ok)


@triton.jit(do_not_specialize=["b_step", "key", "fine_step"])
def apply(
    items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest, key, fine, fine_step,
    X_KIND: tl.constexpr, G_KIND: tl.constexpr, M_KIND: tl.constexpr, ROUNDS: tl.constexpr,
    AVERAGES: tl.constexpr, DECAYS: tl.constexpr, WAITS: tl.constexpr,
):  # fmt: skip
    """X <- round(X + D), in place, and the slots that move with it; nothing where not `fine`."""
    i = tl.program_id(0)
    t = tl.load(items + i * 4)
    kind = cell(ints, t, KIND)
    if WAITS:
        kind = tl.where(tl.load(fine + t * fine_step) != 0, kind, -1)
    if kind == FAST:
        _apply(i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest, key,
               X_KIND, G_KIND, M_KIND, ROUNDS, AVERAGES, DECAYS, WAITS, TALL, WIDE, True,
               True)  # fmt: skip
    elif kind == GENERAL:
        _apply(i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest, key,
               X_KIND, G_KIND, M_KIND, ROUNDS, AVERAGES, DECAYS, WAITS, HIGH, SLIM, False,
               True)  # fmt: skip
    elif kind >= 0:
        _apply(i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest, key,
               X_KIND, G_KIND, M_KIND, ROUNDS, AVERAGES, DECAYS, WAITS, FLAT, WIDE, False,
               False)  # fmt: skip
