"""The compiled passes against the array-API passes they replace, and what they refuse."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close, close_entries, close_narrow, dtype_of
from _served import SERVED, check_dead_rows, check_propagates, drawn

pytest.importorskip("numba", reason="Numba is not installed")

from adafactor_numpy import _table
from adafactor_numpy._compiled import CompiledPasses

OPTIONS = SERVED | {
    "first and last": {"factored_dims": (0, -1)},
    "last and first": {"factored_dims": (-1, 0)},
}
SHAPES = [
    (), (1,), (7,), (1, 1), (1, 13), (13, 1), (5, 7), (97, 89), (3, 4, 5), (2, 3, 31, 17),
    (17, 3, 29), (64, 32, 3, 3), (3, 3, 16, 24), (2, 40_003), (40_003, 2), (131, 9001), (70_001,),
]  # fmt: skip


def follow(param, options, passes, steps=3, grads=None, **kwargs):
    config = af.Config(**options)
    state = af.init(param, config)
    for k in range(steps):
        g = drawn(param.shape, grads or param.dtype, seed=k + 1)
        param, state = af.step(param, g, state, config, passes=passes, **kwargs)
    return param, state


def agree(got, want, what):
    (x, state), (y, other) = got, want
    assert x.dtype == y.dtype
    if dtype_of(x) in ("bfloat16", "float16"):
        close_narrow(x, y, dtype_of(x), what)
    else:
        close(x, y, {"float32": 1e-6, "float64": 1e-14}[dtype_of(x)], what)
    wide = 1e-13 if dtype_of(x) == "float64" else 1e-5
    for name, a, b in zip(af.Moments._fields, state.moments, other.moments, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and name != "momentum":
            close_entries(a, b, wide, f"{what} {name}")
        elif a is not None:
            close(a, b, wide, f"{what} {name}")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_is_array_api_to_rounding(shape, options):
    if isinstance(options.get("factored_dims"), tuple) and len(shape) < 2:
        pytest.skip("no such axes")
    x = drawn(shape, np.float32)
    agree(follow(x, options, (Must(),)), follow(x, options, ()), str(shape))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["default", "momentum", "decay", "full", "full, unclipped"])
def test_every_dtype(dtype, name):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes", reason="no bfloat16").bfloat16
    # One step for 16 bits: a rounding that falls the other way is more than 2 units of what
    # becomes a smaller value later.
    steps = 3 if dtype == "float64" else 1
    for shape in [(97, 89), (7,), (3, 4, 5), (64, 32, 3, 3), (40_003, 2)]:
        x = drawn(shape, dtype)
        got, want = (follow(x, OPTIONS[name], p, steps) for p in ((Must(),), ()))
        agree(got, want, str(shape))


PAIRS = [("float16", "float32"), ("float32", "float16"), ("float64", "float32")]


@pytest.mark.parametrize(("param", "grad"), [*PAIRS, ("float32", "bfloat16")])
def test_gradients_of_another_dtype(param, grad):
    if grad == "bfloat16":
        grad = pytest.importorskip("ml_dtypes", reason="no bfloat16").bfloat16
    x = drawn((61, 43), param)
    got, want = (follow(x, {}, p, 1, grads=grad) for p in ((Must(),), ()))
    agree(got, want, f"{param} {grad}")


@pytest.mark.parametrize("scope", ["block", "tensor"])
def test_stacked_layers(scope):
    options = {"batch_axes": (0, 1), "scale_scope": scope, "clip_scope": "block", "lr": 0.3}
    x = drawn((2, 3, 31, 17), np.float32) * np.arange(1, 7, dtype=np.float32).reshape(2, 3, 1, 1)
    agree(follow(x, options, (Must(),)), follow(x, options, ()), scope)


def test_many_tensors_are_batched_without_mixing():
    shapes = [(5, 7), (9,), (64, 64), (), (300, 1100), (0, 4), (3, 1, 5), (70_001,), (33, 2)]
    params = {f"t{i}": drawn(s, np.float32, i) for i, s in enumerate(shapes)}
    grads = {f"t{i}": drawn(s, np.float32, i + 50) for i, s in enumerate(shapes)}
    config = af.Config(rules=[("t[24]", {"lr": 0.5}), ("t1", {"beta1": 0.9})])
    state = af.init(params, config)
    got, _ = af.step(params, grads, state, config, passes=(CompiledPasses(),))
    want, _ = af.step(params, grads, state, config)
    for name in params:
        close(got[name], want[name], 1e-6, name)


def test_partial_sums_do_not_depend_on_the_number_of_threads(monkeypatch):
    from adafactor_numpy import _threads

    x = drawn((1031, 2053), np.float32)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(_threads, "_COUNT", threads)
        results.append(follow(x, {"beta1": 0.9}, (Must(),))[0].tobytes())
    assert results[0] == results[1] == results[2]


def test_dead_rows_and_columns_stay_exactly():
    check_dead_rows((Must(),))


@pytest.mark.parametrize("place", [(3, 5), (0, 0), (32, 64)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_gradients_propagate_as_in_array_api(place, bad):
    check_propagates((Must(),), place, bad)


def test_pure_unless_donated():
    x, g = drawn((50, 60), np.float32), drawn((50, 60), np.float32, 1)
    state = af.init(x)
    kept = x.tobytes(), g.tobytes(), state.moments.row.tobytes()
    y, new = af.step(x, g, state, passes=(Must(),))
    assert (x.tobytes(), g.tobytes(), state.moments.row.tobytes()) == kept
    z, _ = af.step(x, g, state, donate=True, passes=(Must(),))
    assert z is x
    assert np.array_equal(y, z)
    assert np.array_equal(new.moments.row, state.moments.row)


REFUSED = {
    "eps1_mode='clamp'": {"eps1": 1e-3, "eps1_mode": "clamp"},
    "momentum_on='grad'": {"beta1": 0.9, "momentum_on": "grad"},
    "momentum_dtype='int8'": {"beta1": 0.9, "momentum_dtype": "int8"},
    "momentum_rounding='stochastic'": {
        "beta1": 0.9,
        "momentum_dtype": "float16",
        "momentum_rounding": "stochastic",
    },
    "telemetry with clip_threshold=None": {"telemetry": True, "clip_threshold": None},
    "momentum_arithmetic='weak'": {"beta1": 0.9, "momentum_arithmetic": "weak"},
    "several axes on one side": {"factored_dims": ((0, 1), 2)},
    "batch_axes that are not the leading axes": {"batch_axes": (2,)},
    "batch_axes of an unfactored tensor": {"batch_axes": (0,), "factored": False},
}


class Listening(CompiledPasses):
    """Remembers what it answered."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def serves(self, work):
        self.seen.append(super().serves(work))
        return self.seen[-1]


