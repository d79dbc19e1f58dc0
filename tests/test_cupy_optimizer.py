"""adafactor_cupy's adapter over a library that stands in for CuPy: numbers, state, errors."""

import subprocess
import sys

import numpy as np
import optree
import pytest

import adafactor_core as af
import adafactor_numpy
from _close import close
from _standin import Adafactor, Array, Device, SyncError, numpy, reading

SHAPES = {"w": (33, 20), "conv": (8, 6, 3, 3), "b": (20,), "s": (), "none": (0, 4), "big": (3, 901)}


def tree(seed=0, dtype=np.float32, bad=None):
    """NumPy arrays."""
    rng = np.random.default_rng(seed)
    found = {n: np.asarray(rng.standard_normal(s)).astype(dtype) for n, s in SHAPES.items()}
    if bad is not None:
        found["w"][3, 4] = bad
    return {"layer": found, "list": [np.asarray(rng.standard_normal((5, 3))).astype(dtype)]}


def on_device(arrays, number=0):
    return optree.tree_map(lambda x: Array(x.copy(), Device(number)), arrays)


def back(arrays):
    return optree.tree_map(numpy, arrays)


def bits(*trees):
    found = [x for x in optree.tree_leaves(trees) if isinstance(x, Array)]
    return [numpy(x).tobytes() for x in found]


def alike(got, want, tolerance=1e-6):
    for (path, x), y in zip(
        zip(*optree.tree_flatten_with_path(got)[:2], strict=True),
        optree.tree_leaves(want),
        strict=True,
    ):
        close(x.astype(np.float64), y.astype(np.float64), tolerance, str(path))


OPTIONS = {
    "default": {},
    "lr, momentum, decay": {"lr": 0.05, "beta1": 0.9, "weight_decay": 0.1},
    "schedule": {"lr": lambda t: 0.1 / t},
    "rules": {"rules": [("layer.*", {"lr": 0.1}), ("list.0", {"factored": False})]},
    "clamp": {"eps1": "finfo", "eps1_mode": "clamp"},
    "stack": {"rules": [("layer.conv", {"batch_axes": 0})]},
    "ascent of adam's": {"maximize": True, "decay_type": "adam", "decay_rate": 0.99},
    "norm": {"max_grad_norm": 3.0},
    "skip_tensor": {"nonfinite": "skip_tensor"},
    "skip_step": {"nonfinite": "skip_step", "lr": 0.1},
    "telemetry": {"telemetry": True, "clip_threshold": None},
    "everything": {
        "nonfinite": "skip_step", "max_grad_norm": 1.0, "telemetry": True, "beta1": 0.9,
        "momentum_dtype": "int8", "momentum_rounding": "stochastic",
        "rules": [("layer.b", {"momentum_arithmetic": "weak", "momentum_dtype": "float16",
                               "momentum_rounding": "nearest"})],
    },
}  # fmt: skip


