"""`rounding` in a step: what is rounded, what is kept, and what trains where nearest stops."""

import math
import re
import warnings

import numpy as np
import optree
import pytest

import adafactor_core as af
from _backends import need
from _close import DIGITS, close, dtype_of, spacing
from _run import flat, normal, numbers, rounded

SHAPES = {"w": (13, 11), "b": (7,), "s": (), "c": (2, 5, 4), "none": (0, 3)}
NARROW = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
KINDS = pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
OPTIONS = {
    "defaults": {},
    "full": {"lr": 0.1, "factored": False},
    "clip off, no scale": {"lr": 0.1, "clip_threshold": None, "scale_parameter": False},
    "momentum and decay": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1, "momentum_on": "update"},
    "momentum of gradients": {"lr": 0.1, "beta1": 0.9, "momentum_on": "grad", "maximize": True},
    "decay first": {
        "lr": 0.1, "weight_decay": 0.1, "weight_decay_by": "lr", "weight_decay_first": True,
    },
    "another seed": {"lr": 0.1, "seed": 2**40 + 3},
    "in blocks": {"lr": 0.1, "max_scratch_bytes": 1024},
}  # fmt: skip


def tensors(backend, dtype, kept="bfloat16", seed=0):
    """Numbers that are exact in `kept`, as arrays of `dtype`, nested."""
    drawn = {p: rounded(normal(s, seed=seed), kept) for p, s in SHAPES.items()}
    return backend.tree({"layers": [drawn]}, dtype)


@NARROW
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.backends("numpy", "torch", "cupy")
def test_stochastic_rounds_what_a_float32_tensor_would_be(backend, options, dtype):
    need(backend, dtype)
    config = af.Config(**options, rounding="stochastic")
    x = tensors(backend, dtype, dtype)
    state = af.init(x, config)
    for t in range(1, 4):
        g = tensors(backend, dtype, dtype, seed=t)
        wide_x, wide_g = (
            optree.tree_map(lambda a: backend.asarray(backend.numpy(a)), tree) for tree in (x, g)
        )
        wide, _ = af.step(wide_x, wide_g, state, config)  # the state of a float32 tensor fits
        x, state = af.step(x, g, state, config)
        for path, got in flat(x).items():
            want = af.stochastic_round(flat(wide)[path], dtype, seed=config.seed, t=t, path=path)
            assert dtype_of(got) == dtype
            np.testing.assert_array_equal(backend.numpy(got), backend.numpy(want), path)


@pytest.mark.parametrize("name", ["defaults", "momentum and decay"])
@pytest.mark.backends("jax")
def test_stochastic_under_a_compiler_rounds_to_the_same(backend, name):
    """XLA may round the wide value otherwise in its last place, and one of 2^16 draws with it."""
    config = af.Config(**OPTIONS[name], rounding="stochastic")
    step = backend.jit(lambda x, g, s: af.step(x, g, s, config))
    x = tensors(backend, "bfloat16")
    state = af.init(x, config)
    for t in range(1, 4):
        g = tensors(backend, "bfloat16", seed=t)
        wide_x, wide_g = (
            optree.tree_map(lambda a: backend.asarray(backend.numpy(a)), tree) for tree in (x, g)
        )
        wide, _ = step(wide_x, wide_g, state)
        x, state = step(x, g, state)
        differ = total = 0
        for path, got in flat(x).items():
            want = af.stochastic_round(flat(wide)[path], "bfloat16", t=t, path=path)
            got, want = backend.numpy(got), backend.numpy(want)
            assert np.all(np.abs(got - want) <= spacing(want, "bfloat16"))
            differ, total = differ + np.sum(got != want), total + got.size
        assert differ <= 1, f"{differ} of {total}"


@NARROW
@KINDS
@pytest.mark.backends("numpy", "torch", "cupy")
def test_blocks_change_no_bit_where_they_change_no_wide_value(backend, rounding, dtype):
    need(backend, dtype)
    results = []
    for scratch in (None, 1024, 4096):
        config = af.Config(
            0.01, factored=False, scale_parameter=False, clip_threshold=None, beta1=0.9,
            momentum_dtype=dtype, momentum_rounding="stochastic", weight_decay=0.1,
            rounding=rounding, max_scratch_bytes=scratch,
        )  # fmt: skip
        x = {p: backend.asarray(normal(s), dtype) for p, s in [("m", (37, 29)), ("v", (1000,))]}
        state = af.init(x, config)
        for t in (1, 2):
            g = {p: backend.asarray(normal(tuple(a.shape), seed=t), dtype) for p, a in x.items()}
            x, state = af.step(x, g, state, config)
        results.append({p: a.tobytes() for p, a in numbers(backend, [x, state.moments]).items()})
    assert results[0] == results[1] == results[2]


