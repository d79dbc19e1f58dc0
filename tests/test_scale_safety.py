"""Gradients from 2^-60 to 2^60 and beyond: right against the oracle, or seen; never a silent 0."""

import numpy as np
import pytest

import adafactor_core as af
from _close import UPDATE, close
from _run import oracle, rounded

SHAPES = {"long": (4096, 6), "square": (5, 4), "vector": (7,), "scalar": (), "stack": (2, 3, 4)}
ROWS = {
    "factored": {"lr": 0.1},
    "full": {"lr": 0.1, "factored": False},
    "clip off": {"lr": 0.1, "clip_threshold": None},
    "momentum of updates": {"lr": 0.1, "beta1": 0.9, "momentum_on": "update"},
    "stats": {"lr": 0.1, "eps1_mode": "stats"},
}
WITHOUT_EPS = {"eps1": 0.0, **ROWS["factored"]}
NORMED = {"max_grad_norm": 1.0}
SCALES = range(-60, 61, 10)
SLOW = {"strict": (-60, 0, 60), "jax": (-60, -40, 60)}


def drawn(seed, k=0):
    """Away from 0, so that at 2^-60 squares are normal numbers: XLA flushes the others."""
    rng = np.random.default_rng(seed)
    return {
        p: rounded(rng.choice([-1, 1], s) * rng.uniform(0.5, 2.0, s), "float32") * 2.0**k
        for p, s in SHAPES.items()
    }


def updates(backend, options, k, step=None):
    """D of two steps, as float64."""
    config, x = af.Config(**options), backend.tree(drawn(0))
    one = step or (lambda g, s, x: af.update(g, s, x, config))
    state, found = af.init(x, config), []
    with np.errstate(over="ignore", under="ignore"):
        for t in (1, 2):
            d, state = one(backend.tree(drawn(t, k)), state, x)
            found.append({p: backend.numpy(a) for p, a in d.items()})
    return found


def exact(options, k):
    """The same by the oracle; X stays where it is, so the second step is one of its own."""
    first = oracle(drawn(0), [drawn(1, k)], options)[2][0]
    # The oracle moves X, whose scale multiplies the update: taken out, both times.
    second = oracle(drawn(0), [drawn(1, k), drawn(2, k)], {**options, "scale_parameter": False})
    return first, second[2][1]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.backends("numpy", "torch", "strict", "jax", "cupy")
def test_against_the_oracle(backend, name):
    if backend.name == "jax" and name not in ("factored", "stats"):
        pytest.skip("slow")
    options = ROWS[name]
    plain = {**options, "scale_parameter": False}
    configs = [af.Config(**options), af.Config(**plain)]
    steps = [lambda g, s, x, c=c: af.update(g, s, x, c) for c in configs]
    steps = [backend.jit(s) for s in steps] if "jit" in backend.modes else steps
    for k in SLOW.get(backend.name, SCALES):
        if name == "stats" and k == -60:
            continue  # eps1 is not in the statistics, and 4096 squares of 2^-60 are below float32
        first, second = exact(options, k)
        got = updates(backend, options, k, steps[0])[0]
        then = updates(backend, plain, k, steps[1])[1]
        for path in SHAPES:
            close(got[path], first[path], UPDATE["float32"], f"{path} at 2^{k}")
            close(then[path], second[path], UPDATE["float32"], f"{path} at 2^{k}, step 2")


@pytest.mark.parametrize("k", [-40, -30, -20, -10, 10, 20, 30, 40, 50, 60])
@pytest.mark.parametrize("name", ["factored", "full", "clip off", "momentum of updates"])
@pytest.mark.backends("numpy", "torch", "cupy")
def test_the_step_does_not_depend_on_the_scale(backend, name, k):
    """Down to 2^-40, where eps1 = 1e-30 is 2e-6 of a square and begins to count."""
    plain, scaled = (updates(backend, ROWS[name], at) for at in (0, k))
    for t in (0, 1):
        for path in SHAPES:
            close(scaled[t][path], plain[t][path], 3e-6 if k == -40 else 1e-6, f"{path} at 2^{k}")


@pytest.mark.parametrize("k", [-50, -40, 40, 60])
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_without_eps1_the_scale_does_not_matter_at_all(backend, k):
    config = af.Config(**WITHOUT_EPS)
    one = lambda g, s, x: af.update(g, s, x, config)  # noqa: E731
    one = backend.jit(one) if "jit" in backend.modes else one
    plain, scaled = (updates(backend, WITHOUT_EPS, at, one) for at in (0, k))
    for t in (0, 1):
        for path in SHAPES:
            close(scaled[t][path], plain[t][path], 1e-6, f"{path} at 2^{k}")


