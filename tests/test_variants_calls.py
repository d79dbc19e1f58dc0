"""`from_*_kwargs`: what calls of other libraries mean here, and what is refused."""

import math
import types

import numpy as np
import pytest

import adafactor_core as af
from adafactor_core import RelativeStep, variants
from adafactor_core.variants import (
    from_keras_kwargs,
    from_optax_kwargs,
    from_timm_kwargs,
    from_torch_kwargs,
    from_transformers_kwargs,
)
from adafactor_core.variants._from import CALLS

ALL = {
    "transformers": from_transformers_kwargs, "torch": from_torch_kwargs,
    "optax": from_optax_kwargs, "timm": from_timm_kwargs, "keras": from_keras_kwargs,
}  # fmt: skip
RELATIVE = RelativeStep()


@pytest.mark.parametrize(
    ("translate", "call", "means"),
    [
        (from_transformers_kwargs, {}, {"lr": None, "factored_dims": "last"}),
        (
            from_transformers_kwargs,
            {"lr": 1e-3, "relative_step": False, "scale_parameter": False, "beta1": 0.9},
            {"lr": 1e-3, "step_size": None, "scale_parameter": False, "beta1": 0.9},
        ),
        (
            from_transformers_kwargs,
            {"eps": (1e-8, 0.5), "clip_threshold": 2.0, "decay_rate": -0.5, "weight_decay": 0.1},
            {"eps1": 1e-8, "eps2": 0.5, "clip_threshold": 2.0, "decay_rate": 0.5,
             "weight_decay": 0.1, "weight_decay_by": "alpha"},
        ),
        (from_transformers_kwargs, {"warmup_init": True}, {"step_size": RelativeStep(1e-2, True)}),
        (from_transformers_kwargs, {"decay_rate": 0},
         {"decay_type": "constant", "decay_rate": 0.0}),
        (
            from_torch_kwargs, {},
            {"lr": 1e-2, "step_size": RelativeStep(None), "eps1": "finfo", "eps1_mode": "clamp",
             "eps2": 1e-3, "weight_decay_by": "lr", "factored_dims": "last", "maximize": False},
        ),
        (
            from_torch_kwargs,
            {"lr": 0.5, "beta2_decay": -1.0, "eps": [1e-15, 0.5], "d": 3, "weight_decay": 0.1,
             "foreach": True, "maximize": True},
            {"lr": 0.5, "decay_rate": 1.0, "eps1": 1e-15, "eps1_mode": "clamp", "eps2": 0.5,
             "clip_threshold": 3.0, "weight_decay": 0.1, "maximize": True},
        ),
        (from_torch_kwargs, {"eps": (0, 1e-3)}, {"eps1": 0.0, "eps1_mode": "grad_sq"}),
        (
            from_optax_kwargs, {},
            {"lr": 1.0, "step_size": None, "min_dim_size_to_factor": 128, "beta1": None,
             "factored_dims": "largest", "weight_decay": 0.0, "weight_decay_by": "none"},
        ),
        (
            from_optax_kwargs,
            {"learning_rate": 0.1, "min_dim_size_to_factor": 2, "decay_rate": 0.5,
             "decay_offset": 3, "multiply_by_parameter_scale": False, "clipping_threshold": None,
             "momentum": 0.9, "dtype_momentum": "bfloat16", "weight_decay_rate": 0.01,
             "eps": 1e-8, "factored": False},
            {"lr": 0.1, "min_dim_size_to_factor": 2, "decay_rate": 0.5, "decay_offset": 3,
             "scale_parameter": False, "clip_threshold": None, "beta1": 0.9, "factored": False,
             "momentum_dtype": "bfloat16", "momentum_arithmetic": "weak", "weight_decay": 0.01,
             "weight_decay_by": "none", "eps1": 1e-8},
        ),
        (from_optax_kwargs, {"weight_decay_mask": lambda tree: tree}, {"weight_decay": 0.0}),
        (from_optax_kwargs, {"dtype_momentum": None}, {"beta1": None}),
        (
            from_timm_kwargs, {},
            {"lr": None, "step_size": RELATIVE, "scale_parameter": True, "factored_dims": "conv",
             "min_dim_size_to_factor": 17},
        ),
        (
            from_timm_kwargs,
            {"lr": 0.1, "eps": 1e-8, "eps_scale": 0.5, "betas": (0.8, 0.9), "weight_decay": 0.1,
             "min_dim_size_to_factor": 0, "scale_parameter": True, "decay_rate": -0.5},
            {"lr": 0.1, "step_size": None, "eps1": 1e-8, "eps2": 0.5, "beta1": 0.8,
             "weight_decay": 0.1, "weight_decay_by": "alpha", "min_dim_size_to_factor": 1,
             "scale_parameter": False, "decay_rate": 0.5},
        ),
        (from_timm_kwargs, {"warmup_init": True, "scale_parameter": False},
         {"step_size": RelativeStep(1e-2, True), "scale_parameter": False}),
        (from_timm_kwargs, {"caution": True}, {"beta1": None}),  # idle without momentum
        (
            from_keras_kwargs, {},
            {"lr": 1e-3, "step_size": RelativeStep(None), "weight_decay": 0.0,
             "weight_decay_by": "lr", "weight_decay_first": True, "max_grad_norm": None},
        ),
        (
            from_keras_kwargs,
            {"learning_rate": 0.5, "beta_2_decay": -0.5, "epsilon_1": 1e-8, "epsilon_2": 0.5,
             "clip_threshold": 2.0, "relative_step": False, "weight_decay": 0.1, "name": "a",
             "global_clipnorm": 3.0, "ema_momentum": 0.5, "gradient_accumulation_steps": 1},
            {"lr": 0.5, "step_size": None, "decay_rate": 0.5, "eps1": 1e-8, "eps2": 0.5,
             "clip_threshold": 2.0, "weight_decay": 0.1, "max_grad_norm": 3.0},
        ),
    ],
)  # fmt: skip
def test_what_a_call_means(translate, call, means):
    config = translate(**call)
    assert {option: getattr(config, option) for option in means} == means


