"""What may be turned, stacked, scaled or reordered without changing a step."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import drawn, flat, normal, rms, run
from _variety import VARIETY


@pytest.mark.parametrize("shape", [(6, 5), (40, 3), (1, 7), (5, 5)], ids=str)
@pytest.mark.parametrize("options", VARIETY.values(), ids=VARIETY)
def test_the_transpose_of_a_matrix_takes_the_transposed_steps(options, shape):
    x, grads = drawn(shape)
    config = af.Config(**options)
    straight, _ = run(x, grads, config)
    turned, _ = run(x.T.copy(), [g.T.copy() for g in grads], config)
    close(turned.T, straight, 1e-14)


@pytest.mark.parametrize("axes", [(0, 2, 1), (2, 0, 1), (2, 1, 0)], ids=str)
def test_permuted_axes_take_the_permuted_steps(axes):
    x, grads = drawn((3, 6, 5))
    straight, _ = run(x, grads, af.Config(0.1, factored_dims=(1, 2)))
    moved = tuple(axes.index(a) for a in (1, 2))
    turned, _ = run(
        x.transpose(axes).copy(), [g.transpose(axes).copy() for g in grads],
        af.Config(0.1, factored_dims=moved),
    )  # fmt: skip
    close(turned, straight.transpose(axes), 1e-14)


@pytest.mark.parametrize("options", VARIETY.values(), ids=VARIETY)
@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 7), (3, 2, 4, 5)], ids=str)
def test_a_stack_with_a_batch_axis_is_separate_tensors(options, shape):
    x, grads = drawn(shape)
    stacked, state = run(x, grads, af.Config(**options, batch_axes=0))
    for i in range(shape[0]):
        alone, alone_state = run(x[i], [g[i] for g in grads], af.Config(**options))
        close(stacked[i], alone, 1e-14)
        for name, slot in flat(alone_state.moments).items():
            close(flat(state.moments)[name][i], slot, 1e-13)


def test_two_batch_axes_are_separate_tensors():
    x, grads = drawn((2, 6, 5, 3))
    stacked, _ = run(x, grads, af.Config(0.1, batch_axes=(0, -1)))
    for i in range(2):
        for j in range(3):
            alone, _ = run(x[i, ..., j], [g[i, ..., j] for g in grads], af.Config(0.1))
            close(stacked[i, ..., j], alone, 1e-14)


def test_scopes_of_the_whole_tensor_share_one_rms_over_the_stack():
    x, g = normal((3, 6, 5)) * np.array([1.0, 4.0, 16.0])[:, None, None], normal((3, 6, 5), seed=1)
    base = {"batch_axes": 0, "clip_threshold": None}
    block, _ = run(x, [g], af.Config(0.1, **base))
    tensor, _ = run(x, [g], af.Config(0.1, **base, scale_scope="tensor"))
    for i in range(3):
        close((x - tensor)[i] / rms(x), (x - block)[i] / rms(x[i]), 1e-12)


def test_clipping_the_whole_tensor_shares_one_rms_over_the_stack():
    x, grads = drawn((3, 6, 5), steps=2)
    grads[1] *= np.array([1.0, 8.0, 64.0])[:, None, None]
    base = {"batch_axes": 0, "scale_parameter": False, "clip_threshold": None}
    before, state = run(x, grads[:1], af.Config(0.1, **base))

    def last(**options):
        config = af.Config(1.0, **{**base, **options})
        return af.update(grads[1], state, before, config)[0]

    u = last()
    close(last(clip_threshold=0.5, clip_scope="tensor"), u / (rms(u) / 0.5), 1e-14)
    block = last(clip_threshold=0.5)
    for i in range(3):
        close(block[i], u[i] / max(1.0, rms(u[i]) / 0.5), 1e-14)


@pytest.mark.parametrize("k", [-40, -20, 1, 20, 60])
@pytest.mark.parametrize("options", [{}, {"factored": False}, {"lr": 0.1, "beta1": 0.9}], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_scale_of_the_gradients_does_not_matter(options, k, dtype):
    x, grads = (np.asarray(a, dtype) for a in (normal((6, 5)), np.stack(drawn((6, 5))[1])))
    config = af.Config(**options, eps1=1e-30 if k > -30 else 0.0)
    plain, _ = run(x, grads, config)
    scaled, _ = run(x, [np.ldexp(g, k) for g in grads], config)
    close(scaled, plain, 1e-6 if dtype is np.float32 else 1e-14)


def test_doubling_parameters_doubles_steps():
    x, grads = drawn((6, 5))
    once, _ = run(x, grads)
    twice, _ = run(2 * x, grads)
    close(twice, 2 * once, 1e-15)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_the_order_of_a_list_and_other_dtypes_in_it_do_not_matter(order):
    """torch.optim lets the first tensor's eps stay for all the others."""
    config = af.Config(0.1, eps1="finfo", eps1_mode="clamp")
    x = [normal((6, 5)).astype(d) for d in (np.float16, np.float32, np.float64)]
    g = [(normal((6, 5), seed=1) * 1e-4).astype(a.dtype) for a in x]
    new, _ = run(x, [g], config)
    mixed, _ = run([x[i] for i in order], [[g[i] for i in order]], config)
    for at, i in enumerate(order):
        np.testing.assert_array_equal(mixed[at], new[i])


@pytest.mark.parametrize("options", VARIETY.values(), ids=VARIETY)
def test_maximize_is_minimising_the_negated_gradient(options):
    x, grads = drawn((6, 5))
    flipped = {**options, "maximize": not options.get("maximize", False)}
    down, _ = run(x, [-g for g in grads], af.Config(**options))
    up, _ = run(x, grads, af.Config(**flipped))
    np.testing.assert_array_equal(up, down)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("options", VARIETY.values(), ids=VARIETY)
def test_parameters_plus_update_are_the_step(options, dtype):
    x, grads = normal((6, 5)).astype(dtype), [g.astype(dtype) for g in drawn((6, 5))[1]]
    config = af.Config(**options)
    state = af.init(x, config)
    for g in grads:
        d, after = af.update(g, state, x, config)
        new, state = af.step(x, g, state, config)
        assert d.dtype == np.promote_types(dtype, np.float32)
        np.testing.assert_array_equal((x.astype(d.dtype) + d).astype(dtype), new)
        for name, slot in flat(state.moments).items():
            np.testing.assert_array_equal(flat(after.moments)[name], slot)
        assert after.step == state.step
        x = new
