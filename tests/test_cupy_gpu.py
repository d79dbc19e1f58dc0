"""adafactor_cupy on a real device: what the stand-in cannot show."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from adafactor_cupy import Adafactor

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
if not cupy.is_available():
    pytest.skip("no GPU: cupy.is_available() is False", allow_module_level=True)

SHAPES = {"w": (513, 1029), "conv": (8, 6, 3, 3), "b": (20,), "s": (), "none": (0, 4)}
OPTIONS = {
    "default": {},
    "momentum": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1},
    "skip_step": {"nonfinite": "skip_step", "max_grad_norm": 1.0, "telemetry": True},
    "skip_tensor": {"nonfinite": "skip_tensor"},
    "slices": {"lr": 0.1, "rules": [("conv", {"batch_axes": 0})]},
}


def tree(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {n: np.asarray(rng.standard_normal(s)).astype(dtype) for n, s in SHAPES.items()}


def on_device(arrays):
    return {n: cupy.asarray(x) for n, x in arrays.items()}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_numbers_of_the_core(options):
    config = af.Config(**options)
    params, pure = on_device(tree(0)), tree(0)
    optimizer, state = Adafactor(params, config), af.init(pure, config)
    for k in (1, 2, 3):
        optimizer.step(on_device(tree(k)))
        pure, state = af.step(pure, tree(k), state, config)
    for name, want in pure.items():
        close(cupy.asnumpy(params[name]), want, 2e-6, name)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype, rounding):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    config = af.Config(lr=0.1, rounding=rounding)
    params, pure = on_device(tree(0, dtype)), tree(0, dtype)
    Adafactor(params, config).step(on_device(tree(1, dtype)))
    pure, _ = af.step(pure, tree(1, dtype), af.init(pure, config), config)
    for name, want in pure.items():
        close(cupy.asnumpy(params[name]).astype(float), want.astype(float), 8e-3, name)


def test_it_runs_on_the_current_stream_and_takes_dlpack():
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __dlpack__(self, **kwargs):
            return self.array.__dlpack__(**kwargs)

    params, pure = on_device(tree(0)), tree(0)
    optimizer = Adafactor(params)
    grads = on_device(tree(1))
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        optimizer.step({n: Foreign(g) for n, g in grads.items()})
        stream.synchronize()
    pure, _ = af.step(pure, tree(1), af.init(pure))
    for name, want in pure.items():
        close(cupy.asnumpy(params[name]), want, 2e-6, name)


def test_a_captured_step_launched_again_is_the_next_step():
    options = {"lr": 0.1, "rounding": "stochastic", "nonfinite": "skip_step", "max_grad_norm": 1.0}
    grads, results = on_device(tree(1, np.float16)), []
    for captured in (False, True):
        params, pool = on_device(tree(0, np.float16)), cupy.cuda.MemoryPool()
        cupy.cuda.Device().synchronize()
        with cupy.cuda.Stream(non_blocking=True) as stream:
            optimizer = Adafactor(params, telemetry=True, **options)
            optimizer.step(grads)
            if captured:
                with cupy.cuda.using_allocator(pool.malloc):
                    stream.begin_capture()
                    optimizer.step(grads)
                    graph = stream.end_capture()
                for _ in range(3):
                    graph.launch(stream)
            else:
                for _ in range(3):
                    optimizer.step(grads)
            stream.synchronize()
        results.append({n: cupy.asnumpy(x) for n, x in params.items()})
        assert int(optimizer.state.step) == 4
    for name, want in results[0].items():
        assert np.array_equal(results[1][name], want), name