REFUSED = [
    ("transformers", {"lr": 1e-3}, "relative_step=False"),
    ("transformers", {"relative_step": False}, "without lr"),
    ("transformers", {"lr": 0.1, "relative_step": False, "warmup_init": True}, "schedules.warmup"),
    ("transformers", {"decay_rate": 0.8}, "must be <= 0"),
    ("transformers", {"decay_rate": math.nan}, "must be <= 0"),
    ("transformers", {"eps": 1e-8}, "pair"),
    ("transformers", {"eps": (1e-8, 1e-3, 1)}, "pair"),
    ("transformers", {"weight_decay": -1.0}, "weight_decay must be"),
    ("transformers", {"beta_1": 0.9}, "Did you mean 'beta1'"),
    ("torch", {"betas": (0.9, 0.99)}, "no argument 'betas'"),
    ("torch", {"params": []}, "Parameters go to the adapter"),
    ("torch", {"lr": None}, "Give a number"),
    ("keras", {"learning_rate": None}, "Give a number"),
    ("torch", {"beta2_decay": 0.5}, "must be <= 0"),
    ("torch", {"d": 0.0}, "clip_threshold"),
    ("torch", {"d": "1"}, "clip_threshold"),
    ("torch", {"d": abs}, "clip_threshold must be"),
    ("optax", {"momentum": 0.9, "dtype_momentum": None}, "Name one"),
    ("optax", {"momentum": 0.9, "dtype_momentum": "float64"}, "momentum_dtype"),
    ("optax", {"weight_decay_rate": 0.1, "weight_decay_mask": lambda tree: tree}, "rules="),
    ("optax", {"decay_rate": -0.8}, "decay_rate"),
    ("optax", {"weight_decay": 0.1}, "Did you mean 'weight_decay_"),
    ("timm", {"lr": 0.1, "warmup_init": True}, "schedules.warmup"),
    ("timm", {"betas": (0.9, 0.99), "caution": True}, "caution"),
    ("timm", {"beta1": 0.9}, "no argument 'beta1'"),
    ("timm", {"betas": 0.9}, "betas must be"),
    ("timm", {"betas": ()}, "betas must be"),
    ("timm", {"betas": "0.9"}, "betas must be"),
    ("timm", {"betas": 0.9, "caution": True}, "betas must be"),
    ("timm", {"min_dim_size_to_factor": None}, "min_dim_size_to_factor"),
    ("torch", {"d": 0.5}, ", d: 0.5 is below 1"),
    ("torch", {"d": np.float32(0.5)}, "af.variants.torch(..., clip_threshold=0.5)"),
    ("torch", {"d": math.nan}, "is below 1"),
    ("torch", {"d": None}, "af.variants.torch(..., clip_threshold=None)"),
    (
        "transformers",
        {"clip_threshold": None},
        "af.variants.transformers(..., clip_threshold=None)",
    ),
    ("timm", {"clip_threshold": None}, "af.variants.timm(..., clip_threshold=None)"),
    ("keras", {"clip_threshold": None}, "af.variants.keras(..., clip_threshold=None)"),
    ("optax", {"decay_rate": lambda t: 0.8}, "af.variants.optax(..., decay_rate=f)"),
    ("transformers", {"lr": lambda t: 0.1}, "af.variants.transformers(..., lr=f)"),
    ("timm", {"lr": lambda t: 0.1}, "af.variants.timm(..., lr=f)"),
    ("torch", {"lr": lambda t: 0.1}, "af.variants.torch(..., lr=f)"),
    ("keras", {"use_ema": True}, "outside of the optimizer"),
    ("keras", {"clipnorm": 1.0}, "max_grad_norm"),
    ("keras", {"clipvalue": 1.0}, "per entry"),
    ("keras", {"loss_scale_factor": 128.0}, "grad_scale"),
    ("keras", {"gradient_accumulation_steps": 2}, "average gradients"),
    ("keras", {"beta_2_decay": 0.8}, "must be <= 0"),
]


