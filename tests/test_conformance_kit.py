"""The conformance kit: its oracle is right, its comparisons bite, it catches what is broken."""

import json
import subprocess
import sys
from dataclasses import replace
from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest

import adafactor_core as af
from adafactor_core import conformance as kit
from adafactor_core.conformance import (
    _bits,
    _compare,
    _core_checks,
    _named,
    _named_guarded,
    _oracle,
    _oracle_rounding,
    _vectors,
)
from adafactor_core.conformance._oracle_axes import factored_axes
from adafactor_core.conformance._rounding import round_to
from adafactor_core.conformance._trees import leaves

X = np.array([[1.0, 2.0], [3.0, 4.0]])
G = np.array([[0.1, 0.2], [0.3, 0.4]])


def oracle(params, grads, options, dtype="float64", grad_scale=None):
    return kit.oracle(params, grads, options, dtype, grad_scale)


# ---- the oracle


@pytest.mark.parametrize("row", _named.TABLE, ids=lambda row: row.name)
def test_oracle_reproduces_the_golden_vectors(row):
    case, stored = kit.golden_vectors()[row.name]
    built = _named.build(row)
    for path, x in leaves([built.params, *built.grads]).items():
        _compare.require_same(leaves([case.params, *case.grads])[path], x)
    assert built.grad_scale == case.grad_scale
    done = case.expected("float64")
    for step, expected in zip(done.params, stored.params, strict=True):
        for path, x in leaves(expected).items():
            assert _compare.scaled_error(step[path], x) <= 1e-15
    for path, x in stored.moments[-1].items():
        assert _compare.scaled_error(done.moments[-1][path], x) <= 1e-15
    assert [*done.steps], [*done.skipped] == ([*stored.steps], [*stored.skipped])


def test_the_file_covers_the_table_and_stays_small():
    assert list(kit.golden_vectors()) == [row.name for row in _named.TABLE]
    assert _vectors.FILE.stat().st_size < 1_200_000


def test_the_file_is_strict_json():
    def refuse(word):
        raise ValueError(word)

    found = json.loads(_vectors.FILE.read_text(), parse_constant=refuse)
    assert '"nan"' in json.dumps(found)


@pytest.mark.parametrize("row", _named_guarded.TABLE, ids=lambda row: row.name)
def test_no_momentum_of_the_newer_cases_is_too_close_to_call(row):
    case = _named.build(row)
    dtypes = [dtype for dtype in kit.DTYPES if case.fits(dtype)]
    assert {dtype: case.expected(dtype).close for dtype in dtypes} == dict.fromkeys(dtypes, 0)


def test_first_step_of_a_matrix_by_hand():
    # Algorithm 4, t = 1: beta2 = 0, so R = (0.05, 0.25), C = (0.10, 0.20) are sums of G^2.
    # V = R C / 0.30 = [[1/60, 1/30], [1/12, 1/6]];  U = G / sqrt(V):
    #   0.1 sqrt(60) = 0.774597, 0.2 sqrt(30) = 1.095445, 0.3 sqrt(12) = 1.039230, 0.4 sqrt(6)
    #   = 0.979796;  RMS(U) = sqrt((0.6 + 1.2 + 1.08 + 0.96) / 4) = sqrt(0.96) < 1: no clipping.
    # alpha = rho RMS(X) with rho = 1e-2, RMS(X) = sqrt(30 / 4).
    u = np.sqrt([[0.6, 1.2], [1.08, 0.96]])
    done = oracle(X, [G], {})
    assert done.params[0][""] == pytest.approx(X - 1e-2 * np.sqrt(7.5) * u, rel=1e-15)
    assert done.moments[0]["row"] == pytest.approx(np.array([[0.025], [0.125]]), rel=1e-15)
    assert done.moments[0]["col"] == pytest.approx(np.array([[0.05, 0.1]]), rel=1e-15)


def test_second_step_of_a_matrix_by_hand():
    # t = 2: b = 2^-0.8. The same gradient twice leaves R and C; three times it, clipped at d = 0.5:
    # G2 = 3 G has sums 9 R, 9 C, so V2 = (1 + 8 b) V and U2 = 3 / sqrt(1 + 8 b) * U1.
    b, lr = 2**-0.8, 0.5
    u1 = np.sqrt([[0.6, 1.2], [1.08, 0.96]])
    u2 = 3 / np.sqrt(1 + 8 * b) * u1
    clip1, clip2 = 0.5 / np.sqrt(0.96), 0.5 / (3 / np.sqrt(1 + 8 * b) * np.sqrt(0.96))
    options = {"lr": lr, "scale_parameter": False, "clip_threshold": 0.5}
    done = oracle(X, [G, 3 * G], options)
    first = X - lr * clip1 * u1
    assert done.params[1][""] == pytest.approx(first - lr * clip2 * u2, rel=1e-15)


