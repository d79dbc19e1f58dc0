"""The options of torch groups that are made without a template, where all are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from .. import variants
from .._config import Config, RelativeStep
from .._errors import ConfigError
from ..interchange._options import plain
from ..variants._from import CALLS

Group = dict[str, Any]


def known_group(
    format: str, given: Mapping[str, Any] | Config | None, chosen: Config, momentum: bool
) -> Group:
    """What the optimizer itself would have in its group; {} where that is not known.

    It is known of a whole Config, or of options that say the rate; nobody's rate is made up. And
    only where the optimizer can do all of it, and keeps momentum where the state has it.
    """
    told = isinstance(given, Config) or bool({"lr", "step_size"} & (given or {}).keys())
    if not told or (format not in _ARGUMENTS and format != "adafactor_torch"):
        return {}
    config = chosen
    if format != "adafactor_torch" and not isinstance(given, Config):
        config = Config(**variants.get(format).resolve({**(given or {}), **_step(chosen)}))
    if config.rules or (config.beta1 is not None) != momentum:
        return {}
    return _ours(config) if format == "adafactor_torch" else _theirs(format, config)


def _step(chosen: Config) -> Group:
    return {} if chosen.step_size is None else {"step_size": chosen.step_size}


def _ours(config: Config) -> Group:
    """Every option under its own name, as plain values."""
    group: Group = {}
    for f in fields(Config):
        if f.name in ("_", "rules"):
            continue
        value = getattr(config, f.name)
        if callable(value):
            names = [name for name, s in variants.SCHEDULES.items() if s is value]
            if not names:
                return {}
            group[f.name] = {"schedule": names[0]}
        else:
            group[f.name] = plain(value)
    if config.lr is None:  # a number for schedulers to multiply the relative step with
        group["lr"] = 1.0
        group["step_size"] = group["step_size"] or asdict(RelativeStep())
    return group


def _theirs(format: str, config: Config) -> Group:
    """The arguments that mean `config`, if any do: the table of calls decides, not this guess."""
    call = CALLS[format]
    arguments = {name: default for name, (default, _) in call.arguments.items()}
    arguments |= _ARGUMENTS[format](config)
    if callable(config.lr) or callable(config.weight_decay):
        return {}
    try:
        if call.config(arguments) != config:
            return {}
    except ConfigError:
        return {}
    return _GROUPS.get(format, dict)(arguments)


def _exponent(c: Config) -> float:
    """Where there is none, any: what the arguments mean is another Config then."""
    return -c.decay_rate if isinstance(c.decay_rate, float) else -0.8


def _transformers(c: Config) -> Group:
    warmup = c.step_size is not None and c.step_size.warmup_init
    return {
        "lr": c.lr,
        "eps": (c.eps1, c.eps2),
        "clip_threshold": c.clip_threshold,
        "decay_rate": _exponent(c),
        "beta1": c.beta1,
        "weight_decay": c.weight_decay,
        "scale_parameter": c.scale_parameter,
        "relative_step": c.step_size is not None,
        "warmup_init": warmup,
    }


def _torch(c: Config) -> Group:
    return {
        "lr": c.lr,
        "beta2_decay": _exponent(c),
        "eps": (None if c.eps1 == "finfo" else c.eps1, c.eps2),
        "d": c.clip_threshold,
        "weight_decay": c.weight_decay,
        "maximize": c.maximize,
    }


def _timm(c: Config) -> Group:
    return {
        "lr": c.lr,
        "eps": c.eps1,
        "eps_scale": c.eps2,
        "clip_threshold": c.clip_threshold,
        "decay_rate": _exponent(c),
        "betas": None if c.beta1 is None else (c.beta1, 0.999),  # the second is not read
        "weight_decay": c.weight_decay,
        "scale_parameter": c.scale_parameter or c.lr is not None,
        "warmup_init": c.step_size is not None and c.step_size.warmup_init,
        "min_dim_size_to_factor": c.min_dim_size_to_factor - 1,
    }


def _timm_group(arguments: Group) -> Group:
    betas = arguments.pop("betas")
    return arguments | {
        "beta1": None if betas is None else betas[0],
        "relative_step": arguments["lr"] is None,
    }


_ARGUMENTS: dict[str, Callable[[Config], Group]] = {
    "transformers": _transformers,
    "torch": _torch,
    "timm": _timm,
}
_GROUPS: dict[str, Callable[[Group], Group]] = {"timm": _timm_group}