@pytest.mark.parametrize(("name", "call", "why"), REFUSED)
def test_what_has_no_meaning_is_refused(name, call, why):
    with pytest.raises(af.ConfigError) as raised:
        ALL[name](**call)
    assert why in str(raised.value)
    library = {"optax": "optax.adafactor", "transformers": "transformers.Adafactor"}
    assert str(raised.value).startswith(library.get(name, name))


ODD = (
    None, True, False, -1, 0, 1, 0.5, -0.8, math.nan, math.inf, "", "0.9", (), (0.9,), (0.9, 0.99),
    (None, None), [1, 2, 3], {}, {"a": 1}, object(), abs, float, 1j, b"1", np.ones(1), np.ones(2),
)  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_whatever_is_given_is_translated_or_refused(name):
    for argument in CALLS[name].arguments:
        for beside in ({}, {"lr": 0.1}, {"betas": (0.9, 0.99)}, {"momentum": 0.9}):
            if not beside.keys() <= CALLS[name].arguments.keys():
                continue
            for value in ODD:
                try:
                    made = ALL[name](**{**beside, argument: value})
                except af.ConfigError:
                    continue
                assert isinstance(made, af.Config)


@pytest.mark.parametrize("name", ALL)
def test_a_call_without_arguments_is_the_variant(name):
    own = variants.get(name)()
    config = ALL[name]()
    # The relative step is said there, and meant here by lr=None.
    relative = own.step_size or (RELATIVE if own.lr is None else None)
    assert config == af.Config(**{**variants.options(own), "step_size": relative})


def test_numbers_may_be_arrays_of_one_element():
    assert from_optax_kwargs(learning_rate=np.float32(0.5)).lr == 0.5
    assert from_torch_kwargs(lr=np.array([0.25])).lr == 0.25
    assert from_torch_kwargs(eps=(np.float64(1e-8), np.array(0.5))).eps2 == 0.5


def test_dtypes_of_momentum_are_taken_by_name():
    jnp = types.SimpleNamespace(bfloat16=type("bfloat16", (), {}))
    for dtype, name in [
        (jnp.bfloat16, "bfloat16"), ("float16", "float16"), (np.float32, "float32"),
        (np.dtype("float16"), "float16"), ("jax.numpy.bfloat16", "bfloat16"),
    ]:  # fmt: skip
        assert from_optax_kwargs(momentum=0.9, dtype_momentum=dtype).momentum_dtype == name


def test_schedules_of_the_count_are_wrapped():
    seen = []

    def rate(count):
        seen.append(count)
        return np.float32(0.5) / (count + 1)

    for config in (
        from_optax_kwargs(learning_rate=rate, weight_decay_rate=rate),
        from_keras_kwargs(learning_rate=rate, weight_decay=0.1),
    ):
        seen.clear()
        assert [config.lr(t) for t in (1, 2, 5)] == [0.5, 0.25, pytest.approx(0.1)]
        assert seen == [0, 1, 4]
        assert type(config.lr(1)) is float
        x = np.ones((3, 4), np.float32)
        new, _ = af.step(x, x, af.init(x, config), config)
        assert new.dtype == np.float32
    assert from_optax_kwargs(learning_rate=rate, weight_decay_rate=rate).weight_decay(2) == 0.25
    again = from_optax_kwargs(learning_rate=rate).lr
    assert again == af.schedules.zero_based(rate)
    assert hash(again) == hash(af.schedules.zero_based(rate))


@pytest.mark.backends("jax")
def test_a_schedule_of_optax_keeps_its_arrays_under_jit(backend):
    import jax
    import jax.numpy as jnp

    at = af.schedules.zero_based(lambda count: 1.0 / (1.0 + count.astype(jnp.float32)))
    assert jax.jit(at)(jnp.float32(4.0)) == 0.25
    counts = []
    jax.eval_shape(af.schedules.zero_based(counts.append), jnp.float32(1.0))
    assert counts[0].dtype == jnp.int32
