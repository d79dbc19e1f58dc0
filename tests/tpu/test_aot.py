"""The step, compiled for TPUs on a machine that has none; nothing is run."""

from itertools import product
from math import prod

import jax
import jax.numpy as jnp
import pytest
from _aot import LAYOUTS, MERGE_ALL, TOPOLOGIES, build
from jax.sharding import AxisType

from adafactor_jax import adafactor, make_step

SHAPES = {"w": (8192, 4096), "h": (4096, 1024), "t": (16, 1024, 512), "b": (4096,)}
MATRICES = 3  # of SHAPES: the rest keeps a full V
GATHERING = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
PLACES = [("single", AxisType.Auto), *product(LAYOUTS, (AxisType.Auto, AxisType.Explicit))]
CASES = list(product(TOPOLOGIES, ("float32", "bfloat16"), PLACES))

# With the arrays of a parameter's shape that a step stores.
OPTIONS = {
    "max_grad_norm": ({"max_grad_norm": 1.0}, 1),
    "skip_step": ({"nonfinite": "skip_step"}, 1),
    "skip_tensor": ({"nonfinite": "skip_tensor"}, 1),
    "telemetry": ({"telemetry": True}, 1),
    "stochastic": ({"rounding": "stochastic"}, 1),
    "kahan": ({"rounding": "kahan"}, 2),
    "momentum": ({"beta1": 0.9}, 2),
    "int8": ({"beta1": 0.9, "momentum_dtype": "int8"}, 2),
    "many": (
        {
            "max_grad_norm": 1.0, "nonfinite": "skip_step", "telemetry": True, "beta1": 0.9,
            "weight_decay": 0.1, "rounding": "stochastic",
        },
        2,
    ),
}  # fmt: skip


def named(case):
    topology, dtype, (layout, axes) = case
    return f"{topology}-{dtype}-{layout}-{axes.name}"


@pytest.fixture(scope="module", params=CASES, ids=named)
def built(request):
    topology, dtype, (layout, axes) = request.param
    return build(topology, layout, dtype, SHAPES, axes=axes)


def only_sums_cross(built):
    """No device sends a parameter or a gradient: at most a row or a column of each."""
    assert not any(built.count(kind) for kind in GATHERING)
    longest = max(n for a in built.params for n in (a.shape[-1], prod(a.shape[:-1])))
    reduced = [a for op in built.ops.values() if "all-reduce" in op.kind for a in op.results]
    assert all(prod(a.shape) <= longest for a in reduced)


def test_parameters_and_state_are_reused(built):
    assert built.aliased >= built.held


def test_only_sums_cross_devices(built):
    only_sums_cross(built)


def test_no_array_of_a_parameters_size_is_made_but_the_new_parameter(built):
    """Neither in another dtype, on the chip too, nor in the parameter's, in HBM."""
    made = built.whole()
    assert {a.dtype for a in made} == {built.params[0].dtype}
    assert sum(a.in_hbm for a in made) == MATRICES


def test_temporaries_go_by_the_number_of_tensors_not_by_their_size(built):
    """Sums and factors: XLA keeps some 30 small arrays per tensor, each in 16 KiB of its own."""
    assert built.temporary <= len(SHAPES) * 2**19
    assert built.temporary <= max(a.nbytes for a in built.params) / 8


def test_hbm_moves_no_more_than_six_streams(built):
    assert built.moved() <= 1.01 * built.minimum


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["single", "blocks"])
def test_arrays_beyond_the_memory_on_the_chip_take_six_streams(topology, dtype, layout):
    built = build(topology, layout, dtype, {"w": (32768, 16384)})
    assert built.moved() == pytest.approx(built.minimum, rel=0.01)
    assert built.accessed == pytest.approx(built.minimum, rel=0.01)


def all_reduces(topology, layout, n, vectors=False, **more):
    shapes = {f"p{i}": (512,) if vectors and i % 4 == 3 else (512, 256) for i in range(n)}
    return build(topology, layout, "float32", shapes, **more).count("all-reduce")


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_1_10_and_100_tensors_take_as_many_all_reduces(topology, layout):
    """Two where one axis of a matrix is sharded, three where both are."""
    numbers = [all_reduces(topology, layout, n) for n in (1, 10, 100)]
    assert numbers == [3 if layout == "blocks" else 2] * 3


@pytest.mark.parametrize(("options", "count"), [({}, 4), (MERGE_ALL, 2)], ids=["default", "all"])
def test_by_default_xla_merges_256_sums_at_a_time(options, count):
    """150 matrices have two sums each after observe, and two after measure."""
    assert all_reduces("v5e:2x2", "rows", 150, compiler_options=options) == count


@pytest.mark.parametrize("layout", ["rows", "columns", "blocks"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_keep_aliasing_and_collectives(name, layout):
    options, stored = OPTIONS[name]
    few, more = (
        build(
            "v5e:2x2",
            layout,
            "bfloat16",
            {f"p{i}": (2048,) if i % 4 == 3 else (2048, 1024) for i in range(n)},
            options,
        )
        for n in (4, 12)
    )
    only_sums_cross(few)
    assert few.aliased >= few.held
    assert sum(a.in_hbm for a in few.whole()) == 3 * stored
    assert few.count("all-reduce") == more.count("all-reduce")


def test_in_a_training_step_of_ones_own():
    """`update` under jax.jit, its result added where it is made."""
    built = build("v5e:2x2", "blocks", "float32", SHAPES, make=training)
    only_sums_cross(built)
    assert built.aliased >= built.held
    assert sum(a.in_hbm for a in built.whole()) == MATRICES


def training(**options):
    init, update = adafactor(**options)

    def step(params, grads, state):
        d, state = update(grads, state, params)
        return jax.tree.map(jnp.add, params, d), state

    return init, jax.jit(step, donate_argnums=(0, 2))


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
@pytest.mark.parametrize("name", OPTIONS)
def test_lowers_for(platform, name):
    """To plain StableHLO, with every donated array marked."""
    init, step = make_step(lr=0.1, **OPTIONS[name][0])
    kinds = {"w": (64, 32), "b": (64,)}
    x = {n: jax.ShapeDtypeStruct(s, jnp.bfloat16) for n, s in kinds.items()}
    state = jax.eval_shape(init, x)
    text = step.trace(x, x, state).lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in text
    # Metrics come in only to be replaced.
    given = jax.tree.leaves((x, state._replace(metrics=None)))
    assert text.count("tf.aliasing_output") >= len(given)
