"""adafactor_numpy with 16-bit parameters: the draws and bits of the core, plain and compiled."""

import numpy as np
import optree
import pytest

import adafactor_core as af
from _close import close, spacing
from _run import flat, normal
from adafactor_numpy import Adafactor

try:
    import numba  # noqa: F401

    COMPILED = [False, True]
except ImportError:
    COMPILED = [False]
try:
    from ml_dtypes import bfloat16

    NARROW = [np.float16, bfloat16]
except ImportError:
    NARROW = [np.float16]
needs_numba = pytest.mark.skipif(len(COMPILED) == 1, reason="Numba is not installed")
narrow = pytest.mark.parametrize("dtype", NARROW, ids=lambda d: np.dtype(d).name)
ELEMENTWISE = {"factored": False, "clip_threshold": None}


@pytest.fixture(params=COMPILED, ids=lambda c: "compiled" if c else "plain")
def compiled(request):
    return request.param


def bits(*trees):
    return [np.asarray(a).tobytes() for a in optree.tree_leaves(trees)]


def signs(shape, dtype, seed):
    """Gradients whose sums are exact in any order."""
    return np.asarray(np.where(normal(shape, seed=seed) < 0, -1.0, 1.0)).astype(dtype)


def follow(x, options, compiled, steps=3, grads=signs):
    """(parameter, moments) after steps of `af.step`; compiled, nothing may be left to the rest."""
    config, passes = af.Config(0.01, scale_parameter=False, **options), ()
    if compiled:
        from test_numpy_passes import Must

        passes = (Must(),)
    state = af.init(x, config)
    for t in range(1, steps + 1):
        x, state = af.step(x, grads(x.shape, x.dtype, t), state, config, passes=passes)
    return x, {n: a for n, a in state.moments._asdict().items() if a is not None}


# Sizes are powers of 2 where means have to be exact, and anything where all is elementwise.
EXACT = {
    "rows first": ((8, 64), {}),
    "columns first": ((64, 8), {"factored_dims": (1, 0)}),
    "an axis between": ((4, 8, 16), {"factored_dims": (0, 2)}),
    "axes behind": ((16, 32, 2, 4), {}),
    "axes behind, columns first": ((4, 16, 2), {"factored_dims": (1, 0)}),
    "axes in front": ((2, 4, 16, 8), {}),
    "a stack": ((2, 16, 32), {"batch_axes": 0}),
    "last axis 1": ((8, 16, 1), {"factored_dims": (0, 1)}),
    "many tiles": ((2, 1 << 15), {}),
    "full": ((13, 7), ELEMENTWISE),
    "full, three axes": ((3, 5, 7), ELEMENTWISE),
    "a vector": ((1001,), ELEMENTWISE),
    "a long vector": ((70_001,), ELEMENTWISE),
    "rows across runs": ((5, 20_011), ELEMENTWISE),
    "a scalar": ((), ELEMENTWISE),
}
ROUNDING = {
    "stochastic": {"rounding": "stochastic", "seed": 2**33 + 1},
    "kahan": {"rounding": "kahan", "weight_decay": 0.25},
    "stochastic, momentum": {"rounding": "stochastic", "beta1": 0.5, "momentum_on": "update"},
    "kahan, 16-bit momentum": {"rounding": "kahan", "beta1": 0.5},
}


@needs_numba
@narrow
@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.parametrize(("shape", "options"), EXACT.values(), ids=EXACT)
def test_compiled_bits_are_those_of_the_array_api(shape, options, rounding, dtype):
    more = dict(ROUNDING[rounding])
    if "16-bit" in rounding:
        more["momentum_dtype"] = np.dtype(dtype).name
    options = {"decay_offset": 9, "clip_threshold": 9.0} | options | more  # V is 1, always
    x = np.asarray(1 + np.abs(normal(shape))).astype(dtype)
    (got, slots), (want, others) = (follow(x, options, c) for c in (True, False))
    assert got.tobytes() == want.tobytes()
    assert slots.keys() == others.keys()
    for name, array in others.items():
        assert slots[name].tobytes() == array.tobytes(), name
    assert np.any(got != x)


