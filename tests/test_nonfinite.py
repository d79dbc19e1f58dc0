"""`nonfinite`: what stays, what moves, what is counted, for every kind of fault and of option."""

import numpy as np
import optree
import pytest

import adafactor_core as af
from _backends import need
from _run import flat, normal
from adafactor_core._numerics import quiet

SHAPES = {"w": (6, 5), "b": (5,), "c": (2, 3, 4)}
FAULTS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "overflow": 1e25}
# Which fault, in which tensor, at which of three steps.
PLACES = [
    (fault, list(SHAPES)[(i + t) % 3], t) for i, fault in enumerate(FAULTS) for t in (1, 2, 3)
]
CONSTANT = {"lr": 0.01, "scale_parameter": False}
ROWS = {
    "factored": {"lr": 0.1},
    "full": {"lr": 0.1, "factored": False},
    "clip off": {"lr": 0.1, "clip_threshold": None},
    "full, clip off": {"lr": 0.1, "clip_threshold": None, "factored": False},
    "no scale, no clip": {**CONSTANT, "clip_threshold": None},
    "momentum, decay": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1},
    "momentum of updates, clamped": {
        "lr": 0.1, "beta1": 0.9, "momentum_on": "update", "eps1": 1e-3, "eps1_mode": "clamp",
    },
    "momentum of gradients": {"lr": 0.1, "beta1": 0.9, "momentum_on": "grad", "factored": False},
    "int8 momentum": {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8"},
    "adam decay": {"lr": 0.1, "decay_type": "adam", "decay_rate": 0.9, "maximize": True},
    "relative step": {},
    "telemetry": {"lr": 0.1, "clip_threshold": None, "telemetry": True},
    "kahan": {"lr": 0.01, "rounding": "kahan", "weight_decay": 0.1},
    "stochastic": {
        "lr": 0.01, "rounding": "stochastic", "beta1": 0.9, "momentum_dtype": "bfloat16",
        "momentum_rounding": "stochastic",
    },
}  # fmt: skip
NARROW = ("kahan", "stochastic")
TIMED = ("relative step", "stochastic")  # what a step does depends on the common t
FEW = ("full", "momentum, decay")  # for what takes seconds
COMPILED = (*FEW, "clip off", "momentum of gradients", "int8 momentum", "telemetry", *NARROW)


def drawn(seed, bad=None):
    tree = {p: normal(s, seed=seed) for p, s in SHAPES.items()}
    if bad is not None:
        fault, path, _ = bad
        tree[path].flat[3] = FAULTS[fault]
    return tree


def setup(backend, name, policy, rows=COMPILED):
    """(step, first parameters and state, gradients as this library's arrays)."""
    dtype = "bfloat16" if name in NARROW else "float32"
    need(backend, dtype)
    compiles = "jit" in backend.modes
    if compiles and name not in rows:
        pytest.skip("JAX takes seconds to compile it")
    config = af.Config(**ROWS[name], nonfinite=policy)
    one = lambda x, g, s: af.step(x, g, s, config)  # noqa: E731
    step = backend.jit(one) if compiles else one
    x = backend.tree(drawn(0), dtype)
    return step, (x, af.init(x, config)), lambda *what: backend.tree(drawn(*what), dtype)


def bits(backend, x, state):
    """Path to bytes, of parameters and slots but for the counters; then the counters."""
    found = {**flat({"x": x}), **flat({"m": state.moments})}
    kept = {p: backend.bits(a) for p, a in found.items() if not p.endswith("skipped")}
    counts = {p: int(a) for p, a in flat(state.moments).items() if p.endswith("skipped")}
    return kept, {p.removesuffix(".skipped"): n for p, n in counts.items()}


def follow(backend, step, start, grads):
    """(bits, counts, state) after each step."""
    x, state = start
    seen = [(*bits(backend, x, state), state)]
    for g in grads:
        # Libraries over NumPy warn where the core is quiet on NumPy's own arrays.
        with np.errstate(all="ignore") if backend.name != "numpy" else quiet(np):
            x, state = step(x, g, state)
            seen.append((*bits(backend, x, state), state))
    return seen


def of(path, found):
    return {p: b for p, b in found.items() if p.split(".")[1] == path}


policies = pytest.mark.parametrize("name", ROWS)


