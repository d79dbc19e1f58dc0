"""The scalars of a step against high-precision arithmetic, from t = 1 to 10 million."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

import adafactor_core as af
from _run import normal
from adafactor_core import Config, ConfigError, RelativeStep
from adafactor_core._schedules import rates

TIMES = [1, 2, 3, 10, 999, 10_000, 65_537, 1_000_000, 10_000_000]
COLD = RelativeStep(warmup_init=True)


def exact(text, t):
    """A formula in `t`, evaluated with 60 digits; a literal is the float that Config holds."""
    with localcontext() as context:
        context.prec = 60
        return eval(
            text, {"D": lambda x: Decimal(float(x)), "t": Decimal(t), "min": min, "max": max}
        )


B = {  # options: 1 - beta2_t
    "pow": ({}, "t ** -D(0.8)"),
    "pow 0.5": ({"decay_rate": 0.5}, "t ** -D(0.5)"),
    "pow, scheduled": ({"decay_rate": lambda t: 0.5 + 0.5 / t}, "t ** -(D(0.5) + D(0.5) / t)"),
    "pow, offset 5": ({"decay_offset": 5}, "max(t - 5, D(1)) ** -D(0.8)"),
    "pow, cap 0.99": ({"beta2_cap": 0.99}, "max(t ** -D(0.8), 1 - D(0.99))"),
    "adam": ({"decay_type": "adam"}, "(1 - D(0.999)) / (1 - D(0.999) ** t)"),
    "adam 0.5": ({"decay_type": "adam", "decay_rate": 0.5}, "D(0.5) / (1 - D(0.5) ** t)"),
    "adam 0": ({"decay_type": "adam", "decay_rate": 0.0}, "D(1)"),
    "adam, offset 2": (
        {"decay_type": "adam", "decay_rate": 0.9, "decay_offset": 2},
        "(1 - D(0.9)) / (1 - D(0.9) ** max(t - 2, D(1)))",
    ),
    "adam, cap 0.9": (
        {"decay_type": "adam", "beta2_cap": 0.9},
        "max((1 - D(0.999)) / (1 - D(0.999) ** t), 1 - D(0.9))",
    ),
    "constant": ({"decay_type": "constant"}, "1 - D(0.999)"),
    "constant 0.9": ({"decay_type": "constant", "decay_rate": 0.9}, "1 - D(0.9)"),
    "constant, cap 0.8": (
        {"decay_type": "constant", "decay_rate": 0.9, "beta2_cap": 0.8},
        "1 - D(0.8)",
    ),
}
STEP_SIZE = {  # options: lr_t * rho_t
    "default": ({}, "min(D(1e-2), t ** -D(0.5))"),
    "explicitly": ({"step_size": RelativeStep()}, "min(D(1e-2), t ** -D(0.5))"),
    "cap 1": ({"step_size": RelativeStep(cap=1.0)}, "t ** -D(0.5)"),
    "warm-up": ({"step_size": COLD}, "min(D(1e-2), D(1e-6) * t, t ** -D(0.5))"),
    "lr": ({"lr": 0.1}, "D(0.1)"),
    "lr above 1/sqrt(t)": ({"lr": 3.0}, "D(3)"),
    "lr 0": ({"lr": 0.0}, "D(0)"),
    "lr, scheduled": ({"lr": lambda t: 3.0 / t}, "D(3) / t"),
    "lr times rho": ({"lr": 3.0, "step_size": RelativeStep()}, "3 * min(D(1e-2), t ** -D(0.5))"),
    "lr times warm-up": (
        {"lr": 3.0, "step_size": COLD},
        "3 * min(D(1e-2), D(1e-6) * t, t ** -D(0.5))",
    ),
    "lr is the cap": (
        {"lr": 0.1, "step_size": RelativeStep(cap=None)},
        "min(D(0.1), t ** -D(0.5))",
    ),
    "lr is the cap of warm-up": (
        {"lr": 0.1, "step_size": RelativeStep(cap=None, warmup_init=True)},
        "min(D(0.1), D(1e-6) * t, t ** -D(0.5))",
    ),
}
TABLE = [("b", *row) for row in B.items()] + [("step_size", *row) for row in STEP_SIZE.items()]
ROWS = [pytest.param(field, *row, id=f"{field}: {name}") for field, name, row in TABLE]


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(("field", "options", "formula"), ROWS)
def test_value_on_the_host(field, options, formula, t):
    got = getattr(rates(Config(**options), t, "float32"), field)
    assert isinstance(got, float)
    # A float 1 - 0.999 is off by 1e-13 already; the rest is the rounding of a few operations.
    assert got == pytest.approx(float(exact(formula, t)), rel=2e-13, abs=0)


@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
@pytest.mark.parametrize(("field", "options", "formula"), ROWS)
def test_a_counter_on_the_device_gives_the_same_value(field, options, formula, backend):
    config = Config(**options)
    for t in TIMES:
        clock = backend.asarray(np.array(float(t)))
        got = getattr(rates(config, clock, "float32"), field)
        number = got if isinstance(got, float) else float(backend.numpy(got))
        # A 0-D exponent is rounded to float32 (6e-8), and ln(1e7) = 16 multiplies that.
        assert number == pytest.approx(float(exact(formula, t)), rel=1e-6, abs=0)
        assert isinstance(got, float) or str(got.dtype).endswith("float32")


@pytest.mark.parametrize("options", [{}, {"decay_type": "adam"}], ids=["pow", "adam"])
def test_the_first_step_replaces_the_statistics(options):
    assert rates(Config(**options), 1, "float32").b == pytest.approx(1.0, rel=1e-15)


def test_an_offset_beyond_the_counter_is_clamped_and_finite():
    options = Config(decay_offset=1000)
    assert [rates(options, t, "float32").b for t in (1, 500, 1001)] == [1.0, 1.0, 1.0]
    assert rates(options, 1002, "float32").b == pytest.approx(2**-0.8)


def test_late_in_training_b_has_all_its_digits():
    """1 - (1 - t**-0.8) in float32 is off by 3e-3 at 10 million steps; seen in the statistics."""
    x, g = np.ones((4, 4), np.float32), np.full((4, 4), 2.0, np.float32)
    state = af.init(x)._replace(step=np.asarray(9_999_999, np.int32))
    _, state = af.step(x, g, state)
    assert state.step == 10_000_000
    assert state.moments.row[0, 0] == pytest.approx(4.0 * 1e7**-0.8, rel=1e-6)


@pytest.mark.parametrize("step", [3, np.asarray(3, np.int32), np.int64(3)], ids=repr)
def test_every_kind_of_counter_gives_the_same_step(step):
    x, g, config = normal((4, 3)), normal((4, 3), seed=1), Config(lr=lambda t: 0.1 * t)
    state = af.init(x, config)
    want, _ = af.step(x, g, state._replace(step=3), config)
    got, after = af.step(x, g, state._replace(step=step), config)
    np.testing.assert_array_equal(got, want)
    assert int(after.step) == 4
    assert getattr(after.step, "dtype", None) == getattr(step, "dtype", None)


SCHEDULED = ["lr", "weight_decay", "decay_rate", "beta1"]
BAD = {
    "NaN": float("nan"), "infinity": float("inf"), "negative": -0.1, "None": None, "text": "0.1",
    "complex": 1j, "a list": [0.1], "an array": np.ones(2), "a 0-D NaN": np.asarray(np.nan),
    "a NumPy negative": np.float32(-1), "a 0-D complex": np.asarray(1j),
}  # fmt: skip


def refused(name, value, **options):
    x, g = {"w": normal((4, 3))}, {"w": normal((4, 3), seed=1)}
    config = Config(**{name: lambda t: value, **options})
    state = af.init(x, config)
    before = x["w"].tobytes()
    with pytest.raises(ConfigError, match=rf"schedule for {name} returned .* at t=1.* must return"):
        af.step(x, g, state, config, donate=True)
    assert x["w"].tobytes() == before
    assert int(state.step) == 0
    assert not state.moments["w"].row.any()


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_schedule_that_returns_nonsense_is_refused_and_nothing_changes(name, value):
    refused(name, value)


@pytest.mark.parametrize("value", [1.0, 1.5])
@pytest.mark.parametrize("name", ["beta1", "decay_rate"])
def test_a_schedule_of_a_beta_must_stay_below_one(name, value):
    refused(name, value, **({"decay_type": "adam"} if name == "decay_rate" else {}))


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_schedule_sees_completed_steps_plus_one(name):
    seen, x = [], normal((4, 3))
    config = Config(**{name: lambda t: seen.append(t) or 0.5})
    state = af.init(x, config)
    for _ in range(3):
        x, state = af.step(x, x, state, config)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    "make",
    [float, np.float32, np.float64, lambda v: np.asarray(v, np.float64), lambda v: int(v * 2)],
)
def test_what_a_schedule_may_return_does_not_promote_the_tensors(make):
    x = normal((4, 3)).astype(np.float32)
    config = Config(lr=lambda t: make(0.5), weight_decay=lambda t: make(0.5), beta1=lambda t: 0.5)
    new, state = af.step(x, x, af.init(x, config), config)
    assert {a.dtype for a in (new, *state.moments) if a is not None} == {np.dtype("float32")}
