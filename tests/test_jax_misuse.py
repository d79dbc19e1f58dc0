"""What a review found: odd places to call from, odd trees, and what is refused."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import normal

try:
    import jax
    import jax.export
    import jax.numpy as jnp
    import optax
    from jax.experimental import checkify
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    from adafactor_jax import adafactor, make_step, scale_by_adafactor
except ImportError:  # then the fixture `backend` skips
    jax = None

pytestmark = [pytest.mark.backends("jax"), pytest.mark.usefixtures("backend")]


def test_int8_momentum_of_gradients_beside_float16(backend):
    """Its scales, one per 128 entries, are not cut as elements are."""
    found = []
    for scan in (True, False):
        tx = adafactor(
            1.0, scan=scan, max_scratch_bytes=1024, beta1=0.9, momentum_on="grad",
            momentum_dtype="int8", factored_dims=(0, 1), clip_threshold=0.01, scale_parameter=False,
        )  # fmt: skip
        x = {"w": jnp.ones((2, 256))}
        state = tx.init(x)
        for seed in (1, 2):
            g = normal((2, 256), seed=seed) * np.where(np.arange(256) < 128, 1.0, 1e-2)
            d, state = jax.jit(tx.update)({"w": jnp.asarray(g, "float16")}, state, x)
        found.append(np.asarray(d["w"]))
    close(*found, 1e-5, "w")


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_large_tensors_on_a_mesh_of_one_device(kind):
    mesh = jax.make_mesh((1, 1), ("x", "y"), axis_types=(getattr(AxisType, kind),) * 2)
    x = jax.device_put(jnp.ones((1100, 1000)), NamedSharding(mesh, P("x", "y")))
    init, step = make_step(1e-2)
    state = init(x)
    g = jax.device_put(jnp.ones((1100, 1000)), NamedSharding(mesh, P("x", "y")))
    assert step(x, g, state)[0].shape == (1100, 1000)


def test_large_tensors_under_shard_map():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    tx, x = adafactor(0.1), jnp.ones((2048, 1024))
    over = {"mesh": mesh, "in_specs": (P("x"), P(), P("x")), "out_specs": P("x")}
    run = jax.jit(jax.shard_map(lambda g, s, x: tx.update(g, s, x)[0], **over))
    assert run(x, tx.init(x), x).shape == x.shape


def test_large_tensors_with_jit_off():
    tx, x = adafactor(1e-2), jnp.ones((1100, 1000))
    with jax.disable_jit():
        d, _ = tx.update(x, tx.init(x), x)
    assert d.shape == x.shape


def test_building_an_optimizer_starts_no_backend():
    """Number of devices and jax.distributed are set up afterwards in many a script."""
    code = (
        "import jax, adafactor_jax as aj; aj.adafactor(1e-2); aj.make_step(1e-2)\n"
        "jax.config.update('jax_num_cpu_devices', 3); print(len(jax.devices('cpu')))"
    )
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "3"


def test_extra_arguments_come_through_wrappers():
    x, g = {"b": jnp.ones(6)}, {"b": jnp.full(6, 0.1)}
    plain = adafactor(1e-2, eps1=1.0)
    want = plain.update(g, plain.init(x), x, grad_scale=100.0)[0]["b"]
    for tx in (optax.chain(plain), optax.masked(plain, {"b": True})):
        close(np.asarray(tx.update(g, tx.init(x), x, grad_scale=100.0)[0]["b"]), want, 1e-7, "b")


def test_the_derivative_by_a_parameter_of_zeros_is_a_number():
    tx, g = adafactor(0.1), {"b": jnp.ones(6)}
    by = jax.grad(lambda x: tx.update(g, tx.init(x), x)[0]["b"].sum())({"b": jnp.zeros(6)})
    assert not np.asarray(by["b"]).any()


@pytest.mark.parametrize("size", [0.1, 0.0])
def test_checkers_of_floats_find_nothing(size):
    """Neither NaN made in passing, nor a division by the norm of gradients that are all 0."""
    x = {"w": jnp.asarray(normal((4, 3)), np.float32), "b": jnp.ones(3)}
    tx = adafactor(0.1, telemetry=True, max_grad_norm=1.0, nonfinite="skip_step")
    update = jax.jit(checkify.checkify(tx.update, errors=checkify.float_checks))
    error, _ = update(jax.tree.map(lambda a: a * size, x), tx.init(x), x)
    error.throw()


def test_rules_and_tree_map_params():
    tx = adafactor(1e-2, rules=[("b", {"lr": 0.1})])
    state = tx.init({"w": jnp.ones((4, 4)), "b": jnp.ones(4)})
    doubled = optax.tree_utils.tree_map_params(tx, lambda a: a * 2, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)


def test_rules_name_nnx_variables_before_and_after_the_first_step():
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    rules = [("kernel", {"lr": 0.0}), ("bias", {"lr": 0.1})]
    optimizer = nnx.Optimizer(layer, adafactor(rules=rules), wrt=nnx.Param)
    kernel = np.asarray(layer.kernel[...])
    for _ in range(2):
        optimizer.update(layer, nnx.grad(lambda m: m(jnp.ones((2, 3))).sum())(layer))
    assert (np.asarray(layer.kernel[...]) == kernel).all()
    assert np.asarray(layer.bias[...]).all()


def test_limits_that_the_docs_name():
    """Each is told by an error, or by NaN, and would have to leave docs/jax.md if it went."""
    x = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    tx = adafactor(0.1)
    state = tx.init(x)
    slope = jax.jit(jax.grad(lambda g: tx.update(g, state, x)[0]["w"].sum()))
    by = slope(jax.tree.map(jnp.zeros_like, x))
    assert np.isnan(by["w"]).all()
    groups = {"a": adafactor(0.1, rules=[("b", {"lr": 0.2})]), "b": optax.sgd(0.1)}
    with pytest.raises(af.ConfigError, match="'b' matches no tensor"):
        optax.partition(groups, {"w": "a", "b": "b"}).init(x)
    optax.inject_hyperparams(adafactor, static_args=("scan", "beta1"))(lr=0.1, beta1=0.9)
    with pytest.raises(ValueError, match="static_args"):
        optax.inject_hyperparams(adafactor, static_args="eps1")(lr=0.1, eps1=1e-3)
    shape = jax.export.symbolic_shape("m, n")
    with pytest.raises(Exception, match="Symbolic dimension comparison"):
        jax.eval_shape(tx.init, jax.ShapeDtypeStruct(shape, np.float32))


def test_a_parameter_named_like_a_slot_and_empty():
    x = {"ema": {"momentum": None}, "w": jnp.ones((4, 4))}
    tx = adafactor(1e-2)
    assert tx.update(x, tx.init(x), x)[0]["ema"] == {"momentum": None}


def test_the_direction_alone_does_not_warn_of_rounding():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scale_by_adafactor().init({"w": jnp.ones((2, 2), jnp.bfloat16)})
    with pytest.warns(af.LowPrecisionWarning, match="'w'"):
        adafactor().init({"w": jnp.ones((2, 2), jnp.bfloat16)})


def test_what_is_refused_at_once():
    for make, options, message in (
        (adafactor, {"lr": np.array(-1.0)}, "lr must be a finite number >= 0, got -1.0"),
        (make_step, {"nonfinite": "raise"}, "a jitted step cannot"),
    ):
        with pytest.raises(af.ConfigError, match=message):
            make(**options)
