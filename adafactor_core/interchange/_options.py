"""Options as JSON has them, for whoever reads a state file later. Nothing is made of them again."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from .._config import Config, RelativeStep
from ..variants import Variant


def options_of(config: Config) -> dict[str, Any]:
    """Those that are not the defaults; a schedule is {"schedule": its name}."""
    usual = Config(decay_type=config.decay_type)  # whose decay_rate is the default of the type
    names = [f.name for f in fields(Config) if f.name not in ("_", "rules")]
    found = {n: plain(v) for n in names if (v := getattr(config, n)) != getattr(usual, n)}
    if config.decay_type != Config().decay_type:
        found["decay_type"] = config.decay_type
    if config.rules:
        # From the Config that a rule makes: what users wrote may be NumPy's numbers and dtypes.
        resolved = [made for _, made in config._ruled]  # type: ignore[attr-defined]
        found["rules"] = [
            [pattern, {name: plain(getattr(made, name)) for name in given}]
            for (pattern, given), made in zip(config.rules, resolved, strict=True)
        ]
    return found


def label(variant: str | Variant | None) -> str:
    """What a file calls the variant: its name, which need not be one of `variants`; "" for None."""
    return variant.name if isinstance(variant, Variant) else variant or ""


def plain(value: Any) -> Any:
    """The value of an option as JSON has it."""
    if isinstance(value, RelativeStep):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if callable(value):
        return {"schedule": getattr(value, "__name__", None) or repr(value)[:200]}
    return value