@pytest.mark.parametrize(("reason", "options"), REFUSED.items(), ids=REFUSED)
def test_refused_options_run_in_array_api_and_say_why(reason, options):
    x, passes = drawn((4, 5, 6), np.float32), Listening()
    got = follow(x, options, (passes,), steps=2)
    want = follow(x, options, (), steps=2)
    assert passes.seen == [reason] * 2
    assert np.array_equal(got[0], want[0])


def test_not_contiguous_is_refused():
    x = drawn((8, 6), np.float32)
    for param, grad in [(x.T, x.T), (x[::2], x[::2]), (x, np.asfortranarray(x))]:
        passes = Listening()
        af.step(param, grad, af.init(param), passes=(passes,))
        assert passes.seen == ["not contiguous in C order"]


def test_bits_of_16_bit_floats_are_numpys():
    numba = pytest.importorskip("numba")
    from adafactor_numpy import _kernels

    load = numba.njit(lambda a, i: _kernels._load(a, i))

    @numba.njit
    def stored(values, into):
        for i in range(values.size):
            _kernels._store(into, i, values[i])

    rng = np.random.default_rng(0)
    every = np.arange(2**16, dtype=np.uint16)
    wide = np.concatenate(
        [
            rng.integers(0, 2**32, 400_000, dtype=np.uint32).view(np.float32),
            np.float32(2.0) ** rng.uniform(-30, 17, 400_000).astype(np.float32),
            (every.astype(np.uint32) << 16).view(np.float32),
            ((every.astype(np.uint32) << 16) | 0x8000).view(np.float32),  # ties of bfloat16
            np.arange(0, 2**26, 2**7, dtype=np.float32) * np.float32(2.0**-25),  # of float16
            np.arange(1, 4097, 2, dtype=np.float32) * np.float32(2.0**4),
            np.float32([65504, 65519.99, 65520, 2.0**-24, 2.0**-25, 2.0**-25 * 1.0001]),
        ]
    )
    kinds = [(np.int16, np.float16)]
    try:
        import ml_dtypes

        kinds.append((np.uint16, ml_dtypes.bfloat16))
    except ImportError:
        pass
    for code, dtype in kinds:
        bits = every.view(code)
        back = np.array([load(bits, i) for i in range(0, 2**16, 7)], np.float32)
        assert np.array_equal(back, every.view(dtype)[::7].astype(np.float32), equal_nan=True)
        into = np.empty(wide.size, code)
        stored(wide, into)
        with np.errstate(over="ignore", invalid="ignore"):
            want = wide.astype(dtype)
        got = into.view(dtype)
        same = (got.view(np.uint16) == want.view(np.uint16)) | (np.isnan(wide) & np.isnan(got))
        assert same.all(), wide[~same][:5]


@pytest.mark.parametrize("shape", [(4096, 4096), (2, 1 << 20), (1 << 20, 2), (24, 512, 512)])
def test_items_cover_every_element_once_within_the_scratch(shape):
    x = np.broadcast_to(np.float32(0), shape)  # no memory behind it
    plan = af._factoring.layout(shape, af.Config())
    (r,), (c,) = plan.row_axes, plan.col_axes
    before, between, after = shape[:r], shape[r + 1 : c], shape[c + 1 :]
    sides = [int(np.prod(s)) for s in (before, between, after)]
    box = _table.Box(sides[0], shape[r], sides[1], shape[c], sides[2], False)
    how = _table.cut(box, None, 4)
    seen = np.zeros((box.a, box.r, box.length), np.int8)
    for _, a, r0, r1, j0, j1, _, _ in _table.items(0, box, how, True):
        seen[a, r0:r1, j0:j1] += 1
    assert (seen == 1).all()
    assert how.lanes == 1 or how.lanes * box.cols * 4 <= _table.SCRATCH
    assert x.shape == shape


class Must(CompiledPasses):
    """Fails instead of leaving a tensor to the array-API passes, unless it is empty."""

    def serves(self, work):
        reason = super().serves(work)
        assert reason in ("", "empty"), reason
        return reason