def test_vector_momentum_and_decay_by_hand():
    # A vector at t = 1 has U = sign(G), whose RMS is 1. m = 0.25 alpha U; decay = 0.1 alpha X.
    x, g = np.array([3.0, 4.0]), np.array([0.5, -2.0])
    alpha = 0.5 * np.sqrt(12.5)
    options = {"lr": 0.5, "beta1": 0.75, "weight_decay": 0.1}
    done = oracle({"v": x}, [{"v": g}], options)
    expected = x - 0.25 * alpha * np.array([1, -1]) - 0.1 * alpha * x
    assert done.params[0]["v"] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("options", "kwargs"),
    [
        ({}, {}),
        ({"lr": 0.5, "weight_decay": 0.1}, {"lr": 0.5, "weight_decay": 0.1}),
        (
            {"eps1": 1e-3, "eps2": 1e-2, "clip_threshold": 2.0, "decay_rate": 0.5},
            {"eps": (1e-3, 1e-2), "d": 2.0, "beta2_decay": -0.5},
        ),
    ],
)
def test_oracle_against_torch(options, kwargs):
    torch = pytest.importorskip("torch", reason="compares the oracle with torch.optim.Adafactor")
    shapes = {"a": (7, 5), "b": (3, 4, 5), "c": (5,), "d": (), "e": (6, 2, 7)}
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = [{name: rng.standard_t(3, x.shape) for name, x in params.items()} for _ in range(6)]
    theirs = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in params.items()}
    optimizer = torch.optim.Adafactor(theirs.values(), **kwargs)
    like_torch = {
        "lr": 0.01, "step_size": SimpleNamespace(cap=None, warmup_init=False), "eps1": "finfo",
        "eps1_mode": "clamp", "factored_dims": "last", "weight_decay_by": "lr", **options,
    }  # fmt: skip
    ours = oracle(params, grads, like_torch)
    for step, grad in enumerate(grads):
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grad[name])
        optimizer.step()
        for name, parameter in theirs.items():
            expected = parameter.detach().numpy()
            assert _compare.scaled_error(ours.params[step][name], expected) <= 1e-14


def test_oracle_rejects_unknown_options():
    with pytest.raises(KeyError, match="clip_treshold"):
        oracle(X, [G], {"clip_treshold": 1.0})


def test_the_cheapest_pair_is_found_where_the_order_of_axes_is_not_the_order_of_sizes():
    def axes(shape, **options):
        defaults = {"factored": True, "factored_dims": "auto", "min_dim_size_to_factor": 1}
        return factored_axes(shape, {**defaults, "batch_axes": (), **options})

    assert axes((2, 9, 3, 7)) == ((1,), (3,))
    assert axes((5, 5, 5)) == ((1,), (2,))
    assert axes((5, 5, 5), factored_dims="largest_first") == ((1,), (0,))
    assert axes((1, 9)) is None
    assert axes((2, 2)) == ((0,), (1,))
    assert axes((8, 9, 3), batch_axes=(0,)) == ((1,), (2,))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rounding(dtype):
    if dtype == "bfloat16":
        kind = pytest.importorskip("ml_dtypes", reason="the other bfloat16").bfloat16
    else:
        kind = np.dtype(dtype)
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000) * 2.0 ** rng.integers(-30, 15, 2000)
    x = np.concatenate([x, [0.0, -0.0, 1 + 2.0**-9, 3e38 if dtype != "float16" else 65519.9]])
    assert round_to(x, dtype).tolist() == x.astype(kind).astype(np.float64).tolist()


def test_rounding_once():
    # Through float32, as ml_dtypes and torch go, this is a tie and falls to 1.
    assert round_to(np.array(1 + 2.0**-8 + 2.0**-40), "bfloat16") == 1 + 2.0**-7


# ---- the oracle: draws and rounding

WORD = 2**32


