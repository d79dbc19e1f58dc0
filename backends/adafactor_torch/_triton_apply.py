"""Triton kernel over all elements: apply of adafactor_core._sweeps; see _triton_kernels.py."""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_kernels import (
    first_of,
    mask,
    row_factors,
    thin,
    tile,
)
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
    KIND,
    LAST,
    MOMENTUM,
    N_P,
    N_Q,
    NAME,
    NEW_INNER,
    NEW_OUTER,
    OUTER,
    PARAMETER,
    RATE,
    SCOPE,
    SCOPED,
    SIZE,
    SLIM,
    TALL,
    WIDE,
    B,
    C,
    R,
    X,
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
    i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest, beta_step, key,
    X_KIND: tl.constexpr, G_KIND: tl.constexpr, M_KIND: tl.constexpr, ROUNDS: tl.constexpr,
    AVERAGES: tl.constexpr, DECAYS: tl.constexpr, WAITS: tl.constexpr, TALL_: tl.constexpr,
    WIDE_: tl.constexpr, FAST_: tl.constexpr, FACTORED: tl.constexpr,
):  # fmt: skip
    t, ab, r0, count, j0, columns, d, base, length = tile(items, ints, i, WIDE_, FAST_, FACTORED)
    left = cell(ints, t, SIZE) - base
    g_at = first_of(tl.load(grads + t), G_KIND, base, FAST_)
    x_at = first_of(cell(ints, t, X), X_KIND, base, FAST_)
    v_at = first_of(cell(ints, t, FULL), tl.float32, base, FAST_)
    m_at = first_of(cell(ints, t, MOMENTUM), M_KIND, base, FAST_)
    c_at = first_of(cell(ints, t, COMPENSATION), X_KIND, base, FAST_)
    j = tl.arange(0, WIDE_)
    eps, after = number(nums, t, EPS_IN), number(nums, t, EPS_AFTER)
    rate, by = given(b, cell(ints, t, RATE) * b_step), given(gain, 0)
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
        own = cell(ints, t, RATE) * beta_step
        keep, take = given(beta1, own), given(rest, own)
    for k in range(0, count, TALL_):
        r = k + tl.arange(0, TALL_)
        ok = mask(r, j, count, columns, left, WIDE_, FACTORED)
        at = r.to(tl.int64)[:, None] * length + j[None, :]
        g = tl.load(g_at + at, ok, 0.0).to(tl.float32)
        x = tl.load(x_at + at, ok, 0.0).to(tl.float32)
        if FACTORED:
            by_row = row_factors(p_at, r, j, count, columns, row_step, d, j0, FAST_)
            change = (g * by_col) * (by_row * times)
        else:
            g = g * by
            v = moved(tl.load(v_at + at, ok, 0.0), g * g + eps, rate)
            tl.store(v_at + at, v, ok)
            change = (g * thin(v, after)) * times
        if AVERAGES:
            m = tl.load(m_at + at, ok, 0.0).to(tl.float32) * keep + change * take
            tl.store(m_at + at, narrowed(m, M_KIND), ok)
            change = m * then
        if ROUNDS == "kahan":
            c = tl.load(c_at + at, ok, 0.0).to(tl.float32)
            if DECAYS:
                change = change - tl.where(less == 0.0, 0.0, (x + c) * less)
            whole = x + (change + c)
            y = narrowed(whole, X_KIND)
            tl.store(c_at + at, narrowed(whole - y.to(tl.float32), X_KIND), ok)
        else:
            if DECAYS:
                # A tensor without decay may share the batch, and 0 times infinity is NaN.
                change = change - tl.where(less == 0.0, 0.0, x * less)
            if ROUNDS == "stochastic":
                bits = _bits(named, at, r, j, base, cell(ints, t, LAST), length, FAST_)
                y = narrowed_at_random(x + change, bits, X_KIND)
            else:
                y = narrowed(x + change, X_KIND)
        tl.store(x_at + at, y, ok)


@triton.jit(do_not_specialize=["b_step", "beta_step", "key", "fine_step"])
def apply(
    items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest, beta_step, key, fine,
    fine_step,
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
        _apply(i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest,
               beta_step, key, X_KIND, G_KIND, M_KIND, ROUNDS, AVERAGES, DECAYS, WAITS,
               TALL, WIDE, True, True)  # fmt: skip
    elif kind == GENERAL:
        _apply(i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest,
               beta_step, key, X_KIND, G_KIND, M_KIND, ROUNDS, AVERAGES, DECAYS, WAITS,
               HIGH, SLIM, False, True)  # fmt: skip
    elif kind >= 0:
        _apply(i, items, ints, nums, grads, p, q, factors, b, b_step, gain, beta1, rest,
               beta_step, key, X_KIND, G_KIND, M_KIND, ROUNDS, AVERAGES, DECAYS, WAITS,
               FLAT, WIDE, False, False)  # fmt: skip