@pytest.mark.parametrize("faults", [(None,) * 4, (np.nan, None, np.inf, None)], ids=["", "odd"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_numbers_of_the_core_and_of_numpy_without_a_sync(options, faults):
    guarded = "nonfinite" in options
    if any(faults) and not guarded:
        pytest.skip("no policy on non-finite numbers")
    config = af.Config(**options)
    params, pure, plain = on_device(tree()), tree(), tree()
    own = optree.tree_leaves(params)
    optimizer, state = Adafactor(params, config), af.init(pure, config)
    other = adafactor_numpy.Adafactor(plain, config, compiled=False)
    for k, bad in enumerate(faults):
        grads = on_device(tree(k + 1, bad=bad))
        kept = bits(grads)
        assert optimizer.step(grads) is None
        assert bits(grads) == kept
        pure, state = af.step(pure, tree(k + 1, bad=bad), state, config)
        other.step(tree(k + 1, bad=bad))
    assert all(a is b for a, b in zip(optree.tree_leaves(optimizer.params), own, strict=True))
    alike(back(params), pure)
    alike(back(params), plain)
    mine = optimizer.state
    with reading():
        assert int(mine.step) == int(state.step)
        assert (mine.skipped is None) == (state.skipped is None)
        assert int(mine.skipped or 0) == int(state.skipped or 0)
    if "momentum_dtype" not in options:  # int8 steps may fall on either side
        alike(back(mine.moments), state.moments, 1e-5)
    if config.telemetry:
        alike(back(mine.metrics), state.metrics, 1e-5)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(dtype, rounding):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes", reason="no bfloat16").bfloat16
    config = af.Config(lr=0.1, rounding=rounding)
    params, pure = on_device(tree(dtype=dtype)), tree(dtype=dtype)
    optimizer, state = Adafactor(params, config), af.init(pure, config)
    optimizer.step(on_device(tree(1, dtype)))
    pure, state = af.step(pure, tree(1, dtype), state, config)
    alike(back(params), pure, 1e-14 if dtype == "float64" else 2e-3)
    assert all(x.dtype == dtype for x in optree.tree_leaves(back(params)))
    wide = np.float64 if dtype == "float64" else np.float32
    assert optimizer.state.moments["layer"]["w"].row.dtype == wide


def test_only_raising_reads_a_number():
    params = on_device(tree())
    optimizer = Adafactor(params, nonfinite="raise")
    with pytest.raises(SyncError):
        optimizer.step(on_device(tree(1)))
    with reading():
        optimizer.step(on_device(tree(1)))
        kept = bits(params, optimizer.state)
        with pytest.raises(af.NonFiniteError, match=r"'layer\.w' of shape \(33, 20\)"):
            optimizer.step(on_device(tree(2, bad=np.nan)))
        assert bits(params, optimizer.state) == kept


@pytest.mark.parametrize("scale", [1024.0, "array"])
def test_loss_scales(scale):
    pure, params = tree(), on_device(tree())
    want, _ = af.step(pure, tree(1), af.init(pure))
    scale = Array(np.float32(1024)) if scale == "array" else scale
    grads = optree.tree_map(lambda g: Array(g * 1024), tree(1))
    Adafactor(params).step(grads, grad_scale=scale)
    alike(back(params), want)


def test_a_single_array_and_none_at_all():
    x = Array(np.ones((4, 5), np.float32))
    Adafactor(x).step(Array(np.ones((4, 5), np.float32)))
    assert np.allclose(numpy(x), 0.99)
    nothing = Adafactor({}, nonfinite="skip_step")
    nothing.step({})
    assert nothing.state.step == 1


@pytest.mark.parametrize("options", [OPTIONS["default"], OPTIONS["everything"]], ids=str)
def test_each_tensor_is_stepped_on_its_own_device(options):
    """The stand-in fails when an array is used on another device than the current one."""
    config = af.Config(**options)
    params, one = on_device(tree()), on_device(tree())
    params["layer"]["w"], params["list"] = (
        Array(numpy(params["layer"]["w"]), Device(1)),
        on_device(tree()["list"], 2),
    )
    optimizer, single = Adafactor(params, config), Adafactor(one, config)
    for k in range(3):
        grads = on_device(tree(k + 1, bad=np.inf if k == 1 and config.max_grad_norm else None))
        moved = optree.tree_map(lambda g, x: Array(numpy(g), x.device), grads, params)
        with Device(5):  # not even the first tensor's device is current
            optimizer.step(moved)
        single.step(grads)
    assert bits(params) == bits(one)
    assert {x.device for x in optree.tree_leaves(optimizer.state.moments)} == set(
        map(Device, (0, 1, 2))
    )
    assert {(1, 0), (2, 0)} <= set(optimizer._library.waits)
    if config.max_grad_norm:
        assert {(0, 1), (0, 2)} <= set(optimizer._library.waits)


RESUMED = {
    "default": {},
    "skip_step": {"nonfinite": "skip_step", "rounding": "stochastic"},
    "skip_tensor": {"nonfinite": "skip_tensor", "rounding": "kahan", "telemetry": True},
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("faults", [(None, None), (None, np.inf)], ids=["", "odd"])
def test_resuming_is_going_on(options, faults):
    config = af.Config(0.01, **options)
    half = np.float16
    bad = faults[1] if options else None
    params = on_device(tree(dtype=half))
    optimizer = Adafactor(params, config)
    for t, fault in [(1, None), (2, bad), (3, None)]:
        optimizer.step(on_device(tree(t, half, fault)))
    copies = on_device(back(params))
    other = Adafactor(copies, config)
    with reading():
        other.state = optimizer.state
        if options:
            assert int(other.state.skipped) == (bad is not None)
    taken, given = (optree.tree_leaves(s.moments) for s in (other.state, optimizer.state))
    assert not any(
        np.shares_memory(a._values, b._values) for a, b in zip(taken, given, strict=True)
    )
    for t, fault in [(4, None), (5, bad), (6, None)]:
        optimizer.step(on_device(tree(t, half, fault)))
        other.step(on_device(tree(t, half, fault)))
    assert bits(params, optimizer.state) == bits(copies, other.state)


def test_a_state_of_numpy_arrays_is_taken():
    plain = tree()
    source = adafactor_numpy.Adafactor(plain, beta1=0.9, compiled=False)
    source.step(tree(1))
    params = on_device(plain)
    optimizer = Adafactor(params, beta1=0.9)
    optimizer.state = source.state
    source.step(tree(2))
    optimizer.step(on_device(tree(2)))
    alike(back(params), plain)


def test_options_may_change_under_way():
    params, pure = on_device(tree()), tree()
    optimizer, state = Adafactor(params, lr=0.1, nonfinite="skip_tensor"), None
    state = af.init(pure, optimizer.config)
    for k, policy in enumerate(["skip_tensor", "skip_step", "skip_tensor"]):
        with reading():
            optimizer.config = af.Config(lr=0.1 / (k + 1), nonfinite=policy)
        optimizer.step(on_device(tree(k + 1)))
        pure, state = af.step(pure, tree(k + 1), state, optimizer.config)
        assert isinstance(optimizer.state.step, Array) == (policy == "skip_step")
    alike(back(params), pure)
    with pytest.raises(af.StateError, match=r"'layer\.b'.*momentum"), reading():
        optimizer.config = af.Config(beta1=0.9, nonfinite="skip_tensor")


class Foreign:
    """Another library's array on a device, or in CPU memory."""

    def __init__(self, values, kind=2, error=None):
        self.array, self.kind, self.error = Array(values), kind, error

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, **_):
        if self.error:
            raise self.error
        return self.array


def test_gradients_of_other_libraries_are_taken_through_dlpack():
    params, pure = on_device(tree()), tree()
    Adafactor(params).step(optree.tree_map(Foreign, tree(1)))
    alike(back(params), af.step(pure, tree(1), af.init(pure))[0])


def bad_steps():
    def swap(**layer):
        grads = on_device(tree(1))
        grads["layer"].update(layer)
        return grads

    ones = np.ones((33, 20), np.float32)
    missing = on_device(tree(1))
    del missing["layer"]["w"]
    return {
        "shape": (
            swap(w=Array(ones.T)),
            af.ShapeError,
            r"'layer\.w'.*\(20, 33\).*\(33, 20\)",
        ),
        "none": (swap(w=None), af.TreeError, r"'layer\.w' is None"),
        "int": (swap(w=Array(ones.astype(int))), af.DTypeError, r"'layer\.w'.*int64"),
        "number": (swap(s=1.0), af.DTypeError, r"'layer\.s'.*float.*__dlpack__ on device"),
        "numpy": (swap(w=ones), af.DeviceError, r"'layer\.w'.*ndarray, in CPU memory.*asarray"),
        "device": (swap(w=Array(ones, Device(1))), af.DeviceError, r"'layer\.w'.*device 0.*1"),
        "dlpack": (
            swap(w=Foreign(ones, error=BufferError("requires grad"))),
            af.DTypeError,
            r"'layer\.w', a Foreign, .*requires grad.*Detach",
        ),
        "dlpack shape": (swap(b=Foreign(ones)), af.ShapeError, r"'layer\.b'.*\(33, 20\)"),
        "missing": (missing, af.TreeError, r"Missing: 'layer\.w'"),
        "not a tree": (Array(ones), af.TreeError, "nested like params"),
    }


@pytest.mark.parametrize("case", bad_steps())
def test_a_rejected_step_changes_nothing(case):
    grads, error, message = bad_steps()[case]
    params = on_device(tree())
    optimizer = Adafactor(params, beta1=0.9)
    optimizer.step(on_device(tree(5)))
    kept = bits(params, optimizer.state)
    with pytest.raises(error, match=message):
        optimizer.step(grads)
    assert bits(params, optimizer.state) == kept
    optimizer.step(on_device(tree(6)))
    assert optimizer.state.step == 2


ONES = np.ones((4, 4), np.float32)
SHARED = Array(ONES)
BAD_PARAMS = {
    "numpy": ({"w": ONES}, af.DTypeError, r"'w' is a ndarray, expected a standin\.Array"),
    "int": ({"w": Array(ONES.astype(int))}, af.DTypeError, "'w'.*int64"),
    "twice": ({"a": SHARED, "b": SHARED}, af.TreeError, "'a' and 'b' share memory"),
    "views": ({"a": SHARED[:3], "b": SHARED[1:]}, af.TreeError, "share memory"),
    "reversed": ({"a": SHARED[::-1], "b": SHARED[3:]}, af.TreeError, "share memory"),
    "broadcast": (
        {"a": Array(np.lib.stride_tricks.as_strided(ONES, (3, 4), (0, 4)))},
        af.ReadOnlyError,
        r"'a' of shape \(3, 4\) and dtype float32 is a broadcast view",
    ),
}


@pytest.mark.parametrize(("params", "error", "message"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_rejected_parameters(params, error, message):
    with pytest.raises(error, match=message):
        Adafactor(params)


def test_views_are_updated_in_place():
    base, g = np.ones((10, 12), np.float32), tree(3)["layer"]["w"][:10, :12]
    want, _ = af.step(base.copy(), g, af.init(base))
    even = np.ones((20, 24), np.float32)[::2, ::2]
    for view, grad in [(base.copy().T, g.T), (even, g), (base.copy()[::-1], g[::-1])]:
        Adafactor(Array(view)).step(Array(grad))
        close(np.sort(view.ravel()), np.sort(want.ravel()), 1e-6)


def test_a_foreign_state_is_refused_and_changes_nothing():
    params = on_device(tree())
    optimizer = Adafactor(params)
    optimizer.step(on_device(tree(1)))
    kept = bits(params, optimizer.state)
    for other in [af.init(on_device(tree()), af.Config(beta1=0.9)), af.init(Array(ONES)), "state"]:
        with pytest.raises((af.StateError, af.TreeError)):
            optimizer.state = other
    assert bits(params, optimizer.state) == kept


def test_memory_report_is_the_memory():
    optimizer = Adafactor(on_device(tree()), beta1=0.9)
    slots = optree.tree_leaves(optimizer.state.moments)
    assert optimizer.memory_report().state_bytes == sum(m.nbytes for m in slots)


def test_importing_needs_neither_cupy_nor_a_gpu():
    code = (
        "import sys; sys.modules['cupy'] = None\n"
        "import adafactor_cupy as a\n"
        "try: a.Adafactor({})\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.startswith("MissingCuPyError adafactor_cupy needs CuPy")
    assert "pip install" in got.stdout


def test_a_named_variant():
    config = af.variants.timm(lr=0.05, weight_decay=0.1)
    params = on_device(tree())
    optimizer = Adafactor(params, variant="timm", lr=0.05, weight_decay=0.1)
    assert optimizer.config == config
    want, state = tree(), af.init(tree(), config)
    for t in (1, 2):
        optimizer.step(on_device(tree(t)))
        want, state = af.step(want, tree(t), state, config)
    alike(back(params), want)
    with pytest.raises(af.ConfigError, match="Did you mean 'timm'"):
        Adafactor(on_device(tree()), variant="tim")
