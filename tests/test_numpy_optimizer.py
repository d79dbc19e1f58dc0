"""adafactor_numpy.Adafactor: in place, the core's numbers, and no change by a rejected call."""

import gc
import weakref

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from adafactor_numpy import Adafactor

try:
    import numba  # noqa: F401

    COMPILED = [False, True]
except ImportError:
    COMPILED = [False]


@pytest.fixture(params=COMPILED, ids=lambda c: "compiled" if c else "plain")
def compiled(request):
    return request.param


def arrays(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = {"w": (33, 20), "conv": (8, 6, 3, 3), "b": (20,), "s": (), "none": (0, 4)}
    tree = {n: np.asarray(rng.standard_normal(s)).astype(dtype) for n, s in shapes.items()}
    return {"layer": tree, "list": [np.asarray(rng.standard_normal((5, 3))).astype(dtype)]}


def leaves(tree):
    return [*tree["layer"].values(), *tree["list"]]


def bits(tree):
    return [x.tobytes() for x in leaves(tree)]


OPTIONS = {
    "default": {},
    "lr, momentum, decay": {"lr": 0.05, "beta1": 0.9, "weight_decay": 0.1},
    "schedule": {"lr": lambda t: 0.1 / t},
    "rules": {"rules": [("layer.*", {"lr": 0.1}), ("list.0", {"factored": False})]},
    "clamp": {"eps1": "finfo", "eps1_mode": "clamp"},  # the kernels leave this to array API
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_in_place_and_the_numbers_of_the_core(options, compiled):
    params = arrays()
    own = leaves(params)
    optimizer = Adafactor(params, compiled=compiled, **options)
    config = af.Config(**options)
    pure = arrays()
    state = af.init(pure, config)
    for k in range(4):
        grads = arrays(k + 1)
        kept = bits(grads)
        assert optimizer.step(grads) is None
        assert bits(grads) == kept
        pure, state = af.step(pure, grads, state, config)
    assert all(a is b for a, b in zip(leaves(optimizer.params), own, strict=True))
    for got, want in zip(leaves(params), leaves(pure), strict=True):
        close(got, want, 1e-6)
    assert optimizer.state.step == int(state.step) == 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(dtype, compiled):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes", reason="no bfloat16").bfloat16
    params = arrays(dtype=dtype)
    before = [x.astype(np.float64) for x in leaves(params)]
    optimizer = Adafactor(params, lr=0.1, compiled=compiled)
    optimizer.step(arrays(1, dtype))
    for x, old in zip(leaves(params), before, strict=True):
        assert x.dtype == dtype
        assert x.size == 0 or np.any(x.astype(np.float64) != old)
    wide = np.float64 if dtype == "float64" else np.float32
    moments = optimizer.state.moments["layer"]
    assert moments["w"].row.dtype == moments["b"].full.dtype == wide


def test_a_single_array(compiled):
    x = np.ones((4, 5), np.float32)
    Adafactor(x, compiled=compiled).step(np.ones_like(x))
    assert np.allclose(x, 0.99)


def test_gradients_may_change_their_memory_and_dtype(compiled):
    params, pure = arrays(), arrays()
    optimizer = Adafactor(params, compiled=compiled)
    state = af.init(pure)
    forms = [
        np.asarray,
        np.asfortranarray,
        lambda g: g.astype(np.float16),
        lambda g: g[..., None][..., 0],
    ]
    for k, form in enumerate([*forms, *forms]):
        grads = arrays(k + 1)
        grads["layer"]["w"] = form(grads["layer"]["w"])
        optimizer.step(grads)
        pure, state = af.step(pure, grads, state)
    for got, want in zip(leaves(params), leaves(pure), strict=True):
        close(got, want, 1e-6)


def test_views_and_other_orders_are_updated_in_place(compiled):
    base = np.ones((10, 12), np.float32)
    g = np.random.default_rng(0).standard_normal((10, 12)).astype(np.float32)
    want, _ = af.step(base.copy(), g, af.init(base))
    for view, grad in [
        (base.copy().T, g.T),
        (np.asfortranarray(base), g),
        (np.ones((20, 24), np.float32)[::2, ::2], g),
    ]:
        Adafactor(view, compiled=compiled).step(grad)
        close(view if view.shape == want.shape else view.T, want, 1e-6)


def test_state_goes_out_and_in(compiled):
    params = arrays()
    optimizer = Adafactor(params, beta1=0.9, compiled=compiled)
    for k in range(3):
        optimizer.step(arrays(k))
    saved = optimizer.state
    other_params = {
        "layer": {n: x.copy() for n, x in params["layer"].items()},
        "list": [params["list"][0].copy()],
    }
    other = Adafactor(other_params, beta1=0.9, compiled=compiled)
    other.state = saved
    assert other.state.moments["layer"]["w"].row is not saved.moments["layer"]["w"].row
    for k in range(3, 6):
        optimizer.step(arrays(k))
        other.step(arrays(k))
    assert bits(params) == bits(other_params)
    assert other.state.step == 6


def test_options_may_change_under_way(compiled):
    params, pure = arrays(), arrays()
    optimizer = Adafactor(params, lr=0.1, compiled=compiled)
    state = af.init(pure)
    for k, lr in enumerate([0.1, 0.05, 0.01]):
        optimizer.config = af.Config(lr=lr)
        optimizer.step(arrays(k + 1))
        pure, state = af.step(pure, arrays(k + 1), state, af.Config(lr=lr))
    for got, want in zip(leaves(params), leaves(pure), strict=True):
        close(got, want, 1e-6)
    with pytest.raises(af.StateError, match=r"'layer\.b'.*momentum"):
        optimizer.config = af.Config(beta1=0.9)
    assert optimizer.config == af.Config(lr=0.01)
    optimizer.step(arrays(9))


def test_gradients_are_not_kept_alive(compiled):
    params = arrays()
    optimizer = Adafactor(params, compiled=compiled)
    grads = arrays(1)
    watched = weakref.ref(grads["layer"]["w"])
    optimizer.step(grads)
    del grads
    gc.collect()
    assert watched() is None


def test_the_gradient_of_a_0d_parameter_may_be_a_numpy_scalar(compiled):
    x = np.array(1.0, np.float32)
    Adafactor(x, compiled=compiled).step(np.float32(3.0))
    assert np.isclose(x, 0.99)


def test_gradient_and_parameter_may_be_one_array(compiled):
    x = np.random.default_rng(0).standard_normal((300, 500)).astype(np.float32)
    want, _ = af.step(x, x.copy(), af.init(x))
    Adafactor(x, compiled=compiled).step(x)
    close(x, want, 1e-6)


def bad_steps():
    def swap(**layer):
        grads = arrays(1)
        grads["layer"].update(layer)
        return grads

    missing = arrays(1)
    del missing["layer"]["w"]
    f32 = np.float32
    return {
        "shape": (
            swap(w=np.ones((20, 33), f32)),
            af.ShapeError,
            r"'layer\.w'.*\(20, 33\).*\(33, 20\)",
        ),
        "none": (swap(w=None), af.TreeError, r"'layer\.w' is None"),
        "int": (swap(b=np.ones(20, int)), af.DTypeError, r"'layer\.b'.*int64"),
        "complex": (swap(b=np.ones(20, complex)), af.DTypeError, r"'layer\.b'.*complex128"),
        "list": (swap(b=[1.0] * 20), af.AdafactorError, r"layer\.b"),
        "number": (swap(s=1.0), af.DTypeError, r"'layer\.s'.*float.*ndarray"),
        "missing": (missing, af.TreeError, r"Missing: 'layer\.w'"),
        "extra": (swap(more=np.ones(3, f32)), af.TreeError, r"unknown: 'layer\.more'"),
        "not a tree": (np.ones(3, f32), af.TreeError, "nested like params"),
    }


@pytest.mark.parametrize("case", bad_steps())
def test_a_rejected_step_changes_nothing(case, compiled):
    grads, error, message = bad_steps()[case]
    params = arrays()
    optimizer = Adafactor(params, beta1=0.9, compiled=compiled)
    optimizer.step(arrays(5))
    kept = bits(params), repr(optimizer.state)
    with pytest.raises(error, match=message):
        optimizer.step(grads)
    assert (bits(params), repr(optimizer.state)) == kept
    optimizer.step(arrays(6))
    assert optimizer.state.step == 2


def test_a_schedule_gone_wrong_changes_nothing(compiled):
    params = arrays()
    optimizer = Adafactor(params, lr=lambda t: 0.1 if t == 1 else float("nan"), compiled=compiled)
    optimizer.step(arrays(1))
    kept = bits(params)
    with pytest.raises(af.ConfigError, match=r"lr returned nan at t=2"):
        optimizer.step(arrays(2))
    assert bits(params) == kept


def test_what_became_read_only_is_named(compiled):
    params = arrays()
    optimizer = Adafactor(params, compiled=compiled)
    optimizer.step(arrays(1))
    kept = bits(params)
    params["layer"]["w"].flags.writeable = False
    with pytest.raises(af.ReadOnlyError, match=r"'layer\.w' is read-only"):
        optimizer.step(arrays(2))
    assert bits(params) == kept


def frozen(x):
    x.flags.writeable = False
    return x


ONES = np.ones((4, 4), np.float32)
BAD_PARAMS = {
    "read-only": ({"w": frozen(np.ones(3, np.float32))}, af.ReadOnlyError, "'w' is read-only"),
    "list": ({"w": [1.0, 2.0]}, af.DTypeError, r"'w\.0' is a float"),
    "scalar": ({"w": np.float32(1)}, af.DTypeError, "'w'.*float32.*ndarray"),
    "int": ({"w": np.ones(3, int)}, af.DTypeError, "'w'.*int64"),
    "byte order": ({"w": np.ones(3, ">f4")}, af.DTypeError, "'w'.*>f4"),
    "twice": ({"a": ONES, "b": ONES}, af.TreeError, "'a' and 'b' share memory"),
    "views": ({"a": ONES[:3], "b": ONES[1:]}, af.TreeError, "share memory"),
}


@pytest.mark.parametrize(("params", "error", "message"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_rejected_parameters(params, error, message):
    with pytest.raises(error, match=message):
        Adafactor(params, compiled=False)


def test_disjoint_views_of_one_buffer_are_fine(compiled):
    buffer = np.ones(30, np.float32)
    params = {"a": buffer[:20].reshape(4, 5), "b": buffer[20:]}
    Adafactor(params, compiled=compiled).step(
        {"a": np.ones((4, 5), np.float32), "b": np.ones(10, np.float32)}
    )
    assert np.allclose(buffer, 0.99)


def test_config_and_options_together_are_refused():
    with pytest.raises(af.ConfigError, match=r"Adafactor\(params, config\) or"):
        Adafactor(ONES.copy(), af.Config(), lr=0.1)


def test_a_foreign_state_is_refused_and_changes_nothing(compiled):
    params = arrays()
    optimizer = Adafactor(params, compiled=compiled)
    optimizer.step(arrays(1))
    kept = repr(optimizer.state)
    others = [af.init(arrays(), af.Config(beta1=0.9)), af.init(ONES), "state"]
    for other in others:
        with pytest.raises((af.StateError, af.TreeError)):
            optimizer.state = other
    assert repr(optimizer.state) == kept


def test_memory_report_is_the_memory(compiled):
    optimizer = Adafactor(arrays(), beta1=0.9, compiled=compiled)
    slots = [m for ms in leaves(optimizer.state.moments) for m in ms if m is not None]
    assert optimizer.memory_report().state_bytes == sum(m.nbytes for m in slots)


def test_without_numba_it_says_so_once(monkeypatch):
    from adafactor_numpy import MissingNumbaWarning, _optimizer

    monkeypatch.setattr(_optimizer, "available", lambda: False)
    monkeypatch.setattr(_optimizer, "_told", False)
    with pytest.warns(MissingNumbaWarning, match="pip install"):
        optimizer = Adafactor(arrays())
    optimizer.step(arrays(1))
    Adafactor(arrays())  # a second warning would be an error here
    with pytest.raises(af.ConfigError, match="needs Numba"):
        Adafactor(arrays(), compiled=True)
