"""Numba kernels for CPU memory: the passes of adafactor_core over a table of tensors.

Nothing here is an optimizer: each function is one pass over items `start..stop` of a table (see
`_table.py` for its columns) and is held to `adafactor_core.ArrayPasses` by tests. Tensors come as
addresses, so the same kernels serve NumPy arrays and torch CPU tensors.

A factored tensor is seen as (A, R, B, C, D): an outer factored axis R, an inner one C, whatever
lies before, between and behind them. `I = B*C*D` is the length of one contiguous outer row. The
statistic of R has A*R*B*D entries, that of C has A*I. An unfactored tensor is a row of I.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic, overload

# Columns of the integer table, one row per tensor.
N_A, N_R, N_B, N_C, N_D, N_LANES, N_TILES, N_OUTER, N_INNER, N_P, N_Q, N_COL, N_LAST = range(13)
# Columns of the address table, one row per tensor. Statistics are read at OUTER and INNER and
# written at NEW_...: to the same place, or beside it where a step may still be refused.
X, G, OUTER, INNER, NEW_OUTER, NEW_INNER, FULL, MOMENTUM, COMPENSATION = range(9)
# Columns of the table of numbers (in the compute dtype), one row per tensor.
PRESCALE, B, EPS_IN, EPS_AFTER, PER_OUTER, PER_INNER, BETA1, TINY, GAIN, UNIT, SHARE = range(11)
# Columns of the item table: which tensor, slice of A, rows, columns, partial slots, RMS scopes.
TENSOR, SLICE, R0, R1, J0, J1, LANE, TILE, X_SCOPE, U_SCOPE = range(10)

ROWS = 64  # so many rows are added up before their column sums go to the total: two-level sums


def inlined(function):
    """For helpers that compute exactly what is written.

    fastmath=False is not idle: left out, Numba hands down the flags of whichever caller happens to
    compile the helper first, and caches the result for all of them.
    """
    return njit(function, error_model="numpy", fastmath=False, forceinline=True)


def summing(function):
    """For helpers that add up a run: sums may be reordered, which vectorises them.

    Nothing is assumed about NaN or infinity. Products may be reordered as well, so those whose
    order matters are left to `inlined` helpers.

    Both kinds are inlined by force. A helper that stays a function exists twice: as compiled on
    its own and as optimised with each kernel, and which of the two runs depends on whether the
    kernel came from the cache. They add in different orders, so bits would depend on it too.
    """
    flags = {"reassoc", "nsz", "contract"}
    return njit(function, error_model="numpy", fastmath=flags, forceinline=True)


@intrinsic
def _as_pointer(_typing, address, tag):
    """An integer address as a pointer to the dtype of `tag`."""
    pointer = types.CPointer(tag.dtype)

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.int64, tag), build


@inlined
def _view(address, size, tag):
    return carray(_as_pointer(address, tag), size)


def _load(a, i):
    raise NotImplementedError


def _store(a, i, value):
    raise NotImplementedError


@overload(_load, jit_options={"fastmath": False})
def _load_overload(a, i):
    """Element `i`, widened. uint16 holds the bits of bfloat16, int16 those of float16."""
    if a.dtype == types.uint16:

        def bfloat16(a, i):
            return np.uint32(np.uint32(a[i]) << np.uint32(16)).view(np.float32)

        return bfloat16
    if a.dtype == types.int16:

        def float16(a, i):
            bits = np.uint32(np.uint16(a[i]))
            sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
            rest = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
            # Exact for subnormals too: scaling by 2**112 moves the exponent's bias.
            scaled = np.float32(np.uint32(rest).view(np.float32) * np.float32(2.0**112))
            special = (bits & np.uint32(0x7C00)) == np.uint32(0x7C00)
            finite = np.float32(scaled).view(np.uint32)
            wide = np.uint32(rest | np.uint32(0x7F800000)) if special else finite
            return np.uint32(wide | sign).view(np.float32)

        return float16

    def plain(a, i):
        return a[i]

    return plain


@overload(_store, jit_options={"fastmath": False})
def _store_overload(a, i, value):
    """Element `i` rounded to nearest, ties to even; NaN stays NaN."""
    if a.dtype == types.uint16:

        def bfloat16(a, i, value):
            bits = np.float32(value).view(np.uint32)
            odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
            rounded = np.uint32((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
            quiet = np.uint32((bits >> np.uint32(16)) | np.uint32(0x40))
            is_nan = np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            a[i] = np.uint16(quiet if is_nan else rounded)

        return bfloat16
    if a.dtype == types.int16:

        def float16(a, i, value):
            bits = np.float32(value).view(np.uint32)
            sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
            size = np.uint32(bits & np.uint32(0x7FFFFFFF))
            # Adding 0.5 lines a subnormal result up with the last bit: the adder rounds it.
            summed = np.float32(np.uint32(size).view(np.float32) + np.float32(0.5))
            low = np.uint32(np.float32(summed).view(np.uint32) - np.uint32(0x3F000000))
            odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
            biased = np.uint32(size - np.uint32(0x38000000) + np.uint32(0xFFF) + odd)
            high = np.uint32(biased >> np.uint32(13))
            half = low if size < np.uint32(0x38800000) else high
            half = np.uint32(0x7C00) if size >= np.uint32(0x47800000) else half
            half = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else half
            a[i] = np.int16(np.uint16(half | sign))

        return float16

    def plain(a, i, value):
        a[i] = value

    return plain


def _store_at_random(a, i, value, e):
    raise NotImplementedError


@overload(_store_at_random, jit_options={"fastmath": False})
def _store_at_random_overload(a, i, value, e):
    """Element `i` rounded by the random bits `e`: to_grid of adafactor_core._rounding."""
    if a.dtype == types.uint16:

        def bfloat16(a, i, value, e):
            bits = np.float32(value).view(np.uint32)
            size = np.uint32(bits & np.uint32(0x7FFFFFFF))
            odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
            drawn = np.uint32(e >> np.uint32(16))
            add = drawn if size <= np.uint32(0x7F7F0000) else np.uint32(np.uint32(0x7FFF) + odd)
            rounded = np.uint32(np.uint32(bits + add) >> np.uint32(16))
            quiet = np.uint32((bits >> np.uint32(16)) | np.uint32(0x40))
            a[i] = np.uint16(quiet if size > np.uint32(0x7F800000) else rounded)

        return bfloat16
    if a.dtype == types.int16:

        def float16(a, i, value, e):
            x = np.float32(value)
            bits = x.view(np.uint32)
            size = np.uint32(bits & np.uint32(0x7FFFFFFF))
            r = np.uint32(e >> np.uint32(19))
            # 2**-14 and more: drop the 13 bits that float16 does not have, and move the exponent.
            normal = np.uint32(np.uint32(size + r) >> np.uint32(13)) - np.uint32(0x1C000)
            steps = np.float32(np.uint32(size).view(np.float32) * np.float32(2.0**24))
            steps = np.float32(steps + np.float32(r) * np.float32(2.0**-13))
            fixed = np.uint32(min(steps, np.float32(1024.0)))
            half = np.uint32(fixed if size < np.uint32(0x38800000) else normal)
            sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
            _store(a, i, value)
            if size <= np.uint32(0x477FE000):
                a[i] = np.int16(np.uint16(half | sign))

        return float16

    def plain(a, i, value, e):
        a[i] = value

    return plain


@inlined
def _folded(h, word):
    """`fold` of adafactor_core._rounding."""
    x = np.uint32(np.uint32(h ^ word) + np.uint32(0x9E3779B9))
    x = np.uint32(x ^ np.uint32(x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ np.uint32(x >> np.uint32(16)))


@inlined
def _drawn(row, j):
    e = np.uint32(row + np.uint32(np.uint32(j) * np.uint32(0x9E3779B9)))
    e = np.uint32(e ^ np.uint32(e >> np.uint32(15)))
    return np.uint32(e * np.uint32(0x2C1B3C6D))


@inlined
def _moved(old, new, b):
    # Reassociated, this would be old + b*(new - old), which loses a small `new` at b = 1.
    return (old - old * b) + new * b


@inlined
def _root(x, tiny):
    root = np.sqrt(tiny if x < tiny else x)  # not max(): that may drop a NaN
    # Dividing by an overflowed statistic would hide it in a 0.
    return root if root < np.inf else root - root


@inlined
def _product(a, b):
    return a * b


@inlined
def _direction(g, q, p):
    return (g * q) * p  # not g*(q*p): that product overflows where a dead row meets a dead column


@inlined
def _quotient(a, b):
    return a / b


@inlined
def _averaged(m, i, value, beta1, one):
    new = _load(m, i) * beta1 + value * (one - beta1)
    _store(m, i, new)
    return new


# Loops over one contiguous run. Runs are sliced off, so that indices provably start at 0: Numba
# guards every other index against being negative, which keeps LLVM from vectorising the loop.


@summing
def _squares_run(g, s, squares):
    acc = s - s
    for j in range(g.size):
        value = _product(_load(g, j), s)
        value *= value
        acc += value
        squares[j] += value
    return acc


@summing
def _squares_of_both_runs(g, x, s, squares):
    # Two streams at a time: reading one after the other, a core waits for memory twice as long.
    acc, x_acc = s - s, s - s
    for j in range(g.size):
        value = _product(_load(g, j), s)
        value *= value
        acc += value
        squares[j] += value
        value = _load(x, j)
        x_acc += value * value
    return acc, x_acc


@summing
def _mean_square_run(x, zero):
    acc = zero
    for j in range(x.size):
        value = _load(x, j)
        acc += value * value
    return acc


@summing
def _measure_run(g, q, thin):
    acc = thin - thin
    for j in range(g.size):
        u = _direction(_load(g, j), q[j], thin)
        acc += u * u
    return acc


@inlined
def _put(x, c, j, d, less, row, first, draws, keeps):
    """X <- round(X + D): to nearest, at random, or with what is left over kept in c."""
    value = _load(x, j)
    if keeps is not None:
        rest = _load(c, j)
        total = value + ((d - (value + rest) * less) + rest)
        _store(x, j, total)
        _store(c, j, total - _load(x, j))
    elif draws is not None:
        _store_at_random(x, j, value + (d - value * less), _drawn(row, first + j))
    else:
        _store(x, j, value + (d - value * less))


@inlined
def _apply_run(
    g, x, m, c, q, thin, then, less, beta1, one, row, first, averages, draws, keeps
):  # fmt: skip
    for j in range(g.size):
        d = _direction(_load(g, j), q[j], thin)
        if averages is not None:
            d = _averaged(m, j, d, beta1, one) * then
        _put(x, c, j, d, less, row, first, draws, keeps)


@summing
def _full_run(g, v, b, eps, after, tiny, gain, share, stores):
    acc, peak = b - b, b - b
    for j in range(g.size):
        value = _product(_load(g, j), gain)
        new = _moved(v[j], value * value + eps, b)
        if stores is not None:
            v[j] = new
        u = _quotient(value, _root(new + after, tiny))
        acc += u * u
        peak += _product(new, share)
    return acc, peak


@summing
def _squares_total(g, unit):
    acc = unit - unit
    for j in range(g.size):
        value = _product(_load(g, j), unit)
        acc += value * value
    return acc


@inlined
def _apply_full_run(
    g, x, m, c, v, gain, times, then, less, b, eps, after, tiny, beta1, one, row, first,
    moves, averages, draws, keeps,
):  # fmt: skip
    for j in range(g.size):
        value = _load(g, j) * gain
        if moves is not None:
            v[j] = _moved(v[j], value * value + eps, b)
        d = value / _root(v[j] + after, tiny) * times
        if averages is not None:
            d = _averaged(m, j, d, beta1, one) * then
        _put(x, c, j, d, less, row, first, draws, keeps)


@inlined
def _segment(key, at, stop, last, draws):
    """(end, key of the row, place in it) of the part of `at..stop` in one row of the last axis.

    Draws go by such rows, whichever axes are factored; without draws there is nothing to cut.
    """
    end, row, first = stop, np.uint32(0), 0
    if draws is not None:
        first = at % last
        end = min(stop, at + last - first)
        row = _folded(key, np.uint32(at // last))
    return end, row, first


def observe(ints, addr, nums, items, outer, inner, x2, x_tag, g_tag, scaled, start, stop):
    """Partial sums of (s*G)**2 by row tile and by lane of rows, and of X*X by item."""
    zero = nums[0, 0] - nums[0, 0]
    for i in range(start, stop):
        t, a, j0, j1 = items[i, TENSOR], items[i, SLICE], items[i, J0], items[i, J1]
        r_count, b_count, c_count = ints[t, N_R], ints[t, N_B], ints[t, N_C]
        d_count = ints[t, N_D]
        length = b_count * c_count * d_count  # I
        size = ints[t, N_A] * r_count * length
        g, x = _view(addr[t, G], size, g_tag), _view(addr[t, X], size, x_tag)
        s = nums[t, PRESCALE]
        part = ints[t, N_INNER] + items[i, LANE] * ints[t, N_COL] + a * length
        row_part = ints[t, N_OUTER] + items[i, TILE] * ints[t, N_A] * r_count * b_count * d_count
        squares = np.zeros(j1 - j0, nums.dtype)
        total = 0.0
        for r_block in range(items[i, R0], items[i, R1], ROWS):
            squares[:] = zero
            for r in range(r_block, min(r_block + ROWS, items[i, R1])):
                base = (a * r_count + r) * length
                row = row_part + (a * r_count + r) * b_count * d_count
                for b in range(b_count):
                    if d_count == 1:
                        lo, hi = max(b * c_count, j0), min((b + 1) * c_count, j1)
                        run, at = squares[lo - j0 : hi - j0], slice(base + lo, base + hi)
                        if scaled:
                            row_sum, x_sum = _squares_of_both_runs(g[at], x[at], s, run)
                            total += x_sum
                        else:
                            row_sum = _squares_run(g[at], s, run)
                        outer[row + b] += row_sum
                        continue
                    for c in range(c_count):
                        lo = (b * c_count + c) * d_count
                        for d in range(d_count):
                            value = _load(g, base + lo + d) * s
                            outer[row + b * d_count + d] += value * value
                            squares[lo + d] += value * value
                if d_count > 1 and scaled:
                    total += _mean_square_run(x[base + j0 : base + j1], zero)
            into = inner[part + j0 : part + j1]
            for j in range(into.size):
                into[j] += squares[j]
        x2[i] = total


@summing
def _fold(parts, count, size):
    """Adds `count` runs of `size` up into the first."""
    total = parts[:size]
    for k in range(1, count):
        part = parts[k * size : (k + 1) * size]
        for j in range(total.size):
            total[j] += part[j]
    return total


@inlined
def _average_run(new, old, sums, times, gain, eps, b):
    """Returns the sum of the new averages, which is not finite if one of them is not."""
    total = 0.0
    for j in range(new.size):
        # Not gain*gain, which may underflow where the mean makes up for it.
        mean = old.dtype.type(sums[j]) * times * gain * gain + eps
        new[j] = _moved(old[j], mean, b)
        total += new[j]
    return total


@inlined
def _factor_run(factor, state, above, after, tiny):
    for j in range(state.size):
        factor[j] = above / _root(state[j] + after, tiny)


def advance(ints, addr, nums, outer, inner, p, q, peak, start, stop):
    """Sums of partials, the averages, and the two thin factors p and q of U = G*q*p.

    q takes the gain of gradients along. `peak` gets a sum that is finite if R and C are.
    """
    for t in range(start, stop):
        a_count, r_count = ints[t, N_A], ints[t, N_R]
        bd = ints[t, N_B] * ints[t, N_D]
        rows, cols = a_count * r_count * bd, ints[t, N_COL]
        b, eps, after, tiny = nums[t, B], nums[t, EPS_IN], nums[t, EPS_AFTER], nums[t, TINY]
        gain = nums[t, GAIN]
        state, old = _view(addr[t, NEW_OUTER], rows, nums), _view(addr[t, OUTER], rows, nums)
        sums = _fold(outer[ints[t, N_OUTER] :], ints[t, N_TILES], rows)
        high = _average_run(state, old, sums, nums[t, PER_OUTER], gain, eps, b)
        first = ints[t, N_P]
        for a in range(a_count):
            for k in range(bd):
                total = 0.0
                for r in range(r_count):
                    total += state[(a * r_count + r) * bd + k]
                root = np.sqrt(nums.dtype.type(total / r_count))
                if bd == 1:
                    run = slice(a * r_count, (a + 1) * r_count)
                    _factor_run(p[first:][run], state[run], root, after, tiny)
                    continue
                for r in range(r_count):
                    i = (a * r_count + r) * bd + k
                    p[first + i] = root / _root(state[i] + after, tiny)
        state, old = _view(addr[t, NEW_INNER], cols, nums), _view(addr[t, INNER], cols, nums)
        sums = _fold(inner[ints[t, N_INNER] :], ints[t, N_LANES], cols)
        peak[t] = high + _average_run(state, old, sums, nums[t, PER_INNER], gain, eps, b)
        _factor_run(q[ints[t, N_Q] : ints[t, N_Q] + cols], state, gain, after, tiny)


def judge(items, peaks, x2, u2, limit, per_item, fine):
    """Which tensors are finite: find_odd of adafactor_core._decisions. Returns how many are not."""
    fine[:] = True
    odd = 0
    for i in range(items.shape[0]):
        t = items[i, TENSOR]
        peak = peaks[i] if per_item else peaks[t]
        if fine[t] and not (x2[i] <= limit and u2[i] <= limit and peak < np.inf):
            fine[t] = False
            odd += 1
    return odd


@inlined
def _commit(ints, addr, nums, t):
    """Puts the new averages in the place of the old ones."""
    rows = ints[t, N_A] * ints[t, N_R] * ints[t, N_B] * ints[t, N_D]
    _view(addr[t, OUTER], rows, nums)[:] = _view(addr[t, NEW_OUTER], rows, nums)
    cols = ints[t, N_COL]
    _view(addr[t, INNER], cols, nums)[:] = _view(addr[t, NEW_INNER], cols, nums)


def measure(ints, addr, nums, items, p, q, u2, g_tag, start, stop):
    """Partial sums of U*U by item, from the last to the first."""
    for i in range(stop - 1, start - 1, -1):
        t, a, j0, j1 = items[i, TENSOR], items[i, SLICE], items[i, J0], items[i, J1]
        r_count, b_count, c_count = ints[t, N_R], ints[t, N_B], ints[t, N_C]
        d_count = ints[t, N_D]
        length = b_count * c_count * d_count
        g = _view(addr[t, G], ints[t, N_A] * r_count * length, g_tag)
        col = ints[t, N_Q] + a * length
        total = 0.0
        for r in range(items[i, R0], items[i, R1]):
            base = (a * r_count + r) * length
            row = ints[t, N_P] + (a * r_count + r) * b_count * d_count
            for b in range(b_count):
                if d_count == 1:
                    lo, hi = max(b * c_count, j0), min((b + 1) * c_count, j1)
                    run, thin = g[base + lo : base + hi], p[row + b]
                    total += _measure_run(run, q[col + lo : col + hi], thin)
                    continue
                for c in range(c_count):
                    lo = (b * c_count + c) * d_count
                    for d in range(d_count):
                        thin = p[row + b * d_count + d]
                        u = _direction(_load(g, base + lo + d), q[col + lo + d], thin)
                        total += u * u
        u2[i] = total


def apply(
    ints, addr, nums, items, p, q, before, after, decay, keys, fine, x_tag, g_tag, m_tag,
    averages, draws, keeps, waits, start, stop,
):  # fmt: skip
    """X <- round(X + D), with the momentum of updates if `averages` is not None.

    `waits`: the new R and C are not in their place yet.

    `draws` not None: at random, from `keys`. `keeps` not None: with what rounding left over.

    In place: given separate arrays to read and write, LLVM's check that they do not overlap would
    send the usual case, where they are the same, down a loop that is not vectorised.
    """
    one = nums.dtype.type(1)
    for i in range(start, stop):
        t, a, j0, j1 = items[i, TENSOR], items[i, SLICE], items[i, J0], items[i, J1]
        if not fine[t]:
            continue
        if waits and j0 == 0 and a == 0 and items[i, R0] == 0:
            _commit(ints, addr, nums, t)
        r_count, b_count, c_count = ints[t, N_R], ints[t, N_B], ints[t, N_C]
        d_count = ints[t, N_D]
        length = b_count * c_count * d_count
        size = ints[t, N_A] * r_count * length
        g, x = _view(addr[t, G], size, g_tag), _view(addr[t, X], size, x_tag)
        m, rest = _view(addr[t, MOMENTUM], size, m_tag), _view(addr[t, COMPENSATION], size, x_tag)
        beta1, times, then, less = nums[t, BETA1], before[i], after[i], decay[i]
        col = ints[t, N_Q] + a * length
        for r in range(items[i, R0], items[i, R1]):
            base = (a * r_count + r) * length
            row = ints[t, N_P] + (a * r_count + r) * b_count * d_count
            for b in range(b_count):
                # With axes behind the inner one, every element has its own row statistic.
                for k in range(1 if d_count == 1 else c_count * d_count):
                    lo, hi, d = max(b * c_count, j0), min((b + 1) * c_count, j1), 0
                    if d_count > 1:
                        lo = b * c_count * d_count + k
                        hi, d = lo + 1, k % d_count
                    thin = p[row + b * d_count + d] * times
                    while lo < hi:
                        end, drawn, first = _segment(
                            keys[t], base + lo, base + hi, ints[t, N_LAST], draws
                        )
                        at = slice(base + lo, end)
                        _apply_run(
                            g[at], x[at], m[at], rest[at], q[col + lo : col + end - base], thin,
                            then, less, beta1, one, drawn, first, averages, draws, keeps,
                        )  # fmt: skip
                        lo = end - base


def measure_full(
    ints, addr, nums, items, x2, u2, g2, peaks, x_tag, g_tag, scaled, moves, stores, norm,
    start, stop,
):  # fmt: skip
    """Unfactored tensors: observe and measure in one sweep.

    U is measured if `moves`, and V kept if `stores` is not None; `norm` not None: (unit*G)**2.
    """
    zero = nums[0, 0] - nums[0, 0]
    for i in range(start, stop):
        t, j0, j1 = items[i, TENSOR], items[i, J0], items[i, J1]
        size = ints[t, N_C]
        g, x = _view(addr[t, G], size, g_tag)[j0:j1], _view(addr[t, X], size, x_tag)[j0:j1]
        if scaled:
            x2[i] = _mean_square_run(x, zero)
        if norm is not None:
            g2[i] = _squares_total(g, nums[t, UNIT])
        if moves:
            v = _view(addr[t, FULL], size, nums)[j0:j1]
            eps, after = nums[t, EPS_IN], nums[t, EPS_AFTER]
            u2[i], peaks[i] = _full_run(
                g, v, nums[t, B], eps, after, nums[t, TINY], nums[t, GAIN], nums[t, SHARE], stores
            )


def apply_full(
    ints, addr, nums, items, before, after, decay, keys, fine, x_tag, g_tag, m_tag,
    averages, draws, keeps, moves, start, stop,
):  # fmt: skip
    """`apply` for unfactored tensors; V moves here if `moves` is not None."""
    one = nums.dtype.type(1)
    for i in range(start, stop):
        t, j0, j1 = items[i, TENSOR], items[i, J0], items[i, J1]
        if not fine[t]:
            continue
        size = ints[t, N_C]
        g, x = _view(addr[t, G], size, g_tag), _view(addr[t, X], size, x_tag)
        v, m = _view(addr[t, FULL], size, nums), _view(addr[t, MOMENTUM], size, m_tag)
        rest = _view(addr[t, COMPENSATION], size, x_tag)
        b, eps, behind, tiny = nums[t, B], nums[t, EPS_IN], nums[t, EPS_AFTER], nums[t, TINY]
        gain, beta1 = nums[t, GAIN], nums[t, BETA1]
        times, then, less = before[i], after[i], decay[i]
        while j0 < j1:
            end, drawn, first = _segment(keys[t], j0, j1, ints[t, N_LAST], draws)
            _apply_full_run(
                g[j0:end], x[j0:end], m[j0:end], rest[j0:end], v[j0:end], gain, times, then, less,
                b, eps, behind, tiny, beta1, one, drawn, first, moves, averages, draws, keeps,
            )  # fmt: skip
            j0 = end