@policies
@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
def test_skip_tensor(backend, name):
    step, start, grads = setup(backend, name, "skip_tensor")
    clean = follow(backend, step, start, [grads(t) for t in (1, 2, 3)])
    without = {
        t: follow(backend, step, start, [grads(s) for s in (1, 2, 3) if s != t]) for t in (1, 2, 3)
    }
    for bad in PLACES:
        _, hurt, at = bad
        seen = follow(backend, step, start, [grads(t, bad if t == at else None) for t in (1, 2, 3)])
        for t, (found, counts, state) in enumerate(seen):
            skips = int(t >= at)
            for path in SHAPES:
                mine, want = of(path, found), of(path, clean[t][0])
                if path == hurt and t == at:
                    want = of(path, seen[t - 1][0])
                elif path == hurt and t > at:
                    want = of(path, without[at][t - 1][0]) if name not in TIMED else mine
                assert mine == want, (bad, path, t)
                assert counts[path] == (skips if path == hurt else 0), (bad, path, t)
            assert (int(state.step), int(state.skipped)) == (t, skips)
        assert of(hurt, seen[-1][0]) != of(hurt, seen[0][0])


@policies
@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
def test_skip_step(backend, name):
    step, start, grads = setup(backend, name, "skip_step")
    without = {
        t: follow(backend, step, start, [grads(s) for s in (1, 2, 3) if s != t]) for t in (1, 2, 3)
    }
    for bad in PLACES:
        _, hurt, at = bad
        seen = follow(backend, step, start, [grads(t, bad if t == at else None) for t in (1, 2, 3)])
        for t, (found, counts, state) in enumerate(seen):
            skips = int(t >= at)
            assert found == without[at][t - skips][0], (bad, t)
            assert counts == {path: skips * (path == hurt) for path in SHAPES}
            assert (int(state.step), int(state.skipped)) == (t - skips, skips)


@policies
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_propagate(backend, name):
    step, start, grads = setup(backend, name, "propagate", FEW)
    clean = follow(backend, step, start, [grads(t) for t in (1, 2)])
    for fault, hurt, at in PLACES[::2]:
        with np.errstate(all="ignore"):
            x, state = start
            for t in (1, 2):
                x, state = step(x, grads(t, (fault, hurt, at) if t == at else None), state)
        found, counts = bits(backend, x, state)
        assert not counts
        assert state.skipped is None
        for path in SHAPES:
            if path != hurt or at > 2:
                assert of(path, found) == of(path, clean[2][0])
        if at <= 2:
            arrays = flat([x[hurt], state.moments[hurt]]).values()
            assert not all(np.isfinite(backend.numpy(a)).all() for a in arrays)
            assert fault == "overflow" or not np.isfinite(backend.numpy(x[hurt])).all()


@policies
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.backends("numpy", "torch", "strict", "cupy")
def test_raise(backend, name, fault):
    if backend.name == "strict" and name not in FEW:
        pytest.skip("slow")
    step, (x, state), grads = setup(backend, name, "raise")
    x, state = step(x, grads(1), state)
    before = bits(backend, x, state)
    hurt = {"full": "b", "clip off": "c"}.get(name, "w")
    with (
        np.errstate(all="ignore") if backend.name != "numpy" else quiet(np),
        pytest.raises(af.NonFiniteError) as caught,
    ):
        step(x, grads(2, (fault, hurt, 2)), state)
    text = str(caught.value)
    assert f"tensor {hurt!r} of shape {SHAPES[hurt]} and dtype {x[hurt].dtype}" in text
    assert not any(f"{path!r}" in text for path in SHAPES if path != hurt)
    assert bits(backend, x, state) == before
    assert state.skipped is None
    step(x, grads(2), state)


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step"])
@pytest.mark.backends("dask")
def test_decided_lazily(backend, policy):
    """One step alone: a graph of three takes a minute."""
    config = af.Config(0.1, beta1=0.9, nonfinite=policy)
    x, g = backend.tree(drawn(0)), backend.tree(drawn(1, ("nan", "w", 1)))
    with np.errstate(all="ignore"):
        new, state = af.step(x, g, af.init(x, config), config)
        moved = {p for p in SHAPES if backend.bits(new[p]) != backend.bits(x[p])}
        assert moved == ({"b", "c"} if policy == "skip_tensor" else set())
        assert [int(state.moments[p].skipped) for p in SHAPES] == [1, 0, 0]
        assert int(state.step) == (1 if policy == "skip_tensor" else 0)
        assert not backend.numpy(state.moments["w"].momentum).any()


