"""adafactor_jax: the core's numbers, on JAX's own trees, under JAX's transformations."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import adafactor_core as af
from _backends import load
from _close import close, close_narrow
from _run import flat, normal
from _variety import CAREFUL, VARIETY

pytestmark = pytest.mark.backends("jax")
CONFIG = {"lr": lambda t: 0.1 * t**-0.5, "beta1": 0.9, "weight_decay": 0.1}
SHAPES = {"layers.0.w": (6, 5), "layers.0.b": (5,), "layers.1.w": (5, 3), "s": ()}


@pytest.fixture
def lib(backend):
    """The adapter, and JAX beside it."""
    import adafactor_jax

    names = {name: getattr(adafactor_jax, name) for name in adafactor_jax.__all__}
    return SimpleNamespace(jax=backend.lib, **names)


def numpy_tree(seed=0, dtype=np.float32):
    x = {p: normal(s, seed=seed).astype(dtype) for p, s in SHAPES.items()}
    layers = [{"w": x["layers.0.w"], "b": x["layers.0.b"]}, {"w": x["layers.1.w"]}]
    return {"layers": layers, "s": x["s"]}


def tree(backend, seed=0, dtype="float32"):
    return backend.tree(numpy_tree(seed), dtype)


def reference(options, n=4):
    config, x = af.Config(**options), numpy_tree()
    state = af.init(x, config)
    for t in range(1, n + 1):
        x, state = af.step(x, numpy_tree(t), state, config)
    return x, state


def same(got, want, tolerance=1e-6):
    got = {path: np.asarray(a) for path, a in flat(got).items()}
    for path, array in flat(want).items():
        close(got[path], np.asarray(array), tolerance, path)


def add(jax, params, updates):
    """optax.apply_updates without optax."""
    return jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)


def runner(lib, options):
    """A jitted step through `update`."""
    tx = lib.adafactor(**options)

    def step(x, g, state):
        d, state = tx.update(g, state, x)
        return add(lib.jax, x, d), state

    return tx.init, lib.jax.jit(step)


@pytest.mark.parametrize("options", [*VARIETY.values(), *CAREFUL.values()])
@pytest.mark.parametrize("how", ["update", "make_step"])
def test_numbers_are_those_of_the_core_on_numpy(backend, lib, how, options):
    init, step = runner(lib, options) if how == "update" else lib.make_step(**options)
    x = tree(backend)
    state = init(x)
    for t in range(1, 5):
        x, state = step(x, tree(backend, t), state)
    want, after = reference(options)
    same(x, want)
    assert int(state.step) == int(after.step) == 4
    # int8 entries may fall on the other side of a rounding boundary.
    tolerance = 1.0 / 50 if options.get("momentum_dtype") == "int8" else 1e-5
    same(state.moments, after.moments, tolerance)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_make_step_rounds_as_the_core_does(backend, lib, rounding, dtype):
    """The same draws: paths and positions are the core's."""
    options = {"lr": 0.02, "rounding": rounding, "seed": 3}
    init, step = lib.make_step(**options)
    x = tree(backend, dtype=dtype)
    state = init(x)
    numpy = load("numpy")
    want, config = numpy.tree(numpy_tree(), dtype), af.Config(**options)
    after = af.init(want, config)
    for t in range(1, 4):
        x, state = step(x, tree(backend, t, dtype), state)
        want, after = af.step(want, numpy.tree(numpy_tree(t), dtype), after, config)
    for path, array in flat(want).items():
        got = flat(x)[path]
        assert got.dtype == backend.dtype(dtype)
        close_narrow(backend.numpy(got), numpy.numpy(array), dtype, path, reached=3.0)


def test_wide_gradients_give_narrow_parameters_their_exact_update(backend, lib):
    """float32 gradients of bfloat16 parameters: adding the update gives the bits of the step."""
    options = {"lr": 0.02, "rounding": "stochastic"}
    tx, (init, step) = lib.adafactor(**options), lib.make_step(**options)
    x, g = tree(backend, dtype="bfloat16"), tree(backend, 1)
    d, _ = lib.jax.jit(tx.update)(g, tx.init(x), x)
    assert {a.dtype.name for a in flat(d).values()} == {"float32"}
    got = lib.jax.tree.map(lambda p, u: (p.astype(u.dtype) + u).astype(p.dtype), x, d)
    want, _ = step(x, g, init(x))
    same(got, want, 0.0)


