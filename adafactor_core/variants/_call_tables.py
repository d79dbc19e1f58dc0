"""The arguments of other libraries' constructors, their defaults, and what they mean here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._config import RelativeStep
from .._errors import ConfigError
from ._calls import (
    Call,
    exponent,
    idle,
    negative_exponent,
    number,
    only,
    pair,
    rate,
    same,
    scheduled,
    unless_none,
    unscheduled,
)
from ._collections import timm
from ._fairseq import transformers
from ._frameworks import keras, optax, torch
from ._record import Options

WHERE_CLIPPED = "clip gradients yourself, or give max_grad_norm for the norm of all of them."


def relative_step(value: Any, call: Options) -> Options:
    """fairseq's switch, together with `warmup_init`."""
    return {"step_size": RelativeStep(warmup_init=call["warmup_init"]) if value else None}


def check_transformers(call: Options) -> None:
    if call["lr"] is not None and call["relative_step"]:
        raise ConfigError(
            f"lr={call['lr']!r} with relative_step=True, which transformers refuses too. Pass "
            f"relative_step=False, or lr=None."
        )
    if call["lr"] is None and not call["relative_step"]:
        raise ConfigError(
            "relative_step=False without lr, with which transformers fails in its first step. Pass "
            "lr, or relative_step=True."
        )
    if call["warmup_init"] and not call["relative_step"]:
        raise ConfigError(
            "warmup_init=True without relative_step=True, which transformers refuses too. Leave "
            "one of them out; af.schedules.warmup is for given rates."
        )


def torch_eps1(value: Any, call: Options) -> Options:
    """None is the dtype's machine epsilon; 0 clamps nothing."""
    if value is None:
        return {"eps1": "finfo"}
    return {"eps1": value, "eps1_mode": "clamp" if value else "grad_sq"}


def optax_momentum_dtype(value: Any, call: Options) -> Options:
    if call["momentum"] is None:
        return {}
    if value is None:
        raise ConfigError(
            "dtype_momentum=None takes each parameter's own dtype. Name one: 'float32' or "
            "'bfloat16'."
        )
    return {"momentum_dtype": value}


def optax_mask(value: Any, call: Options) -> Options:
    if value is None or not call["weight_decay_rate"]:
        return {}
    raise ConfigError(
        "weight_decay_mask is a tree or a function of one; here rules go by path. Use "
        "af.variants.optax(..., weight_decay=..., rules=[('*.bias', dict(weight_decay=0.0))])."
    )


def keras_relative_step(value: Any, call: Options) -> Options:
    """False as it is documented: Keras itself caps the rate at 1/sqrt(t) all the same."""
    return {"step_size": RelativeStep(cap=None) if value else None}


def timm_scale(value: Any, call: Options) -> Options:
    """Of the relative step alone."""
    return {"scale_parameter": bool(value) and call["lr"] is None}


def timm_warmup(value: Any, call: Options) -> Options:
    if value and call["lr"] is not None:
        raise ConfigError(
            "warmup_init=True with a given lr, which timm refuses too. Leave lr out, or use "
            "lr=af.schedules.warmup(lr, steps)."
        )
    return {"step_size": RelativeStep(warmup_init=value)} if call["lr"] is None else {}


def timm_betas(value: Any, call: Options) -> Options:
    """The first of them is beta1; the others are not read."""
    if value is None:
        return {"beta1": None}
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise ConfigError(
            f"betas must be None or a sequence whose first entry is beta1, as in (0.9, 0.999), "
            f"got {value!r}."
        )
    return {"beta1": value[0]}


def timm_minimum(value: Any, call: Options) -> Options:
    """Axes must be larger than it, not as large."""
    return {"min_dim_size_to_factor": value + 1 if isinstance(value, int) else value}


def timm_caution(value: Any, call: Options) -> Options:
    if value and timm_betas(call["betas"], call)["beta1"] is not None:
        raise ConfigError("caution=True masks the momentum, which Config cannot. Leave it out.")
    return {}


