"""adafactor_jax inside optax: its wrappers, its checks of its own optimizers, its schedules."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import normal

pytestmark = pytest.mark.backends("jax")
optax = pytest.importorskip("optax", reason="optax is not installed")


@pytest.fixture
def jax(backend):
    # optax promotes dtypes itself: bfloat16 parameters times a float32 rate, int32 counts.
    with backend.lib.numpy_dtype_promotion("standard"):
        yield backend.lib


@pytest.fixture
def lib(jax):
    import adafactor_jax

    return adafactor_jax


SHAPES = {"a": {"w": (6, 5), "b": (5,)}, "c": [(4, 3), ()]}
LR = 0.1


def tree(jax, seed=0, dtype="float32"):
    def leaf(shape):
        return jax.numpy.asarray(normal(shape, seed=seed).astype(np.float32)).astype(dtype)

    return jax.tree.map(leaf, SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def train(jax, tx, n=3, dtype="float32", jit=True):
    def step(x, g, state):
        d, state = tx.update(g, state, x)
        return optax.apply_updates(x, d), state

    step = jax.jit(step) if jit else step
    x = tree(jax, dtype=dtype)
    state = tx.init(x)
    before = structure(jax, state)
    for t in range(1, n + 1):
        x, state = step(x, tree(jax, t, dtype), state)
        assert structure(jax, state) == before
    return x, state


def structure(jax, tree):
    return jax.tree.structure(tree), [
        (a.shape, a.dtype) for a in map(np.asarray, leaves(jax, tree))
    ]


def leaves(jax, tree):
    return jax.tree.leaves(tree)


def same(jax, got, want, tolerance=1e-6):
    for a, b in zip(leaves(jax, got), leaves(jax, want), strict=True):
        close(np.asarray(a), np.asarray(b), tolerance)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
def test_chain(jax, lib, jit):
    tx = optax.chain(optax.clip_by_global_norm(1.0), lib.adafactor(LR), optax.zero_nans())
    x, _ = train(jax, tx, jit=jit)
    plain, _ = train(jax, lib.adafactor(LR, max_grad_norm=1.0))
    same(jax, x, plain)


def test_the_direction_chained_is_the_optimizer_without_scale(jax, lib):
    tx = optax.chain(lib.scale_by_adafactor(), optax.scale_by_learning_rate(LR))
    same(jax, train(jax, tx)[0], train(jax, lib.adafactor(LR, scale_parameter=False))[0])


def masked(jax):
    return jax.tree.map(lambda s: len(s) > 1, SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def test_masked(jax, lib):
    x, state = train(jax, optax.masked(lib.adafactor(LR), masked(jax)))
    plain, _ = train(jax, lib.adafactor(LR))
    same(jax, x["a"]["w"], plain["a"]["w"])
    sums = tree(jax)["a"]["b"] + sum(tree(jax, t)["a"]["b"] for t in (1, 2, 3))
    same(jax, x["a"]["b"], sums)  # optax passes masked gradients on as they are
    assert isinstance(state.inner_state.moments["a"]["b"], optax.MaskedNode)


@pytest.mark.parametrize("name", ["partition", "multi_transform"])
def test_partition(jax, lib, name):
    labels = jax.tree.map(lambda m: "matrix" if m else "rest", masked(jax))
    groups = {"matrix": lib.adafactor(LR), "rest": optax.sgd(LR), "none": lib.adafactor()}
    x, _ = train(jax, getattr(optax, name)(groups, labels))
    plain, _ = train(jax, lib.adafactor(LR))
    same(jax, (x["a"]["w"], x["c"][0]), (plain["a"]["w"], plain["c"][0]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wrapper", ["MultiSteps", "apply_if_finite", "conditionally_transform"])
def test_conditional_wrappers(jax, lib, wrapper, dtype):
    """Both branches of their lax.cond must have one dtype."""
    inner = lib.adafactor(LR, rounding="stochastic")
    tx = {
        "MultiSteps": lambda: optax.MultiSteps(inner, every_k_schedule=2),
        "apply_if_finite": lambda: optax.apply_if_finite(inner, 3),
        "conditionally_transform": lambda: optax.conditionally_transform(
            inner, lambda step, **_: step < 1
        ),
    }[wrapper]()
    x, _ = train(jax, tx, dtype=dtype)
    assert {a.dtype.name for a in leaves(jax, x)} == {dtype}


def test_multi_steps_is_a_step_with_the_mean(jax, lib):
    x, state = train(jax, optax.MultiSteps(lib.adafactor(LR), every_k_schedule=3))
    mean = jax.tree.map(lambda *g: sum(g) / 3, *[tree(jax, t) for t in (1, 2, 3)])
    tx = lib.adafactor(LR)
    d, _ = tx.update(mean, tx.init(tree(jax)), tree(jax))
    same(jax, x, optax.apply_updates(tree(jax), d))
    assert int(state.inner_opt_state.step) == 1


def test_apply_if_finite_leaves_the_state_alone(jax, lib):
    tx, x = optax.apply_if_finite(lib.adafactor(LR), 3), tree(jax)
    state = tx.init(x)
    bad = jax.tree.map(lambda a: a * np.nan, x)
    d, after = jax.jit(tx.update)(bad, state, x)
    assert all(not np.asarray(a).any() for a in leaves(jax, d))
    same(jax, after.inner_state, state.inner_state, 0.0)


def test_inject_hyperparams(jax, lib):
    """Under jit, with more options than the rate; optax's own adafactor fails here (optax 412)."""
    tx = optax.inject_hyperparams(lib.adafactor)(
        LR, weight_decay=0.1, clip_threshold=0.5, min_dim_size_to_factor=5, seed=3
    )
    x, state = train(jax, tx)
    options = {"weight_decay": 0.1, "clip_threshold": 0.5, "min_dim_size_to_factor": 5}
    same(jax, x, train(jax, lib.adafactor(LR, **options))[0])
    assert set(state.hyperparams) == {"lr", "weight_decay"}
    update = jax.jit(tx.update)
    one, _ = update(tree(jax, 9), state, x)
    state.hyperparams["lr"] = jax.numpy.asarray(2 * LR, np.float32)
    same(jax, update(tree(jax, 9), state, x)[0], jax.tree.map(lambda d: 2 * d, one))
    assert update._cache_size() == 1