def test_raise_names_five_tensors_and_counts_the_others():
    x = {f"t{i}": np.ones((2, 3), np.float32) for i in range(8)}
    g = {p: a * np.float32(np.nan) for p, a in x.items()} | {"t0": x["t0"]}
    config = af.Config(nonfinite="raise")
    with pytest.raises(af.NonFiniteError, match=r"'t5' .* and 2 more\. Its gradient") as caught:
        af.step(x, g, af.init(x, config), config)
    assert isinstance(caught.value, RuntimeError)
    assert "'t0'" not in str(caught.value)
    assert "'t6'" not in str(caught.value)


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step", "raise"])
@pytest.mark.parametrize("scratch", [None, 1024], ids=["whole", "in blocks"])
@pytest.mark.parametrize(
    "name", ["factored", "full, clip off", "momentum of gradients", "int8 momentum", "kahan"]
)
@pytest.mark.backends("numpy", "torch", "cupy")
def test_donated_arrays_are_as_they_were(backend, name, scratch, policy):
    dtype = {"kahan": "float16"}.get(name, "float32")
    config = af.Config(**ROWS[name], nonfinite=policy, max_scratch_bytes=scratch)
    own = (lambda a: a.copy()) if backend.name == "numpy" else (lambda a: a)  # and writable

    def tensor(seed, bad=False):
        a = normal((37, 290), seed=seed)
        a[30, 200] = np.nan if bad else a[30, 200]
        return own(backend.asarray(a, dtype))

    x = {"hurt": tensor(0), "whole": tensor(1)}
    state = af.init(x, config)
    x, state = af.step(x, {"hurt": tensor(2), "whole": tensor(3)}, state, config, donate=True)
    arrays = optree.tree_leaves((x, state.moments))
    before = bits(backend, x, state)[0]
    g = {"hurt": tensor(4, bad=True), "whole": tensor(5)}
    if policy == "raise":
        with pytest.raises(af.NonFiniteError):
            af.step(x, g, state, config, donate=True)
        assert bits(backend, x, state)[0] == before
        return
    new, after = af.step(x, g, state, config, donate=True)
    assert all(
        a is b for a, b in zip(arrays, optree.tree_leaves((new, after.moments)), strict=True)
    )
    found = bits(backend, new, after)[0]
    assert of("hurt", found) == of("hurt", before)
    assert (of("whole", found) == of("whole", before)) == (policy == "skip_step")


@pytest.mark.parametrize("name", ["factored", "full", "no scale, no clip", "momentum, decay"])
@pytest.mark.backends("numpy", "torch", "strict", "cupy")
def test_the_update_of_what_is_skipped_is_zero(backend, name):
    _, (x, state), grads = setup(backend, name, "skip_tensor")
    config = af.Config(**ROWS[name], nonfinite="skip_tensor")
    with np.errstate(all="ignore"):
        d, after = af.update(grads(1, ("inf", "w", 1)), state, x, config)
        assert not backend.numpy(d["w"]).any()
        assert backend.numpy(d["b"]).all()
        _, stepped = af.step(x, grads(1, ("inf", "w", 1)), state, config)
    assert bits(backend, x, after) == bits(backend, x, stepped)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"factored": False}, {"clip_threshold": None}, {"scale_parameter": False},
     {"scale_parameter": False, "clip_threshold": None, "factored": False}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step", "raise"])
def test_a_parameter_that_is_not_finite_counts_too(policy, options, bad):
    config = af.Config(0.1, nonfinite=policy, **options)
    x = {p: a.astype(np.float32) for p, a in drawn(0).items()}
    x["w"][1, 2] = bad
    g = {p: a.astype(np.float32) for p, a in drawn(1).items()}
    if policy == "raise":
        with pytest.raises(af.NonFiniteError, match="'w'"):
            af.step(x, g, af.init(x, config), config)
        return
    new, state = af.step(x, g, af.init(x, config), config)
    np.testing.assert_array_equal(new["w"], x["w"])
    assert {p: int(m.skipped) for p, m in state.moments.items()} == {"w": 1, "b": 0, "c": 0}
    assert np.any(new["b"] != x["b"]) == (policy == "skip_tensor")


def test_the_rate_goes_by_the_common_step_and_the_average_by_its_own():
    """First own step at t = 3: b is 1 again, so U is the sign, and the rate is that of 3."""
    config = af.Config(lambda t: 0.1 / t, scale_parameter=False, nonfinite="skip_tensor")
    x = np.ones(4)
    state = af.init(x, config)
    for _ in range(2):
        x, state = af.step(x, np.full(4, np.nan), state, config)
    g = np.array([1.0, -2.0, 3.0, -4.0])
    new, state = af.step(x, g, state, config)
    np.testing.assert_allclose(new, x - 0.1 / 3 * np.sign(g), rtol=1e-15)
    np.testing.assert_allclose(state.moments.full, g**2, rtol=1e-15)
    assert (int(state.step), int(state.moments.skipped), int(state.skipped)) == (3, 2, 2)


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step", "raise"])
def test_a_memory_report_counts_no_counters(policy):
    params = {"w": np.ones((4, 5), np.float32), "b": np.ones(3, np.float16)}
    plain = af.memory_report(params, af.Config(rounding="kahan", beta1=0.9))
    counted = af.Config(rounding="kahan", beta1=0.9, nonfinite=policy)
    assert af.memory_report(params, counted) == plain
    assert [t.state_bytes for t in plain.tensors] == [3 * 4 + 3 * 4 + 3 * 2, 9 * 4 + 20 * 4]
