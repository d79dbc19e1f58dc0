"""Options as JAX users give them, traced numbers included, as the core's Config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from adafactor_core import Config, ConfigError, variants
from adafactor_core.variants._from import check_names

MOVING = ("lr", "weight_decay", "beta1", "decay_rate")  # what may be traced, or a function f(t)
NO_DIRECTION = (
    "lr", "step_size", "scale_parameter", "eps2", "max_parameter_scale", "scale_scope",
    "weight_decay", "weight_decay_by", "weight_decay_first", "rounding", "maximize",
)  # fmt: skip


def config(given: Mapping[str, Any]) -> Config:
    """The Config that these options mean; None is the default, or the variant's.

    Raises ConfigError for an unknown option, or an array where a number is wanted.
    """
    options = _unpacked(given)
    variant = options.pop("variant", None)
    check_names(options, variant if isinstance(variant, str) else "")
    for name, value in options.items():
        if isinstance(value, jax.Array | np.ndarray):
            options[name] = _constant(name, value)
    return variants.config(variant, options)


def direction(given: Mapping[str, Any]) -> Config:
    """The Config under which the update is minus the direction.

    Raises ConfigError for options that say how far to go and not where.
    """
    options = _unpacked(given)
    variant = options.pop("variant", None)
    ruled = [name for rule in options.get("rules", ()) for name in rule[1]]
    for name in (*options, *ruled):
        if name in NO_DIRECTION:
            raise ConfigError(
                f"scale_by_adafactor is the direction alone, so it takes no {name}. Use "
                f"adafactor({name}=...), or chain it with optax transformations, as in "
                f"optax.chain(scale_by_adafactor(), optax.scale_by_learning_rate(1e-3))."
            )
    if variant is not None:  # of its options those that say where
        own = variants.record(variant).resolve({**options, "lr": 1.0})
        options = {name: value for name, value in own.items() if name not in NO_DIRECTION}
    return config({**options, "lr": 1.0, "scale_parameter": False})


def _unpacked(given: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(given)
    # optax.inject_hyperparams hands **options over as one argument of that name.
    options.update(options.pop("options", {}))
    # In the others None may mean "off".
    return {n: value for n, value in options.items() if value is not None or n not in MOVING}


def _constant(name: str, value: Any) -> Any:
    if name not in MOVING:
        raise ConfigError(
            f"{name} must be a Python value, got an array: only {', '.join(MOVING)} may change "
            f"from step to step. Pass a number."
        )
    if value.shape != ():
        raise ConfigError(f"{name} must be a number or 0-D, got an array of shape {value.shape}.")
    return value.item() if isinstance(value, np.ndarray) else lambda t: value
