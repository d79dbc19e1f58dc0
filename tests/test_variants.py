"""Named variants: the records, their options, and `variant=` in every adapter."""

import copy
import pickle
from dataclasses import fields

import numpy as np
import pytest

import adafactor_core as af
from _run import normal
from adafactor_core import variants

NAMES = [
    "paper", "tensor2tensor", "mesh_tensorflow", "t5", "fairseq", "transformers",
    "transformers_trainer", "torch", "keras", "optax", "flax", "t5x", "praxis", "big_vision",
    "timm", "timm_bigvision", "pytorch_optimizer", "mlx", "trax", "palm", "kohya", "onetrainer",
    "came_vectors", "adafactor8bit", "mindspore",
]  # fmt: skip
SHAPES = {"w": (6, 5), "b": (5,), "large": (130, 140), "stack": (3, 20, 18)}
each = pytest.mark.parametrize("name", NAMES)


def tensors(seed=0):
    return {name: normal(shape, seed).astype(np.float32) for name, shape in SHAPES.items()}


def test_the_names_are_these():
    assert list(variants.names()) == NAMES


@each
def test_a_record_is_complete(name):
    record = variants.get(name)
    assert getattr(variants, name) is record
    assert record.name == name
    assert all((record.project, record.file, record.version, record.reproduced))
    assert record.__doc__.startswith(record.project)
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
    with pytest.raises(af.ConfigError, match=r"'optax'.*from_optax_kwargs takes the words of"):
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


def trajectory(config, steps=3):
    """What the core makes of it; the adapters are held to this."""
    x, state = tensors(), None
    state = af.init(x, config)
    for t in range(1, steps + 1):
        x, state = af.step(x, tensors(t), state, config)
    return x


def same(found, config, rounded=1e-6):
    expected = trajectory(config)
    for name, want in expected.items():
        got = np.asarray(found[name])
        # 16-bit momentum flips where sums were taken in another order.
        bound = rounded if config.momentum_dtype == "float32" else 2e-3
        assert np.max(np.abs(got - want)) <= bound * np.max(np.abs(want)), name


@each
@pytest.mark.filterwarnings("ignore:Numba is not installed")
def test_numpy_takes_a_variant_by_name(name):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    from adafactor_numpy import Adafactor

    options = {"lr": 0.05, "weight_decay": 0.1}
    params, config = tensors(), variants.get(name)(**options)
    optimizer = Adafactor(params, variant=name, **options)
    assert optimizer.config == config
    assert Adafactor(tensors(), variant=variants.get(name), **options).config == config
    for t in range(1, 4):
        optimizer.step(tensors(t))
    same(params, config)


@pytest.mark.filterwarnings("ignore:Numba is not installed")
def test_numpy_refuses_a_variant_beside_a_config():
    from adafactor_numpy import Adafactor

    with pytest.raises(af.ConfigError, match="variant"):
        Adafactor(tensors(), af.Config(), variant="torch")
    with pytest.raises(af.ConfigError, match="Did you mean 'torch'"):
        Adafactor(tensors(), variant="torhc")
    assert Adafactor(tensors(), af.Config(0.5), variant=None).config == af.Config(0.5)


@each
@pytest.mark.backends("torch")
def test_torch_takes_a_variant_by_name(backend, name):
    import torch

    from adafactor_torch import Adafactor

    options = {"lr": 0.05, "weight_decay": 0.1}
    params = {n: torch.nn.Parameter(torch.tensor(x)) for n, x in tensors().items()}
    optimizer = Adafactor(params.items(), variant=name, **options)
    for t in range(1, 4):
        for n, g in tensors(t).items():
            params[n].grad = torch.tensor(g)
        optimizer.step()
    config = variants.get(name)(**options)
    if config.max_grad_norm is None:
        same({n: p.detach() for n, p in params.items()}, config)
    (group,) = optimizer.param_groups
    assert group["variant"] == name
    assert group["factored_dims"] == config.factored_dims


@each
@pytest.mark.backends("jax")
def test_jax_takes_a_variant_by_name(backend, name):
    import jax
    import jax.numpy as jnp

    from adafactor_jax import adafactor, make_step, scale_by_adafactor

    options = {"lr": 0.05, "weight_decay": 0.1}
    init, step = make_step(variant=name, **options)
    params = jax.tree.map(jnp.asarray, tensors())
    state = init(params)
    for t in range(1, 4):
        params, state = step(params, jax.tree.map(jnp.asarray, tensors(t)), state)
    same(params, variants.get(name)(**options))
    x = {"w": jnp.asarray(tensors()["w"])}
    for make in (
        lambda: adafactor(variant=name, **options),
        lambda: scale_by_adafactor(variant=name),
    ):
        made = make()
        updates, _ = made.update(x, made.init(x), x)
        assert np.isfinite(updates["w"]).all()


@pytest.mark.backends("jax")
def test_jax_the_direction_of_a_variant_is_where_it_goes(backend):
    import jax.numpy as jnp

    from adafactor_jax import scale_by_adafactor

    x = {"w": jnp.asarray(tensors()["stack"])}
    g = {"w": jnp.asarray(tensors(1)["stack"])}
    found = {}
    for name in ("timm_bigvision", "optax", "transformers"):
        made = scale_by_adafactor(variant=name)
        found[name] = np.asarray(made.update(g, made.init(x), x)[0]["w"])
        options = {**variants.get(name).options, "lr": 1.0, "scale_parameter": False}
        config = af.Config(**options)
        d, _ = af.update(tensors(1)["stack"], af.init(tensors()["stack"], config),
                         tensors()["stack"], config)  # fmt: skip
        np.testing.assert_allclose(found[name], -d, rtol=1e-4, atol=1e-6)
    assert np.max(np.abs(found["optax"] - found["transformers"])) > 0.1
    with pytest.raises(af.ConfigError, match="takes no weight_decay"):
        scale_by_adafactor(variant="optax", weight_decay=0.1)
    with pytest.raises(af.ConfigError, match="Did you mean 'optax'"):
        scale_by_adafactor(variant="optaks")


@pytest.mark.backends("jax")
def test_jax_none_is_the_variants_own(backend):
    from adafactor_jax import _options

    given = {"variant": "trax", "lr": None, "weight_decay": None, "beta1": None, "decay_rate": None}
    assert _options.config(given) == variants.trax()
