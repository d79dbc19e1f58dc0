"""`momentum_dtype="int8"`: its layout, its error, its draws, and what it does to training."""

import math

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _close import close, dtype_of
from _run import flat, normal, numbers
from test_rounding import drawn_bits

BLOCK = 128
LAYOUT = {  # shape: that of the scales
    (): (),
    (1,): (1,),
    (127,): (1,),
    (128,): (1,),
    (129,): (2,),
    (3, 300): (3, 3),
    (300, 3): (300, 1),
    (2, 3, 256): (2, 3, 2),
    (4, 0): (4, 0),
    (0, 5): (0, 1),
}
BASE = {"lr": 1.0, "scale_parameter": False, "clip_threshold": None, "momentum_dtype": "int8"}
KINDS = pytest.mark.parametrize("rounding", ["nearest", "stochastic"])


def spread(m, scale):
    """The scale of each entry."""
    wide = np.repeat(np.atleast_1d(scale), BLOCK, axis=-1)
    return wide[..., : m.shape[-1] if m.ndim else 1].reshape(m.shape)


def average(backend, moments):
    q, scale = backend.numpy(moments.momentum), backend.numpy(moments.momentum_scale)
    assert dtype_of(moments.momentum) == "int8"
    assert np.all(np.abs(q) <= 127)
    return q * spread(q, scale), spread(q, scale)


