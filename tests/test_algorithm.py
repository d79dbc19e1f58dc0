"""What has to hold whatever the numbers: symmetries, limits, and steps worked out by hand."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import flat, normal
from _variety import VARIETY


def run(x, grads, config=None):
    """The parameters after the steps, and the state."""
    config = config or af.Config()
    state = af.init(x, config)
    for g in grads:
        x, state = af.step(x, g, state, config)
    return x, state


def drawn(shape, steps=3):
    return normal(shape), [normal(shape, seed=t) for t in range(1, steps + 1)]


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


# Symmetries


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


# Limits


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


# By hand


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"lr": 0.5}, [2.0, 2.0], id="no decay: 4 - 0.5*4"),
        pytest.param({"lr": 0.5, "weight_decay": 0.1}, [1.2, 1.2], id="by alpha: less 0.1*0.5*4*4"),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "lr"},
            [1.8, 1.8],
            id="by lr: less 0.1*0.5*4",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "none"},
            [1.6, 1.6],
            id="by none: less 0.1*4",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "none", "weight_decay_first": True},
            [1.8, 1.8],
            id="first: 3.6 - 0.5*3.6",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "lr", "weight_decay_first": True},
            [1.9, 1.9],
            id="first, by lr: 3.8 - 0.5*3.8",
        ),
        pytest.param(
            {"weight_decay": 0.1, "weight_decay_by": "lr"},
            [3.56, 3.56],
            id="by lr where lr is None, which counts as 1: 4 - 0.01*4 - 0.1*4",
        ),
        pytest.param(
            {"lr": 0.5, "step_size": af.RelativeStep(cap=0.2), "weight_decay": 0.1},
            [3.44, 3.44],
            id="by alpha with a relative step: 4 - 0.1*4 - 0.1*0.1*4*4",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "none", "maximize": True},
            [5.6, 5.6],
            id="maximize still shrinks: 4 + 2 - 0.4",
        ),
        pytest.param(
            {"lr": 0.5, "scale_parameter": False, "weight_decay": 0.1},
            [3.3, 3.3],
            id="without scale: 4 - 0.5 - 0.1*0.5*4",
        ),
        pytest.param(
            {"lr": 0.5, "max_parameter_scale": 2.0}, [3.0, 3.0], id="scale capped: 4 - 0.5*2"
        ),
        pytest.param({"lr": 0.5, "eps2": 6.0}, [1.0, 1.0], id="scale from below: 4 - 0.5*6"),
        pytest.param({"lr": 0.5, "clip_threshold": 0.25}, [3.5, 3.5], id="clip: 4 - 0.5*4*0.25"),
        pytest.param({"lr": 0.5, "beta1": 0.75}, [3.5, 3.5], id="momentum from 0: 4 - 0.25*2"),
        pytest.param(
            {"lr": 0.5, "beta1": 0.75, "momentum_on": "update"}, [3.5, 3.5], id="of the update"
        ),
        pytest.param(
            {"lr": 0.5, "beta1": 0.75, "momentum_on": "grad"}, [3.5, 3.5], id="of the gradient"
        ),
    ],
)
def test_one_step_from_4_4_worked_out_by_hand(options, expected):
    """RMS(X) = 4, and U = 1 whatever the gradient, because V = G^2 at the first step."""
    new, _ = run(np.array([4.0, 4.0]), [np.array([3.0, 3.0])], af.Config(**options))
    close(new, np.array(expected), 1e-15)


def test_two_steps_by_hand():
    """V = 1, then 1 + 2**-0.8 (9 - 1); U = 3/sqrt(V) = 1.19 is clipped to 1."""
    x, state = run(np.array([1.0]), [np.array([1.0]), np.array([3.0])], af.Config(0.25))
    close(state.moments.full, np.array([1 + 8 * 2**-0.8]), 1e-15)
    close(x, np.array([0.75 * 0.75]), 1e-15)
    free, _ = run(
        np.array([1.0]), [np.array([1.0]), np.array([3.0])], af.Config(0.25, clip_threshold=None)
    )
    close(free, np.array([0.75 - 0.25 * 0.75 * 3 / np.sqrt(1 + 8 * 2**-0.8)]), 1e-15)


def test_a_factored_step_by_hand():
    """R = (2.5, 12.5)/..., as means: R = (1, 4), C = (1, 4), mean(R) = 2.5, V = R C / 2.5."""
    g = np.array([[1.0, 1.0], [1.0, np.sqrt(7.0)]])  # squares 1 1 / 1 7
    x, state = run(np.ones((2, 2)), [g], af.Config(0.5, clip_threshold=None))
    close(state.moments.row, np.array([[1.0], [4.0]]), 1e-15)
    close(state.moments.col, np.array([[1.0, 4.0]]), 1e-15)
    v = np.array([[0.4, 1.6], [1.6, 6.4]])
    close(x, 1.0 - 0.5 * g / np.sqrt(v), 1e-15)


@pytest.mark.parametrize(
    ("mode", "v"), [("grad_sq", 4.5), ("stats", 4.5), ("clamp", 4.0)], ids=lambda value: str(value)
)
def test_where_eps1_goes_in_a_full_moment(mode, v):
    config = af.Config(1.0, eps1=0.5, eps1_mode=mode, scale_parameter=False, clip_threshold=None)
    x, state = run(np.zeros(3), [np.full(3, 2.0)], config)
    close(x, np.full(3, -2.0 / np.sqrt(v)), 1e-15)
    assert state.moments.full[0] == (4.5 if mode == "grad_sq" else 4.0)


@pytest.mark.parametrize(
    ("mode", "eps1", "g2", "v"),
    [
        pytest.param("grad_sq", 0.5, 4.0, 4.5, id="grad_sq: (4 + 0.5)^2 / (4 + 0.5)"),
        pytest.param("stats", 0.5, 4.0, 4.5**2 / 4.0, id="stats: (4 + 0.5)^2 / 4"),
        pytest.param("clamp", 0.5, 4.0, 4.0, id="clamp, above: 4^2 / 4"),
        pytest.param("clamp", 0.25, 0.2, 0.16, id="clamp, mean(R) below eps1: 0.2^2 / 0.25"),
        pytest.param("clamp", 0.25, 0.1, 0.0625, id="clamp, V below eps1^2: 0.25^2"),
    ],
)
def test_where_eps1_goes_in_a_factored_moment(mode, eps1, g2, v):
    config = af.Config(1.0, eps1=eps1, eps1_mode=mode, scale_parameter=False, clip_threshold=None)
    g = np.full((2, 3), np.sqrt(g2))
    x, state = run(np.zeros((2, 3)), [g], config)
    close(x, -g / np.sqrt(v), 1e-15)
    kept = np.full((2, 1), 4.5 if mode == "grad_sq" else g2)
    close(state.moments.row, kept, 1e-15)


def test_eps1_clamps_v_at_its_square():
    config = af.Config(1.0, eps1=0.5, eps1_mode="clamp", scale_parameter=False, clip_threshold=None)
    small, _ = run(np.zeros(3), [np.full(3, 0.25)], config)
    close(small, np.full(3, -0.25 / 0.5), 1e-15)
    matrix, _ = run(np.zeros((2, 2)), [np.full((2, 2), 0.25)], config)
    close(matrix, np.full((2, 2), -0.25 / 0.5), 1e-15)  # V = (1/16)^2 / max(1/16, 1/2) < 1/4


def test_eps1_finfo_is_that_of_each_tensor():
    x = {d: np.zeros(3, d) for d in ("float16", "float32", "float64")}
    g = {d: np.full(3, 2.0**-20, d) for d in x}
    config = af.Config(
        1.0, eps1="finfo", eps1_mode="stats", scale_parameter=False, clip_threshold=None
    )
    _, _state = run(x, [g], config)
    d, _ = af.update(g, af.init(x, config), x, config)
    for name, eps in [("float16", 2.0**-10), ("float32", 2.0**-23), ("float64", 2.0**-52)]:
        close(d[name], np.full(3, -(2.0**-20) / np.sqrt(2.0**-40 + eps)), 1e-6)


# Rules and variants


def test_rules_give_each_tensor_its_own_options():
    x = {"w": normal((6, 5)), "b": normal((5,)), "emb": normal((9, 4))}
    g = {p: normal(a.shape, seed=1) for p, a in x.items()}
    rules = [
        ("b", {"weight_decay": 0.0, "scale_parameter": False}),
        ("emb", {"factored": False, "lr": 0.5}),
    ]
    config = af.Config(0.1, weight_decay=0.1, rules=rules)
    new, state = run(x, [g], config)
    for path, options in [("w", {}), ("b", rules[0][1]), ("emb", rules[1][1])]:
        alone = af.Config(**{"lr": 0.1, "weight_decay": 0.1, **options})
        want, want_state = run(x[path], [g[path]], alone)
        np.testing.assert_array_equal(new[path], want)
        assert flat(state.moments[path]).keys() == flat(want_state.moments).keys()


def adam(x, grads, lr, beta1, beta2):
    """Paper, Algorithm 1, with epsilon going to 0."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        x = x - lr * (m / (1 - beta1**t)) / np.sqrt(v / (1 - beta2**t))
    return x


