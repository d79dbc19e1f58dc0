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
N_A, N_R, N_B, N_C, N_D, N_LANES, N_TILES, N_OUTER, N_INNER, N_P, N_Q, N_COL = range(12)
# Columns of the address table, one row per tensor.
X, G, OUTER, INNER, FULL, MOMENTUM = range(6)
# Columns of the table of numbers (in the compute dtype), one row per tensor.
PRESCALE, B, EPS_IN, EPS_AFTER, PER_OUTER, PER_INNER, BETA1, TINY = range(8)
# Columns of the item table: which tensor, slice of A, rows, columns, partial slots, RMS scopes.
TENSOR, SLICE, R0, R1, J0, J1, LANE, TILE, X_SCOPE, U_SCOPE = range(10)

ROWS = 64  # so many rows are added up before their column sums go to the total: two-level sums


def inlined(function):
    """For helpers that compute exactly what is written.

    fastmath=False is not idle: left out, Numba hands down the flags of whichever caller happens to
    compile the helper first, and caches the result for all of them.
    """
    return njit(function, error_model="numpy", fastmath=False)


def summing(function):
    """For helpers that add up a run: sums may be reordered, which vectorises them.

    Nothing is assumed about NaN or infinity. Products may be reordered as well, so those whose
    order matters are left to `inlined` helpers.
    """
    return njit(function, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})


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


@inlined
def _moved(old, new, b):
    # Reassociated, this would be old + b*(new - old), which loses a small `new` at b = 1.
    return (old - old * b) + new * b


@inlined
def _root(x, tiny):
    return np.sqrt(tiny if x < tiny else x)  # not max(): that may drop a NaN


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
def _averaged(m, i, value, beta1):
    new = m[i] * beta1 + value * (m.dtype.type(1) - beta1)
    m[i] = new
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
def _apply_run(g, x, m, q, thin, then, less, beta1, m_tag):
    for j in range(g.size):
        d = _direction(_load(g, j), q[j], thin)
        if m_tag is not None:
            d = _averaged(m, j, d, beta1) * then
        value = _load(x, j)
        _store(x, j, value + (d - value * less))


@summing
def _full_run(g, v, b, eps, after, tiny):
    acc = b - b
    for j in range(g.size):
        value = _load(g, j)
        new = _moved(v[j], value * value + eps, b)
        v[j] = new
        u = _quotient(value, _root(new + after, tiny))
        acc += u * u
    return acc


@inlined
def _apply_full_run(g, x, m, v, times, then, less, after, tiny, beta1, m_tag):
    for j in range(g.size):
        d = _load(g, j) / _root(v[j] + after, tiny) * times
        if m_tag is not None:
            d = _averaged(m, j, d, beta1) * then
        value = _load(x, j)
        _store(x, j, value + (d - value * less))


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
def _average_run(state, sums, times, eps, b):
    for j in range(state.size):
        state[j] = _moved(state[j], state.dtype.type(sums[j]) * times + eps, b)


@inlined
def _factor_run(factor, state, above, after, tiny):
    for j in range(state.size):
        factor[j] = above / _root(state[j] + after, tiny)


def advance(ints, addr, nums, outer, inner, p, q, start, stop):
    """Sums of partials, the averages, and the two thin factors p and q of U = G*q*p."""
    one = nums.dtype.type(1)
    for t in range(start, stop):
        a_count, r_count = ints[t, N_A], ints[t, N_R]
        bd = ints[t, N_B] * ints[t, N_D]
        rows, cols = a_count * r_count * bd, ints[t, N_COL]
        b, eps, after, tiny = nums[t, B], nums[t, EPS_IN], nums[t, EPS_AFTER], nums[t, TINY]
        state = _view(addr[t, OUTER], rows, nums)
        sums = _fold(outer[ints[t, N_OUTER] :], ints[t, N_TILES], rows)
        _average_run(state, sums, nums[t, PER_OUTER], eps, b)
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
        state = _view(addr[t, INNER], cols, nums)
        sums = _fold(inner[ints[t, N_INNER] :], ints[t, N_LANES], cols)
        _average_run(state, sums, nums[t, PER_INNER], eps, b)
        _factor_run(q[ints[t, N_Q] : ints[t, N_Q] + cols], state, one, after, tiny)


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


def apply(ints, addr, nums, items, p, q, before, after, decay, x_tag, g_tag, m_tag, start, stop):
    """X <- round(X + D), with the momentum of updates if `m_tag` is an array and not None.

    In place: given separate arrays to read and write, LLVM's check that they do not overlap would
    send the usual case, where they are the same, down a loop that is not vectorised.
    """
    for i in range(start, stop):
        t, a, j0, j1 = items[i, TENSOR], items[i, SLICE], items[i, J0], items[i, J1]
        r_count, b_count, c_count = ints[t, N_R], ints[t, N_B], ints[t, N_C]
        d_count = ints[t, N_D]
        length = b_count * c_count * d_count
        size = ints[t, N_A] * r_count * length
        g, x = _view(addr[t, G], size, g_tag), _view(addr[t, X], size, x_tag)
        m = _view(addr[t, MOMENTUM], size, nums)
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
                    _apply_run(
                        g[base + lo : base + hi],
                        x[base + lo : base + hi],
                        m[base + lo : base + hi],
                        q[col + lo : col + hi],
                        p[row + b * d_count + d] * times,
                        then,
                        less,
                        beta1,
                        m_tag,
                    )


def measure_full(ints, addr, nums, items, x2, u2, x_tag, g_tag, scaled, moves, start, stop):
    """Unfactored tensors: observe and measure in one sweep. V moves if `moves`."""
    zero = nums[0, 0] - nums[0, 0]
    for i in range(start, stop):
        t, j0, j1 = items[i, TENSOR], items[i, J0], items[i, J1]
        size = ints[t, N_C]
        g, x = _view(addr[t, G], size, g_tag)[j0:j1], _view(addr[t, X], size, x_tag)[j0:j1]
        x2[i] = _mean_square_run(x, zero) if scaled else zero
        if moves:
            v = _view(addr[t, FULL], size, nums)[j0:j1]
            eps, after = nums[t, EPS_IN], nums[t, EPS_AFTER]
            u2[i] = _full_run(g, v, nums[t, B], eps, after, nums[t, TINY])


def apply_full(
    ints, addr, nums, items, before, after, decay, x_tag, g_tag, m_tag, moves, start, stop
):
    """`apply` for unfactored tensors; V moves here if clipping is off."""
    for i in range(start, stop):
        t, j0, j1 = items[i, TENSOR], items[i, J0], items[i, J1]
        size = ints[t, N_C]
        g, x = _view(addr[t, G], size, g_tag)[j0:j1], _view(addr[t, X], size, x_tag)[j0:j1]
        v = _view(addr[t, FULL], size, nums)[j0:j1]
        m = _view(addr[t, MOMENTUM], size, nums)[j0:j1]
        eps, behind, tiny = nums[t, EPS_IN], nums[t, EPS_AFTER], nums[t, TINY]
        if moves:
            _full_run(g, v, nums[t, B], eps, behind, tiny)
        _apply_full_run(
            g, x, m, v, before[i], after[i], decay[i], behind, tiny, nums[t, BETA1], m_tag
        )
