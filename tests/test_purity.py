"""Nothing the caller gave is touched unless donated, nothing imported or copied in secret."""

import subprocess
import sys

import numpy as np
import optree
import pytest

import adafactor_core as af
from _backends import need
from _close import close
from _run import flat, normal, numbers
from _variety import BATCHED, CAREFUL, VARIETY

SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4), "empty": (0, 3)}


def tensors(backend, seed=0, dtype="float32"):
    return {p: backend.asarray(normal(s, seed=seed), dtype) for p, s in SHAPES.items()}


def bits(backend, *trees):
    leaves = optree.tree_leaves(trees)
    return [backend.bits(x) if hasattr(x, "shape") else x for x in leaves]


def usable(options):
    """Without batch axes that the small tensors do not have."""
    return {k: v for k, v in options.items() if k != "batch_axes"}


@pytest.mark.parametrize("options", {**VARIETY, **CAREFUL}.values(), ids={**VARIETY, **CAREFUL})
@pytest.mark.backends("numpy", "torch", "strict", "cupy")
def test_the_inputs_are_as_they_were(backend, options):
    config = af.Config(**options)
    x, g = tensors(backend), tensors(backend, 1)
    state = af.init(x, config)
    for _ in range(2):
        before = bits(backend, x, g, state)
        new, new_state = af.step(x, g, state, config)
        af.update(g, state, x, config)
        assert bits(backend, x, g, state) == before
        x, state = new, new_state


@pytest.mark.parametrize("scratch", [None, 1024], ids=["whole", "streamed"])
@pytest.mark.backends("numpy", "torch", "cupy")
def test_streamed_inputs_are_as_they_were_and_results_share_no_memory(backend, scratch):
    config = af.Config(0.1, beta1=0.9, weight_decay=0.1, max_scratch_bytes=scratch)
    x, g = backend.asarray(normal((40, 30))), backend.asarray(normal((40, 30), seed=1))
    state = af.init(x, config)
    before = bits(backend, x, g, state)
    new, new_state = af.step(x, g, state, config)
    inputs, outputs = optree.tree_leaves((x, g, state)), optree.tree_leaves((new, new_state))
    assert bits(backend, x, g, state) == before
    pointer = {"torch": lambda a: a.data_ptr(), "numpy": lambda a: a.ctypes.data}.get(
        backend.name, lambda a: a.data.ptr
    )
    assert not {pointer(a) for a in inputs} & {pointer(a) for a in outputs}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_lr_zero_returns_the_same_values_in_new_arrays(backend, dtype):
    need(backend, dtype)
    with backend.scope(dtype):
        x = backend.asarray(normal((3, 4)), dtype)
        new, _ = af.step(x, x, af.init(x), af.Config(0.0))
        assert backend.bits(new) == backend.bits(x)
        assert new is not x


@pytest.mark.parametrize("options", {**VARIETY, **CAREFUL}.values(), ids={**VARIETY, **CAREFUL})
def test_read_only_arrays_work_and_are_left_alone_when_donated(options):
    config = af.Config(**options)
    x, g = normal((6, 5)), normal((6, 5), seed=1)
    state = af.init(x, config)
    want, _ = af.step(x, g, state, config)
    for array in optree.tree_leaves((x, g, state)):
        array.flags.writeable = False
    for donate in (False, True):
        got, _ = af.step(x, g, state, config, donate=donate)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("options", [*VARIETY, *BATCHED, *CAREFUL])
@pytest.mark.parametrize("scratch", [None, 1024], ids=["whole", "streamed"])
def test_donated_arrays_are_overwritten_with_the_same_result(options, scratch):
    options = {**VARIETY, **BATCHED, **CAREFUL}[options]
    config = af.Config(**options, max_scratch_bytes=scratch)
    shape = (4, 30, 20) if "batch_axes" in options or "factored_dims" in options else (30, 40)
    shape = (30, 40) if options.get("factored_dims") == "last" else shape
    x, kept = normal(shape), normal(shape)
    state, kept_state = af.init(x, config), af.init(x, config)
    for t in range(1, 4):
        g = normal(shape, seed=t)
        slots = [a for a in state.moments if a is not None]
        new, after = af.step(x, g, state, config, donate=True)
        kept, kept_state = af.step(kept, g, kept_state, config)
        assert new is x
        assert all(a is b for a, b in zip(slots, flat(after.moments).values(), strict=True))
        np.testing.assert_array_equal(new, kept)
        for a, b in zip(
            flat(after.moments).values(), flat(kept_state.moments).values(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        assert g.tobytes() == normal(shape, seed=t).tobytes()
        state = after


@pytest.mark.parametrize("options", ["defaults", "full", "momentum of gradients"])
@pytest.mark.backends("torch", "jax", "strict", "dask", "cupy")
def test_donating_on_every_library_gives_the_same(backend, options):
    config = af.Config(**VARIETY[options])
    results = []
    for donate in (False, True):
        x, g = backend.asarray(normal((6, 5))), backend.asarray(normal((6, 5), seed=1))
        new, state = af.step(x, g, af.init(x, config), config, donate=donate)
        results.append(numbers(backend, [new, state.moments]))
    for path, want in results[0].items():
        close(results[1][path], want, 0.0, path)


LIBRARIES = "numpy torch jax cupy dask array_api_strict ml_dtypes numba tensorflow mlx"


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("af.Config(0.1); af.variants.paper()", set()),
        (
            "import numpy as np; x = np.ones((3, 4), np.float32); af.step(x, x, af.init(x))",
            {"numpy"},
        ),
    ],
    ids=["import", "a step of NumPy"],
)
def test_a_process_loads_no_library_that_it_was_not_given(program, wanted):
    program = f"import sys, adafactor_core as af; {program}; print(*sys.modules)"
    run = [sys.executable, "-W", "error", "-c", program]
    modules = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert set(LIBRARIES.split()) & set(modules) == wanted


