"""Between torch's parameter groups and the core's Config. Plain values only: groups are saved.

A group holds every option of one tensor by its name in Config, as a number, a string, a bool, a
list or None; `step_size` as a dict. So a state dict loads under torch's `weights_only=True`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from adafactor_core import Config, ConfigError, RelativeStep

Group = dict[str, Any]

WHOLE_STEP = ("seed", "max_grad_norm", "nonfinite", "telemetry", "max_scratch_bytes")
MOVING = ("lr", "weight_decay", "beta1")  # what schedulers and users change between steps
NAMES = [f.name for f in fields(Config) if f.name not in ("_", "rules")]
PER_TENSOR = [name for name in NAMES if name not in WHOLE_STEP]


class Current:
    """A schedule that reads a group: whatever a scheduler has put there last, tensors included."""

    def __init__(self, group: Group, name: str) -> None:
        self._group, self._name = group, name

    def __call__(self, t: Any) -> Any:
        value = self._group[self._name]
        if isinstance(value, torch.Tensor):
            value = value.detach().reshape(())
            # On the host a number is wanted; reading a CPU tensor waits for nothing.
            return float(value.to(torch.float64).numpy()) if isinstance(t, int) else value
        if torch.compiler.is_compiling():  # a graph for every number, or one that is given it
            return torch.full((), value, dtype=t.dtype, device=t.device)
        return value


def defaults(lr: Any, options: Mapping[str, Any]) -> Group:
    """The group that these arguments mean. Raises ConfigError, naming what is wrong."""
    if "rules" in options:
        raise ConfigError(
            "rules are parameter groups in torch. Use Adafactor([{'params': ..., "
            "'weight_decay': 0.0}, {'params': ...}])."
        )
    unknown = sorted(set(options) - set(NAMES))
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}. Options: {', '.join(NAMES)}.")
    for name, value in (("lr", lr), *options.items()):
        if callable(value):
            raise ConfigError(
                f"{name} is a function, which a state dict cannot hold. Use a scheduler of "
                f"torch.optim.lr_scheduler for lr, and assign to param_groups for the others."
            )
    options = {name: _tuples(value) for name, value in options.items()}
    step_size = options.get("step_size")
    if isinstance(step_size, Mapping):
        options["step_size"] = RelativeStep(**step_size)
    config = Config(lr=_number(lr), **options)
    group = {name: _plain(getattr(config, name)) for name in NAMES}
    if lr is None:
        # A number for schedulers to multiply; what it multiplies is the paper's relative step.
        group["lr"] = 1.0
        group["step_size"] = group["step_size"] or asdict(RelativeStep())
    elif isinstance(lr, torch.Tensor):
        group["lr"] = lr
    return group


def config(group: Group) -> Config:
    """The options of one tensor of this group; what moves is read anew at every step."""
    values = {name: group[name] for name in NAMES}
    values = {name: _tuples(value) for name, value in values.items()}
    if isinstance(values["step_size"], Mapping):
        values["step_size"] = RelativeStep(**values["step_size"])
    checked = Config(**{**values, "lr": _number(values["lr"])})
    moving: dict[str, Any] = {
        name: Current(group, name) for name in MOVING if getattr(checked, name) is not None
    }
    if isinstance(checked.weight_decay, float) and checked.weight_decay == 0.0:
        del moving["weight_decay"]  # known to be 0, so that steps do not read X for it
    return Config(**{**values, **moving})


def static(group: Group) -> tuple[Any, ...]:
    """What a Config has to be made anew for."""
    moving = [group[name] is None for name in ("beta1",)] + [group["weight_decay"] == 0]
    return (*moving, *(_frozen(group[name]) for name in NAMES if name not in MOVING))


def _number(lr: Any) -> Any:
    """Only for the check of the range: a tensor on a device is not read."""
    if not isinstance(lr, torch.Tensor):
        return lr
    if lr.numel() != 1:
        raise ConfigError(f"a tensor lr must have one element, got shape {tuple(lr.shape)}.")
    return 1.0


def _plain(value: Any) -> Any:
    if isinstance(value, RelativeStep):
        return asdict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _frozen(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else _tuples(value)