PARTS = {
    "alpha": {"weight_decay": 0.3},
    "momentum": {"beta1": 0.9, "weight_decay": 0.1, "weight_decay_by": "lr"},
    "full": {"factored": False},
    "in blocks": {"max_scratch_bytes": 1024},
}


@pytest.mark.parametrize("options", PARTS.values(), ids=PARTS)
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_kahan_follows_the_float32_trajectory_where_nearest_stands_still(backend, options):
    """60 steps of 1/20000, where a bfloat16 near 1 has units of 1/128."""
    dtype = "bfloat16" if "bfloat16" in backend.dtypes else "float16"
    start = rounded(np.sign(normal((31, 17))) * (1.0 + np.abs(normal((31, 17)))), "bfloat16")
    ends = {}
    for rounding, of in [("nearest", "float32"), ("nearest", dtype), ("kahan", dtype)]:
        config = af.Config(5e-5, scale_parameter=False, rounding=rounding, **options)
        step = lambda x, g, s, c=config: af.step(x, g, s, c)  # noqa: E731
        step = backend.jit(step) if "jit" in backend.modes else step
        x = backend.asarray(start, of)
        state = af.init(x, config)
        for t in range(60):
            g = rounded(np.abs(normal((31, 17), seed=t)) * np.sign(start), "bfloat16")
            x, state = step(x, backend.asarray(g, of), state)
        rest = state.moments.compensation
        ends[rounding, of] = backend.numpy(x) + (0.0 if rest is None else backend.numpy(rest))
        if rest is not None:
            assert dtype_of(rest) == dtype
            assert np.all(np.abs(backend.numpy(rest)) <= spacing(backend.numpy(x), dtype) / 2)
    want = ends["nearest", "float32"]
    assert np.max(np.abs(want - start)) > 1e-3
    assert np.mean(ends["nearest", dtype] == start) > (0.95 if dtype == "bfloat16" else 0.5)
    # The compensation has 8 bits: each step leaves at most 2^-17 of X, and they go either way.
    error = np.abs(ends["kahan", dtype] - want) / np.abs(want)
    assert error.max() < 60 * 2.0**-17
    assert np.sqrt(np.mean(error**2)) < np.sqrt(60) * 2.0**-18


@pytest.mark.backends("numpy", "torch", "cupy")
def test_decay_alone(backend):
    """No gradient: X shrinks by a factor of 1 - 1e-4 per step, which nearest never sees."""
    dtype = "bfloat16" if "bfloat16" in backend.dtypes else "float16"
    start, steps = np.full((64, 64), 1.5), 40
    zero = backend.asarray(np.zeros((64, 64)), dtype)
    ends = {}
    for rounding in ("nearest", "stochastic", "kahan"):
        config = af.Config(1e-3, weight_decay=0.1, weight_decay_by="lr", rounding=rounding)
        x = backend.asarray(start, dtype)
        state = af.init(x, config)
        for _ in range(steps):
            x, state = af.step(x, zero, state, config)
        rest = state.moments.compensation
        ends[rounding] = backend.numpy(x) + (0.0 if rest is None else backend.numpy(rest))
    want = 1.5 * (1 - 1e-4) ** steps
    np.testing.assert_array_equal(ends["nearest"], start)
    close(ends["kahan"], np.full_like(start, want), steps * 2.0**-17)
    # Each step moves an entry by a unit with a chance of 1.5e-4 / unit: binomial, nearly.
    unit = 2.0 ** (1 - DIGITS[dtype][0])
    deviation = math.sqrt((1.5 - want) * unit / start.size)
    assert abs(ends["stochastic"].mean() - want) < 4 * deviation
    assert len(np.unique(ends["stochastic"])) > 1


@pytest.mark.parametrize("scale", [True, False], ids=["scaled", "unscaled"])
@pytest.mark.backends("numpy", "torch", "cupy")
def test_kahan_decays_the_sum_and_scales_by_the_stored(backend, scale):
    """By hand: a compensation of half a unit, a decay of a half, the sign as the direction."""
    dtype = backend.dtypes[-1]
    config = af.Config(
        0.25, rounding="kahan", weight_decay=0.5, weight_decay_by="none", scale_parameter=scale
    )
    unit = 2.0 ** (1 - DIGITS[dtype][0])
    x, g = backend.asarray([1.0, -1.0, 1.0], dtype), backend.asarray([1.0, 1.0, -1.0], dtype)
    state = af.init(x, config)
    rest = backend.asarray(np.array([0.5, 0.25, -0.25]) * unit, dtype)
    state = state._replace(moments=state.moments._replace(compensation=rest))
    new, after = af.step(x, g, state, config)
    total = backend.numpy(new) + backend.numpy(after.moments.compensation)
    want = (backend.numpy(x) + backend.numpy(rest)) * 0.5 - 0.25 * backend.numpy(g)  # RMS(X) = 1
    np.testing.assert_allclose(total, want, rtol=0, atol=2.0**-20)
    assert np.any(backend.numpy(after.moments.compensation) != 0)