@pytest.mark.parametrize("shape", LAYOUT, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.backends("numpy", "torch", "strict", "jax", "dask", "cupy")
def test_an_entry_and_a_scale_per_block(backend, shape, dtype):
    need(backend, dtype)
    with backend.scope(dtype):
        x = backend.asarray(np.zeros(shape), dtype)
        m = af.init(x, af.Config(beta1=0.9, momentum_dtype="int8")).moments
        assert (tuple(m.momentum.shape), dtype_of(m.momentum)) == (shape, "int8")
        wide = "float64" if dtype == "float64" else "float32"
        assert (tuple(m.momentum_scale.shape), dtype_of(m.momentum_scale)) == (LAYOUT[shape], wide)
        assert not backend.numpy(m.momentum).any()


@KINDS
@pytest.mark.parametrize("shape", [s for s in LAYOUT if 0 not in s], ids=str)
@pytest.mark.backends("numpy", "torch", "strict", "jax", "cupy")
def test_the_error_is_within_the_scale(backend, shape, rounding):
    """With momentum_on="grad" and beta1 = 0 the average is the gradient itself."""
    if backend.name == "jax" and len(shape) != 2:
        pytest.skip("each shape is compiled anew")
    config = af.Config(**BASE, beta1=0.0, momentum_on="grad", momentum_rounding=rounding)
    one = lambda x, g, s: af.step(x, g, s, config)  # noqa: E731
    step = backend.jit(one) if "jit" in backend.modes else one
    x = backend.asarray(np.zeros(shape))
    _, state = step(x, backend.asarray(normal(shape)), af.init(x, config))
    held, scale = average(backend, state.moments)
    exact = normal(shape).astype(np.float32).astype(np.float64)
    for index in np.ndindex(*scale.shape[:-1]):
        for start in range(0, scale.shape[-1] if shape else 1, BLOCK):
            at = (*index, slice(start, start + BLOCK)) if shape else ()
            close(scale[at].max(), np.abs(exact[at]).max() / 127, 2.0**-22, "scale")
            assert scale[at].max() == scale[at].min()
    worst = np.max(np.abs(held - exact) / scale)
    assert worst <= (0.5 + 1e-4 if rounding == "nearest" else 1.0)
    assert worst > (0.3 if rounding == "nearest" else 0.6) or exact.size < 100


def test_a_draw_by_hand():
    """q = floor(v + (e >> 16) 2^-16), at most 127; e as for parameters, but from stream 1."""
    config = af.Config(
        **BASE, beta1=0.0, momentum_on="grad", momentum_rounding="stochastic", seed=2**33 + 7
    )
    x, g = {"w": np.zeros((3, 200), "f4")}, {"w": normal((3, 200)).astype("f4")}
    state = af.init(x, config)
    for t in (1, 2):
        x, state = af.step(x, g, state, config)
        m = state.moments["w"]
        scale = spread(g["w"], m.momentum_scale)
        for i, j in [(0, 0), (0, 127), (1, 128), (2, 199), (1, 77)]:
            e = drawn_bits(i, j, seed=2**33 + 7, t=t, path="w", stream=1)
            v = np.float32(g["w"][i, j] / scale[i, j])
            want = min(127, math.floor(np.float32(v + np.float32((e >> 16) * 2.0**-16))))
            assert m.momentum[i, j] == want, (i, j, t)


def test_stochastic_rounding_of_the_average_is_unbiased():
    g = np.full((64, 128), 0.3, np.float32)
    g[:, 0] = 1.0  # the scale is 1/127, and 0.3 lies at 38.1 of them
    total, times = np.zeros(()), 40
    for seed in range(times):
        config = af.Config(
            **BASE, beta1=0.0, momentum_on="grad", momentum_rounding="stochastic", seed=seed
        )
        _, state = af.step(g, g, af.init(g, config), config)
        assert set(np.unique(state.moments.momentum)) <= {38, 39, 127}
        total = total + np.mean(state.moments.momentum[:, 1:].astype(float))
    share = 0.3 * 127 - 38
    deviation = math.sqrt(share * (1 - share) / (times * 64 * 127))
    assert abs(total / times - 38 - share) < 4 * deviation


@KINDS
@pytest.mark.backends("numpy", "torch", "strict", "jax", "cupy")
def test_blocks_of_zeros_stay_zero_beside_others(backend, rounding):
    config = af.Config(0.1, beta1=0.9, momentum_dtype="int8", momentum_rounding=rounding)
    g = normal((5, 300))
    g[1], g[:, 128:256] = 0.0, 0.0
    one = lambda x, g, s: af.step(x, g, s, config)  # noqa: E731
    step = backend.jit(one) if "jit" in backend.modes else one
    x = backend.asarray(normal((5, 300)))
    state = af.init(x, config)
    for _ in range(3):
        new, state = step(x, backend.asarray(g), state)
    held, scale = average(backend, state.moments)
    assert not held[g == 0].any()
    assert not scale[:, 128:256].any()
    np.testing.assert_array_equal(backend.numpy(new)[g == 0], backend.numpy(x)[g == 0])
    assert held[g != 0].any()


STREAMS = {
    "rows": (40, 300),
    "the last axis is cut": (2, 3000),
    "a vector": (5001,),
    "a multiple": (3, 1024),
    "three axes": (3, 7, 260),
}


@KINDS
@pytest.mark.parametrize("on", ["scaled_update", "update", "grad"])
@pytest.mark.parametrize("shape", STREAMS.values(), ids=STREAMS)
@pytest.mark.backends("numpy", "torch", "cupy")
def test_streamed_is_whole(backend, shape, on, rounding):
    """All is elementwise here, so that nothing but the cutting could differ."""
    ends = []
    for scratch in (None, 1024, 1 << 14):
        config = af.Config(
            0.1, beta1=0.9, momentum_dtype="int8", momentum_rounding=rounding, momentum_on=on,
            factored=False, scale_parameter=False, clip_threshold=None, max_scratch_bytes=scratch,
        )  # fmt: skip
        x = backend.asarray(normal(shape))
        state = af.init(x, config)
        for t in (1, 2, 3):
            x, state = af.step(x, backend.asarray(normal(shape, seed=t)), state, config)
        found = numbers(backend, {"x": x, "m": state.moments})
        ends.append({p: a.tobytes() for p, a in found.items()})
    assert ends[0] == ends[1] == ends[2]


ARITHMETIC = {
    "float32": {},
    "buffer": {"momentum_arithmetic": "buffer"},
    "buffer, stochastic": {"momentum_arithmetic": "buffer", "momentum_rounding": "stochastic"},
}


@pytest.mark.parametrize("options", ARITHMETIC.values(), ids=ARITHMETIC)
def test_what_is_used_and_what_is_stored(options):
    """ "buffer" uses the stored average, "float32" the unrounded one, in the step that makes it."""
    config = af.Config(
        0.5, scale_parameter=False, clip_threshold=None, factored=False, beta1=0.5,
        momentum_on="update", momentum_dtype="int8", **options,
    )  # fmt: skip
    x, g = np.zeros((3, 200), "f4"), normal((3, 200)).astype("f4")
    filled = {
        "momentum": np.full((3, 200), 50, np.int8), "momentum_scale": np.full((3, 2), 0.01, "f4"),
    }  # fmt: skip
    old = af.init(x, config)
    old = old._replace(moments=old.moments._replace(**filled))
    new, state = af.step(x, g, old, config)
    exact = 0.5 * 50 * 0.01 + 0.5 * np.sign(g)
    m = state.moments
    stored = m.momentum * spread(m.momentum, m.momentum_scale)
    used = stored if "momentum_arithmetic" in options else exact
    close(new, -0.5 * used, 1e-6)
    assert np.max(np.abs(stored - exact)) > 1e-4


def test_weak_arithmetic_is_refused_with_two_ways_out():
    with pytest.raises(af.ConfigError, match=r"(?s)momentum_dtype='int8'.*'float32'.*'bfloat16'"):
        af.Config(beta1=0.9, momentum_dtype="int8", momentum_arithmetic="weak")


def train(steps=200, **options):
    """Two layers on a spiral of three arms, a tenth of it mislabelled; the mean loss at the end."""
    rng = np.random.default_rng(0)
    arm = np.repeat(np.arange(3), 60)
    r = np.tile(np.linspace(0.1, 1.0, 60), 3)
    angle = arm * 2.1 + 3.0 * r + 0.1 * rng.standard_normal(180)
    seen = np.where(rng.random(180) < 0.1, (arm + 1) % 3, arm)
    inputs, target = np.stack([r * np.sin(angle), r * np.cos(angle)], 1), np.eye(3)[seen]
    x = {"w": rng.standard_normal((2, 64)) * 0.7, "b": np.zeros(64),
         "v": rng.standard_normal((64, 3)) * 0.1, "c": np.zeros(3)}  # fmt: skip
    x = {p: a.astype("f4") for p, a in x.items()}
    config = af.Config(lambda t: 0.05 * (1 - t / (steps + 1)), scale_parameter=False, **options)
    state, losses = af.init(x, config), []
    for _ in range(steps):
        hidden = np.tanh(inputs @ x["w"] + x["b"])
        scores = hidden @ x["v"] + x["c"]
        chance = np.exp(scores - scores.max(1, keepdims=True))
        chance /= chance.sum(1, keepdims=True)
        losses.append(-np.mean(np.log(np.sum(chance * target, axis=1))))
        back = (chance - target) / len(target)
        inner = back @ x["v"].T * (1 - hidden**2)
        g = {"w": inputs.T @ inner, "b": inner.sum(0), "v": hidden.T @ back, "c": back.sum(0)}
        x, state = af.step(x, {p: a.astype("f4") for p, a in g.items()}, state, config)
    assert losses[-1] < 0.5 * losses[0], losses[-1]
    return float(np.mean(losses[-steps // 10 :]))


BUFFERS = {
    "float16": {"momentum_dtype": "float16"},
    "bfloat16": {"momentum_dtype": "bfloat16"},
    "bfloat16, stochastic": {"momentum_dtype": "bfloat16", "momentum_rounding": "stochastic"},
    "int8": {"momentum_dtype": "int8"},
    "int8, stochastic": {"momentum_dtype": "int8", "momentum_rounding": "stochastic"},
}


@pytest.mark.parametrize("on", ["scaled_update", "grad"])
def test_training_reaches_the_loss_of_float32_momentum(on):
    want = train(beta1=0.9, momentum_on=on)
    for name, options in BUFFERS.items():
        if name.startswith("bfloat16"):
            pytest.importorskip("ml_dtypes", reason="no bfloat16")
        got = train(beta1=0.9, momentum_on=on, **options)
        assert abs(got / want - 1) < 0.02, f"{name}: {got} instead of {want}"


def test_non_finite_averages_are_seen():
    config = af.Config(0.1, beta1=0.9, momentum_dtype="int8")
    x, g = normal((3, 200)).astype("f4"), normal((3, 200), seed=1).astype("f4")
    g[1, 150] = np.nan
    with np.errstate(invalid="ignore"):
        new, state = af.step(x, g, af.init(x, config), config)
        again, _ = af.step(x, normal((3, 200), seed=2).astype("f4"), state, config)
    assert np.isnan(new).any()
    assert np.isnan(state.moments.momentum_scale).any()
    assert np.isnan(again).any()
    assert set(flat(state.moments)) == {"row", "col", "momentum", "momentum_scale"}
