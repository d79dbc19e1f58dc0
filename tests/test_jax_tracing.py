"""The core under JAX's transformations: traced once, no transfers, no promotion, any batch."""

import numpy as np
import pytest

import adafactor_core as af
from _backends import UnavailableError, load
from _close import close
from _run import flat, normal
from _variety import CAREFUL, VARIETY

pytestmark = pytest.mark.backends("jax")
CONFIG = af.Config(lr=lambda t: 0.1 * t**-0.5, beta1=0.9, weight_decay=0.1)
SHAPES = {"w": (6, 5), "b": (5,), "s": ()}


def tensors(backend, seed=0, dtype="float32"):
    return {p: backend.asarray(normal(s, seed=seed), dtype) for p, s in SHAPES.items()}


def steps(backend, n, step=None):
    """`n` steps from the same tensors on any backend."""
    step = step or (lambda x, g, state: af.step(x, g, state, CONFIG))
    x = tensors(backend)
    state = af.init(x, CONFIG)
    for t in range(1, n + 1):
        x, state = step(x, tensors(backend, t), state)
    return x, state


def same(got, want, tolerance=1e-6):
    """Trees of JAX and NumPy arrays alike; NumPy is the reference, eager JAX takes too long."""
    for path, array in flat(want).items():
        close(np.asarray(flat(got)[path]), np.asarray(array), tolerance, path)


def test_one_trace_for_many_steps(backend):
    traces = []

    @backend.jit
    def step(x, g, state):
        traces.append(1)
        return af.step(x, g, state, CONFIG)

    x, state = steps(backend, 5, step)
    assert len(traces) == 1
    assert state.step.dtype == np.int32
    assert int(state.step) == 5
    same(x, steps(load("numpy"), 5)[0])


@pytest.mark.parametrize(
    "name",
    ["defaults", "full", "adam decay, schedules", "like torch.optim", *CAREFUL],
)
def test_a_jitted_step_transfers_nothing(backend, name):
    config = af.Config(**{**VARIETY, **CAREFUL}[name])
    step = backend.jit(lambda x, g, state: af.step(x, g, state, config))
    x, g = tensors(backend), tensors(backend, 1)
    state = af.init(x, config)
    new, after = step(x, g, state)  # compiled outside of the guard: constants are transfers
    with backend.lib.transfer_guard("disallow"):
        again, _ = step(x, g, state)
        step(new, g, after)
    same(again, new, 0.0)


def test_donated_buffers_are_reused_by_xla(backend):
    jax = backend.lib
    step = jax.jit(lambda x, g, state: af.step(x, g, state, CONFIG), donate_argnums=(0, 2))
    x = tensors(backend)
    state = af.init(x, CONFIG)
    step(x, tensors(backend, 1), state)
    assert all(a.is_deleted() for a in x.values())
    assert state.moments["w"].momentum.is_deleted()


def test_a_config_is_a_static_argument(backend):
    traces = []

    def step(x, g, state, config):
        traces.append(1)
        return af.step(x, g, state, config)

    step = backend.lib.jit(step, static_argnames="config")
    x = backend.asarray(normal((4, 3)))
    for rules in ([("", {"lr": 0.1})], (("", {"lr": 0.1}),)):
        config = af.Config(weight_decay=0.1, rules=rules)
        step(x, x, af.init(x, config), config=config)
    assert len(traces) == 1


def test_vmap_is_a_batch_of_separate_tensors(backend):
    jax, config = backend.lib, af.Config(0.1, beta1=0.9, weight_decay=0.1)
    x, g = normal((3, 6, 5)).astype(np.float32), normal((3, 6, 5), seed=1).astype(np.float32)

    def one(x, g):
        return af.step(x, g, af.init(x, config), config)

    new, state = jax.jit(jax.vmap(one))(x, g)
    for i in range(3):
        alone, alone_state = one(x[i], g[i])
        part = [new[i], *(slot[i] for slot in flat(state.moments).values())]
        same(part, [alone, *flat(alone_state.moments).values()])


def test_scan_over_steps(backend):
    jax = backend.lib
    x = backend.asarray(normal((6, 5)))
    grads = [normal((6, 5), seed=t).astype(np.float32) for t in range(1, 5)]

    def body(carry, g):
        x, state = carry
        return af.step(x, g, state, CONFIG), None

    carry, _ = jax.lax.scan(body, (x, af.init(x, CONFIG)), jax.numpy.stack(grads))
    x = normal((6, 5)).astype(np.float32)
    want = (x, af.init(x, CONFIG))
    for g in grads:
        want, _ = body(want, g)
    same(carry[0], want[0])
    assert int(carry[1].step) == int(want[1].step) == 4


