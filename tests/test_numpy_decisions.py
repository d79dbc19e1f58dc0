"""adafactor_numpy's decisions and metrics: those of the core, in place, plain and compiled."""

import warnings

import numpy as np
import optree
import pytest

import adafactor_core as af
from _close import close, close_entries
from _run import normal
from adafactor_numpy import Adafactor

try:
    import numba  # noqa: F401

    COMPILED = [False, True]
except ImportError:
    COMPILED = [False]
ELEMENTWISE = {"factored": False, "clip_threshold": None}


@pytest.fixture(params=COMPILED, ids=lambda c: "compiled" if c else "plain")
def compiled(request):
    return request.param


def bits(*trees):
    return [np.asarray(a).tobytes() for a in optree.tree_leaves(trees)]


def tree(seed, dtype="f4", bad=None):
    shapes = {"w": (33, 20), "wide": (3, 9001), "b": (20,), "s": (), "c": (4, 5, 6)}
    found = {p: np.asarray(normal(s, seed=seed)).astype(dtype) for p, s in shapes.items()}
    if bad is not None:
        found["w"][3, 4] = bad
    return found


POLICIES = {
    "defaults": {},
    "full, momentum": {"factored": False, "beta1": 0.9},
    "full, clip off": ELEMENTWISE,
    "norm": {"max_grad_norm": 3.0},
    "kahan": {"rounding": "kahan", "weight_decay": 0.1},
    "stochastic": {"rounding": "stochastic"},
    "a stack": {"rules": [("c", {"batch_axes": 0})]},
    "left to the array API": {"eps1": "finfo", "eps1_mode": "clamp"},
}
policies = pytest.mark.parametrize("options", POLICIES.values(), ids=POLICIES)


@policies
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25], ids=str)
@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step"])
def test_skipping_is_in_place_and_that_of_the_core(options, policy, bad, compiled):
    dtype = "f2" if "rounding" in options else "f4"
    if dtype == "f2" and bad == 1e25:
        pytest.skip("float16 ends before")
    config = af.Config(0.01, nonfinite=policy, **options)
    params, pure = tree(0, dtype), tree(0, dtype)
    optimizer, state = Adafactor(params, config, compiled=compiled), af.init(pure, config)
    for t, fault in enumerate([bad, None, bad, bad, None], 1):
        before = bits(params["w"], optimizer.state.moments["w"]._replace(skipped=None))
        optimizer.step(tree(t, dtype, fault))
        pure, state = af.step(pure, tree(t, dtype, fault), state, config)
        after = bits(params["w"], optimizer.state.moments["w"]._replace(skipped=None))
        assert (before == after) == (fault is not None)
    mine = optimizer.state
    assert (mine.step, mine.skipped) == (int(state.step), int(state.skipped))
    assert (mine.step, mine.skipped) == ((5, 3) if policy == "skip_tensor" else (2, 3))
    for path, want in pure.items():
        tolerance = 1e-6 if dtype == "f4" else 2.0**-10
        close(params[path].astype("f8"), want.astype("f8"), tolerance, path)
        assert int(mine.moments[path].skipped) == int(state.moments[path].skipped)


@policies
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_raising_changes_nothing(options, first, compiled):
    dtype = "f2" if "rounding" in options else "f4"
    config = af.Config(0.01, nonfinite="raise", **options)
    params, others = tree(0, dtype), tree(0, dtype)
    optimizer, clean = (Adafactor(p, config, compiled=compiled) for p in (params, others))
    for o in (optimizer, clean):
        first or o.step(tree(1, dtype))
    before = bits(params, optimizer.state.step, optimizer.state.moments)
    for _ in range(2):
        with pytest.raises(af.NonFiniteError, match=r"'w' of shape \(33, 20\) and dtype"):
            optimizer.step(tree(2, dtype, np.nan))
        assert bits(params, optimizer.state.step, optimizer.state.moments) == before
    for o in (optimizer, clean):
        o.step(tree(3, dtype)), o.step(tree(4, dtype))
    assert bits(params, optimizer.state) == bits(others, clean.state)


@pytest.mark.parametrize("steps", [0, 1])
def test_metrics_are_those_of_the_last_step_and_not_of_one_that_was_refused(steps, compiled):
    optimizer = Adafactor(tree(0), nonfinite="raise", telemetry=True, compiled=compiled)
    for t in range(steps):
        optimizer.step(tree(t + 1))
    before = bits(optimizer.metrics)
    with pytest.raises(af.NonFiniteError):
        optimizer.step(tree(9, bad=np.nan))
    assert bits(optimizer.metrics) == before


