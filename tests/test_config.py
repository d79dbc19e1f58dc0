"""Options: ranges, types, conflicts, rules. Every error names the option and says what to do."""

import re
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction

import numpy as np
import pytest

from adafactor_core import Config, ConfigError, RelativeStep

NAN, INF = float("nan"), float("inf")
REMEDY = re.compile(
    r"must be|must return|Use |Leave |Clip |Give |here it is|needs an axis|goes into"
)
NOT_NUMBERS = [NAN, INF, -INF, True, "0.1", 1j, [], object(), np.ones(2), 10**400]
NOT_INTS = [1.0, NAN, True, "1", None, [], np.ones(2)]
NOT_FLAGS = [1, 0, 1.0, None, "True", np.True_]
NOT_NAMES = ["", "Auto", "nothing", None, 1, True, ["block"], np.ones(2)]

BAD = {
    "lr": [-1, -0.1, *NOT_NUMBERS],
    "step_size": [0.01, True, "relative", {"cap": 1e-2}, RelativeStep, NAN],
    "scale_parameter": NOT_FLAGS,
    "eps2": [-1e-3, None, *NOT_NUMBERS],
    "max_parameter_scale": [0, -1, *NOT_NUMBERS],
    "factored": NOT_FLAGS,
    "factored_dims": [
        *NOT_NAMES, 0, (0,), (0, 1, 2), (0, True), (0, 1.0), ("0", "1"), (None, 0), ((), 0),
        (0, ()),
    ],
    "min_dim_size_to_factor": [0, -1, *NOT_INTS],
    "batch_axes": [1.0, None, "0", (0, 1.0), (True,), True, ("0",), {0: 0}],
    "scale_scope": ["tensors", *NOT_NAMES],
    "clip_scope": ["slice", *NOT_NAMES],
    "eps1": [-1e-30, None, "eps", *NOT_NUMBERS],
    "eps1_mode": ["clip", *NOT_NAMES],
    "decay_type": ["power", *NOT_NAMES],
    "decay_rate": [0, -0.8, *NOT_NUMBERS],
    "decay_offset": [-1, *NOT_INTS],
    "beta2_cap": [-0.1, 1, 1.5, *NOT_NUMBERS],
    "clip_threshold": [0, -1, *NOT_NUMBERS],
    "beta1": [-0.1, 1, 1.5, *NOT_NUMBERS],
    "momentum_on": ["gradient", *NOT_NAMES],
    "momentum_dtype": ["float64", "float8", "f4", "", None, 16, np.float64, np.int32],
    "momentum_arithmetic": ["bfloat16", *NOT_NAMES],
    "weight_decay": [-0.1, None, *NOT_NUMBERS],
    "weight_decay_by": ["rho", *NOT_NAMES],
    "weight_decay_first": NOT_FLAGS,
    "momentum_rounding": ["kahan", *NOT_NAMES],
    "rounding": ["up", *NOT_NAMES],
    "seed": [-1, 2**64, *NOT_INTS],
    "max_grad_norm": [0, -1, *NOT_NUMBERS],
    "nonfinite": ["ignore", *NOT_NAMES],
    "telemetry": NOT_FLAGS,
    "max_scratch_bytes": [0, 1023, -1, 1024.0, True, "1 MiB", NAN],
    "maximize": NOT_FLAGS,
    "rules": [
        None, 5, "ab", ["*.b"], [("*.b",)], [(1, {})], [("*", 1)], [("*", {1: 2})], {"*": {}},
    ],
}  # fmt: skip
GOOD = {
    "lr": [None, 0, 1, 0.1, 1e9, np.float32(0.5), np.int64(2), Fraction(1, 3), lambda t: 0.1],
    "step_size": [None, RelativeStep(), RelativeStep(cap=3, warmup_init=True)],
    "scale_parameter": [True, False],
    "eps2": [0, 1e-3, 5],
    "max_parameter_scale": [None, 1e-3, 2],
    "factored": [True, False],
    "factored_dims": ["auto", "last", "largest", "largest_first", "conv", (0, 1), [-1, 0],
                      ((0, 2), 1), (np.int64(1), [0, -1])],
    "min_dim_size_to_factor": [1, 128, np.int32(7)],
    "batch_axes": [(), 0, -1, (0, 1), [2], np.int64(0)],
    "scale_scope": ["block", "tensor"],
    "clip_scope": ["block", "tensor"],
    "eps1": [0, 1e-30, 1, "finfo"],
    "eps1_mode": ["grad_sq", "stats", "clamp"],
    "decay_type": ["pow", "adam", "constant"],
    "decay_rate": [None, 0.8, 1, 2.5, lambda t: 0.8],
    "decay_offset": [0, 10**6, np.int64(3)],
    "beta2_cap": [None, 0, 0.999],
    "clip_threshold": [None, 1e-3, 100],
    "beta1": [None, 0, 0.999, lambda t: 0.9],
    "momentum_on": ["scaled_update", "update", "grad"],
    "momentum_dtype": ["float32", "bfloat16", "float16", "int8", np.float16, np.dtype("float32")],
    "momentum_arithmetic": ["float32", "buffer", "weak"],
    "weight_decay": [0, 0.1, 2, lambda t: 0.1],
    "weight_decay_by": ["alpha", "lr", "none"],
    "weight_decay_first": [False],
    "momentum_rounding": ["nearest", "stochastic"],
    "rounding": ["nearest", "stochastic", "kahan"],
    "seed": [0, 1, 2**64 - 1, np.int64(7)],
    "max_grad_norm": [None, 1e-3, 1, np.float32(2.0)],
    "nonfinite": ["propagate", "skip_tensor", "skip_step", "raise"],
    "telemetry": [True, False],
    "max_scratch_bytes": [None, 1024, 1 << 40, np.int64(4096)],
    "maximize": [True, False],
    "rules": [(), [], [("*.b", {"lr": 0.1})], (("*", {}),)],
}  # fmt: skip
CONFLICTS = [
    {"step_size": RelativeStep(cap=None)},
    {"weight_decay_first": True},
    {"decay_type": "constant", "decay_offset": 3},
    {"eps1": 0.0, "eps1_mode": "clamp"},
    {"momentum_dtype": "int8", "momentum_arithmetic": "weak"},
]