ODD = [(97, 89), (40_003, 2), (2, 40_003), (3, 5, 31, 17), (17, 3, 29), (131, 9001)]


@needs_numba
@narrow
@pytest.mark.parametrize("shape", ODD, ids=str)
def test_shapes_that_are_multiples_of_nothing(shape, dtype):
    """Sums differ in their last place, and one draw in a thousand with them."""
    x = normal(shape).astype(dtype)

    def grads(shape, dtype, t):
        return normal(shape, seed=t).astype(dtype)

    options = {"rounding": "stochastic", "beta1": 0.9}
    (got, _), (want, _) = (follow(x, options, c, 1, grads) for c in (True, False))
    same = np.mean(got == want)
    assert same > 0.998
    wide, _ = follow(x.astype("f4"), options, False, 1, lambda s, _, t: grads(s, dtype, t))
    unit = spacing(wide.astype("f8"), np.dtype(dtype).name)
    assert np.all(np.abs(got.astype("f8") - wide) <= unit * 1.0001)
    options = {"rounding": "kahan", "weight_decay": 0.1}
    ends = [follow(x, options, c, 2, grads) for c in (True, False)]
    sums = [y.astype("f8") + slots["compensation"].astype("f8") for y, slots in ends]
    close(sums[0], sums[1], 2.0**-17)


@narrow
def test_the_optimizer_draws_by_path_and_step(dtype, compiled):
    """Elementwise, so that the wide value is known: X minus or plus the rate, twice over."""
    params = {"a": np.full((7, 13), 1.5, dtype), "layers": [{"w": np.full((64, 9), 1.5, dtype)}]}
    optimizer = Adafactor(
        params, af.Config(0.001, scale_parameter=False, rounding="stochastic", seed=5,
                          **ELEMENTWISE), compiled=compiled,
    )  # fmt: skip
    for t in (1, 2):
        grads = optree.tree_map(lambda a, t=t: signs(a.shape, dtype, t), params)
        before = {p: a.astype("f4") for p, a in flat(params).items()}
        optimizer.step(grads)
        for path, x in flat(params).items():
            g = flat(grads)[path].astype("f4")
            wide = before[path] - np.float32(0.001) * g
            want = af.stochastic_round(wide, np.dtype(dtype).name, seed=5, t=t, path=path)
            np.testing.assert_array_equal(x.astype("f4"), want)


@needs_numba
@pytest.mark.parametrize(
    "options",
    [{"rounding": "stochastic", "beta1": 0.9, "momentum_dtype": "float16"},
     {"rounding": "kahan", "max_grad_norm": 1.0, "nonfinite": "skip_tensor", "telemetry": True}],
    ids=["stochastic", "kahan, norm, policy, telemetry"],
)  # fmt: skip
def test_threads_change_no_bit(monkeypatch, options):
    from adafactor_numpy import _threads

    ends = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(_threads, "_COUNT", threads)
        params = {"w": normal((800, 1031)).astype("f2"), "v": normal((900_001,)).astype("f2")}
        optimizer = Adafactor(params, af.Config(0.01, **options), compiled=True)
        for t in (1, 2):
            optimizer.step({p: normal(x.shape, seed=t).astype("f2") for p, x in params.items()})
        ends.append(bits(params, optimizer.state))
    assert ends[0] == ends[1] == ends[2]


@narrow
@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_views_and_other_orders(dtype, rounding, compiled):
    config = af.Config(0.01, rounding=rounding)
    x, g = normal((12, 10)).astype(dtype), normal((12, 10), seed=1).astype(dtype)
    for view in (lambda a: a.T, lambda a: a[::2, 1:], np.asfortranarray):
        mine, grad = view(x.copy()), view(g)
        want, state = af.step(mine.copy(), grad, af.init(mine, config), config)
        optimizer = Adafactor(mine, config, compiled=compiled)
        optimizer.step(grad)
        np.testing.assert_array_equal(mine, want)
        if rounding == "kahan":
            np.testing.assert_array_equal(
                optimizer.state.moments.compensation, state.moments.compensation
            )