def test_optax_schedules(jax, lib):
    """Injected, or made to count from 0, they are what optax's own optimizers see."""
    schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, LR, 2, 10)
    ours, _ = train(jax, lib.adafactor(lib.zero_based(schedule)))
    injected, _ = train(jax, optax.inject_hyperparams(lib.adafactor)(lr=schedule))
    same(jax, ours, injected)
    scaled = optax.chain(lib.scale_by_adafactor(), optax.scale_by_learning_rate(schedule))
    unscaled = lib.adafactor(lib.zero_based(schedule), scale_parameter=False)
    # Two programs, whose roundings differ: 1.35e-6 on the scalar.
    same(jax, train(jax, scaled)[0], train(jax, unscaled)[0], 2e-6)


def test_tree_map_params(jax, lib):
    """Every array of a tensor, or all its slots together beside another tree like params."""
    for tx in (lib.adafactor(LR, beta1=0.9), optax.chain(optax.clip(1.0), lib.adafactor(LR))):
        state = tx.init(tree(jax))
        none = optax.tree_utils.tree_map_params(
            tx, lambda a: None, state, transform_non_params=lambda a: a
        )
        assert len(leaves(jax, none)) == 1  # the counter
        names = jax.tree.map(lambda a: a.ndim, tree(jax))
        counted = optax.tree_utils.tree_map_params(
            tx,
            lambda moments, rank: moments._replace(row=rank),
            state,
            names,
            is_leaf=lambda x: isinstance(x, af.Moments),
        )
        inner = counted if isinstance(counted, af.State) else counted[1]
        assert [m.row for m in moments(jax, inner)] == leaves(jax, names)


def moments(jax, state):
    return jax.tree.leaves(state.moments, is_leaf=lambda x: isinstance(x, af.Moments))


def test_tree_get_and_set_find_the_counter(jax, lib):
    _, state = train(jax, optax.chain(optax.clip(1.0), lib.adafactor(LR)))
    assert int(optax.tree_utils.tree_get(state, "step")) == 3
    state = optax.tree_utils.tree_set(state, step=jax.numpy.asarray(7, np.int32))
    assert int(state[1].step) == 7


# What optax asks of its own optimizers (its alias and contrib common tests).


def parabola(jax):
    final = jax.numpy.asarray([1.0, -1.0])
    return jax.numpy.asarray([-1.0, 10.0]), final, lambda p: ((p - final) ** 2).sum()


def rosenbrock(jax):
    def f(p):
        return (1.0 - p[0]) ** 2 + 100.0 * (p[1] - p[0] ** 2) ** 2

    return jax.numpy.zeros(2), jax.numpy.ones(2), f


@pytest.mark.parametrize(
    ("target", "dtype"),
    # Rosenbrock's valley is narrower than bfloat16's spacing at 1.
    [(parabola, "float32"), (parabola, "bfloat16"), (rosenbrock, "float32")],
)
def test_optimizes_what_optax_tries_its_own_on(jax, lib, target, dtype):
    start, final, f = target(jax)
    tx = lib.adafactor(5e-3, rounding="kahan")
    slope = jax.grad(f)

    def body(carry, _):
        p, state = carry
        d, state = tx.update(slope(p), state, p)
        return (optax.apply_updates(p, d), state), None

    p = start.astype(dtype)
    (p, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, None, length=10000))((p, tx.init(p)))
    assert p.dtype == dtype
    assert np.abs(np.asarray(p, np.float32) - np.asarray(final)).max() < 3e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_updates_have_the_dtype_of_parameters(jax, lib, dtype):
    for tx in (lib.adafactor(LR), lib.adafactor(), lib.scale_by_adafactor()):
        x = tree(jax, dtype=dtype)
        state = tx.init(x)
        d, after = tx.update(x, state, x)
        assert {a.dtype.name for a in leaves(jax, d)} == {dtype}
        assert structure(jax, after) == structure(jax, state)


def test_zero_float16_gradients_move_nothing(jax, lib):
    x = tree(jax, dtype="float16")
    tx = lib.adafactor(LR)
    zero = jax.tree.map(jax.numpy.zeros_like, x)
    d, _ = tx.update(zero, tx.init(x), x)
    assert all(not np.asarray(a).any() for a in leaves(jax, d))


def test_a_16_bit_update_loses_one_rounding_and_no_more(jax, lib):
    """docs/jax.md gives the share: what is not bit for bit the parameter of make_step."""
    options = {"lr": 0.01, "rounding": "stochastic"}
    x = {"w": jax.numpy.asarray(normal((256, 256)).astype(np.float32)).astype("bfloat16")}
    g = {"w": jax.numpy.asarray(normal((256, 256), seed=1).astype(np.float32)).astype("bfloat16")}
    tx = lib.adafactor(**options)
    d, _ = jax.jit(tx.update)(g, tx.init(x), x)
    got = optax.apply_updates(x, d)["w"]
    init, step = lib.make_step(**options)
    state = init(x)
    want = step(x, g, state)[0]["w"]
    share = np.mean(np.asarray(got, np.float32) != np.asarray(want, np.float32))
    assert share < 0.01
