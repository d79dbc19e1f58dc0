"""Blocks: they cover a tensor once, change nothing beyond rounding, and bound the memory."""

import gc
import tracemalloc
from itertools import product
from math import prod

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _close import close, close_entries, dtype_of
from _run import flat, normal, numbers
from _variety import BATCHED, VARIETY
from adafactor_core._streaming import block_limit, blocks

SHAPES = [
    (),
    (1,),
    (0,),
    (7,),
    (64,),
    (3, 0, 2),
    (5, 7),
    (7, 5),
    (1, 64),
    (64, 1),
    (3, 5, 7),
    (2, 3, 2, 5),
]
MIB = 1 << 20


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 35, 10_000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_cover_every_element_once_within_the_limit(shape, limit):
    seen = np.zeros(shape, int)
    cut = blocks(shape, limit)
    over = None if cut is None else list(cut)
    if over is None:
        assert prod(shape) <= limit
        return
    for index in over:
        assert 0 < seen[index].size <= limit
        seen[index] += 1
    assert np.all(seen == 1)
    assert len(over) <= 2 * prod(shape) / limit + prod(shape[:-1])


@pytest.mark.parametrize("itemsize", [4, 8])
def test_a_block_is_never_empty_and_never_larger_than_what_stays_in_cache(itemsize):
    for scratch in (None, 1024, 4096, MIB, 1 << 40):
        elements = block_limit(scratch, itemsize)
        assert 1 <= elements <= block_limit(None, itemsize)
        assert scratch is None or elements * itemsize < scratch


def trajectory(backend, shape, options, dtype, **more):
    config = af.Config(**options, **more)
    x = backend.asarray(normal(shape), dtype)
    state = af.init(x, config)
    for t in range(1, 4):
        g = backend.asarray(normal(shape, seed=t), dtype)
        x, state = af.step(x, g, state, config)
    return numbers(backend, {"x": x, "moments": state.moments})


CASES = [(o, (37, 29)) for o in VARIETY] + [(o, (3, 5, 29)) for o in BATCHED]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=[name for name, _ in CASES])
@pytest.mark.backends("numpy", "torch")
def test_streamed_is_whole_to_rounding(backend, name, shape, dtype):
    need(backend, dtype)
    options = {**VARIETY, **BATCHED}[name]
    whole = trajectory(backend, shape, options, dtype)
    streamed = trajectory(backend, shape, options, dtype, max_scratch_bytes=1024)
    assert block_limit(1024, 4) < prod(shape) <= block_limit(None, 4)
    assert whole.keys() == streamed.keys()
    tolerance = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 2.0**-7}[dtype]
    for path, want in whole.items():
        close(streamed[path], want, tolerance if path == "x" else min(tolerance, 1e-5), path)


N = block_limit(None, 4) + 11