@pytest.mark.parametrize("x64", [False, True])
def test_dtypes_are_stable(backend, lib, x64):
    jax = lib.jax
    with jax.enable_x64(x64):
        for dtype in ("float16", "bfloat16", "float32", *["float64"] * x64):
            tx, init, step = lib.adafactor(**CONFIG), *lib.make_step(**CONFIG)
            x, g = tree(backend, dtype=dtype), tree(backend, 1, dtype)
            state = tx.init(x)
            d, after = jax.eval_shape(tx.update, g, state, x)
            y, later = jax.eval_shape(step, x, g, init(x))
            assert {a.dtype.name for a in flat((d, y)).values()} == {dtype}
            kinds = [
                [(a.dtype, a.shape) for a in jax.tree.leaves(s)] for s in (state, after, later)
            ]
            assert kinds[0] == kinds[1] == kinds[2]
            assert state.step.dtype == np.int32


def test_one_trace_for_many_steps(backend, lib):
    traces, tx = [], lib.adafactor(**CONFIG)

    @lib.jax.jit
    def step(x, g, state):
        traces.append(1)
        d, state = tx.update(g, state, x)
        return add(lib.jax, x, d), state

    x = tree(backend)
    state = tx.init(x)
    for t in range(1, 6):
        x, state = step(x, tree(backend, t), state)
    assert len(traces) == 1
    same(x, reference(CONFIG, 5)[0])


def test_the_rate_may_be_traced(backend, lib):
    """One trace for all rates, and the numbers of a fixed one."""
    traces = []

    @lib.jax.jit
    def step(x, g, state, lr, decay):
        traces.append(1)
        tx = lib.adafactor(lr, weight_decay=decay)
        d, state = tx.update(g, state, x)
        return add(lib.jax, x, d), state

    x = tree(backend)
    state = lib.adafactor(0.1).init(x)
    for t in range(1, 5):
        numbers = backend.asarray(0.1 * t**-0.5), backend.asarray(0.1)
        x, state = step(x, tree(backend, t), state, *numbers)
    assert len(traces) == 1
    same(x, reference({"lr": lambda t: 0.1 * t**-0.5, "weight_decay": 0.1})[0])


def test_schedules_are_given_t_from_1_and_optax_schedules_count_from_0(backend, lib):
    seen = []

    def schedule(count):
        assert (count.dtype, count.shape) == (np.int32, ())
        lib.jax.debug.callback(lambda c: seen.append(int(c)), count)
        return 0.1 / (count.astype(np.float32) + 1.0)

    options = {"lr": lib.zero_based(schedule)}
    init, step = runner(lib, options)
    x = tree(backend)
    state = init(x)
    for t in range(1, 4):
        x, state = step(x, tree(backend, t), state)
    lib.jax.effects_barrier()
    assert sorted(set(seen)) == [0, 1, 2]
    same(x, reference({"lr": lambda t: 0.1 / t}, 3)[0])


@pytest.mark.parametrize("options", [CONFIG, CAREFUL["everything"]], ids=["plain", "everything"])
def test_a_step_transfers_nothing(backend, lib, options):
    init, step = runner(lib, options)
    x, g = tree(backend), tree(backend, 1)
    state = init(x)
    new, after = step(x, g, state)  # compiled outside of the guard: constants are transfers
    with lib.jax.transfer_guard("disallow"):
        step(new, g, after)


@pytest.mark.parametrize("options", [{}, CONFIG, CAREFUL["everything"]])
def test_make_step_donates_parameters_and_state(backend, lib, options):
    jax = lib.jax
    init, step = lib.make_step(**options)
    x, g = tree(backend), tree(backend, 1)
    state = init(x)
    jax.block_until_ready(step(x, g, state))
    used = jax.tree.leaves((x, state._replace(metrics=None)))
    assert all(a.is_deleted() for a in used)
    assert not any(a.is_deleted() for a in jax.tree.leaves(g))
    x = tree(backend)
    state = init(x)
    memory = step.lower(x, g, state).compile().memory_analysis()
    held = sum(a.nbytes for a in jax.tree.leaves((x, state._replace(metrics=None))))
    assert memory.alias_size_in_bytes >= held


