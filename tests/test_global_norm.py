"""`max_grad_norm` and `grad_scale`: a step of gradients that were unscaled and clipped before."""

import math

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _close import PARAMS, STATE, close, close_entries, close_narrow
from _run import flat, normal, numbers
from _variety import BATCHED, VARIETY

SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4), "none": (0, 3)}
EVERY = {**VARIETY, **BATCHED}


def config_of(name, **more):
    """Batch axes as a rule, for the one tensor that has them."""
    options = EVERY[name]
    special = {k: options[k] for k in ("batch_axes", "factored_dims") if k in options}
    rest = {k: v for k, v in options.items() if k not in special}
    return af.Config(**rest, **more, rules=[("c", special)] if name in BATCHED else ())


def drawn(seed, dtype=np.float64, scale=1.0):
    """Sizes of gradients differ from tensor to tensor and from step to step."""
    sizes = dict(zip(SHAPES, (1.0, 8.0, 0.1, 2.0, 1.0), strict=True))
    return {
        p: np.asarray(normal(s, seed=seed) * sizes[p] * scale * (1 + seed), dtype)
        for p, s in SHAPES.items()
    }


def norm_of(grads):
    return math.sqrt(math.fsum(float(v) ** 2 for g in grads.values() for v in np.ravel(g)))


def clipped(grads, most):
    """In float64, before the core sees anything."""
    by = min(1.0, most / norm_of(grads))
    return {p: np.asarray(g * by) for p, g in grads.items()}


def run(x, grads, config, step=af.step):
    state = af.init(x, config)
    for g in grads:
        x, state = step(x, g, state, config)
    return x, state


@pytest.mark.parametrize("most", [1e-3, 50.0, 1e6], ids=["active", "at times", "inactive"])
@pytest.mark.parametrize("name", EVERY)
def test_is_clipping_first_and_stepping_then(name, most):
    grads = [drawn(t) for t in (1, 2, 3)]
    assert norm_of(grads[0]) < 50.0 < norm_of(grads[2])
    got, state = run(drawn(0), grads, config_of(name, max_grad_norm=most))
    want, clean = run(drawn(0), [clipped(g, most) for g in grads], config_of(name))
    for path, array in want.items():
        close(got[path], array, 1e-13, path)
    for path, slot in flat(clean.moments).items():
        close(flat(state.moments)[path], slot, 1e-12, path)


@pytest.mark.parametrize("name", VARIETY)
def test_a_norm_within_the_bound_changes_no_bit(name):
    grads = [drawn(t) for t in (1, 2)]
    got = run(drawn(0), grads, config_of(name, max_grad_norm=1e9))
    want = run(drawn(0), grads, config_of(name))
    for path, array in flat([*want[0].values(), want[1].moments]).items():
        np.testing.assert_array_equal(flat([*got[0].values(), got[1].moments])[path], array)


LIBRARIES = {
    "defaults": {"lr": 0.1},
    "full, momentum of gradients": {
        "lr": 0.1, "factored": False, "beta1": 0.9, "momentum_on": "grad",
    },
    "clamped, decay": {"lr": 0.1, "eps1": 1e-3, "eps1_mode": "clamp", "weight_decay": 0.1},
    "blocks": {"lr": 0.1, "max_scratch_bytes": 1024},
    "tensors skipped": {"lr": 0.1, "nonfinite": "skip_tensor"},
}  # fmt: skip


@pytest.mark.parametrize("name", LIBRARIES)
def test_on_every_library(backend, mode, name):
    if name != "defaults" and (backend.name == "dask" or (backend.name, mode) == ("jax", "eager")):
        pytest.skip("slow")
    config, grads = af.Config(**LIBRARIES[name], max_grad_norm=0.5), [drawn(1), drawn(2)]
    one = lambda x, g, s, scale: af.step(x, g, s, config, grad_scale=scale)  # noqa: E731
    step = backend.jit(one) if mode == "jit" else one
    x = backend.tree(drawn(0))
    state = af.init(x, config)
    for g in grads[:1] if backend.name == "dask" else grads:
        scaled = {p: a * 3.7 for p, a in g.items()}
        x, state = step(x, backend.tree(scaled), state, backend.asarray(3.7))
    grads = grads[: int(state.step)]
    plain = af.Config(**LIBRARIES[name] | {"nonfinite": "propagate"})
    want, clean = run(drawn(0), [clipped(g, 0.5) for g in grads], plain)
    for path, array in want.items():
        close(backend.numpy(x[path]), array, PARAMS["float32"], path)
    found = numbers(backend, state.moments)
    for path, slot in flat(clean.moments).items():
        if slot.size and "momentum" not in path:
            close_entries(found[path], slot, STATE["float32"], path)