def cases(table):
    def words(value):
        if callable(value) or type(value) is object:
            return type(value).__name__  # no addresses: workers compare their ids
        return f"{type(value).__name__} {value!r}"[:40]

    return [
        pytest.param(name, value, id=f"{name} {words(value)}")
        for name, values in table.items()
        for value in values
    ]


def test_the_tables_above_cover_every_option():
    names = {field.name for field in fields(Config)} - {"_"}
    assert GOOD.keys() == names
    assert BAD.keys() == names


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_refused(name, value):
    with pytest.raises(ConfigError) as caught:
        Config(**{name: value})
    assert isinstance(caught.value, ValueError)
    assert re.search(rf"\b{'rule' if name == 'rules' else name}\b", str(caught.value))
    assert REMEDY.search(str(caught.value))


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_taken(name, value):
    config = Config(**{name: value})
    assert config == Config(**{name: value})
    assert hash(config) == hash(Config(**{name: value}))


@pytest.mark.parametrize("value", [NAN, INF, 0, -1, True, "1", 1j])
def test_relative_step_refuses_the_cap(value):
    with pytest.raises(ConfigError, match=r"RelativeStep\.cap must be"):
        RelativeStep(cap=value)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_relative_step_refuses_the_flag(value):
    with pytest.raises(ConfigError, match=r"RelativeStep\.warmup_init must be"):
        RelativeStep(warmup_init=value)


@pytest.mark.parametrize("options", CONFLICTS, ids=" and ".join)
def test_conflict_prints_two_calls_that_are_valid(options):
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    message = str(caught.value)
    for name in options:
        assert name in message
    calls = re.findall(r"Config\((?:[^()]|\([^()]*\))*\)", message)
    assert len(calls) == 2
    for call in calls:
        assert isinstance(eval(call, {"Config": Config, "RelativeStep": RelativeStep}), Config)


@pytest.mark.parametrize(
    "options",
    [
        {"factored": False, "factored_dims": "largest", "min_dim_size_to_factor": 128},
        {"scale_parameter": False, "eps2": 7.0, "max_parameter_scale": 1.0},
        {"beta1": None, "momentum_on": "grad", "momentum_dtype": "bfloat16"},
        {"clip_threshold": None, "clip_scope": "tensor"},
        {"weight_decay": 0.0, "weight_decay_by": "none"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_switch_that_is_off_leaves_its_companions_idle(options):
    assert Config(**options)


@pytest.mark.parametrize("value", [-0.8, -1])
def test_the_decay_rate_of_hugging_face_is_explained(value):
    with pytest.raises(ConfigError, match=f"here it is decay_rate={-value}"):
        Config(decay_rate=value)


@pytest.mark.parametrize(
    ("decay_type", "rate"), [("pow", 0.8), ("adam", 0.999), ("constant", 0.999)]
)
def test_the_decay_rate_defaults_by_type(decay_type, rate):
    assert Config(decay_type=decay_type).decay_rate == rate


@pytest.mark.parametrize("decay_type", ["adam", "constant"])
def test_the_decay_rate_is_a_fraction_where_it_is_a_beta(decay_type):
    with pytest.raises(ConfigError, match=r"decay_rate must be in \[0, 1\)"):
        Config(decay_type=decay_type, decay_rate=1.0)


def test_values_are_kept_as_plain_python():
    config = Config(
        lr=np.float32(0.5), eps2=1, batch_axes=np.int64(0), factored_dims=[[0, 2], np.int64(1)],
        min_dim_size_to_factor=np.int32(3), momentum_dtype=np.float16,
    )  # fmt: skip
    kept = (config.lr, config.eps2, config.batch_axes[0], config.min_dim_size_to_factor)
    assert [type(value) for value in kept] == [float, float, int, int]
    assert config.factored_dims == ((0, 2), (1,))
    assert config.momentum_dtype == "float16"


def test_immutable_and_usable_as_a_static_argument():
    config = Config(0.1, rules=[("*.b", {"weight_decay": 0.0})])
    with pytest.raises(FrozenInstanceError):
        config.lr = 0.2
    assert {config: 1}[Config(0.1, rules=(("*.b", {"weight_decay": 0.0}),))] == 1
    assert config != replace(config, lr=0.2)
    assert config != replace(config, rules=[("*.b", {"weight_decay": 0.1})])


def test_only_the_learning_rate_is_positional():
    with pytest.raises(TypeError):
        Config(0.1, None)


def test_the_dict_given_to_a_rule_may_change_afterwards():
    options = {"lr": 0.1}
    config = Config(rules=[("*", options)])
    options["lr"] = -1.0
    assert config.rules[0][1]["lr"] == 0.1