OVERFLOWS = {
    **{name: (ROWS[name], 70) for name in ("factored", "full", "clip off")},
    "full, clip off": ({"lr": 0.1, "factored": False, "clip_threshold": None}, 70),
    "momentum": ({"lr": 0.1, "beta1": 0.9}, 70),
    "momentum of gradients": ({"lr": 0.1, "beta1": 0.9, "momentum_on": "grad"}, 70),
    "clamped": ({"lr": 0.1, "eps1": 1e-3, "eps1_mode": "clamp"}, 70),
    "clamped, full": ({"lr": 0.1, "eps1": 1e-3, "eps1_mode": "clamp", "factored": False}, 70),
    "stats": (ROWS["stats"], 70),
    "norm": ({"lr": 0.1, **NORMED}, 70),
    "norm, full": ({"lr": 0.1, "factored": False, **NORMED}, 70),
    "near the end": (ROWS["factored"], 120),
    "near the end, full": (ROWS["full"], 120),
}
SLOWLY = [OVERFLOWS[name] for name in ("factored", "norm, full")]


def stepped(backend, options, k, policy):
    """(X before, X after, state) of a step whose squares overflow, after one that was fine."""
    config = af.Config(**options, nonfinite=policy)
    one = lambda x, g, s: af.step(x, g, s, config)  # noqa: E731
    step = backend.jit(one) if "jit" in backend.modes else one
    x = backend.tree(drawn(0))
    with np.errstate(all="ignore"):
        before, state = step(x, backend.tree(drawn(1)), af.init(x, config))
        x, state = step(before, backend.tree(drawn(2, k)), state)
    return before, x, state


@pytest.mark.parametrize(("options", "k"), OVERFLOWS.values(), ids=OVERFLOWS)
@pytest.mark.backends("numpy", "torch", "strict", "jax", "cupy")
def test_squares_that_overflow_are_seen(backend, options, k):
    if backend.name in ("jax", "strict") and (options, k) not in SLOWLY:
        pytest.skip("slow")
    _, x, _ = stepped(backend, options, k, "propagate")
    for path in SHAPES:
        assert np.isnan(backend.numpy(x[path])).any(), f"{path}: nothing shows the overflow"


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step"])
@pytest.mark.parametrize(("options", "k"), OVERFLOWS.values(), ids=OVERFLOWS)
@pytest.mark.backends("numpy", "torch", "strict", "jax", "cupy")
def test_squares_that_overflow_are_skipped_and_counted(backend, options, k, policy):
    if backend.name in ("jax", "strict") and (options, k) not in SLOWLY:
        pytest.skip("slow")
    before, x, state = stepped(backend, options, k, policy)
    for path in SHAPES:
        assert backend.bits(x[path]) == backend.bits(before[path]), path
        assert int(state.moments[path].skipped) == 1
    assert int(state.skipped) == 1


@pytest.mark.parametrize(("options", "k"), OVERFLOWS.values(), ids=OVERFLOWS)
@pytest.mark.backends("numpy", "torch", "cupy")
def test_squares_that_overflow_raise(backend, options, k):
    with pytest.raises(af.NonFiniteError, match="'long' of shape"):
        stepped(backend, options, k, "raise")


@pytest.mark.parametrize("policy", ["propagate", "skip_tensor", "skip_step"])
@pytest.mark.parametrize("factored", [True, False], ids=["factored", "full"])
@pytest.mark.backends("numpy", "torch", "cupy")
def test_an_update_that_overflows_alone(backend, factored, policy):
    """U^2 of one entry, 1e20 times all the others: the statistics themselves are in range."""
    config = af.Config(0.1, factored=factored, nonfinite=policy, decay_type="constant")
    x = backend.asarray(drawn(0)["long"])
    small, large = drawn(1)["long"] * 1e-12, drawn(1)["long"] * 1e-12
    large[7, 3] = 3e18
    state = af.init(x, config)
    with np.errstate(all="ignore"):
        before, state = af.step(x, backend.asarray(small), state, config)
        after, state = af.step(before, backend.asarray(large), state, config)
    moved = backend.numpy(after) != backend.numpy(before)
    if policy == "propagate":
        assert np.isnan(backend.numpy(after)).any() or moved[7, 3]
    elif int(state.skipped):
        assert not moved.any()
    else:
        assert moved[7, 3]
        assert np.isfinite(backend.numpy(after)).all()
