"""At the edges: nothing to see, nothing there, one entry, the first step, the ten-thousandth."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import drawn, flat, normal, rms, run
from _variety import VARIETY


@pytest.mark.parametrize("mode", ["grad_sq", "stats", "clamp"])
@pytest.mark.parametrize("scale", [1.0, 2.0**60, 2.0**-60])
@pytest.mark.parametrize("factored", [True, False], ids=["factored", "full"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dead_rows_and_columns_give_zero_and_not_nan(mode, scale, factored, dtype):
    config = af.Config(0.1, eps1=1e-30, eps1_mode=mode, factored=factored)
    x, grads = drawn((6, 5), steps=4)
    for g in grads:
        g *= scale
        g[2], g[:, 3] = 0.0, 0.0
    new, state = run(x.astype(dtype), [g.astype(dtype) for g in grads], config)
    dead = np.zeros((6, 5), bool)
    dead[2], dead[:, 3] = True, True
    assert np.isfinite(new).all()
    np.testing.assert_array_equal(new[dead], x.astype(dtype)[dead])
    if scale == 1.0:
        assert np.all(new[~dead] != x.astype(dtype)[~dead])
    assert all(np.isfinite(slot).all() for slot in flat(state.moments).values())


@pytest.mark.parametrize("eps1", [1e-30, 0.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (5,), (6, 5), (2, 3, 4)], ids=str)
def test_zero_gradients_change_nothing(shape, dtype, eps1):
    x = np.asarray(normal(shape), dtype)
    config = af.Config(0.1, eps1=eps1, beta1=0.9)
    new, _ = run(x, [np.zeros_like(x)] * 3, config)
    np.testing.assert_array_equal(new, x)


def test_a_gradient_after_silence_is_taken():
    x = normal((6, 5))
    g = normal((6, 5), seed=1)
    new, _ = run(x, [np.zeros_like(x)] * 3 + [g], af.Config(0.1))
    assert np.all(new != x)
    assert np.isfinite(new).all()


@pytest.mark.parametrize("shape", [(), (1,), (7,)], ids=str)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
def test_the_first_step_of_a_vector_is_the_sign(shape, scale):
    """beta2 is 0 at t = 1, so V is the gradient's square and U its sign."""
    x, (g,) = normal(shape), [normal(shape, seed=1) * scale]
    new, _ = run(x, [g])
    close(new, x - 1e-2 * max(1e-3, rms(x)) * np.sign(g), 1e-15)


def test_the_first_step_of_a_rank_one_gradient_is_the_sign():
    g = np.outer(normal((6,)), normal((5,)))
    x = normal((6, 5))
    new, _ = run(x, [g], af.Config(0.1, scale_parameter=False))
    close(new, x - 0.1 * np.sign(g), 1e-14)


@pytest.mark.parametrize("shape", [(6, 5), (30,), ()], ids=str)
def test_the_clip_can_only_shrink(shape):
    x, grads = drawn(shape)
    grads[-1] = grads[-1] * 100.0
    before, _ = run(x, grads[:-1], af.Config(0.1, clip_threshold=None))
    for threshold in (1e9, 1.0, 0.1):
        options = af.Config(0.1, clip_threshold=threshold, scale_parameter=False)
        state = run(x, grads[:-1], options)[1]
        d, _ = af.update(grads[-1], state, before, options)
        assert rms(d) <= 0.1 * threshold * (1 + 1e-12)
        unclipped, _ = af.update(
            grads[-1], state, before, af.Config(0.1, clip_threshold=None, scale_parameter=False)
        )
        assert np.all(np.abs(d) <= np.abs(unclipped) * (1 + 1e-12))
        if threshold == 1e9:
            close(d, unclipped, 1e-15)


def test_a_decay_offset_beyond_the_counter_stays_finite():
    x, grads = drawn((6, 5))
    new, state = run(x, grads, af.Config(0.1, decay_offset=10))
    assert np.isfinite(new).all()
    close(state.moments.row, np.mean(grads[-1] ** 2, axis=1, keepdims=True) + 1e-30, 1e-14)


@pytest.mark.parametrize("options", VARIETY.values(), ids=VARIETY)
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)], ids=str)
def test_empty_tensors_come_back_unchanged(shape, options):
    x = np.zeros(shape, np.float32)
    config = af.Config(**options)
    new, state = run(x, [x, x], config)
    assert new.shape == shape
    assert new.dtype == np.float32
    assert all(slot.size == 0 for slot in flat(state.moments).values())


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (2, 0, 3)], ids=str)
def test_empty_tensors_with_axes_of_their_own(shape):
    x = np.zeros(shape, np.float32)
    new, state = run(x, [x, x], af.Config(factored_dims=(0, 1)))
    assert new.shape == shape
    assert all(np.isfinite(slot).all() for slot in flat(state.moments).values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", ["defaults", "full", "clip off", "momentum of gradients"])
def test_what_is_not_finite_propagates_within_its_tensor_alone(bad, options):
    """Never hidden: a bound that swallows NaN would train on with a step of 1."""
    x, config = [normal((6, 5)), normal((6, 5))], af.Config(**VARIETY[options])
    g = [normal((6, 5), seed=1), normal((6, 5), seed=1)]
    g[0][2, 3] = bad
    with np.errstate(all="ignore"):
        (hurt, whole), _ = run(x, [g], config)
    assert np.isnan(hurt[2, 3])
    np.testing.assert_array_equal(whole, run(x[1], [g[1]], config)[0])


def test_every_rank_up_to_five_steps():
    for rank in range(6):
        x, grads = drawn((2, 3, 4, 2, 3)[:rank])
        new, _ = run(x, grads)
        assert new.shape == x.shape
        assert isinstance(new, np.ndarray)
        assert np.all(new != x)


@pytest.mark.parametrize(
    ("lr", "step_size", "alpha"),
    [
        (0.1, None, 0.1),
        (0.1, af.RelativeStep(), 0.1 * 1e-2),
        (0.1, af.RelativeStep(cap=None), 0.01),
        (None, None, 1e-2),
        (None, af.RelativeStep(cap=1.0), 0.01),
    ],
    ids=str,
)
def test_a_rate_given_is_never_capped_unless_asked_to_be(lr, step_size, alpha):
    """At step 10 000; Keras and torch.optim apply 0.01 whatever is asked for."""
    x, g = normal((5,)), np.ones(5)
    config = af.Config(lr, step_size=step_size, scale_parameter=False, clip_threshold=None)
    state = af.State(9_999, af.init(x, config).moments._replace(full=np.ones(5)))
    new, _ = af.step(x, g, state, config)
    close(x - new, np.full(5, alpha), 1e-10)
