"""`convert_state`: from any options to any others, what fits kept and the rest as `init` starts."""

from itertools import product

import numpy as np
import optree
import pytest

import adafactor_core as af
from _backends import need
from _close import dtype_of
from _run import normal

SHAPES = {"w": (4, 130), "b": (5,), "s": (), "none": (0, 3)}
BUFFERS = (None, "float32", "float16", "bfloat16", "int8")
PARTS = {
    "rounding": ("nearest", "stochastic", "kahan"),
    "momentum": BUFFERS,
    "nonfinite": ("propagate", "skip_step", "skip_tensor"),
    "telemetry": (False, True),
}
EVERY = [dict(zip(PARTS, values, strict=True)) for values in product(*PARTS.values())]


def config_of(row):
    options = {k: v for k, v in row.items() if k != "momentum"}
    buffer = row["momentum"]
    momentum = {} if buffer is None else {"beta1": 0.9, "momentum_dtype": buffer}
    return af.Config(0.1, **options, **momentum)


def named(row):
    return ", ".join(str(v) for v in row.values())


def drawn(seed, dtype=np.float16):
    return {p: np.asarray(normal(s, seed=seed), dtype) for p, s in SHAPES.items()}


def trained(row, x=None):
    """(parameters, state) after two steps, one of which may have been skipped."""
    config, x = config_of(row), x or drawn(0)
    state = af.init(x, config)
    for t in (1, 2, 3):
        g = drawn(t)
        if t == 2 and row["nonfinite"] != "propagate":
            g["b"] = g["b"] * np.float16(np.nan)
        x, state = af.step(x, g, state, config)
    return x, state


def average(m):
    """The momentum as float64 numbers, int8 with its scales."""
    if m.momentum is None:
        return None
    q = m.momentum.astype(np.float64)
    if m.momentum_scale is None:
        return q
    scales = np.repeat(m.momentum_scale.astype(np.float64), 128, axis=-1)
    return q * scales[..., : q.shape[-1]] if q.ndim else q * float(m.momentum_scale)


def check_momentum(old, new, source, target, what):
    had, has = average(old), average(new)
    if target is None:
        assert has is None
        return
    assert dtype_of(new.momentum) == target
    if source is None:
        assert not has.any(), what
        assert new.momentum_scale is None or not new.momentum_scale.any()
    elif source == target:
        for name in ("momentum", "momentum_scale"):
            np.testing.assert_array_equal(getattr(new, name), getattr(old, name), what)
    elif target == "int8" and has.size:
        blocks = np.repeat(np.atleast_1d(new.momentum_scale), 128, axis=-1)
        limit = 0.5001 * blocks[..., : has.shape[-1] if has.ndim else 1]
        assert np.all(np.abs(has - had) <= np.reshape(limit, had.shape)), what
    elif target != "int8":
        np.testing.assert_array_equal(new.momentum, had.astype(np.float32).astype(target), what)


def check(old_x, old, new, source, target):
    assert int(new.step) == int(old.step)
    counted = target["nonfinite"] != "propagate"
    had = old.skipped is not None
    assert (new.skipped is not None) == counted
    assert not counted or int(new.skipped) == (int(old.skipped) if had else 0)
    assert (new.metrics is not None) == target["telemetry"]
    for path, x in old_x.items():
        a, b = old.moments[path], new.moments[path]
        for name in ("row", "col", "full"):
            np.testing.assert_array_equal(getattr(b, name), getattr(a, name), path)
        check_momentum(a, b, source["momentum"], target["momentum"], path)
        assert (b.compensation is not None) == (target["rounding"] == "kahan")
        if b.compensation is not None:
            zero = np.zeros_like(x)
            want = zero if a.compensation is None else a.compensation
            np.testing.assert_array_equal(b.compensation, want, path)
            assert b.compensation.dtype == x.dtype
        if counted:
            assert int(b.skipped) == (0 if a.skipped is None else int(a.skipped))
            assert (b.skipped.shape, b.skipped.dtype) == ((), np.int32)


@pytest.fixture(scope="module")
def buffers():
    """Those that this NumPy has."""
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        return {None, "float32", "float16", "int8"}
    return set(BUFFERS)


@pytest.mark.parametrize("source", EVERY, ids=named)
def test_every_pair(source, buffers):
    if source["momentum"] not in buffers:
        pytest.skip("no bfloat16 here")
    if source["momentum"] == "bfloat16" or source["nonfinite"] == "skip_tensor":
        targets = EVERY[:: 7 if source["telemetry"] else 5]  # like float16 and "skip_step"
    else:
        targets = EVERY
    x, state = trained(source)
    before = [a.tobytes() for a in optree.tree_leaves((x, state))]
    for target in targets:
        if target["momentum"] not in buffers:
            continue
        config = config_of(target)
        new = af.convert_state(x, state, config)
        check(x, state, new, source, target)
        like, found = optree.tree_structure(af.init(x, config)), optree.tree_structure(new)
        assert found == like
        _, after = af.step(x, drawn(4), new, config)
        assert int(after.step) == int(state.step) + 1
    assert [a.tobytes() for a in optree.tree_leaves((x, state))] == before