def test_eval_shape_and_the_report_need_no_numbers(backend):
    jax = backend.lib
    leaf = jax.ShapeDtypeStruct((4096, 8192), backend.dtype("bfloat16"))
    state = jax.eval_shape(lambda x: af.init(x, CONFIG), leaf)
    assert state.moments.row.shape == (4096, 1)
    assert state.moments.row.dtype == np.float32
    new, _ = jax.eval_shape(lambda x, s: af.step(x, x, s, CONFIG), leaf, state)
    assert (new.shape, new.dtype) == (leaf.shape, leaf.dtype)
    report = af.memory_report({"w": leaf}, af.Config())
    assert report.state_bytes == 4 * (4096 + 8192)


@pytest.mark.parametrize("options", VARIETY.values(), ids=VARIETY)
def test_no_promotion_of_dtype_or_rank_in_any_option(backend, options):
    """The row sets strict promotion; here it is seen to be on, in float32, bfloat16 and x64."""
    jax, config = backend.lib, af.Config(**options)
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    assert jax.config.jax_numpy_rank_promotion == "raise"
    for dtype, x64 in [
        ("float32", False),
        ("bfloat16", False),
        ("float32", True),
        ("float64", True),
    ]:
        with jax.enable_x64(x64):
            leaves = {p: jax.ShapeDtypeStruct(s, backend.dtype(dtype)) for p, s in SHAPES.items()}
            state = jax.eval_shape(lambda x: af.init(x, config), leaves)
            new, after = jax.eval_shape(lambda x, s: af.step(x, x, s, config), leaves, state)
            assert {a.dtype.name for a in new.values()} == {dtype}
            wide = "float64" if dtype == "float64" else "float32"
            assert {a.dtype.name for a in flat(after.moments).values()} == {wide}
            assert (after.step.dtype, after.step.shape) == (np.int32, ())


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step"])
@pytest.mark.parametrize("buffer", ["bfloat16", "float16", "int8"])
def test_no_promotion_where_a_momentum_may_stay(backend, policy, buffer):
    """A 16-bit momentum that is rounded at random is float32 beside a float64 tensor."""
    jax = backend.lib
    momentum = {"momentum_dtype": buffer, "momentum_rounding": "stochastic"}
    config = af.Config(beta1=0.9, nonfinite=policy, **momentum)
    for dtype in backend.dtypes:
        with jax.enable_x64(dtype == "float64"):
            leaves = {p: jax.ShapeDtypeStruct(s, backend.dtype(dtype)) for p, s in SHAPES.items()}
            state = jax.eval_shape(lambda x: af.init(x, config), leaves)
            new, after = jax.eval_shape(lambda x, s: af.step(x, x, s, config), leaves, state)
            assert {a.dtype.name for a in new.values()} == {dtype}
            assert {m.momentum.dtype.name for m in after.moments.values()} == {buffer}


def test_float32_results_do_not_depend_on_x64(backend):
    step = backend.jit(lambda x, g, s: af.step(x, g, s, CONFIG))
    plain, _ = steps(backend, 2, step)
    with backend.lib.enable_x64(True):
        wide, _ = steps(backend, 2, step)
    same(wide, plain, 0.0)


def test_differentiable_in_its_inputs(backend):
    """Meta-learning differentiates through steps; nothing may cut the graph or give NaN."""
    jax, config = backend.lib, af.Config(0.1)
    x = backend.asarray(normal((4, 3)))

    def loss(x):
        new, _ = af.step(x, x * 2.0, af.init(x, config), config)
        return (new * new).sum()

    slope = backend.numpy(jax.jit(jax.grad(loss))(x))
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0.1


def test_sharded_arrays_keep_their_sharding():
    """Eight virtual devices need a process of their own."""
    import subprocess
    import sys

    try:
        load("jax")
    except UnavailableError as error:
        pytest.skip(str(error))
    program = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, numpy as np, adafactor_core as af
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
place = NamedSharding(mesh, P("x", "y"))
rng = np.random.default_rng(0)
x, g = (rng.normal(size=(16, 8)).astype(np.float32) for _ in range(2))
config = af.Config(0.1, beta1=0.9)
step = jax.jit(lambda x, g, s: af.step(x, g, s, config))
plain, _ = step(x, g, af.init(jax.numpy.asarray(x), config))
xs, gs = (jax.device_put(a, place) for a in (x, g))
got, state = step(xs, gs, jax.jit(lambda x: af.init(x, config))(xs))
assert got.sharding.is_equivalent_to(place, 2), got.sharding
error = np.abs(np.asarray(got) - np.asarray(plain)).max() / np.abs(np.asarray(plain)).max()
assert error <= 1e-6, error
"""
    subprocess.run([sys.executable, "-c", program], check=True)
