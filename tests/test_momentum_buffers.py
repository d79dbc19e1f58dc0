"""16-bit momentum: what is rounded when, in each arithmetic, against the oracle."""

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _close import DIGITS, PARAMS, close, close_narrow, dtype_of
from _run import core, flat, normal, oracle, rounded

SHAPE, STEPS = (31, 33), 4


@pytest.mark.parametrize("arithmetic", ["float32", "buffer", "weak"])
@pytest.mark.parametrize("on", ["scaled_update", "update", "grad"])
@pytest.mark.parametrize("buffer", ["bfloat16", "float16"])
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_trajectory(backend, buffer, on, arithmetic):
    need(backend, buffer)
    mode = backend.modes[-1]  # eager JAX takes seconds
    # 9m + z of two short numbers is a tie in one of ten entries, and 0.9 rounds it either way.
    beta1 = 0.875 if arithmetic == "buffer" else 0.9
    options = {
        "lr": 0.1, "beta1": beta1, "momentum_on": on, "momentum_dtype": buffer,
        "momentum_arithmetic": arithmetic, "maximize": True,
    }  # fmt: skip
    params = rounded(normal(SHAPE), "float32")
    grads = [rounded(normal(SHAPE, seed=t), "float32") for t in range(1, STEPS + 1)]
    after, moments = core(backend, params, grads, af.Config(**options), mode=mode)
    expected, expected_moments, _ = oracle(params, grads, options)
    reached = np.zeros(SHAPE)
    for t in range(STEPS):
        want = expected_moments[t]["momentum"]
        reached = np.maximum(reached, np.abs(want))
        close_narrow(moments[t]["momentum"], want, buffer, f"buffer at step {t + 1}", reached, 5e-3)
        error = np.abs(after[t][""] - expected[t][""]) / np.abs(expected[t][""]).max()
        # A flipped entry of the buffer is seen in the next step's parameter, and nowhere else.
        assert np.mean(error > PARAMS["float32"]) < 5e-3
        assert error.max() < 2.0 ** -DIGITS[buffer][0]


@pytest.mark.parametrize("buffer", ["bfloat16", "float16"])
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_the_decay_of_a_bfloat16_buffer_is_0_9_and_not_the_nearest_bfloat16(backend, buffer):
    """optax multiplies by 0.8984; here only `momentum_arithmetic="weak"` does."""
    need(backend, buffer)
    zeros, ones = backend.asarray(np.zeros(4)), backend.asarray(np.ones(4))
    left = {}
    for arithmetic in ("float32", "buffer", "weak"):
        config = af.Config(
            1.0, beta1=0.9, momentum_dtype=buffer, momentum_arithmetic=arithmetic,
            scale_parameter=False, clip_threshold=None,
        )  # fmt: skip
        state = af.init(zeros, config)
        full = ones * 1.0
        moments = state.moments._replace(full=full, momentum=backend.asarray(np.ones(4), buffer))
        x, _ = af.step(zeros, zeros, af.State(5, moments), config)
        left[arithmetic] = -float(backend.numpy(x)[0])
    nearest = float(rounded(np.array(0.9), buffer))
    assert left["float32"] == pytest.approx(0.9, rel=1e-6)
    assert left["buffer"] == pytest.approx(nearest, rel=1e-6)  # the sum is rounded, not the decay
    assert left["weak"] == pytest.approx(nearest, rel=1e-6)
    assert abs(nearest - 0.9) > 1e-4 or buffer == "float16"


@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_float32_momentum_of_a_float64_tensor_is_float64(backend):
    with backend.scope("float64"):
        x = backend.asarray(normal((3, 4)), "float64")
        config = af.Config(0.1, beta1=0.9)
        _, state = af.step(x, x, af.init(x, config), config)
        assert {dtype_of(slot) for slot in flat(state.moments).values()} == {"float64"}


@pytest.mark.backends("strict", "dask")
def test_a_library_without_the_buffer_says_so(backend):
    missing = "float16" if backend.name == "strict" else "bfloat16"
    config = af.Config(beta1=0.9, momentum_dtype=missing)
    with pytest.raises(af.DTypeError, match=f"no dtype '{missing}'. Use 'float32'"):
        af.init(backend.asarray(np.ones((2, 2))), config)


def test_zero_beta1_is_no_momentum_but_keeps_the_slot():
    x, g = normal((5, 4)), normal((5, 4), seed=1)
    plain, _ = af.step(x, g, af.init(x))
    config = af.Config(beta1=0.0)
    zero, state = af.step(x, g, af.init(x, config), config)
    close(zero, plain, 1e-15)
    close(state.moments.momentum, x - plain, 1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.backends("numpy", "torch")
def test_an_average_that_is_a_tie_goes_to_even_as_torchs_lerp(backend, sign):
    """(9 * 16 + 11) / 10 units above 1 is 15.5, but 0.9 * m + 0.1 * z in float32 is less."""
    need(backend, "bfloat16")
    m, z, even = (sign * (1 + k * 2.0**-7) for k in (16, 11, 16))
    x, g = backend.asarray(np.ones(4)), backend.asarray(np.full(4, z))
    config = af.Config(
        1.0, beta1=0.9, momentum_on="grad", momentum_dtype="bfloat16", momentum_arithmetic="buffer"
    )
    state = af.init(x, config)
    held = backend.asarray(np.full(4, m), "bfloat16")
    state = state._replace(moments=state.moments._replace(momentum=held))
    _, after = af.step(x, g, state, config)
    np.testing.assert_array_equal(backend.numpy(after.moments.momentum), np.full(4, even))


@pytest.mark.backends("torch", "jax")
def test_no_momentum_by_an_array_forgets_the_past(backend):
    config = af.Config(beta1=lambda t: t * 0.0, momentum_on="grad", momentum_dtype="bfloat16",
                       momentum_arithmetic="buffer")  # fmt: skip
    x = backend.asarray(np.ones((3, 4)))
    state = af.init(x, config)
    for size in (1e30, 1.0):
        x, state = af.step(x, backend.asarray(np.full((3, 4), size)), state, config)
    assert np.array_equal(backend.numpy(state.moments.momentum), np.ones((3, 4)))