@pytest.mark.backends("numpy", "torch", "cupy")
def test_tensors_of_every_dtype_share_a_norm(backend):
    narrow = "bfloat16" if "bfloat16" in backend.dtypes else "float16"
    dtypes = {"w": "float32", "b": narrow, "s": "float64", "c": "float64", "none": narrow}
    for order in (list(SHAPES), list(SHAPES)[::-1]):
        config = af.Config(0.1, max_grad_norm=0.5)
        x = {p: backend.asarray(drawn(0)[p], dtypes[p]) for p in order}
        g = {p: backend.asarray(drawn(1)[p], dtypes[p]) for p in order}
        got, _ = af.step(x, g, af.init(x, config), config)
        wide = {p: backend.numpy(a) for p, a in x.items()}
        first = clipped({p: backend.numpy(a) for p, a in g.items()}, 0.5)
        want, _ = af.step(wide, first, af.init(wide), af.Config(0.1))
        for path in order:
            if dtypes[path] == narrow:
                rounded = backend.numpy(backend.asarray(want[path], narrow))
                close_narrow(backend.numpy(got[path]), rounded, narrow, path)
            else:
                close(backend.numpy(got[path]), want[path], PARAMS["float32"], path)


@pytest.mark.parametrize("k", [-60, -40, -20, 0, 20, 40, 60])
@pytest.mark.parametrize("factored", [True, False], ids=["factored", "full"])
@pytest.mark.backends("numpy", "torch", "strict", "jax", "cupy")
def test_the_norm_neither_overflows_nor_underflows(backend, factored, k):
    """4096 squares of 2^60 add up to 2^132; JAX flushes squares below 2^-126 to 0."""
    k = -50 if (backend.name, k) == ("jax", -60) else k
    options = {"lr": 0.1, "factored": factored, "scale_parameter": False}
    x, g = normal((64, 64)), np.sign(normal((64, 64), seed=1)) * 2.0**k
    g[:, 0] *= 1.5
    for most in (2.0**k, 2.0 ** (k + 7)):  # the norm is 2^(k + 6), about
        config = af.Config(**options, max_grad_norm=most, telemetry=True)
        one = lambda x, g, s, c=config: af.step(x, g, s, c)  # noqa: E731
        step = backend.jit(one) if "jit" in backend.modes else one
        with np.errstate(over="ignore", under="ignore"):
            a = backend.asarray(x)
            got, state = step(a, backend.asarray(g), af.init(a, config))
        want, clean = run(x, [clipped({"": g}, most)[""]], af.Config(**options))
        close(backend.numpy(got), want, PARAMS["float32"])
        close(backend.numpy(state.metrics.grad_norm), np.array(norm_of({"": g})), 1e-6)
        if k > -60:  # squares of 2^-126 and less have lost their digits
            for path, slot in flat(clean.moments).items():
                close_entries(numbers(backend, state.moments)[path], slot, 1e-5, path)


SCALES = {"2^16": 2.0**16, "2^-7": 2.0**-7, "an int": 1024, "1": 1.0}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("name", EVERY)
def test_a_loss_scale_of_a_power_of_two_changes_no_bit(name, scale):
    config = config_of(name)
    plain, scaled = run(drawn(0), [drawn(1), drawn(2)], config), drawn(0)
    state = af.init(scaled, config)
    for seed in (1, 2):
        scaled, state = af.step(scaled, drawn(seed, scale=scale), state, config, grad_scale=scale)
    for path, array in flat([*plain[0].values(), plain[1].moments]).items():
        np.testing.assert_array_equal(flat([*scaled.values(), state.moments])[path], array, path)


@pytest.mark.parametrize("name", ["defaults", "full", "momentum of gradients", "eps1 clamped"])
@pytest.mark.parametrize("number", [3.7, np.float32(3.7), np.array(3.7), np.float64(3.7)], ids=repr)
def test_any_number_and_any_scalar(name, number):
    config = config_of(name, max_grad_norm=3.0)
    got, _ = af.step(
        drawn(0), drawn(1, scale=float(number)), af.init(drawn(0), config), config,
        grad_scale=number,
    )  # fmt: skip
    want, _ = run(drawn(0), [clipped(drawn(1), 3.0)], config_of(name))
    for path, array in want.items():
        close(got[path], array, 1e-13, path)
    d, _ = af.update(
        drawn(1, scale=float(number)), af.init(drawn(0), config), drawn(0), config,
        grad_scale=number,
    )  # fmt: skip
    for path, array in want.items():
        close(drawn(0)[path] + d[path], array, 1e-13, path)


