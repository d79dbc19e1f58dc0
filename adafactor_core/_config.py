"""Hyper-parameters: names, ranges and conflicts. Plain Python values; no arrays, no formulas.

`docs/options.md` gives the exact meaning of every option and the implementation it comes from.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, Literal, cast

from . import _ranges as ranges
from ._errors import ConfigError
from ._ranges import Axes, Rule, Schedule

_CHOICES: dict[str, tuple[str, ...]] = {
    "scale_scope": ("block", "tensor"),
    "clip_scope": ("block", "tensor"),
    "eps1_mode": ("grad_sq", "stats", "clamp"),
    "decay_type": ("pow", "adam", "constant"),
    "momentum_on": ("scaled_update", "update", "grad"),
    "momentum_arithmetic": ("float32", "buffer", "weak"),
    "momentum_rounding": ("nearest", "stochastic"),
    "weight_decay_by": ("alpha", "lr", "none"),
    "rounding": ("nearest", "stochastic", "kahan"),
    "nonfinite": ("propagate", "skip_tensor", "skip_step", "raise"),
}
_WHOLE_STEP = ("rules", "seed", "max_grad_norm", "nonfinite", "telemetry", "max_scratch_bytes")


@dataclass(frozen=True)
class RelativeStep:
    """`rho_t = min(cap, 1/sqrt(t))` (paper, Algorithm 6); with `warmup_init` also `<= 1e-6 * t`.

    `cap=None` makes the learning rate the cap instead of a multiplier (torch.optim, Keras).
    Raises ConfigError for a cap that is not a positive finite number or None.
    """

    cap: float | None = 1e-2
    warmup_init: bool = False

    def __post_init__(self) -> None:
        if self.cap is not None:
            cap = ranges.number("RelativeStep.cap", self.cap, low=0.0, open_low=True)
            object.__setattr__(self, "cap", cap)
        ranges.flag("RelativeStep.warmup_init", self.warmup_init)


@dataclass(frozen=True)
class Config:
    """All options of one optimizer; the defaults are the paper's (arXiv 1804.04235, Algorithm 6).

    Immutable, hashable, made of Python numbers. Validated once, here: raises ConfigError for a
    value out of range or a contradicting pair.
    Meaning of each option: `docs/options.md`.
    """

    lr: float | Schedule | None = None
    _: KW_ONLY
    step_size: RelativeStep | None = None
    scale_parameter: bool = True
    eps2: float = 1e-3
    max_parameter_scale: float | None = None
    factored: bool = True
    factored_dims: str | tuple[Axes, Axes] = "auto"
    min_dim_size_to_factor: int = 1
    batch_axes: tuple[int, ...] = ()
    scale_scope: Literal["block", "tensor"] = "block"
    clip_scope: Literal["block", "tensor"] = "block"
    eps1: float | Literal["finfo"] = 1e-30
    eps1_mode: Literal["grad_sq", "stats", "clamp"] = "grad_sq"
    decay_type: Literal["pow", "adam", "constant"] = "pow"
    decay_rate: float | Schedule | None = None
    decay_offset: int = 0
    beta2_cap: float | None = None
    clip_threshold: float | None = 1.0
    beta1: float | Schedule | None = None
    momentum_on: Literal["scaled_update", "update", "grad"] = "scaled_update"
    momentum_dtype: str = "float32"
    momentum_arithmetic: Literal["float32", "buffer", "weak"] = "float32"
    momentum_rounding: Literal["nearest", "stochastic"] = "nearest"
    weight_decay: float | Schedule = 0.0
    weight_decay_by: Literal["alpha", "lr", "none"] = "alpha"
    weight_decay_first: bool = False
    rounding: Literal["nearest", "stochastic", "kahan"] = "nearest"
    seed: int = 0
    max_grad_norm: float | None = None
    nonfinite: Literal["propagate", "skip_tensor", "skip_step", "raise"] = "propagate"
    telemetry: bool = False
    max_scratch_bytes: int | None = None
    maximize: bool = False
    rules: Sequence[Rule] = ()

    def __post_init__(self) -> None:
        for name, value in _validated(self).items():
            object.__setattr__(self, name, value)
        _refuse_conflicts(self)
        # Built once: a bad rule fails here, and tensors under one rule share one Config.
        ruled = tuple((p, _overridden(self, p, options)) for p, options in self.rules)
        object.__setattr__(self, "_ruled", ruled)
        object.__setattr__(self, "_matched", {})

    def __hash__(self) -> int:
        # The generated hash fails on the dicts that rules may hold.
        key = [getattr(self, f.name) for f in fields(self) if f.name != "rules"]
        return hash((*key, *((p, tuple(o)) for p, o in self.rules)))


def as_config(config: Any) -> Config:
    """`config`, the defaults for None, or ConfigError."""
    if config is None:
        return _DEFAULTS
    if not isinstance(config, Config):
        raise ConfigError(
            f"config must be a Config, got a {type(config).__name__}. Use Config(lr=...)."
        )
    return config


def resolve(config: Config, paths: Sequence[str]) -> list[Config]:
    """One Config without rules per path: the first rule that matches wins.

    Tensors under the same rule share one object, so callers may key caches by identity.
    Raises ConfigError for a rule whose pattern matches no path at all.
    """
    if not config.rules:
        return [config] * len(paths)
    # Kept from init on: torch.compile cannot trace the matching of patterns.
    kept: dict[tuple[str, ...], list[Config]] = config._matched  # type: ignore[attr-defined]
    key = tuple(paths)
    if key not in kept:
        kept[key] = _matched(config, paths)
    return kept[key]


def _matched(config: Config, paths: Sequence[str]) -> list[Config]:
    ruled: tuple[tuple[str, Config], ...] = config._ruled  # type: ignore[attr-defined]
    base = replace(config, rules=())
    for pattern, _ in ruled:
        # Of no tensors at all nothing can be missed: optax makes states of empty trees.
        if paths and not any(fnmatchcase(path, pattern) for path in paths):
            near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
            raise ConfigError(
                f"rule {pattern!r} matches no tensor. Patterns are shell-style and match the whole "
                f"path, as in {', '.join(map(repr, near))}. Correct the pattern or remove the rule."
            )
    return [next((c for p, c in ruled if fnmatchcase(path, p)), base) for path in paths]


def _overridden(config: Config, pattern: str, options: Mapping[str, Any]) -> Config:
    names = {f.name for f in fields(Config)} - {"_", *_WHOLE_STEP}
    for name in options:
        if name in _WHOLE_STEP:
            raise ConfigError(
                f"rule {pattern!r} sets {name!r}, which concerns the whole step. "
                f"Set it in Config({name}=...) instead."
            )
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Options: {sorted(names)}."
            raise ConfigError(f"rule {pattern!r} sets the unknown option {name!r}.{hint}")
    by_default = config.decay_rate == _default_decay(config.decay_type)
    if "decay_type" in options and by_default:
        options = {"decay_rate": None, **options}  # the default of the rule's own type
    try:
        return replace(config, rules=(), **options)
    except ConfigError as error:
        raise ConfigError(f"rule {pattern!r}: {error}") from None


def _default_decay(decay_type: str) -> float:
    return 0.8 if decay_type == "pow" else 0.999


def _validated(c: Config) -> dict[str, Any]:
    """Every field as a plain Python value, or an error that names it."""
    for name, allowed in _CHOICES.items():
        ranges.choice(name, getattr(c, name), allowed)
    for name in ("scale_parameter", "factored", "weight_decay_first", "maximize", "telemetry"):
        ranges.flag(name, getattr(c, name))
    decay_default = _default_decay(c.decay_type)
    out: dict[str, Any] = {
        "lr": None if c.lr is None else ranges.rate("lr", c.lr),
        "eps2": ranges.number("eps2", c.eps2),
        "max_parameter_scale": ranges.optional_positive(
            "max_parameter_scale", c.max_parameter_scale
        ),
        "factored_dims": ranges.dims(c.factored_dims),
        "min_dim_size_to_factor": ranges.integer(
            "min_dim_size_to_factor", c.min_dim_size_to_factor, 1
        ),
        "batch_axes": ranges.axes("batch_axes", c.batch_axes),
        "eps1": ranges.eps1(c.eps1),
        "decay_rate": _decay_rate(c, decay_default if c.decay_rate is None else c.decay_rate),
        "decay_offset": ranges.integer("decay_offset", c.decay_offset, 0),
        "beta2_cap": None if c.beta2_cap is None else ranges.fraction("beta2_cap", c.beta2_cap),
        "clip_threshold": ranges.optional_positive("clip_threshold", c.clip_threshold),
        "beta1": c.beta1
        if c.beta1 is None or callable(c.beta1)
        else ranges.fraction("beta1", c.beta1),
        "momentum_dtype": ranges.dtype_name(c.momentum_dtype),
        "weight_decay": ranges.rate("weight_decay", c.weight_decay),
        "seed": ranges.integer("seed", c.seed, 0, 2**64 - 1),
        "max_grad_norm": ranges.optional_positive("max_grad_norm", c.max_grad_norm),
        "rules": ranges.rules(c.rules),
    }
    if c.max_scratch_bytes is not None:
        out["max_scratch_bytes"] = ranges.integer("max_scratch_bytes", c.max_scratch_bytes, 1024)
    if c.step_size is not None and not isinstance(c.step_size, RelativeStep):
        raise ConfigError(
            f"step_size must be None or RelativeStep(cap=..., warmup_init=...), got "
            f"{c.step_size!r}. A learning rate goes into lr."
        )
    return out


def _refuse_conflicts(c: Config) -> None:
    """Pairs that are both active and contradict each other. The message has the valid calls."""
    if c.lr is None and c.step_size is not None and c.step_size.cap is None:
        raise ConfigError(
            "step_size=RelativeStep(cap=None) takes the learning rate as its cap, but lr is None. "
            "Use Config(lr=1e-2, step_size=RelativeStep(cap=None)) or "
            "Config(step_size=RelativeStep(cap=1e-2))."
        )
    if c.weight_decay_first and c.weight_decay_by == "alpha":
        raise ConfigError(
            "weight_decay_first=True with weight_decay_by='alpha': the decay would depend on the "
            "parameter scale that it changes. Use Config(weight_decay_first=True, "
            "weight_decay_by='lr') or Config(weight_decay_by='alpha')."
        )
    if c.decay_type == "constant" and c.decay_offset:
        raise ConfigError(
            f"decay_offset={c.decay_offset} with decay_type='constant': a constant decay has no "
            f"start to shift. Use Config(decay_type='constant') or "
            f"Config(decay_type='pow', decay_offset={c.decay_offset})."
        )
    if c.momentum_dtype == "int8" and c.momentum_arithmetic == "weak":
        raise ConfigError(
            "momentum_dtype='int8' with momentum_arithmetic='weak', which rounds beta1 to the "
            "buffer's dtype. Use Config(momentum_dtype='int8', momentum_arithmetic='float32') or "
            "Config(momentum_dtype='bfloat16', momentum_arithmetic='weak')."
        )
    if c.eps1_mode == "clamp" and c.eps1 == 0.0:
        raise ConfigError(
            "eps1=0 with eps1_mode='clamp' clamps nothing. Use "
            "Config(eps1='finfo', eps1_mode='clamp') or Config(eps1=0.0, eps1_mode='grad_sq')."
        )


def _decay_rate(c: Config, value: Any) -> float | Schedule:
    if callable(value):
        return cast(Schedule, value)
    if c.decay_type != "pow":
        return ranges.fraction("decay_rate", value)
    if isinstance(value, Real) and value < 0:
        raise ConfigError(
            f"decay_rate must be positive, got {value!r}. Hugging Face and torch.optim write "
            f"beta2 = 1 - t**decay_rate with a negative number; here it is decay_rate={-value!r}."
        )
    return ranges.number("decay_rate", value, open_low=True)


_DEFAULTS = Config()