@NARROW
@KINDS
@pytest.mark.parametrize("name", ["defaults", "momentum and decay", "in blocks"])
@pytest.mark.backends("numpy", "torch", "cupy")
def test_the_update_leads_to_the_parameter_of_the_step(backend, name, rounding, dtype):
    need(backend, dtype)
    config = af.Config(**OPTIONS[name], rounding=rounding)
    x = tensors(backend, dtype, dtype)
    state = af.init(x, config)
    for t in range(1, 4):
        g = tensors(backend, dtype, dtype, seed=t)
        d, updated = af.update(g, state, x, config)
        new, after = af.step(x, g, state, config)
        for path, want in flat(new).items():
            change, old = flat(d)[path], flat(x)[path]
            assert dtype_of(change) == "float32"
            total = backend.asarray(np.float32(backend.numpy(old)) + backend.numpy(change), dtype)
            assert backend.bits(total) == backend.bits(want), path
        for path, slot in flat(after.moments).items():
            assert backend.bits(flat(updated.moments)[path]) == backend.bits(slot), path
        x, state = new, after


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.backends("numpy", "torch", "strict", "jax", "cupy")
def test_wide_tensors_are_not_rounded_and_keep_nothing(backend, rounding, dtype):
    ends = []
    with backend.scope(dtype):
        for kind in ("nearest", rounding):
            config = af.Config(0.1, weight_decay=0.1, rounding=kind)
            x, g = (backend.asarray(normal((5, 4), seed=s), dtype) for s in (0, 1))
            step = lambda x, g, s, c=config: af.step(x, g, s, c)  # noqa: E731
            new, state = (backend.jit(step) if "jit" in backend.modes else step)(
                x, g, af.init(x, config)
            )
            assert state.moments.compensation is None
            ends.append([backend.bits(a) for a in flat([new, state.moments]).values()])
    assert ends[0] == ends[1]


@NARROW
@pytest.mark.backends("numpy", "torch", "cupy")
def test_donated_and_read_only_arrays(backend, dtype):
    need(backend, dtype)
    for rounding in ("stochastic", "kahan"):
        config = af.Config(0.1, rounding=rounding, beta1=0.9, max_scratch_bytes=1024)
        x, g = (backend.asarray(normal((37, 29), seed=s), dtype) for s in (0, 1))
        state = af.init(x, config)
        before = [backend.bits(a) for a in (x, g, *flat(state.moments).values())]
        new, after = af.step(x, g, state, config)
        assert [backend.bits(a) for a in (x, g, *flat(state.moments).values())] == before
        donated, given = af.step(x, g, state, config, donate=True)
        for path, want in flat([new, after.moments]).items():
            assert backend.bits(flat([donated, given.moments])[path]) == backend.bits(want), path
        assert given.moments.compensation is state.moments.compensation


def told(x, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        af.init(x, af.Config(**options))
    return [w for w in caught if w.category is af.LowPrecisionWarning]


def test_nearest_warns_once_per_init_naming_the_tensors():
    x = {n: np.ones((2, 3), np.float16) for n in "abcde"} | {"wide": np.ones(3, np.float32)}
    (warning,) = told(x)
    text = str(warning.message)
    assert re.search(r"'a' \(float16\), 'b' \(float16\), 'c' \(float16\) and 2 more", text)
    assert "wide" not in text
    assert "'stochastic'" in text
    assert "'kahan'" in text
    assert warning.filename == __file__  # where init was called
    (warning,) = told(x, rules=[("[b-e]", {"rounding": "kahan"})])
    assert "'a' (float16):" in str(warning.message)


def test_nothing_is_told_where_nothing_is_lost():
    narrow, wide = {"w": np.ones((2, 3), np.float16)}, {"w": np.ones(3), "v": np.ones(3, "f4")}
    assert not told(narrow, rounding="stochastic")
    assert not told(narrow, rounding="kahan")
    assert not told(narrow, rules=[("w", {"rounding": "kahan"})])
    assert not told(wide)
    assert not told({})


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.parametrize("buffer", ["float32", "float16", "int8"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_memory_report_counts_what_is_kept(rounding, buffer, dtype):
    shapes = [(), (3,), (300,), (5, 257), (2, 3, 128), (0, 4)]
    x = {f"t{i}": np.ones(s, dtype) for i, s in enumerate(shapes)}
    config = af.Config(rounding=rounding, beta1=0.9, momentum_dtype=buffer)
    state = af.init(x, config)
    report = af.memory_report(x, config)
    for tensor in report.tensors:
        slots = [a for a in state.moments[tensor.path] if a is not None]
        assert tensor.state_bytes == sum(a.nbytes for a in slots), tensor