BAD = [0, 0.0, -1.0, math.nan, math.inf, "2", [2.0], np.ones(1), 10**400, np.array(0.0), True, 1j]


@pytest.mark.parametrize("bad", BAD, ids=lambda b: repr(b)[:12])
@pytest.mark.parametrize("function", [af.step, af.update], ids=["step", "update"])
def test_a_scale_that_cannot_be_is_refused_and_changes_nothing(function, bad):
    x, g = drawn(0), drawn(1)
    state = af.init(x)
    before = [a.tobytes() for a in (*x.values(), *flat(state.moments).values())]
    given = (x, g, state) if function is af.step else (g, state, x)
    with pytest.raises(af.ConfigError, match="grad_scale must be a finite number > 0"):
        function(*given, grad_scale=bad)
    assert [a.tobytes() for a in (*x.values(), *flat(state.moments).values())] == before


@pytest.mark.parametrize("factored", [True, False], ids=["factored", "full"])
def test_a_norm_that_is_nan_is_seen_everywhere(factored):
    """As with gradients that were clipped first; under "propagate" nothing hides it."""
    config = af.Config(0.1, max_grad_norm=1.0, factored=factored)
    g = drawn(1)
    g["w"][2, 3] = np.nan
    with np.errstate(invalid="ignore"):
        new, _ = af.step(drawn(0), g, af.init(drawn(0), config), config)
    assert all(np.isnan(a).all() for a in new.values())


ODD = {
    "nan gradient": ("g", math.nan),
    "infinite gradient": ("g", math.inf),
    "its squares overflow": ("g", 1e25),
    "its squares overflow, the norm's unit hides it": ("g", 2e19),
    "nan parameter": ("x", math.nan),
}


@pytest.mark.parametrize(("where", "bad"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("factored", [True, False], ids=["factored", "full"])
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_tensors_that_are_skipped_do_not_count(backend, factored, where, bad):
    if factored and (bad == 2e19 or backend.name == "jax"):
        pytest.skip("means of its squares are within the range, or it takes seconds")
    config = af.Config(0.1, max_grad_norm=0.5, nonfinite="skip_tensor", factored=factored)
    x = {"odd": normal((64, 64)), "w": normal((40, 50)), "b": normal((7,))}
    g = {p: normal(a.shape, seed=1) for p, a in x.items()}
    {"g": g, "x": x}[where]["odd"][1, 1] = bad
    one = lambda x, g, s: af.step(x, g, s, config)  # noqa: E731
    step = backend.jit(one) if "jit" in backend.modes else one
    a = backend.tree(x)
    with np.errstate(all="ignore"):
        got, state = step(a, backend.tree(g), af.init(a, config))
    assert {p: int(m.skipped) for p, m in state.moments.items()} == {"odd": 1, "w": 0, "b": 0}
    x.pop("odd"), g.pop("odd")
    want, clean = run(x, [clipped(g, 0.5)], af.Config(0.1, factored=factored))
    for path, array in want.items():
        close(backend.numpy(got[path]), array, PARAMS["float32"], path)
    for path, slot in flat(clean.moments).items():  # they show what the first step hides
        close_entries(numbers(backend, state.moments)[path], slot, STATE["float32"], path)


def test_all_gradients_zero():
    config = af.Config(0.1, max_grad_norm=1.0)
    zero = {p: a * 0.0 for p, a in drawn(1).items()}
    new, _ = af.step(drawn(0), zero, af.init(drawn(0), config), config)
    for path, array in drawn(0).items():
        np.testing.assert_array_equal(new[path], array)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_norm_equal_to_the_bound_is_not_clipped(backend, dtype):
    """For every number: torch divides a number by an array as a product with the reciprocal."""
    need(backend, dtype)
    x = backend.asarray(normal((3, 4)), dtype)
    for most in range(1, 60):
        g = np.zeros((3, 4))
        g[1, 2] = most
        found = []
        for bound in (None, float(most)):
            config = af.Config(max_grad_norm=bound)
            _, state = af.step(x, backend.asarray(g, dtype), af.init(x, config), config)
            found.append(backend.numpy(state.moments.row))  # the step itself sees no scale
        assert np.array_equal(*found), most


@pytest.mark.parametrize("most", [1e-300, 1e-46, 1e-39, 1e300])
def test_any_bound_leaves_zero_gradients_alone(backend, most):
    x = backend.asarray(normal((3, 4)))
    config = af.Config(max_grad_norm=most)
    zero = backend.asarray(np.zeros((3, 4)))
    y, state = af.step(x, zero, af.init(x, config), config)
    assert np.array_equal(backend.numpy(y), backend.numpy(x))
    assert np.isfinite(backend.numpy(state.moments.row)).all()
