"""Between torch's parameter groups and the core's Config. Plain values only: groups are saved.

A group holds every option of one tensor by its name in Config, as a number, a string, a bool, a
list or None; `step_size` as a dict. So a state dict loads under torch's `weights_only=True`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from adafactor_core import Config, ConfigError, RelativeStep, variants
from adafactor_core.variants._from import check_names

Group = dict[str, Any]

WHOLE_STEP = ("seed", "max_grad_norm", "nonfinite", "telemetry", "max_scratch_bytes")
MOVING = ("lr", "weight_decay", "beta1")  # what schedulers and users change between steps
EXECUTORS = {"foreach", "fused", "capturable", "differentiable", "compiled"}
NAMES = [f.name for f in fields(Config) if f.name not in ("_", "rules")]


class Current:
    """A schedule that reads a group: whatever a scheduler has put there last, tensors included."""

    def __init__(self, group: Group, name: str) -> None:
        self._group, self._name = group, name

    def __call__(self, t: Any) -> Any:
        value = self._group[self._name]
        if isinstance(value, Mapping):
            return _scheduled(value, self._name)(t)
        if isinstance(value, torch.Tensor):
            _number(value, self._name)
            value = value.detach().reshape(())
            # On the host a number is wanted; reading a CPU tensor waits for nothing.
            return float(value.to(torch.float64).numpy()) if isinstance(t, int) else value
        if torch.compiler.is_compiling():  # a graph for every number, or one that is given it
            return torch.full((), value, dtype=t.dtype, device=t.device)
        return value


def overlaid(variant: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a variant with the given ones in their place; `given` without a variant."""
    if variant is None:
        return dict(given)
    if not isinstance(variant, str):  # groups hold plain values
        raise ConfigError(f"variant must be a name, as in variant='transformers', got {variant!r}.")
    try:
        return {"lr": None, **variants.get(variant).resolve(given)}
    except ConfigError as error:
        raise ConfigError(f"variant {variant!r}: {error}") from None


def defaults(lr: Any, options: Mapping[str, Any]) -> Group:
    """The group that these arguments mean. Raises ConfigError, naming what is wrong."""
    if "rules" in options:
        raise ConfigError(
            "rules are parameter groups in torch. Use Adafactor([{'params': ..., "
            "'weight_decay': 0.0}, {'params': ...}])."
        )
    check_names(options)
    config = Config(**_values({"lr": lr, **options}))
    group = {name: _plain(getattr(config, name)) for name in NAMES}
    if lr is None:
        # A number for schedulers to multiply; what it multiplies is the paper's relative step.
        group["lr"] = 1.0
        group["step_size"] = group["step_size"] or asdict(RelativeStep())
    moving = {"lr": lr, **options}
    # Not the number that stood for it while ranges were checked.
    return group | {n: moving[n] for n in MOVING if isinstance(moving.get(n), torch.Tensor)}


def config(group: Group) -> Config:
    """The options of one tensor of this group; what moves is read anew at every step."""
    values = _values({name: group[name] for name in NAMES})
    checked = Config(**values)
    moving: dict[str, Any] = {
        name: Current(group, name) for name in MOVING if getattr(checked, name) is not None
    }
    if isinstance(checked.weight_decay, float) and checked.weight_decay == 0.0:
        del moving["weight_decay"]  # known to be 0, so that steps do not read X for it
    return Config(**{**values, **moving})


def at_rest(group: Group) -> Config:
    """The options as they are now, all of them numbers."""
    now = {name: group[name] for name in NAMES}
    read = {n: v.detach().item() for n, v in now.items() if isinstance(v, torch.Tensor)}
    return Config(**_values(now | read))


def static(group: Group) -> tuple[Any, ...]:
    """What a Config has to be made anew for."""
    decay = group["weight_decay"]
    still = not isinstance(decay, torch.Tensor) and decay == 0  # a tensor is not read
    return (
        group["beta1"] is None,
        still,
        *(_frozen(group[name]) for name in NAMES if name not in MOVING),
    )


def agree(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raises ConfigError where groups differ in an option that concerns the whole step."""
    for index, group in enumerate(groups):
        for name in WHOLE_STEP:
            if group[name] != groups[0][name]:
                raise ConfigError(
                    f"{name} concerns the whole step, but it is {groups[0][name]!r} in group 0 and "
                    f"{group[name]!r} in group {index}. Set it in every group alike."
                )


def check_keys(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key of a group that is not for groups, or is a misspelt option.

    Groups may carry anything else: schedulers and users keep numbers of their own in them.
    """
    check_executors(given)
    for name in given:
        # So close that "min_weight_decay" is a name of its own.
        near = difflib.get_close_matches(
            str(name), (*NAMES, *EXECUTORS, "variant"), n=1, cutoff=0.9
        )
        if near and near[0] != name:
            raise ConfigError(f"unknown option {name!r} in a group. Did you mean {near[0]!r}?")


def check_executors(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for a value of these arguments that is none, or cannot be honoured."""
    for name in EXECUTORS & given.keys():
        optional = name in ("foreach", "fused", "compiled")
        if not isinstance(given[name], bool) and not (optional and given[name] is None):
            choice = "True, False or None" if optional else "True or False"
            raise ConfigError(f"{name} must be {choice}, got {given[name]!r}.")
    if given.get("differentiable"):
        raise ConfigError(
            "differentiable=True is not supported: the step is taken in place, without a graph. "
            "Use adafactor_core.step, which is made of differentiable operations."
        )


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    """What Config takes; for a tensor lr a number in its place."""
    values = {name: _tuples(value) for name, value in given.items()}
    for name, value in values.items():
        if name in MOVING and isinstance(value, Mapping):
            values[name] = _scheduled(value, name)
        elif callable(value) and value not in variants.SCHEDULES.values():
            raise ConfigError(
                f"{name} is a function, which a state dict cannot hold. Use a scheduler of "
                f"torch.optim.lr_scheduler for lr, and assign to param_groups for the others."
            )
    relative = values.get("step_size")
    if isinstance(relative, Mapping):
        if unknown := sorted(map(str, relative.keys() - {f.name for f in fields(RelativeStep)})):
            raise ConfigError(
                f"step_size has the unknown entry {unknown[0]!r}. Use RelativeStep(...), or a dict "
                f"of its fields."
            )
        values["step_size"] = RelativeStep(**relative)
    return values | {name: _number(values[name], name) for name in MOVING if name in values}


def _scheduled(value: Mapping[str, Any], name: str) -> Any:
    """The schedule of a named variant, which a group holds by its name."""
    if value.keys() != {"schedule"} or value["schedule"] not in variants.SCHEDULES:
        known = ", ".join(variants.SCHEDULES)
        raise ConfigError(f"{name} must be a number or {{'schedule': ...}} ({known}), got {value}.")
    return variants.SCHEDULES[value["schedule"]]


def _number(value: Any, name: str) -> Any:
    """Only for the check of the range: a tensor on a device is not read."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.numel() != 1:
        raise ConfigError(f"a tensor {name} must have one element, got shape {tuple(value.shape)}.")
    return 0.5  # in every range


def _plain(value: Any) -> Any:
    if isinstance(value, RelativeStep):
        return asdict(value)
    if callable(value):
        return {"schedule": next(n for n, s in variants.SCHEDULES.items() if s is value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _frozen(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else _tuples(value)
