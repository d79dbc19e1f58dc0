"""Options per tensor, by patterns on its path: the first match wins, and none is an error."""

import re
from dataclasses import fields

import numpy as np
import pytest

import adafactor_core as af
from _run import flat, normal, run
from adafactor_core import Config, ConfigError

WHOLE_STEP = [
    ("rules", ()), ("seed", 0), ("max_grad_norm", None), ("nonfinite", "propagate"),
    ("telemetry", False), ("max_scratch_bytes", 4096),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WHOLE_STEP)
def test_a_rule_cannot_set_what_concerns_the_whole_step(name, value):
    with pytest.raises(ConfigError, match=rf"rule 'a\.\*' sets '{name}'.*Config\({name}=\.\.\.\)"):
        Config(rules=[("a.*", {name: value})])


def test_a_rule_may_set_every_other_option():
    for name in {field.name for field in fields(Config)} - {"_", *dict(WHOLE_STEP)}:
        assert Config(rules=[("*", {name: getattr(Config(), name)})])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"weight_decy": 0.1}, "weight_decy.*Did you mean 'weight_decay'", id="typo"),
        pytest.param({"zzz": 1}, "zzz.*Options: .*weight_decay", id="unknown option"),
        pytest.param({"lr": -1}, "lr must be", id="value out of range"),
        pytest.param({"decay_offset": 2}, "Use Config", id="conflict with the base"),
    ],
)
def test_a_bad_rule_fails_in_the_config_and_names_its_pattern(options, words):
    with pytest.raises(ConfigError, match=rf"(?s)rule 'x\.\*'.*{words}"):
        Config(decay_type="constant", rules=[("*.b", {}), ("x.*", options)])


def rates_by_path(**options):
    """Path to lr, seen through a step of size lr from 0 with all gradients 1."""
    tree = {"enc": {"w": np.zeros(2), "b": np.zeros(2)}, "layers": [np.zeros(2), np.zeros(2)]}
    config = Config(lr=1.0, scale_parameter=False, clip_threshold=None, **options)
    grads = {"enc": {"w": np.ones(2), "b": np.ones(2)}, "layers": [np.ones(2), np.ones(2)]}
    new, _ = af.step(tree, grads, af.init(tree, config), config)
    return [-float(x[0]) for x in (new["enc"]["b"], new["enc"]["w"], *new["layers"])]


@pytest.mark.parametrize(
    ("rules", "rates"),
    [
        pytest.param([("*.b", {"lr": 0.5})], [0.5, 1, 1, 1], id="shell-style pattern"),
        pytest.param(
            [("enc.b", {"lr": 0.5}), ("enc.*", {"lr": 0.25}), ("*", {"lr": 2.0})],
            [0.5, 0.25, 2, 2],
            id="first match wins",
        ),
        pytest.param(
            [("enc.*", {"lr": 0.25}), ("enc.b", {"lr": 0.5})],
            [0.25, 0.25, 1, 1],
            id="first match wins over a closer one",
        ),
        pytest.param([("layers.1", {"lr": 3.0})], [1, 1, 1, 3], id="indices are path parts"),
        pytest.param([("layers.[0]", {"lr": 3.0})], [1, 1, 3, 1], id="character class"),
    ],
)
def test_rules(rules, rates):
    assert rates_by_path(rules=rules) == pytest.approx(rates)


@pytest.mark.parametrize("pattern", ["enc", "*.B", "layers", "w", "layers.2", ""])
def test_a_rule_that_matches_no_tensor_is_an_error_with_suggestions(pattern):
    words = rf"rule {re.escape(repr(pattern))} matches no tensor.*as in '(enc|lay).*Correct"
    with pytest.raises(ConfigError, match=words):
        rates_by_path(rules=[(pattern, {"lr": 0.5})])


def test_a_rule_for_the_bare_array_has_the_empty_pattern():
    x = np.ones((3, 4))
    assert af.init(x, Config(rules=[("", {"factored": False})])).moments.full is not None


def test_rules_give_each_tensor_its_own_options():
    x = {"w": normal((6, 5)), "b": normal((5,)), "emb": normal((9, 4))}
    g = {p: normal(a.shape, seed=1) for p, a in x.items()}
    rules = [
        ("b", {"weight_decay": 0.0, "scale_parameter": False}),
        ("emb", {"factored": False, "lr": 0.5}),
    ]
    config = af.Config(0.1, weight_decay=0.1, rules=rules)
    new, state = run(x, [g], config)
    for path, options in [("w", {}), ("b", rules[0][1]), ("emb", rules[1][1])]:
        alone = af.Config(**{"lr": 0.1, "weight_decay": 0.1, **options})
        want, want_state = run(x[path], [g[path]], alone)
        np.testing.assert_array_equal(new[path], want)
        assert flat(state.moments[path]).keys() == flat(want_state.moments).keys()
