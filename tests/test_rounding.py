"""`stochastic_round`: the bits of docs/numerics.md on every library, and their statistics."""

import math
import struct
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest

import adafactor_core as af

MASK = 0xFFFFFFFF
STORED = {"bfloat16": 7, "float16": 10}
LARGEST = {"bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": 65504.0}
NARROW = pytest.mark.parametrize("dtype", STORED)


def mix(x):
    """With what follows, the page once more, in Python integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ x >> 16


def fold(h, w):
    return mix((h ^ w) + 0x9E3779B9 & MASK)


def drawn_bits(i, j, seed=0, t=1, path="", stream=0):
    """`e` of the element `j` of row `i`."""
    key = fold(fold(fold(0, seed % 2**32), seed // 2**32 % 2**32), t)
    row = fold(fold(fold(key, crc32(path.encode("utf-8"))), stream), i % 2**32)
    e = row + j * 0x9E3779B9 & MASK
    e ^= e >> 15
    return e * 0x2C1B3C6D & MASK


def single(x):
    """`x` rounded to float32, and its bits."""
    packed = struct.pack("<f", x)
    return struct.unpack("<f", packed)[0], struct.unpack("<I", packed)[0]


def by_hand(x, dtype, e):
    """One float32 number rounded by the random bits `e`."""
    k = STORED[dtype]
    r = e >> 9 + k
    if math.isnan(x) or abs(x) > LARGEST[dtype]:
        return x
    if dtype == "float16" and abs(x) < 2.0**-14:
        total, _ = single(abs(x) * 2.0**24 + r * 2.0**-13)
        size = math.floor(total) * 2.0**-24
    else:
        bits = (single(abs(x))[1] + r) >> 23 - k << 23 - k
        size = struct.unpack("<f", struct.pack("<I", bits))[0]
    return math.copysign(size, x)


def places(shape):
    """(i, j) of every element: the row of the last axis, and the place in it."""
    return [divmod(n, shape[-1] if shape else 1) for n in range(math.prod(shape))]


def expected(x, dtype, at=None, **draw):
    pairs = zip(x.ravel(), places(x.shape) if at is None else at, strict=True)
    flat = [by_hand(float(v), dtype, drawn_bits(i, j, **draw)) for v, (i, j) in pairs]
    return np.array(flat).reshape(x.shape)


def same(got, want):
    """Equal numbers, NaN and signs of zero included."""
    np.testing.assert_array_equal(got, want)
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


def values(shape, seed=0):
    """Float32 numbers of every kind, the special ones first."""
    rng = np.random.default_rng(seed)
    n = math.prod(shape)
    special = [
        0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 65504.0, -65519.9, 65520.0, 3.4e38,
        -3.3895e38, 2.0**-14, 6.1e-5, 2.0**-24, 2.0**-25, -(2.0**-26), 2.0**-126, 1e-40, -1e-45,
        1.00390625, 1.9999999, -1.9999999, 2.0**-15 * 1.0001, 1023.9999 * 2.0**-24,
    ]  # fmt: skip
    kinds = [
        rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32),
        rng.standard_normal(n).astype(np.float32),
        np.float32(2.0) ** rng.uniform(-28, 17, n).astype(np.float32) * rng.choice([-1, 1], n),
        np.float32(2.0) ** rng.uniform(-135, -120, n).astype(np.float32),
    ]
    x = np.stack(kinds)[rng.integers(0, len(kinds), n), np.arange(n)]
    x[: len(special)] = np.float32(special)[:n]
    return x.astype(np.float32).reshape(shape)


DRAWS = {
    "defaults": {},
    "seed": {"seed": 1},
    "seed beyond 32 bits": {"seed": 2**32 + 5},
    "largest seed": {"seed": 2**64 - 1},
    "a later step": {"t": 1_000_003},
    "path": {"path": "layers.0.w"},
    "path in UTF-8": {"path": "schicht.ä.β"},
    "momentum": {"stream": 1},
    "all": {"seed": 7 * 2**33 + 3, "t": 12, "path": "b", "stream": 1},
}


@NARROW
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_library_gives_the_bits_of_the_page(backend, mode, dtype, draw):
    x = values((31, 13))
    function = lambda x: af.stochastic_round(x, dtype, **draw)  # noqa: E731
    function = backend.jit(function) if mode == "jit" else function
    with np.errstate(all="ignore"):  # strict and dask wrap NumPy, whose quiet NaN compare says so
        got = function(backend.asarray(x))
        same(backend.numpy(got), expected(x, dtype, **draw))


def test_the_bits_are_these_for_good():
    """Resuming under a later version must draw the same."""
    got = [drawn_bits(i, j, seed=s, t=t, path=p) for i, j, s, t, p in [
        (0, 0, 0, 1, ""), (0, 1, 0, 1, ""), (3, 5, 2**32 + 1, 9, "w"), (2**31, 2**20, 5, 2, "é"),
    ]]  # fmt: skip
    assert got == GOLDEN
    x = np.full((4, 8), 1 + 2.0**-8, np.float32)
    up = af.stochastic_round(x, "bfloat16", seed=1, t=2, path="w") > 1
    assert [int("".join("01"[int(b)] for b in row), 2) for row in up] == ROWS


GOLDEN = [2134445139, 1949352795, 2374434904, 2646700112]
ROWS = [93, 253, 80, 188]

RANKS = [(), (1,), (5,), (1, 1), (7, 1), (1, 7), (3, 4, 1), (3, 1, 5), (2, 3, 4, 5), (3, 0), (0,)]


@NARROW
@pytest.mark.parametrize("shape", RANKS, ids=str)
@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy", "dask")
def test_every_rank(backend, shape, dtype):
    if backend.name == "jax" and dtype == "float16":
        pytest.skip("each shape is compiled anew")
    x = np.asarray(np.random.default_rng(3).standard_normal(shape), np.float32)
    got = backend.numpy(af.stochastic_round(backend.asarray(x), dtype, seed=3, path="p"))
    assert got.shape == shape
    same(got, expected(x, dtype, seed=3, path="p"))


@pytest.mark.parametrize("shape", [(9,), (5, 7), (7, 1), (3, 4, 5), (2, 3, 2, 5)], ids=str)
@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
def test_pieces_are_rounded_as_the_whole_is(backend, shape):
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    if backend.name == "jax" and len(shape) != 2:
        pytest.skip("each shape is compiled anew")
    whole = expected(x, "bfloat16", path="w", t=3)
    for axis, n in enumerate(shape):
        for start, stop in pairwise([0, n // 2, n]):
            at = (slice(None),) * axis + (slice(start, stop),)
            offset = (0,) * axis + (start,) + (0,) * (len(shape) - axis - 1)
            got = af.stochastic_round(
                backend.asarray(x[at]), "bfloat16", path="w", t=3, offset=offset, shape=shape
            )
            same(backend.numpy(got), whole[at])


FAR = {
    "a long vector": ((2**32,), (2**31 + 5,), (4,)),
    "across 2^31": ((2**32,), (2**31 - 2,), (4,)),
    "many rows": ((2**33, 3), (2**32 + 1, 0), (2, 3)),
    "many short rows": ((2**20, 2**13, 2), (2**19, 5, 0), (2, 2, 2)),
}


@pytest.mark.parametrize(("shape", "offset", "local"), FAR.values(), ids=FAR)
@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
def test_indices_wrap_at_32_bits(backend, shape, offset, local):
    x = np.full(local, 1.002, np.float32)
    at = []
    for index in np.ndindex(local):
        *lead, j = (o + n for o, n in zip(offset, index, strict=True))
        i = sum(a * math.prod(shape[axis + 1 : -1]) for axis, a in enumerate(lead))
        at.append((i, j))
    got = af.stochastic_round(backend.asarray(x), "bfloat16", offset=offset, shape=shape)
    same(backend.numpy(got), expected(x, "bfloat16", at))


@NARROW
@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
def test_what_is_exact_stays(backend, dtype):
    every = np.arange(2**16, dtype=np.uint16)
    wide = every.view(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        wide = (every.astype(np.uint32) << 16).view(np.float32)
    wide = wide.reshape(256, 256)
    with np.errstate(all="ignore"):
        for seed in (0, 1):
            got = af.stochastic_round(backend.asarray(wide), dtype, seed=seed)
            same(backend.numpy(got), wide.astype(np.float64))


@NARROW
def test_only_the_two_neighbours_and_both_of_them(dtype):
    k = STORED[dtype]
    x = np.random.default_rng(5).standard_normal((300, 300)).astype(np.float32)
    x[0] *= np.float32(2.0**-20)  # float16 below its normal range
    exponent = np.frexp(x.astype(np.float64))[1] - 1
    unit = np.ldexp(1.0, np.maximum(exponent, -14 if dtype == "float16" else -126) - k)
    below = np.floor(x / unit) * unit
    got = af.stochastic_round(x, dtype).astype(np.float64)
    assert np.all((got == below) | (got == below + unit))
    inexact = x != below
    up = got[inexact] > x[inexact]
    assert 0.49 < up.mean() < 0.51
    wide = got.astype(np.float32)
    if dtype == "float16":  # and they are numbers of the format
        np.testing.assert_array_equal(wide, wide.astype(np.float16).astype(np.float32))
    else:
        assert not np.any(wide.view(np.uint32) & 0xFFFF)


THREE = np.ones(3, np.float32)
ERRORS = {
    "float64": (np.ones(3), "bfloat16", {}, af.DTypeError, "float32 arrays, got float64"),
    "float16": (THREE.astype(np.float16), "float16", {}, af.DTypeError, "got float16"),
    "to float32": (THREE, "float32", {}, af.ConfigError, "'float32'"),
    "to int8": (THREE, "int8", {}, af.ConfigError, "bfloat16, float16"),
    "too far": (THREE, "float16", {"offset": (1,)}, af.ShapeError, r"\(1,\)"),
    "beyond": (THREE, "float16", {"offset": (6,), "shape": (8,)}, af.ShapeError,
               r"shape \(3,\) at offset \(6,\).*\(8,\)"),
    "negative": (THREE, "float16", {"offset": (-1,), "shape": (8,)}, af.ShapeError, "not fit"),
    "rank": (THREE, "float16", {"shape": (3, 3)}, af.ShapeError, "an int per axis"),
}  # fmt: skip


@pytest.mark.parametrize(("x", "dtype", "more", "error", "words"), ERRORS.values(), ids=ERRORS)
def test_errors(x, dtype, more, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        af.stochastic_round(x, dtype, **more)


SIZE = (256, 256)
DRAWN = SIZE[0] * SIZE[1]


def sixteenths(**draw):
    """The uppermost 4 of the bits behind each element, seen through the rounding itself."""
    seen = np.zeros(SIZE, np.int64)
    for k in range(1, 16):
        x = np.full(SIZE, 1 + k * 2.0**-11, np.float32)  # k/16 on the way to the next bfloat16
        seen += af.stochastic_round(x, "bfloat16", **draw) > 1
    return seen


@NARROW
@pytest.mark.parametrize("base", [1.0, -3.0, 1e-3, 2.0**-20])
def test_the_chance_is_in_proportion_and_the_mean_is_the_number(base, dtype):
    k = STORED[dtype]
    unit = 2.0 ** (max(math.frexp(base)[1] - 1, -14 if dtype == "float16" else -126) - k)
    base = math.trunc(base / unit) * unit
    for share in (2.0**-8, 0.1, 0.25, 0.5, 0.9, 1 - 2.0**-8):
        x = np.float32(base + math.copysign(share * unit, base))
        share = (float(x) - base) / math.copysign(unit, base)  # what float32 made of it
        n = ups = 0
        for seed in range(4):
            y = af.stochastic_round(np.full(SIZE, x), dtype, seed=seed).astype(np.float64)
            n, ups = n + y.size, ups + int(np.sum(np.abs(y) > abs(base)))
        deviation = math.sqrt(share * (1 - share) * n)
        assert abs(ups - share * n) <= 4 * deviation, f"{ups} of {n} at {share}"


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_evenly_distributed(draw):
    seen = np.bincount(sixteenths(**draw).ravel(), minlength=16)
    statistic = np.sum((seen - DRAWN / 16) ** 2) / (DRAWN / 16)
    assert 2.0 < statistic < 44.3  # 15 degrees of freedom, one in 10^4 on either side


PAIRS = {
    "neighbours in a row": (lambda s: (s()[:, :-1], s()[:, 1:])),
    "neighbouring rows": (lambda s: (s()[:-1], s()[1:])),
    "steps": (lambda s: (s(), s(t=2))),
    "seeds beyond 32 bits": (lambda s: (s(), s(seed=2**32))),
    "streams": (lambda s: (s(), s(stream=1))),
    "paths": (lambda s: (s(path="a"), s(path="b"))),
    "seed and step exchanged": (lambda s: (s(seed=2, t=3), s(seed=3, t=2))),
    "steps, next element": (lambda s: (s()[:, 1:], s(t=2)[:, :-1])),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_draws_do_not_depend_on_each_other(pair):
    a, b = (x.ravel() for x in pair(sixteenths))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(a.size)
    table = np.bincount(16 * a + b, minlength=256)
    statistic = np.sum((table - a.size / 256) ** 2) / (a.size / 256)
    assert abs(statistic - 255) < 4.5 * math.sqrt(2 * 255)
