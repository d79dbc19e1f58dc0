"""Named variants: the records, and their options."""

import copy
import pickle
from dataclasses import fields

import pytest

import adafactor_core as af
from adafactor_core import variants

NAMES = [
    "paper", "tensor2tensor", "mesh_tensorflow", "t5", "fairseq", "transformers",
    "transformers_trainer", "torch", "keras", "optax", "flax", "t5x", "praxis", "big_vision",
    "timm", "timm_bigvision", "pytorch_optimizer", "mlx", "trax", "palm", "kohya", "onetrainer",
    "came_vectors", "adafactor8bit", "mindspore",
]  # fmt: skip
each = pytest.mark.parametrize("name", NAMES)


def test_the_names_are_these():
    assert list(variants.names()) == NAMES


@each
def test_a_record_is_complete(name):
    record = variants.get(name)
    assert getattr(variants, name) is record
    assert record.name == name
    assert all((record.project, record.file, record.version, record.reproduced))
    assert record.__doc__.startswith(record.project)
    assert record.citation == f"{record.project}, {record.file} ({record.version})"
    default = af.Config()
    known = {f.name for f in fields(af.Config)}
    for options in (record.options, *(case.options for case in record.when)):
        assert options.keys() <= known
    for option, value in record.options.items():
        if option != "momentum_arithmetic":  # that may be idle
            assert value != getattr(default, option), option
    for text in (record.reproduced, *record.left_out, *record.not_reproduced, *record.notes):
        assert text == text.strip() != ""


@each
def test_a_record_cannot_be_changed_and_survives_copies(name):
    record = variants.get(name)
    with pytest.raises(TypeError):
        record.options["lr"] = 2.0
    with pytest.raises(AttributeError):
        record.name = "another"
    for again in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert again is record


@each
def test_given_options_replace_the_variants_own(name):
    given = {
        "lr": 0.25, "eps2": 0.5, "factored_dims": "auto", "min_dim_size_to_factor": 3,
        "weight_decay": 0.125, "weight_decay_by": "lr", "clip_threshold": 2.0, "beta1": 0.5,
        "scale_parameter": True, "step_size": None, "decay_type": "adam",
    }  # fmt: skip
    config = variants.get(name)(**given)
    assert {option: getattr(config, option) for option in given} == given
    assert config.decay_rate == 0.999  # the default of the given type
    others = variants.get(name).options.keys() - given.keys()
    for option in others:
        assert getattr(config, option) == variants.get(name).options[option]


REQUIRED = ["transformers_trainer", "flax", "t5x", "praxis", "big_vision", "came_vectors"]


@each
def test_lr_none_is_the_variants_own_rate_or_an_error(name):
    record = variants.get(name)
    if name in REQUIRED:
        for call in (record, lambda: record(lr=None), lambda: variants.config(name, {})):
            with pytest.raises(af.ConfigError, match=f"{name}.*no default for lr"):
                call()
        return
    own = {"torch": 1e-2, "keras": 1e-3, "optax": 1.0, "timm_bigvision": 1.0, "trax": 0.05,
           "adafactor8bit": 1e-2}.get(name)  # fmt: skip
    assert record() == record(lr=None) == variants.config(name, {"lr": None})
    assert record().lr == own


def test_options_that_depend_on_others():
    assert variants.timm().scale_parameter
    assert not variants.timm(lr=1e-3).scale_parameter
    assert variants.timm(lr=1e-3, scale_parameter=True).scale_parameter
    for record in (variants.tensor2tensor, variants.mesh_tensorflow, variants.t5):
        unscaled = record(scale_parameter=False)
        assert (unscaled.lr, unscaled.step_size) == (0.05, af.RelativeStep())
        assert record().lr is None
        assert record(lr=1e-3, scale_parameter=False).step_size is None
        warm = record(scale_parameter=False, step_size=af.RelativeStep(warmup_init=True))
        assert warm.step_size.warmup_init
        assert warm.lr == 0.05


def test_no_variant_is_the_plain_config():
    assert variants.config(None, {"lr": 0.1}) == af.Config(0.1)
    assert variants.config("paper", {}) == variants.paper() == af.Config()
    assert variants.config(variants.timm, {}) == variants.timm()


@pytest.mark.parametrize("name", ["Torch", "transformer", "timm-bigvision", "", None, 3, "paper "])
def test_an_unknown_name_is_an_error_with_a_near_match(name):
    with pytest.raises(af.ConfigError) as raised:
        variants.get(name)
    assert ", ".join(NAMES) in str(raised.value)
    near = {"Torch": "torch", "transformer": "transformers", "timm-bigvision": "timm_bigvision",
            "paper ": "paper"}  # fmt: skip
    if name in near:
        assert f"Did you mean {near[name]!r}?" in str(raised.value)


def test_an_unknown_or_wrong_option_names_the_variant():
    with pytest.raises(af.ConfigError, match=r"'optax'.*from_optax_kwargs\(learning_rate="):
        variants.optax(learning_rate=1e-3)
    with pytest.raises(af.ConfigError, match=r"'t5x': unknown option 'weight_decai'.*weight_decay"):
        variants.t5x(1e-3, weight_decai=1.0)
    with pytest.raises(af.ConfigError, match=r"'torch': eps2 must be"):
        variants.torch(eps2=-1.0)


@each
def test_options_of_a_config_make_it_again(name):
    config = variants.get(name)(lr=0.25, weight_decay=0.5, rules=[("b", {"factored": False})])
    options = variants.options(config)
    assert af.Config(**options) == config
    default = af.Config()
    assert all(value != getattr(default, option) for option, value in options.items())
    assert variants.options(default) == {}