def test_algorithm_1_is_adam():
    x, grads = drawn((6, 5), steps=8)
    config = af.variants.algorithm1(lr=0.01, beta1=0.9, beta2=0.99)
    new, _ = run(x, grads, config)
    close(new, adam(x, grads, 0.01, 0.9, 0.99), 1e-14)


def factored_adam(x, grads, lr, beta2, clip=None):
    """Paper, Algorithms 2 and 3: sums over rows and columns, bias corrected, no first moment."""
    n, m = x.shape
    r, c = np.zeros(n), np.zeros(m)
    for t, g in enumerate(grads, 1):
        r = beta2 * r + (1 - beta2) * (g**2) @ np.ones(m)
        c = beta2 * c + (1 - beta2) * np.ones(n) @ (g**2)
        v = np.outer(r, c) / r.sum() / (1 - beta2**t)
        u = g / np.sqrt(v)
        x = x - lr * (u if clip is None else u / max(1.0, rms(u) / clip))
    return x


@pytest.mark.parametrize("clip", [None, 0.7], ids=["algorithm 2", "algorithm 3"])
def test_algorithms_2_and_3_are_factored_adam(clip):
    x, grads = drawn((6, 5), steps=8)
    if clip is None:
        config = af.variants.algorithm2(lr=0.01, beta2=0.99)
    else:
        config = af.variants.algorithm3(lr=0.01, beta2=0.99, clip_threshold=clip)
    new, _ = run(x, grads, config)
    close(new, factored_adam(x, grads, 0.01, 0.99, clip), 1e-14)


