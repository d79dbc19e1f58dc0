"""The conformance kit: its oracle is right, its comparisons bite, it catches what is broken."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import adafactor_core as af
from adafactor_core import conformance as kit
from adafactor_core.conformance import _compare, _core_checks, _named, _oracle, _vectors
from adafactor_core.conformance._oracle_axes import factored_axes
from adafactor_core.conformance._rounding import round_to
from adafactor_core.conformance._trees import leaves

X = np.array([[1.0, 2.0], [3.0, 4.0]])
G = np.array([[0.1, 0.2], [0.3, 0.4]])


def oracle(params, grads, options, dtype="float64"):
    return kit.oracle(params, grads, options, dtype)


# ---- the oracle


@pytest.mark.parametrize("row", _named.TABLE, ids=lambda row: row.name)
def test_oracle_reproduces_the_golden_vectors(row):
    case, stored = kit.golden_vectors()[row.name]
    built = _named.build(row)
    assert {k: v.tolist() for k, v in leaves(built.params).items()} == {
        k: v.tolist() for k, v in leaves(case.params).items()
    }
    done = case.expected("float64")
    for step, expected in zip(done.params, stored.params, strict=True):
        for path, x in leaves(expected).items():
            assert _compare.scaled_error(step[path], x) <= 1e-15
    for path, x in stored.moments[-1].items():
        assert _compare.scaled_error(done.moments[-1][path], x) <= 1e-15


def test_the_file_covers_the_table_and_stays_small():
    assert list(kit.golden_vectors()) == [row.name for row in _named.TABLE]
    assert _vectors.FILE.stat().st_size < 600_000


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


def broken_step(params, grads, state, config, donate=False):
    """`af.step`, except that the clip is forgotten."""
    new, state = af.step(params, grads, state, replace(config, clip_threshold=None), donate=donate)
    return new, state


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


# ---- coverage

WORDS = {  # what is not the default
    "factored_dims": "last largest largest_first conv",
    "eps1_mode": "stats clamp",
    "decay_type": "adam constant",
    "momentum_on": "update grad",
    "momentum_dtype": "bfloat16 float16",
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
    assert set(_oracle.DEFAULTS) - seen == {"max_scratch_bytes"}
    words = {f"{option}={word}" for option, words in WORDS.items() for word in words.split()}
    assert words - seen == set()


def moved(case, changed):
    """The largest scaled difference between the ends of two runs, infinite if slots differ."""
    one, two = (each.expected("float32") for each in (case, changed))
    shapes = [{path: x.shape for path, x in run.moments[-1].items()} for run in (one, two)]
    if shapes[0] != shapes[1]:  # "largest" is "auto" with rows and columns exchanged
        return np.inf
    pairs = [(two.params[-1][path], x) for path, x in one.params[-1].items() if x.any()]
    return max((_compare.scaled_error(*pair) for pair in pairs), default=0.0)


def test_the_few_cases_for_compilers_exist():
    assert set(_core_checks.FEW) <= set(kit.golden_vectors())


# ---- drawn cases, the command line, the plugin


def test_drawn_cases_are_the_same_each_time_and_valid():
    for seed in range(60):
        one, two = kit.draw_case(seed), kit.draw_case(seed)
        assert one.options == two.options
        for path, x in leaves(one.grads).items():
            assert np.array_equal(x, leaves(two.grads)[path])
        kit.core_subjects("numpy")[0].config(one)
    assert kit.draw_case(0).options != kit.draw_case(1).options


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
    assert f"{len(kit.CORE_CHECKS)} passed" in done.stdout, done.stdout
    missing = [argument if argument != "numpy" else "no_such_library" for argument in command]
    done = subprocess.run(missing, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no_such_library" in done.stdout + done.stderr