@pytest.mark.parametrize("scale", [3.7, 1024, np.float32(0.5)], ids=repr)
def test_the_norm_and_the_loss_scale_are_those_of_the_core(scale, compiled):
    """One tensor is left to the array API: the norm goes over both."""
    rules = [("c", {"eps1": 1e-3, "eps1_mode": "clamp"})]
    config = af.Config(0.1, max_grad_norm=3.0, telemetry=True, rules=rules)
    params, pure = tree(0), tree(0)
    optimizer, state = Adafactor(params, config, compiled=compiled), af.init(pure, config)
    for t in (1, 2):
        grads = {p: g * np.float32(scale) for p, g in tree(t).items()}
        optimizer.step(grads, grad_scale=scale)
        pure, state = af.step(pure, tree(t), state, config)
    for path, want in pure.items():
        close(params[path], want, 1e-6, path)
        for name, value in state.metrics[path]._asdict().items():
            close(getattr(optimizer.metrics[path], name), value, 2e-6, f"{path} {name}")
    before = bits(params, optimizer.state)
    for wrong in (0.0, -1.0, np.nan, np.inf, np.ones(2)):
        with pytest.raises(af.ConfigError, match="grad_scale"):
            optimizer.step(tree(3), grad_scale=wrong)
    assert bits(params, optimizer.state) == before


@pytest.mark.parametrize(
    "options",
    [{}, {"rules": [("c", {"batch_axes": 0})]}, {"factored": False}, {"clip_threshold": None}],
    ids=str,
)
def test_metrics_are_those_of_the_core(options, compiled):
    config, params = af.Config(**options, telemetry=True), tree(0)
    optimizer, state = Adafactor(params, config, compiled=compiled), af.init(tree(0), config)
    assert {float(v) for m in optimizer.metrics.values() for v in m} == {0.0}
    pure = tree(0)
    for t in (1, 2):
        optimizer.step(tree(t))
        pure, state = af.step(pure, tree(t), state, config)
    for path, metrics in state.metrics.items():
        for name, value in metrics._asdict().items():
            got = getattr(optimizer.metrics[path], name)
            assert (got.shape, got.dtype) == ((), np.float32)
            close_entries(got, value, 1e-5, f"{path} {name}")
    told, want = af.flat_metrics(optimizer.state), af.flat_metrics(state)
    assert told.keys() == want.keys()
    with pytest.raises(af.StateError, match="telemetry=True"):
        _ = Adafactor(tree(0), compiled=compiled).metrics


def test_metrics_add_no_warning(compiled):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = Adafactor(tree(0, "f2"), telemetry=True, compiled=compiled)
        _ = optimizer.metrics, optimizer.state
    assert [w.category for w in caught] == [af.LowPrecisionWarning]


KEPT = {
    "rounding": "kahan", "nonfinite": "skip_tensor", "telemetry": True, "max_grad_norm": 3.0,
    "rules": [("w", {"rounding": "stochastic"}),
              ("b", {"beta1": 0.9, "momentum_dtype": "int8", "momentum_rounding": "stochastic"})],
}  # fmt: skip


def test_resuming_is_going_on(compiled):
    """Counters, compensation and draws included: nothing lives outside the state."""
    config = af.Config(0.01, **KEPT)
    params = tree(0, "f2")
    optimizer = Adafactor(params, config, compiled=compiled)
    for t, bad in [(1, None), (2, np.inf), (3, None)]:
        optimizer.step(tree(t, "f2", bad))
    saved = optimizer.state
    copies = {p: x.copy() for p, x in params.items()}
    other = Adafactor(copies, config, compiled=compiled)
    other.state = saved
    assert (other.state.step, other.state.skipped) == (3, 1)
    taken, given = (optree.tree_leaves(s.moments) for s in (other.state, saved))
    assert not any(np.shares_memory(a, b) for a, b in zip(taken, given, strict=True))
    for t, bad in [(4, None), (5, np.nan), (6, None)]:
        optimizer.step(tree(t, "f2", bad)), other.step(tree(t, "f2", bad))
    assert bits(params, optimizer.state) == bits(copies, other.state)
    plain = Adafactor(tree(0, "f2"), af.Config(0.01), compiled=compiled)
    with pytest.raises(af.StateError, match="counter of skipped steps"):
        plain.state = saved