@pytest.mark.parametrize("row", EVERY[::3], ids=named)
def test_to_the_same_options_nothing_is_lost(row, buffers):
    if row["momentum"] not in buffers:
        pytest.skip("no bfloat16 here")
    x, state = trained(row)
    again = af.convert_state(x, state, config_of(row))
    assert optree.tree_structure(again) == optree.tree_structure(state)
    kept = [s._replace(metrics=None) for s in (again, state)]
    for a, b in zip(*map(optree.tree_leaves, kept), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_are_kept_where_both_have_them():
    row = {"rounding": "kahan", "momentum": None, "nonfinite": "propagate", "telemetry": True}
    x, state = trained(row)
    again = af.convert_state(x, state, config_of({**row, "momentum": "float32"}))
    assert again.metrics["w"] == state.metrics["w"]


def test_what_was_compensated_can_be_kept_in_wider_parameters():
    row = {"rounding": "kahan", "momentum": "int8", "nonfinite": "propagate", "telemetry": False}
    x, state = trained(row)
    wide = {p: a + state.moments[p].compensation.astype("f4") for p, a in x.items()}
    config = config_of({**row, "rounding": "nearest"})
    converted = af.convert_state(wide, state, config)
    assert all(m.compensation is None for m in converted.moments.values())
    af.step(wide, {p: a.astype("f4") for p, a in drawn(4).items()}, converted, config)


def test_read_only_arrays_and_both_counters():
    row = {"rounding": "kahan", "momentum": None, "nonfinite": "propagate", "telemetry": False}
    x, state = trained(row)
    for a in optree.tree_leaves((x, state)):
        a.flags.writeable = False
    target = {**row, "momentum": "int8", "nonfinite": "skip_step", "telemetry": True}
    for counter in (state.step, int(state.step)):
        new = af.convert_state(x, state._replace(step=counter), config_of(target))
        assert new.step == counter
        assert type(new.skipped) is type(counter)
        _, after = af.step(x, drawn(4), new, config_of(target))
        assert int(after.skipped) == 0
        assert int(after.step) == int(counter) + 1


@pytest.mark.parametrize("source", [None, "float32", "int8"])
@pytest.mark.parametrize("target", [None, "float32", "float16", "bfloat16", "int8"])
@pytest.mark.backends("torch", "jax", "strict", "dask", "cupy")
def test_on_every_library(backend, source, target):
    narrow = target if target in ("float16", "bfloat16") else "float32"
    need(backend, narrow)
    base = {"rounding": "nearest", "nonfinite": "skip_step", "telemetry": True}
    old, new = ({**base, "momentum": m} for m in (source, target))
    numpy_x, numpy_state = trained({**old, "nonfinite": "propagate", "telemetry": False},
                                   drawn(0, np.float32))  # fmt: skip

    def moved(a):
        return backend.asarray(a, "int8" if a.dtype == np.int8 else "float32")

    x = {p: backend.asarray(a) for p, a in numpy_x.items()}
    moments = {
        p: m._replace(**{n: moved(a) for n, a in m._asdict().items() if a is not None})
        for p, m in numpy_state.moments.items()
    }
    state = af.State(af.init(x, af.Config()).step, moments)
    converted = af.convert_state(x, state, config_of(new))
    for path, m in converted.moments.items():
        if target is None or not m.momentum.shape or not numpy_x[path].size:
            continue
        assert dtype_of(m.momentum) == target
        found = [None if a is None else backend.numpy(a) for a in (m.momentum, m.momentum_scale)]
        got, had = average(af.Moments(None, None, None, *found)), average(numpy_state.moments[path])
        largest = np.max(np.abs(had)) if source else 0.0
        limit = {"int8": 0.51 / 127, "float32": 2.0**-22}.get(target, 2.0**-8)
        assert np.max(np.abs(got - (had if source else 0.0))) <= limit * largest
    if backend.name in ("torch", "strict"):
        g = {p: backend.asarray(a) for p, a in drawn(4).items()}
        af.step(x, g, converted, config_of(new))


X = np.ones((4, 5), np.float32)
STATE = af.init(X)
WRONG = {
    "factored to full": (X, STATE, af.Config(factored=False), "row should be absent"),
    "full to factored": (X, af.init(X, af.Config(factored=False)), af.Config(), "row should be"),
    "other axes": (np.ones((2, 3, 4), "f4"), af.init(np.ones((2, 3, 4), "f4")),
                   af.Config(factored_dims=(0, 1)), "row should be"),
    "float64": (X.astype(float), STATE, af.Config(), "row should be .*float64"),
    "other shapes": (np.ones((5, 4), "f4"), STATE, af.Config(), r"shape \(5, 1\)"),
    "no moments": (X, STATE._replace(moments=X), af.Config(), "not Moments"),
    "no state": (X, "state", af.Config(), "State"),
}  # fmt: skip


@pytest.mark.parametrize(("x", "state", "config", "words"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_an_error(x, state, config, words):
    with pytest.raises(af.StateError, match=words):
        af.convert_state(x, state, config)


def test_a_tree_of_another_nesting_is_an_error():
    with pytest.raises(af.TreeError, match=r"state.moments must be nested like params"):
        af.convert_state({"w": X}, af.init({"v": X}), af.Config())