TRANSFORMERS = Call(
    "transformers.Adafactor 5.24",
    transformers,
    {
        "lr": (None, unscheduled("lr", transformers)),
        "eps": ((1e-30, 1e-3), pair(same("eps1"), same("eps2"))),
        "clip_threshold": (1.0, number("clip_threshold", transformers)),
        "decay_rate": (-0.8, negative_exponent),
        "beta1": (None, same("beta1")),
        "weight_decay": (0.0, same("weight_decay")),
        "scale_parameter": (True, same("scale_parameter")),
        "relative_step": (True, relative_step),
        "warmup_init": (False, idle),
    },
    check_transformers,
)
TORCH = Call(
    "torch.optim.Adafactor 2.14",
    torch,
    {
        "lr": (1e-2, rate(unscheduled("lr", torch))),
        "beta2_decay": (-0.8, negative_exponent),
        "eps": ((None, 1e-3), pair(torch_eps1, same("eps2"))),
        "d": (1.0, number("clip_threshold", torch, at_least=1)),
        "weight_decay": (0.0, same("weight_decay")),
        "foreach": (None, idle),
        "maximize": (False, same("maximize")),
    },
)
OPTAX = Call(
    "optax.adafactor 0.2.8",
    optax,
    {
        "learning_rate": (None, scheduled("lr")),
        "min_dim_size_to_factor": (128, same("min_dim_size_to_factor")),
        "decay_rate": (0.8, unscheduled("decay_rate", optax, exponent)),
        "decay_offset": (0, same("decay_offset")),
        "multiply_by_parameter_scale": (True, same("scale_parameter")),
        "clipping_threshold": (1.0, same("clip_threshold")),
        "momentum": (None, same("beta1")),
        "dtype_momentum": ("float32", optax_momentum_dtype),
        "weight_decay_rate": (None, scheduled("weight_decay")),
        "eps": (1e-30, same("eps1")),
        "factored": (True, same("factored")),
        "weight_decay_mask": (None, optax_mask),
    },
)
TIMM = Call(
    "timm.optim.Adafactor 1.0.31",
    timm,
    {
        "lr": (None, unscheduled("lr", timm)),
        "eps": (1e-30, same("eps1")),
        "eps_scale": (1e-3, same("eps2")),
        "clip_threshold": (1.0, number("clip_threshold", timm)),
        "decay_rate": (-0.8, negative_exponent),
        "betas": (None, timm_betas),
        "weight_decay": (0.0, same("weight_decay")),
        "scale_parameter": (True, timm_scale),
        "warmup_init": (False, timm_warmup),
        "min_dim_size_to_factor": (16, timm_minimum),
        "caution": (False, timm_caution),
    },
)
KERAS = Call(
    "keras.optimizers.Adafactor 3.15",
    keras,
    {
        "learning_rate": (0.001, rate(scheduled("lr"))),
        "beta_2_decay": (-0.8, negative_exponent),
        "epsilon_1": (1e-30, same("eps1")),
        "epsilon_2": (1e-3, same("eps2")),
        "clip_threshold": (1.0, number("clip_threshold", keras)),
        "relative_step": (True, keras_relative_step),
        "weight_decay": (None, unless_none("weight_decay")),
        "clipnorm": (None, only(None, instead=f"clipnorm is per variable. {WHERE_CLIPPED}")),
        "clipvalue": (None, only(None, instead=f"clipvalue is per entry. {WHERE_CLIPPED}")),
        "global_clipnorm": (None, same("max_grad_norm")),
        "use_ema": (False, only(False, instead="average the parameters outside of the optimizer.")),
        "ema_momentum": (0.99, idle),
        "ema_overwrite_frequency": (None, idle),
        "loss_scale_factor": (None, only(None, instead="pass grad_scale to step or update.")),
        "gradient_accumulation_steps": (
            None,
            only(None, 1, instead="average gradients over the batches before each step."),
        ),
        "name": (None, idle),
    },
)