@pytest.mark.parametrize("shape", [(N,), (3, N // 2), (N, 1), (2, 3, N // 4), (N // 3, 4)], ids=str)
def test_large_tensors_stream_by_default_with_the_same_result(shape):
    assert list(blocks(shape, block_limit(None, 4)))
    x, g = normal(shape).astype(np.float32), normal(shape, seed=1).astype(np.float32)
    config = af.Config(0.1, beta1=0.9, weight_decay=0.1)
    wide = [a.astype(np.float64) for a in (x, g)]
    streamed, _ = af.step(x, g, af.init(x, config), config)
    exact, _ = af.step(*wide, af.init(wide[0], config), config)
    close(streamed, exact, 1e-6)


@pytest.mark.parametrize("scratch", [None, 1 << 16], ids=["default", "64 KiB"])
@pytest.mark.parametrize("shape", [(4096, 128), (128, 4096)], ids=str)
def test_long_sums_keep_their_digits(shape, scratch):
    """NumPy's running sum over 4096 rows is off by 3e-6; 1.5e-7 and 4e-7 are measured here."""
    x, g = normal(shape).astype(np.float32), normal(shape, seed=1).astype(np.float32)
    config = af.Config(max_scratch_bytes=scratch)
    d, state = af.update(g, af.init(x, config), x, config)
    wide = [a.astype(np.float64) for a in (x, g)]
    exact, exact_state = af.update(wide[1], af.init(wide[0]), wide[0])
    close(d, exact, 1e-6)
    close_entries(state.moments.row, exact_state.moments.row, 1e-6, "row")
    close_entries(state.moments.col, exact_state.moments.col, 1e-6, "col")


def test_the_update_streams_too():
    x, g = normal((37, 29)), normal((37, 29), seed=1)
    config = af.Config(0.1, max_scratch_bytes=1024, weight_decay=0.1)
    d, _ = af.update(g, af.init(x, config), x, config)
    new, _ = af.step(x, g, af.init(x, config), config)
    close(x + d, new, 1e-15)


def peak(shape, dtype, donate, **options):
    """The most bytes that a step held beyond params, grads and state, by tracemalloc."""
    rng = np.random.default_rng(0)
    x = np.ones(shape, dtype)
    g = rng.standard_normal(shape, np.float32).astype(dtype)
    config = af.Config(**options)
    state = af.init(x, config)
    small = np.ones((2, 2), dtype)
    af.step(small, small, af.init(small, config), config)  # what is loaded here is not scratch
    gc.collect()
    tracemalloc.start()
    try:
        af.step(x, g, state, config, donate=donate)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def narrow(dtype):
    return pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)


LARGE, BROAD = (4096, 4096), (1024, 4096)
VECTORS = 8 * 4 * sum(BROAD)  # row, col, their sums, p and q: 164 kB, where BROAD has 16.8 MB
BUSY = {
    "defaults": {},
    "clip off, decay": {"clip_threshold": None, "weight_decay": 0.1},
    "momentum, decay": {"beta1": 0.9, "momentum_on": "update", "weight_decay": 0.1},
    "momentum of gradients": {"beta1": 0.9, "momentum_on": "grad", "maximize": True},
    "16-bit momentum": {"beta1": 0.9, "momentum_dtype": "float16", "momentum_arithmetic": "weak"},
    "full": {"factored": False},
    "full, clip off": {"factored": False, "clip_threshold": None},
    "full, clamped, everything": {
        "factored": False, "eps1": 1e-3, "eps1_mode": "clamp", "beta1": 0.9, "momentum_on": "grad",
        "weight_decay": 0.1,
    },
}  # fmt: skip
busy = pytest.mark.parametrize("options", BUSY.values(), ids=BUSY)


@busy
def test_scratch_of_a_large_step_is_one_block(options):
    assert peak(LARGE, np.float32, donate=True, **options) < 8 * MIB


def test_scratch_of_a_large_bfloat16_step_is_one_block():
    assert peak(LARGE, narrow("bfloat16"), donate=True) < 8 * MIB


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@busy
def test_scratch_stays_below_max_scratch_bytes(options, dtype):
    used = peak(BROAD, narrow(dtype), donate=True, max_scratch_bytes=MIB, **options)
    assert used < MIB + VECTORS * (2 if dtype == "float64" else 1)


def test_a_tiny_max_scratch_bytes_is_not_spent_on_a_list_of_blocks():
    # 32768 blocks, 4.5 MB as a list. CPython itself keeps 0.5 MB of freed tuples.
    assert peak((256, 4096), np.float32, donate=True, max_scratch_bytes=1024) < MIB


def test_without_donation_the_new_arrays_are_all_that_is_added():
    n = 4 * prod(LARGE)
    assert n <= peak(LARGE, np.float32, donate=False) < n + 8 * MIB


@pytest.mark.backends("torch")
def test_torch_scratch_of_a_large_step_is_one_block(backend):
    """What each operation returns, by a dispatch mode: no output as large as the tensor."""
    from torch.utils._python_dispatch import TorchDispatchMode

    torch, largest = backend.lib, [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
            if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
                largest[0] = max(largest[0], out.untyped_storage().nbytes())
            return out

    for dtype in (torch.float32, torch.bfloat16):
        for options in ({"beta1": 0.9, "weight_decay": 0.1}, {"factored": False}):
            x = torch.ones((1024, 1024), dtype=dtype)
            config = af.Config(**options, max_scratch_bytes=MIB // 4)
            state = af.init(x, config)
            with Watch():
                af.step(x, x, state, config, donate=True)
    assert 1024 < largest[0] <= MIB // 8


def test_numpys_buffer_size_is_left_as_it_was():
    before = np.getbufsize()
    x = normal((700, 600)).astype(np.float32)
    af.step(x, x, af.init(x))
    assert np.getbufsize() == before
    with pytest.raises(FloatingPointError), np.errstate(all="raise"):
        af.step(x, x * np.float32(3e38), af.init(x))
    assert np.getbufsize() == before


def test_every_dtype_keeps_its_slots_when_streamed():
    for dtype, wide in product(("float16", "float32", "float64"), [np.float64]):
        x = normal((37, 29)).astype(dtype)
        config = af.Config(beta1=0.9, max_scratch_bytes=1024)
        new, state = af.step(x, x, af.init(x, config), config)
        assert dtype_of(new) == dtype
        expected = "float64" if dtype == np.dtype(wide) else "float32"
        assert {dtype_of(a) for a in flat(state.moments).values()} == {expected}
