"""The executor for XLA on CPUs: the numbers of whole tensors, in blocks, and nowhere else."""

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _close import close, close_narrow
from _run import normal
from _variety import BATCHED, CAREFUL, VARIETY

try:
    import jax
    import jax.numpy as jnp

    from adafactor_jax import adafactor, make_step
except ImportError:  # then the fixture `backend` skips
    jax = None

pytestmark = [
    pytest.mark.backends("jax"),
    pytest.mark.usefixtures("backend"),
    pytest.mark.filterwarnings("ignore::adafactor_core.LowPrecisionWarning"),
]
SMALL = {"max_scratch_bytes": 1024}  # 32 elements to a block
SHAPES = {
    "prime": (67, 13),  # blocks that leave a rest
    "even": (64, 8),
    "wide": (3, 100),  # an axis cut within
    "heads": (2, 3, 20, 7),  # indices before the cut axis
    "column": (90, 1),
    "vector": (70,),
}
EVERY = VARIETY | CAREFUL
NAMES = [  # every case is a compilation of each kind: these are what the sums depend on
    "clip off", "momentum of gradients", "adam decay, schedules", "eps1 clamped",
    "tensors skipped, norm clipped", "everything",
]  # fmt: skip


def tensors(backend, seed, dtype="float32", shapes=SHAPES):
    return {p: backend.asarray(normal(s, seed=seed), dtype) for p, s in shapes.items()}


def run(backend, scan, options, dtype="float32", steps=2, shapes=SHAPES):
    init, step = make_step(scan=scan, **{**options, **SMALL})
    x = tensors(backend, 0, dtype, shapes)
    state = init(x)
    for t in range(1, steps + 1):
        x, state = step(x, tensors(backend, t, dtype, shapes), state)
    return x, state


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_whole_tensors(backend, name):
    options = EVERY[name]
    scanned, whole = (run(backend, scan, options) for scan in (True, False))
    for path, x in whole[0].items():
        close(backend.numpy(scanned[0][path]), backend.numpy(x), 1e-6, path)
    for got, want in zip(jax.tree.leaves(scanned[1]), jax.tree.leaves(whole[1]), strict=True):
        assert got.dtype == want.dtype
        if got.dtype != jnp.int8:
            close(backend.numpy(got), backend.numpy(want), 1e-5, "state")


@pytest.mark.parametrize("name", ["batch axis", "two row axes"])
def test_batches(backend, name):
    shapes = {"c": (5, 9, 7)}
    scanned, whole = (run(backend, s, BATCHED[name], shapes=shapes)[0]["c"] for s in (True, False))
    close(backend.numpy(scanned), backend.numpy(whole), 1e-6, "c")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes(backend, dtype):
    scanned, whole = (run(backend, s, {"lr": 0.1}, dtype)[0] for s in (True, False))
    for path, x in whole.items():
        close_narrow(backend.numpy(scanned[path]), backend.numpy(x), dtype, path)


def test_float64(backend):
    need(backend, "float64")
    with jax.enable_x64(True):
        scanned, whole = (run(backend, s, {"lr": 0.1}, "float64")[0] for s in (True, False))
    for path, x in whole.items():
        close(np.asarray(scanned[path]), np.asarray(x), 1e-14, path)


def loops(text):
    return text.count("stablehlo.while")


def lowered(scan, platform, shape=(1024, 2048), dtype="float32"):
    init, step = make_step(1e-2, scan=scan)
    x = {"w": jax.ShapeDtypeStruct(shape, dtype)}
    return step.trace(x, x, jax.eval_shape(init, x)).lower(lowering_platforms=(platform,)).as_text()


def test_a_loop_where_it_is_wanted_and_on_a_cpu_alone():
    assert loops(lowered(None, "cpu")) == loops(lowered(True, "cpu")) == 1
    assert loops(lowered(False, "cpu")) == 0
    assert loops(lowered(True, "cuda")) == loops(lowered(None, "tpu")) == 0
    assert loops(lowered(None, "cpu", (512, 512))) == 0  # one block


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_temporaries_are_a_block_and_not_a_tensor(dtype):
    init, step = make_step(1e-2)
    x = {"w": jax.ShapeDtypeStruct((4096, 4096), dtype)}
    memory = step.lower(x, x, jax.eval_shape(init, x)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 5 << 20
    assert memory.alias_size_in_bytes >= 4096 * 4096 * jnp.dtype(dtype).itemsize


def test_under_vmap_and_differentiated(backend):
    g = jnp.stack([jnp.asarray(normal((9, 11), seed=k), "float32") for k in range(3)])

    def moved(scan, lr, g):
        init, update = adafactor(lr, scan=scan, **SMALL)
        x = jnp.full(g.shape, 0.5, g.dtype)
        return update(g, init(x), x)[0]

    for f in (
        lambda scan: jax.vmap(lambda g: moved(scan, 0.1, g))(g),
        lambda scan: jax.grad(lambda lr: jnp.sum(moved(scan, lr, g[0]) ** 2))(0.1),
        lambda scan: jax.grad(lambda g: jnp.sum(moved(scan, 0.1, g) ** 2 * g))(g[0]),
        lambda scan: jax.jvp(lambda lr: moved(scan, lr, g[0]), (0.1,), (1.0,))[1],
    ):
        close(np.asarray(f(True)), np.asarray(f(False)), 1e-5, "result")


@pytest.mark.parametrize("scan", [1, "yes"])
def test_what_scan_may_be(scan):
    with pytest.raises(af.ConfigError, match="scan must be True, False or None"):
        adafactor(scan=scan)