def test_algorithm_3_clips_at_1_by_default():
    assert af.variants.algorithm3() == af.variants.algorithm2(clip_threshold=1.0)


def paper(x, grads):
    """Algorithms 4 and 5 with the settings of 6, for a matrix or a vector."""
    r = c = v = 0.0
    for t, g in enumerate(grads, 1):
        alpha = max(1e-3, rms(x)) * min(1e-2, t**-0.5)
        beta2 = 1 - t**-0.8
        squares = g**2 + 1e-30
        if x.ndim == 2:
            r = beta2 * r + (1 - beta2) * squares.sum(axis=1)
            c = beta2 * c + (1 - beta2) * squares.sum(axis=0)
            v = np.outer(r, c) / r.sum()
        else:
            v = beta2 * v + (1 - beta2) * squares
        u = g / np.sqrt(v)
        x = x - alpha * u / max(1.0, rms(u))
    return x


@pytest.mark.parametrize("shape", [(6, 5), (7,)], ids=["algorithm 4", "algorithm 5"])
def test_the_defaults_are_the_papers(shape):
    x, grads = drawn(shape, steps=8)
    assert af.variants.paper() == af.Config()
    close(run(x, grads)[0], paper(x, grads), 1e-14)


@pytest.mark.parametrize(
    "make", [af.variants.algorithm1, af.variants.algorithm2, af.variants.algorithm3]
)
def test_variants_take_further_options(make):
    config = make(weight_decay=0.1, maximize=True)
    assert isinstance(config, af.Config)
    assert config.weight_decay == 0.1
    assert config.maximize
    with pytest.raises(TypeError):
        make(no_such_option=1)