def test_scan_over_steps(backend, lib):
    jax, tx = lib.jax, lib.adafactor(**CONFIG)

    def body(carry, g):
        x, state = carry
        d, state = tx.update(g, state, x)
        return (add(jax, x, d), state), None

    x = tree(backend)
    grads = jax.tree.map(lambda *g: jax.numpy.stack(g), *[tree(backend, t) for t in range(1, 5)])
    (x, state), _ = jax.lax.scan(body, (x, tx.init(x)), grads)
    same(x, reference(CONFIG)[0])
    assert int(state.step) == 4


def test_vmap_is_a_batch_of_separate_models(backend, lib):
    jax, tx = lib.jax, lib.adafactor(**CONFIG)
    stacked = partial(jax.tree.map, lambda *a: jax.numpy.stack(a))
    xs, gs = (stacked(*[tree(backend, s + k) for k in range(3)]) for s in (0, 10))

    def one(x, g):
        d, state = tx.update(g, tx.init(x), x)
        return add(jax, x, d), state

    new, state = jax.jit(jax.vmap(one))(xs, gs)
    for k in range(3):
        alone = jax.jit(one)(tree(backend, k), tree(backend, 10 + k))
        same(jax.tree.map(lambda a, k=k: a[k], new), alone[0])
        same(jax.tree.map(lambda a, k=k: a[k], state.moments), alone[1].moments)


def test_grad_of_a_step(backend, lib):
    jax, tx = lib.jax, lib.adafactor(0.1)

    def loss(x):
        g = jax.tree.map(lambda a: a * 2.0, x)
        d, _ = tx.update(g, tx.init(x), x)
        return sum((a * a).sum() for a in jax.tree.leaves(add(jax, x, d)))

    for slope in jax.tree.leaves(jax.jit(jax.grad(loss))(tree(backend))):
        assert np.isfinite(slope).all()
        assert np.abs(slope).max() > 0.1


def test_eval_shape_and_checkpoint_need_no_numbers(backend, lib):
    jax, tx = lib.jax, lib.adafactor(**CONFIG)
    leaf = {"w": jax.ShapeDtypeStruct((4096, 8192), backend.dtype("bfloat16"))}
    state = jax.eval_shape(tx.init, leaf)
    assert state.moments["w"].row.shape == (4096, 1)
    d, after = jax.eval_shape(jax.checkpoint(tx.update), leaf, state, leaf)
    assert (d["w"].shape, d["w"].dtype) == (leaf["w"].shape, leaf["w"].dtype)
    assert after == state


def test_checkify_finds_nothing(backend, lib):
    from jax.experimental import checkify

    tx, x = lib.adafactor(**CONFIG), tree(backend)
    zero = lib.jax.tree.map(lib.jax.numpy.zeros_like, x)
    update = lib.jax.jit(checkify.checkify(tx.update, errors=checkify.float_checks))
    for g in (tree(backend, 1), zero):
        error, _ = update(g, tx.init(x), x)
        assert error.get() is None


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_lowers_for_other_platforms(backend, lib, platform):
    init, step = lib.make_step(**CAREFUL["everything"])
    x = tree(backend, dtype="bfloat16")
    step.trace(x, x, init(x)).lower(lowering_platforms=(platform,))
    lib.jax.jit(init).trace(x).lower(lowering_platforms=(platform,))


def test_state_is_nested_like_the_parameters(backend, lib):
    jax, x = lib.jax, tree(backend)
    state = lib.adafactor(telemetry=True, nonfinite="skip_tensor").init(x)
    for part, kind in ((state.moments, af.Moments), (state.metrics, af.Metrics)):
        shape = jax.tree.structure(part, is_leaf=lambda m, kind=kind: isinstance(m, kind))
        assert shape == jax.tree.structure(x)
    assert state.moments["layers"][0]["w"].row.shape == (6, 1)
    assert (state.step.dtype, state.skipped.dtype) == (np.int32, np.int32)