def mixed(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D % WORD
    x = (x ^ (x >> 15)) * 0x846CA68B % WORD
    return x ^ (x >> 16)


def element(seed, t, crc, stream, i, j):
    """`e` of docs/numerics.md, a line at a time."""
    k = mixed((0 ^ (seed % WORD)) + 0x9E3779B9)
    k = mixed(((k ^ (seed // WORD % WORD)) + 0x9E3779B9) % WORD)
    k = mixed(((k ^ t) + 0x9E3779B9) % WORD)
    tensor = mixed(((k ^ crc) + 0x9E3779B9) % WORD)
    tensor = mixed(((tensor ^ stream) + 0x9E3779B9) % WORD)
    row = mixed(((tensor ^ (i % WORD)) + 0x9E3779B9) % WORD)
    e = (row + j * 0x9E3779B9) % WORD
    return (e ^ (e >> 15)) * 0x2C1B3C6D % WORD


def draws(shape, seed=0, t=1, path="", stream=0, **part):
    return _oracle_rounding.draws(shape, seed=seed, t=t, path=path, stream=stream, **part)


def test_draws_by_hand():
    crc = 0x1C630B12  # of "w"
    assert draws((), path="w") == element(0, 1, crc, 0, 0, 0)
    found = draws((2, 3, 4), seed=2**40 + 7, t=9, path="w", stream=1)
    assert found[1, 2, 3] == element(2**40 + 7, 9, crc, 1, 5, 3)
    assert draws((5,))[4] == element(0, 1, 0, 0, 0, 4)
    far = draws((1, 2), path="w", offset=(2**33 + 5, 9), whole=(2**34, 11))
    assert far[0, 1] == element(0, 1, crc, 0, 5, 10)
    whole = draws((7, 5, 67), seed=3)
    assert (
        draws((2, 3, 9), seed=3, offset=(4, 1, 3), whole=(7, 5, 67)) == whole[4:6, 1:4, 3:12]
    ).all()


def stochastic(x, dtype, e):
    x = np.asarray(x, np.float64)
    return _oracle_rounding.stochastic(x, dtype, np.full(x.shape, e, np.uint64)).tolist()


def test_stochastic_rounding_by_hand():
    # 1 + 3/8 of a step of 2^-7: up from a draw of 5/8 on, which is 40960 of 65536.
    x = 1 + 3 * 2.0**-10
    for sign in (1, -1):
        assert stochastic(sign * x, "bfloat16", (40960 << 16) - 1) == sign
        assert stochastic(sign * x, "bfloat16", 40960 << 16) == sign * (1 + 2.0**-7)
    assert stochastic([1.0, 0.0, 2.0**-126], "bfloat16", WORD - 1) == [1.0, 0.0, 2.0**-126]
    # A quarter of a step below 2, into the next binade.
    assert stochastic(2 - 2.0**-9, "bfloat16", (16384 << 16) - 1) == 2 - 2.0**-7
    assert stochastic(2 - 2.0**-9, "bfloat16", 16384 << 16) == 2.0
    # 2.25 steps of float16's 2^-24: up from a draw of 6144 of 8192 on.
    assert stochastic(2.25 * 2.0**-24, "float16", (6144 << 19) - 1) == 2 * 2.0**-24
    assert stochastic(-2.25 * 2.0**-24, "float16", 6144 << 19) == -3 * 2.0**-24
    assert stochastic([65505.0, 65519.0, 65520.0], "float16", WORD - 1) == [
        65504.0,
        65504.0,
        np.inf,
    ]
    assert stochastic([65503.0, -np.inf], "float16", WORD - 1) == [65504.0, -np.inf]
    assert np.isnan(stochastic(np.nan, "float16", 0))
    assert np.signbit(stochastic([-0.0, -(2.0**-30)], "float16", 0)).all()


def test_int8_blocks_by_hand():
    m = np.concatenate([[127.0, -63.4, 0.4, 0.0], np.zeros(124), [1.0, -0.25]])
    scale = _oracle_rounding.scales(m)
    assert scale.tolist() == [1.0, 1 / 127]
    nearest = _oracle_rounding.quantised(m, scale, None)
    assert nearest[[0, 1, 2, 3, 128, 129]].tolist() == [127, -63, 0, 0, 127, -32]
    e = np.full(m.shape, 0x999A << 16, np.uint64)  # 0.6 and a little
    drawn = _oracle_rounding.quantised(m, scale, e)
    assert drawn[[0, 1, 2, 3, 128, 129]].tolist() == [127, -63, 1, 0, 127, -32]
    assert _oracle_rounding.scales(np.zeros((2, 0))).shape == (2, 0)
    assert _oracle_rounding.scales(np.zeros((3, 150))).shape == (3, 2)
    assert _oracle_rounding.scales(np.asarray(-254.0)).tolist() == 2.0


def test_stochastic_rounding_is_unbiased_and_evenly_spread():
    e = draws((500, 400), seed=1, path="w")
    for fraction in (1 / 64, 0.3, 0.5, 31 / 32):
        x = np.full(e.shape, 1 + fraction * 2.0**-7)
        ups = _oracle_rounding.stochastic(x, "bfloat16", e) > 1
        assert abs(ups.mean() - fraction) < 4.5 * sqrt(fraction * (1 - fraction) / e.size)
    for shift in (24, 16):  # the bits that bfloat16 and int8 compare, and those below
        counts = np.bincount((e >> np.uint64(shift) & np.uint64(255)).ravel().astype(int))
        chi2 = ((counts - e.size / 256) ** 2).sum() / (e.size / 256)
        assert abs(chi2 - 255) < 5 * sqrt(2 * 255)


def test_draws_of_neighbours_rows_steps_seeds_tensors_and_streams_are_unrelated():
    def centred(**where):
        return draws((500, 400), **where) / 2.0**32 - 0.5

    one = centred(path="w")
    others = {name: centred(**{"path": "w", **where}) for name, where in {
        "step": {"t": 2}, "seed": {"seed": 1}, "high seed": {"seed": 2**32}, "path": {"path": "v"},
        "stream": {"stream": 1},
    }.items()}  # fmt: skip
    pairs = {name: (one, other) for name, other in others.items()}
    pairs |= {f"{lag} along": (one[:, lag:], one[:, :-lag]) for lag in (1, 2, 3, 5, 8, 13, 21)}
    pairs |= {f"{lag} rows": (one[lag:], one[:-lag]) for lag in (1, 2, 3, 16)}
    for name, (a, b) in pairs.items():
        assert abs(np.mean(a * b) * 12) < 4.5 / sqrt(a.size), name
    rows = one.mean(axis=1) * sqrt(12 * 400)  # each row's own mean
    assert abs(rows).max() < 5
    assert 0.75 < rows.std() < 1.25


def constant(lr, **options):
    """Every step moves by lr against the sign of the gradient."""
    return {"lr": lr, "scale_parameter": False, **options}


def test_kahan_by_hand():
    # Quarters of bfloat16's half unit above 1, which is 2^-8: lost each time, kept together.
    u = 2.0**-10
    grads = [np.asarray(-1.0)] * 6
    done = oracle(np.asarray(1.0), grads, constant(u, rounding="kahan"), "bfloat16")
    assert [float(step[""]) for step in done.params] == [1, 1, 1, 1, 1 + 8 * u, 1 + 8 * u]
    compensations = [float(step["compensation"]) / u for step in done.moments]
    assert compensations == [1, 2, 3, 4, -3, -2]  # 4 is a tie, and 1 is even
    decayed = constant(u, rounding="kahan", weight_decay=0.5, weight_decay_by="none")
    done = oracle(np.asarray(1.0), grads[:2], decayed, "bfloat16")
    # 1 + u - 1/2 is a number of bfloat16's up to u, and a quarter of a unit there
    assert done.params[0][""] == 0.5
    assert done.moments[0]["compensation"] == u
    assert done.params[1][""] + done.moments[1]["compensation"] == 0.25 + 1.5 * u
    assert "compensation" not in oracle(np.asarray(1.0), grads, decayed, "float32").moments[0]


# ---- the oracle: skips, norm, telemetry


def test_skip_tensor_by_hand():
    # "a" misses the second step: at the third its V moves by b(2), and lr is that of t = 3.
    def grads(*values):
        return [{"a": np.asarray(a), "b": np.asarray(2.0)} for a in values]

    options = constant(lambda t: 0.5 * t, nonfinite="skip_tensor", clip_threshold=None)
    start = {"a": np.asarray(1.0), "b": np.asarray(1.0)}
    done = oracle(start, grads(1.0, np.nan, 3.0), options)
    assert [float(step["a"]) for step in done.params[:2]] == [0.5, 0.5]
    b = 2**-0.8
    assert done.params[2]["a"] == pytest.approx(0.5 - 1.5 * 3 / sqrt(1 - b + 9 * b), rel=1e-15)
    assert [float(step["b"]) for step in done.params] == pytest.approx([0.5, -0.5, -2.0], rel=1e-15)
    assert [*done.steps], [*done.skipped] == ([1, 2, 3], [0, 1, 1])
    assert [int(step["a.skipped"]) for step in done.moments] == [0, 1, 1]
    assert int(done.moments[-1]["b.skipped"]) == 0


def test_skip_step_by_hand():
    options = constant(lambda t: 0.5 * t, nonfinite="skip_step")
    start = {"a": np.asarray(1.0), "b": np.asarray(1.0)}
    grads = [{"a": np.asarray(a), "b": np.asarray(2.0)} for a in (1.0, np.inf, np.nan, 1.0)]
    done = oracle(start, grads, options)
    assert [float(step["a"]) for step in done.params] == [0.5, 0.5, 0.5, -0.5]
    assert [float(step["b"]) for step in done.params] == [0.5, 0.5, 0.5, -0.5]
    assert ([*done.steps], [*done.skipped]) == ([1, 1, 1, 2], [0, 1, 2, 2])
    assert [int(done.moments[-1][f"{name}.skipped"]) for name in "ab"] == [2, 0]


def test_what_is_not_finite():
    def skipped(g, x, dtype):
        done = oracle(np.asarray(x), [np.asarray(g)], {"nonfinite": "skip_tensor"}, dtype)
        return done.skipped[0]

    assert not skipped(2.0**63, 1.0, "float32")
    assert skipped(2.0**64, 1.0, "float32")
    assert skipped(1.0, 2.0**64, "bfloat16")
    assert not skipped(2.0**64, 1.0, "float64")
    assert skipped(2.0**512, 1.0, "float64")
    assert skipped(1.0, np.nan, "float32")
    with pytest.raises(FloatingPointError, match=r"a\.b"):
        oracle({"a": {"b": X}}, [{"a": {"b": X * np.inf}}], {"nonfinite": "raise"})


def test_global_norm_by_hand():
    # At t = 1 V is the square of the gradient as it was seen.
    def seen(options, a=3.0, scale=None):
        grads = {"a": np.asarray(a), "b": np.asarray(4.0)}
        done = oracle({"a": np.ones(()), "b": np.ones(())}, [grads], options, grad_scale=[scale])
        return [sqrt(done.moments[0][f"{name}.full"]) for name in "ab"]

    assert seen({"max_grad_norm": 1.0}) == pytest.approx([0.6, 0.8])
    assert seen({"max_grad_norm": 5.0}) == pytest.approx([3.0, 4.0])
    assert seen({"max_grad_norm": 1.0}, scale=10.0) == pytest.approx([0.3, 0.4])
    assert seen({}, scale=0.5) == pytest.approx([6.0, 8.0])
    one = seen({"max_grad_norm": 1.0, "nonfinite": "skip_tensor"}, a=np.inf)
    assert one == pytest.approx([0.0, 1.0])
    assert np.isnan(seen({"max_grad_norm": 1.0}, a=np.nan)).all()


def test_metrics_by_hand():
    # The example of test_first_step_of_a_matrix_by_hand, clipped at half its RMS.
    done = oracle(X, [G], {"clip_threshold": sqrt(0.96) / 2})
    assert done.metrics[0] == pytest.approx({
        "update_rms": sqrt(0.96), "param_rms": sqrt(7.5), "learning_rate": 1e-2 * sqrt(7.5),
        "clip_factor": 0.5, "grad_norm": sqrt(0.3),
    })  # fmt: skip


# ---- comparisons


def test_comparisons_fail_on_wrong_input():
    a = np.array([1.0, 2.0])
    for helper in (_compare.scaled_error, _compare.relative_error, _compare.require_same):
        with pytest.raises(kit.MismatchError, match="shape"):
            helper(a, a[:1])
        helper(a, a)
    for helper in (_compare.scaled_error, _compare.relative_error):
        for wrong in (np.nan, np.inf):
            with pytest.raises(kit.MismatchError, match="expected 2"):
                helper(np.array([1.0, wrong]), a)
            with pytest.raises(kit.MismatchError, match=f"expected {wrong}"):
                helper(a, np.array([1.0, wrong]))
            assert helper(np.array([1.0, wrong]), np.array([1.0, wrong])) == 0
        with pytest.raises(kit.MismatchError, match="expected inf"):
            helper(np.array([1.0, -np.inf]), np.array([1.0, np.inf]))
    with pytest.raises(kit.MismatchError, match="1 of 2"):
        _compare.require_same(np.array([1.0, 2.0 + 1e-15]), a)
    with pytest.raises(kit.MismatchError, match="exactly 0"):
        _compare.scaled_error(np.array([1e-300]), np.array([0.0]))
    with pytest.raises(kit.MismatchError, match="where 0 is expected"):
        _compare.relative_error(np.array([1e-300, 1.0]), np.array([0.0, 1.0]))


def test_comparisons_measure():
    a, b = np.array([1.0, 1e-6]), np.array([1.0, 2e-6])
    assert _compare.scaled_error(b, a) == pytest.approx(1e-6)
    assert _compare.relative_error(b, a) == pytest.approx(1.0)
    assert _compare.ulps(np.array([1 + 2.0**-7, 1e-6]), a, "bfloat16", a).tolist() == [1.0, 0.0]
    tally = _compare.Tally(tolerance=1.0)
    tally.note("nan", float("nan"))
    assert tally.failures


def test_a_wrong_dtype_is_a_mismatch():
    (subject,) = kit.core_subjects("numpy")
    with pytest.raises(kit.MismatchError, match="has dtype float32, expected float64"):
        subject.numbers({"w": np.zeros(2, np.float32)}, "float64")


# ---- broken subjects


class Wrong:
    """The oracle itself, with one option changed behind the kit's back."""

    name, device, mode = "wrong", "paper", "eager"

    def __init__(self, change):
        self.change = change

    def lacks(self, dtype):
        return "not asked" if dtype == "float16" else None

    def trajectory(self, case, dtype):
        return replace(case, options={**case.options, **self.change}).expected(dtype)


CHANGES = {
    "no clipping": {"clip_threshold": None},
    "eps outside": {"eps1": 1e-3, "eps1_mode": "stats"},
    "no parameter scale": {"scale_parameter": False},
    "always factored": {"factored_dims": "last", "factored": True},
    "biased decay": {"decay_type": "constant", "decay_rate": 0.8, "decay_offset": 0},
    "decay by lr": {"weight_decay_by": "lr"},
}


def test_the_oracle_itself_passes():
    results = list(kit.run(Wrong({}), kit.DTYPES, drawn=4))
    assert kit.exit_code(results) == 0
    assert {result.check for result in results} == {*kit.CHECKS, "all"}
    assert [r.detail for r in results if r.dtype == "float16"] == [("not asked",)]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_broken_subject_is_caught(change, dtype):
    results = list(kit.run(Wrong(change), [dtype], ["golden"]))
    assert [result.verdict for result in results] == ["FAIL"]
    assert kit.exit_code(results) == 1


def test_a_subject_that_raises_fails_case_by_case():
    class Raises(Wrong):
        def trajectory(self, case, dtype):
            if case.name == "default":
                raise RuntimeError("out of luck")
            return super().trajectory(case, dtype)

    (result,) = kit.run(Raises({}), ["float64"], ["golden"])
    assert result.verdict == "FAIL"
    (detail,) = result.detail
    assert detail.startswith("default: RuntimeError at test_conformance_kit.py:")


# The oracle with one idea of it wrong: what to replace, and the dtype that shows it.
def own_count_forgotten(patch):
    right = _oracle.one_minus_beta2
    patch.setattr(_oracle, "one_minus_beta2", lambda o, t, own: right(o, t, t))


def norm_of_each_tensor(patch):
    def look(grads, params, o, *rest):
        one, right = _look({}, params, o, *rest), _look(grads, params, o, *rest)
        each = [_look({path: g}, params, o, *rest) for path, g in grads.items()]
        found = {path: g for part in each for path, g in part.grads.items()}
        return one._replace(grads=found, norms=right.norms, bad=right.bad, still=right.still)

    _look = _oracle.look
    patch.setattr(_oracle, "look", look)


def norm_before_the_loss_scale(patch):
    def look(grads, params, o, dtype, scale):
        limit = o["max_grad_norm"] and o["max_grad_norm"] / (scale or 1.0)
        return right(grads, params, {**o, "max_grad_norm": limit}, dtype, scale)

    right = _oracle.look
    patch.setattr(_oracle, "look", look)


def norm_counts_what_is_skipped(patch):
    def look(grads, params, o, *rest):
        told = right(grads, params, o, *rest)
        norm = sqrt(sum(np.nan_to_num(n, posinf=1e9) ** 2 for n in told.norms.values()))
        limit = o["max_grad_norm"]
        factor = limit / norm if told.bad and limit and norm > limit else 1.0
        return told._replace(grads={path: g * factor for path, g in told.grads.items()})

    right = _oracle.look
    patch.setattr(_oracle, "look", look)


def drawn_with(**wrong):
    def mutate(patch):
        right = _oracle.draws
        patch.setattr(_oracle, "draws", lambda shape, **k: right(shape, **{**k, **wrong}))

    return mutate


def blocks_of(size):
    return lambda patch: patch.setattr(_oracle_rounding, "BLOCK", size)


def compensation_not_decayed(patch):
    def step(self, gradient, t):
        held = self.compensation
        if held is not None:
            wd = self.o["weight_decay"]
            self.compensation = held / (1 - wd) if not callable(wd) else held
        return right(self, gradient, t)

    right = _oracle.Tensor.step
    patch.setattr(_oracle.Tensor, "step", step)


MUTANTS = {
    "own count of b forgotten": (own_count_forgotten, "float32"),
    "norm of each tensor": (norm_of_each_tensor, "float32"),
    "norm before the loss scale": (norm_before_the_loss_scale, "float32"),
    "norm counts what is skipped": (norm_counts_what_is_skipped, "float32"),
    "no tensor in the draw": (drawn_with(path=""), "bfloat16"),
    "no seed in the draw": (drawn_with(seed=0), "bfloat16"),
    "no step in the draw": (drawn_with(t=1), "bfloat16"),
    "one stream": (drawn_with(stream=0), "float32"),
    "blocks of 64": (blocks_of(64), "float32"),
    "one block": (blocks_of(10**6), "float32"),
    "compensation not decayed": (compensation_not_decayed, "bfloat16"),
}


class Mutant(Wrong):
    def trajectory(self, case, dtype):
        with pytest.MonkeyPatch.context() as patch:
            self.change(patch)
            return case.expected(dtype)


@pytest.mark.parametrize(("mutate", "dtype"), MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_is_caught(mutate, dtype):
    checks = ["golden", "kahan"] if mutate is compensation_not_decayed else ["golden"]
    results = list(kit.run(Mutant(mutate), [dtype], checks))
    assert "FAIL" in [result.verdict for result in results]


@pytest.mark.parametrize("change", [{"rounding": "nearest"}, {"rounding": "kahan"}, {"seed": 1}])
def test_another_rounding_is_caught(change):
    for dtype in ("bfloat16", "float16"):
        subject = Wrong(change)
        subject.lacks = lambda dtype: None
        (result,) = kit.run(subject, [dtype], ["golden"])
        assert result.verdict == "FAIL"


def test_a_counter_that_counts_skipped_steps_is_caught():
    class Counts(Wrong):
        def trajectory(self, case, dtype):
            done = super().trajectory(case, dtype)
            return replace(done, steps=range(1, len(done.steps) + 1))

    (result,) = kit.run(Counts({}), ["float64"], ["golden"])
    assert result.verdict == "FAIL"
    assert all("fault-skip_step" in line and "counts steps" in line for line in result.detail)


def broken_step(params, grads, state, config, donate=False, **scale):
    """`af.step`, except that the clip is forgotten."""
    forgetful = replace(config, clip_threshold=None)
    return af.step(params, grads, state, forgetful, donate=donate, **scale)


def test_a_broken_core_exits_with_1(monkeypatch, capsys):
    from adafactor_core.conformance import _subjects

    broken = SimpleNamespace(**{**vars(af), "step": broken_step})
    monkeypatch.setattr(_subjects, "af", broken)
    argv = ["--namespace", "numpy", "--dtype", "float32", "--check", "golden"]
    assert kit.main([*argv, "--check", "update=step"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAIL") == 2
    assert "0 ok, 2 failed, 0 skipped: numpy eager float32" in printed


def test_an_impure_core_is_caught(monkeypatch):
    torch = pytest.importorskip("torch", reason="its arrays cannot be made read-only")
    from adafactor_core.conformance import _subjects

    def impure(params, grads, state, config, donate=False):
        for grad in leaves(grads).values():
            grad.mul_(torch.ones_like(grad) * 2)
        return af.step(params, grads, state, config)

    monkeypatch.setattr(_subjects, "af", SimpleNamespace(**{**vars(af), "step": impure}))
    (subject,) = kit.core_subjects("torch")
    (result,) = kit.run(subject, ["float32"], ["purity"])
    assert result.verdict == "FAIL"


# What is replaced in the core, in which check, for which dtype.
def of_config(**wrong):
    def step(params, grads, state, config, **rest):
        return af.step(params, grads, state, replace(config, **wrong), **rest)

    return {"step": step}


def rounds(**wrong):
    def stochastic_round(x, dtype, **given):
        return af.stochastic_round(x, dtype, **{**given, **wrong})

    return {"stochastic_round": stochastic_round}


def shows(**wrong):
    def step(params, grads, state, config, **rest):
        params, state = af.step(params, grads, state, config, **rest)
        if state.metrics is not None:
            metrics = {path: metric._replace(**wrong) for path, metric in state.metrics.items()}
            state = state._replace(metrics=metrics)
        return params, state

    return {"step": step}


def moves_what_it_skips(params, grads, state, config, **rest):
    new, after = af.step(params, grads, state, config, **rest)
    if config.nonfinite == "skip_tensor" and "w" in after.moments:
        moments = {**after.moments, "w": after.moments["w"]._replace(skipped=np.int32(7))}
        after = after._replace(moments=moments)
    return new, after


def unscaled(params, grads, state, config, grad_scale=None, **rest):
    return af.step(params, grads, state, config, **rest)


BROKEN = {
    "nearest": ({"stochastic_round": lambda x, dtype, **given: x}, "rounding", "float16"),
    "no offset": (rounds(offset=None, shape=None), "rounding", "bfloat16"),
    "no path": (rounds(path=""), "rounding", "bfloat16"),
    "low seed": (rounds(seed=1), "rounding", "float16"),
    "one stream": (rounds(stream=0), "rounding", "float16"),
    "propagates": (of_config(nonfinite="propagate"), "raise", "float32"),
    "skips instead": (of_config(nonfinite="skip_step"), "raise", "float32"),
    "count of skips": ({"step": moves_what_it_skips}, "moments", "float32"),
    "loss scale": ({"step": unscaled}, "golden", "float32"),
    "update_rms": (shows(update_rms=np.asarray(1.0)), "telemetry", "float32"),
    "clip_factor": (shows(clip_factor=np.asarray(1.0)), "telemetry", "float32"),
    "grad_norm": (shows(grad_norm=np.ones(1)), "telemetry", "float32"),
}


@pytest.mark.parametrize(("wrong", "check", "dtype"), BROKEN.values(), ids=BROKEN)
def test_a_broken_part_of_the_core_is_caught(monkeypatch, wrong, check, dtype):
    from adafactor_core.conformance import _guard_checks, _subjects

    for module in (_subjects, _guard_checks):
        monkeypatch.setattr(module, "af", SimpleNamespace(**{**vars(af), **wrong}))
    (subject,) = kit.core_subjects("numpy")
    if reason := subject.lacks(dtype):
        pytest.skip(reason)
    (result,) = kit.run(subject, [dtype], [check], drawn=0)
    assert result.verdict == "FAIL"


# ---- coverage

WORDS = {  # what is not the default
    "factored_dims": "last largest largest_first conv",
    "eps1_mode": "stats clamp",
    "decay_type": "adam constant",
    "momentum_on": "update grad",
    "momentum_dtype": "bfloat16 float16 int8",
    "momentum_rounding": "stochastic",
    "rounding": "stochastic kahan",
    "nonfinite": "skip_tensor skip_step",
    "momentum_arithmetic": "buffer weak",
    "weight_decay_by": "lr none",
    "scale_scope": "tensor",
    "clip_scope": "tensor",
}


def test_every_option_matters_to_some_golden_case():
    """Taking an option back to its default moves the parameters far more than a tolerance."""
    seen = set()
    for case, _ in kit.golden_vectors().values():
        for option, value in case.options.items():
            default = {key: v for key, v in case.options.items() if key != option}
            if moved(case, replace(case, options=default)) > 1e-5:
                seen |= {option, f"{option}={value}"}
    assert set(_oracle.DEFAULTS) - seen == {"max_scratch_bytes", "telemetry"}
    words = {f"{option}={word}" for option, words in WORDS.items() for word in words.split()}
    assert words - seen == set()


def moved(case, changed):
    """The largest scaled difference between the ends of two runs, infinite if slots differ."""
    dtype = "bfloat16" if case.options.get("rounding") else "float32"
    one, two = (each.expected(dtype) for each in (case, changed))
    shapes = [{path: x.shape for path, x in run.moments[-1].items()} for run in (one, two)]
    if shapes[0] != shapes[1]:  # "largest" is "auto" with rows and columns exchanged
        return np.inf
    pairs = [(two.params[-1][path], x) for path, x in one.params[-1].items() if x.any()]
    if any((np.isfinite(x) != np.isfinite(y)).any() for x, y in pairs):
        return np.inf
    return max((_compare.scaled_error(*pair) for pair in pairs), default=0.0)


def test_the_few_cases_for_compilers_exist():
    assert set(_core_checks.FEW) <= set(kit.golden_vectors())


# ---- drawn cases, the command line, the plugin


def test_drawn_cases_are_the_same_each_time_and_valid():
    for seed in range(60):
        one, two = kit.draw_case(seed), kit.draw_case(seed)
        assert one.options == two.options
        for path, x in leaves(one.grads).items():
            assert np.array_equal(x, leaves(two.grads)[path], equal_nan=True)
        kit.core_subjects("numpy")[0].config(one)
    assert kit.draw_case(0).options != kit.draw_case(1).options


def test_drawn_cases_cover_the_newer_options():
    cases = [kit.draw_case(seed) for seed in range(200)]
    for policy in ("propagate", "skip_tensor", "skip_step"):
        same = [case for case in cases if case.options["nonfinite"] == policy]
        faulty = [
            c for c in same if not all(np.isfinite(g).all() for g in leaves(c.grads).values())
        ]
        assert len(faulty) >= 5, policy
    assert sum(case.grad_scale is not None for case in cases) >= 20
    assert all(case.options["nonfinite"] != "raise" for case in cases)
    clear = [case for case in cases if not case.expected("float32").close]
    assert len(clear) >= 160


# ---- the bits of stochastic rounding


@pytest.mark.parametrize("row", _bits.TABLE, ids=lambda row: row.name)
def test_the_table_of_bits(row):
    stored = {found.name: (found, digest) for found, digest in _vectors.rounding()}
    x, bits = _bits.inputs(row), _bits.patterns(_bits.expected(row), row.dtype)
    assert stored[row.name] == (row, _bits.digest(bits))
    finite = x[np.isfinite(x)]
    assert (finite == finite.astype(np.float32)).all()
    assert ((x == 0) | ~(np.abs(x) < 2.0**-126)).all()
    (entry,) = (
        e for e in json.loads(_vectors.FILE.read_text())["rounding"] if e["name"] == row.name
    )
    if bits.size <= _bits.FEW:
        words = [int(word, 16) for word in entry["input"].split()]
        again = np.array(words, np.uint32).view(np.float32).reshape(row.shape)
        _compare.require_same(again.astype(np.float64), x)
        assert [int(word, 16) for word in entry["patterns"].split()] == bits.ravel().tolist()


def test_the_inputs_of_the_table_can_be_made_from_its_description():
    entries = json.loads(_vectors.FILE.read_text())["rounding"]
    special = {e["dtype"]: e["special"].split() for e in entries if "special" in e}
    (entry,) = (e for e in entries if e["name"] == "float16-vector")
    words, u = [int(word, 16) for word in special["float16"]], 0
    while len(words) < 5000:
        u = (1664525 * u + 1013904223) % 2**32
        field = entry["lowest"] + (u >> 23 & 255) % entry["exponents"]
        words.append((u >> 31 << 31) | (field << 23) | (u & 0x7FFFFF))
    x = np.array(words, np.uint32).view(np.float32).astype(np.float64)
    (row,) = (row for row in _bits.TABLE if row.name == "float16-vector")
    _compare.require_same(x, _bits.inputs(row))


def test_command_line(tmp_path, capsys):
    file = tmp_path / "results.json"
    argv = ["--namespace", "numpy", "--dtype", "float32", "--dtype", "float64", "--cases", "5"]
    assert kit.main([*argv, "--json", str(file), "-v"]) == 0, capsys.readouterr().out
    assert '"verdict": "ok"' in file.read_text()
    assert "numpy" in capsys.readouterr().out


def test_command_line_missing_library(capsys):
    assert kit.main(["--namespace", "no_such_library"]) == 2
    assert "no_such_library: ModuleNotFoundError" in capsys.readouterr().err


def test_command_line_any_module(capsys):
    argv = ["--namespace", "array_api_compat.numpy", "--dtype", "float64", "--dtype", "bfloat16"]
    assert kit.main([*argv, "--cases", "2", "--check", "golden"]) == 0
    assert "array_api_compat.numpy has no bfloat16" in capsys.readouterr().out


def test_import_of_the_core_leaves_numpy_and_the_kit_alone():
    unwanted = "{'numpy', 'adafactor_core.conformance'}"
    code = f"import sys, adafactor_core; print({unwanted} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_numpy_the_kit_says_what_to_install():
    code = "import sys; sys.modules['numpy'] = None; import adafactor_core.conformance"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "adafactor-core[numpy]"' in done.stderr


def test_plugin():
    arguments = "-p adafactor_core.conformance.plugin --pyargs adafactor_core.conformance.suite"
    options = "-q -p no:cacheprovider --adafactor-namespace numpy -k float64"
    command = [sys.executable, "-m", "pytest", *arguments.split(), *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    skipped = 2  # "kahan" and "rounding" look at 16-bit tensors
    assert f"{len(kit.CORE_CHECKS) - skipped} passed" in done.stdout, done.stdout
    missing = [argument if argument != "numpy" else "no_such_library" for argument in command]
    done = subprocess.run(missing, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no_such_library" in done.stdout + done.stderr