def test_the_public_names_are_these():
    assert af.__all__ == sorted(af.__all__)
    assert set(af.__all__) == {
        "AdafactorError", "ArrayPasses", "Config", "ConfigError", "DTypeError", "DeviceError",
        "LowPrecisionWarning", "MemoryReport", "Metrics", "Moments", "NonFiniteError", "Partial",
        "Passes", "ReadOnlyError", "RelativeStep", "ShapeError", "Sharding", "State", "StateError",
        "StateFileError", "TreeError", "Work", "convert_state", "flat_metrics", "init",
        "interchange", "layouts", "load_state", "memory_report", "metrics", "save_state",
        "schedules", "step", "stochastic_round", "update", "variants",
    }  # fmt: skip
    assert all(getattr(af, name).__doc__ for name in af.__all__)


@pytest.mark.parametrize("options", VARIETY.values(), ids=VARIETY)
@pytest.mark.backends("strict")
def test_strictest_flags_and_another_device(backend, options):
    """Nothing outside the standard, no mixed dtypes, no array made on the default device."""
    flags = backend.lib.get_array_api_strict_flags()
    assert flags["api_version"] == "2024.12"
    assert not flags["enabled_extensions"]
    assert not flags["boolean_indexing"]
    assert not flags["data_dependent_shapes"]
    config = af.Config(**options)
    for dtype in backend.dtypes:
        x = tensors(backend, dtype=dtype)
        state = af.init(x, config)
        for t in range(1, 3):
            x, state = af.step(x, tensors(backend, t, dtype), state, config)
        for array in optree.tree_leaves((x, state)):
            assert array.device == backend.device
        found = {str(a.dtype).rpartition(".")[2] for a in optree.tree_leaves((x, state.moments))}
        assert found == {dtype}  # float64 never appears beside float32


@pytest.mark.backends("strict")
def test_a_device_without_float64_is_enough(backend):
    """As on TPU and Apple's GPUs: float32 tensors never pass through float64."""
    device = backend.lib.Device("no_float64")
    x = backend.lib.asarray(np.ones((200, 300), np.float32), device=device)
    config = af.Config(0.1, beta1=0.9, weight_decay=0.1)
    new, state = af.step(x, x, af.init(x, config), config)
    assert new.device == state.moments.row.device == device


@pytest.mark.backends("dask")
def test_dask_stays_lazy(backend):
    import dask

    def computes(*args, **kwargs):
        raise AssertionError("a step computed something")

    config = af.Config(0.1, beta1=0.9, weight_decay=0.1)
    x, g = backend.asarray(normal((6, 5))), backend.asarray(normal((6, 5), seed=1))
    with dask.config.set(scheduler=computes):
        lazy, state = af.step(x, g, af.init(x, config), config)
        lazy, state = af.step(lazy, g, state, config)
    eager = normal((6, 5)).astype(np.float32)
    eager_state = af.init(eager, config)
    for _ in range(2):
        eager, eager_state = af.step(
            eager, normal((6, 5), seed=1).astype(np.float32), eager_state, config
        )
    close(backend.numpy(lazy), eager, 1e-6)
    assert int(state.step) == 2


@pytest.mark.backends("numpy")
def test_tensors_of_several_devices_or_dtypes_may_share_a_step(backend):
    x = {d: backend.asarray(normal((3, 4)), d) for d in backend.dtypes}
    new, _ = af.step(x, x, af.init(x))
    for dtype, array in x.items():
        alone, _ = af.step(array, array, af.init(array))
        assert new[dtype].dtype == array.dtype
        np.testing.assert_array_equal(new[dtype], alone)