def test_trees_that_only_jax_knows(backend, lib):
    """Dataclasses stand for flax and equinox modules; None is no leaf, names make paths."""
    jax = lib.jax

    @partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["name"])
    @dataclass
    class Linear:
        w: object
        b: object
        name: str

    @partial(jax.tree_util.register_dataclass, data_fields=["layers", "scale"], meta_fields=[])
    @dataclass
    class Model:
        layers: list
        scale: object

    def model(seed):
        x = tree(backend, seed)
        (one, two), scale = x["layers"], x["s"]
        return Model([Linear(one["w"], one["b"], "a"), Linear(two["w"], None, "b")], scale)

    options = {"lr": 0.1, "rules": [("layers.*.b", {"lr": 0.0}), ("scale", {"lr": 0.5})]}
    init, step = lib.make_step(**options)
    x = model(0)
    assert lib.jax.tree.structure(init(x).moments, is_leaf=is_moments) == jax.tree.structure(x)
    new, state = step(x, model(1), init(x))
    plain = {**options, "rules": [("layers.*.b", {"lr": 0.0}), ("s", {"lr": 0.5})]}
    want, _ = reference(plain, 1)
    assert new.layers[1].b is None
    assert state.moments.layers[1].b is None
    same(
        {"0w": new.layers[0].w, "0b": new.layers[0].b, "1w": new.layers[1].w, "s": new.scale},
        {
            "0w": want["layers"][0]["w"], "0b": want["layers"][0]["b"],
            "1w": want["layers"][1]["w"], "s": want["s"],
        },
    )  # fmt: skip


def is_moments(x):
    return isinstance(x, af.Moments)


def test_a_bare_array_and_numpy_arrays(backend, lib):
    x, g = normal((6, 5)).astype(np.float32), normal((6, 5), seed=1).astype(np.float32)
    tx = lib.adafactor(0.1)
    d, state = tx.update(g, tx.init(x), x)
    assert isinstance(d, lib.jax.Array)
    assert isinstance(state.moments.row, lib.jax.Array)
    config = af.Config(0.1)
    same(d, af.update(g, af.init(x, config), x, config)[0])


def test_an_empty_tree(backend, lib):
    init, step = lib.make_step(0.1)
    state = lib.jax.eval_shape(init, {})
    assert (state.step.dtype, state.step.shape) == (np.int32, ())
    for _ in range(2):
        x, state = step({}, {}, init({}))
        assert x == {}
        assert (state.step.dtype, int(state.step)) == (np.int32, 1)


def test_the_direction_alone(backend, lib):
    """u of the paper, along the gradient: what the core subtracts at rate 1 without scale."""
    tx = lib.scale_by_adafactor(clip_threshold=0.5, beta1=0.9)
    x = tree(backend)
    state = tx.init(x)
    config = af.Config(1.0, scale_parameter=False, clip_threshold=0.5, beta1=0.9)
    y = numpy_tree()
    after = af.init(y, config)
    for t in range(1, 4):
        u, state = lib.jax.jit(tx.update)(tree(backend, t), state, x)
        d, after = af.update(numpy_tree(t), after, y, config)
        same(lib.jax.tree.map(lambda a: -a, u), d)
    same(state.moments, after.moments, 1e-5)


def test_mappings_pass_for_moments(backend, lib):
    """And stay mappings, or no lax.cond could skip the update; a parameter named like a slot
    confuses nobody."""
    options = {"lr": 0.1, "beta1": 0.9}
    init, step = lib.make_step(**options)
    x = {"row": tree(backend)["layers"][0]["w"], "col": {"full": tree(backend)["s"]}}
    state = init(x)
    new, state = step(lib.jax.tree.map(lambda a: a + 1.0, x), x, state)
    as_dicts = lib.jax.tree.map(
        lambda m: {k: a for k, a in m._asdict().items() if a is not None},
        state.moments,
        is_leaf=is_moments,
    )
    g = {"row": tree(backend, 1)["layers"][0]["w"], "col": {"full": tree(backend, 1)["s"]}}
    update = lib.adafactor(**options).update
    given = state._replace(moments=as_dicts)
    got, after = update(g, given, new)
    want, _ = update(g, state, new)
    same(got, want, 0.0)
    assert lib.jax.tree.structure(after) == lib.jax.tree.structure(given)


def test_skips_and_metrics_under_jit(backend, lib):
    init, step = lib.make_step(0.1, nonfinite="skip_step", telemetry=True)
    x = tree(backend)
    state = init(x)
    bad = lib.jax.tree.map(lambda a: a * np.float32(np.nan), tree(backend, 1))
    x, state = step(x, bad, state)
    same(x, numpy_tree(), 0.0)
    assert (int(state.step), int(state.skipped)) == (0, 1)
    x, state = step(x, tree(backend, 1), state)
    assert (int(state.step), int(state.skipped)) == (1, 1)
    assert af.flat_metrics(state)["layers.0.w/update_rms"] > 0.1
