"""Options of Config as JSON and torch's groups have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from .._config import Config, RelativeStep

_DEFAULTS = Config()
_NAMES = [f.name for f in fields(Config) if f.name != "_"]


def told(config: Config) -> dict[str, Any]:
    """Those that are not the defaults; a schedule only by its name."""
    found = {name: getattr(config, name) for name in _NAMES}
    return {k: _plain(v) for k, v in found.items() if v != getattr(_DEFAULTS, k)}


def _plain(value: Any) -> Any:
    if isinstance(value, RelativeStep):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return value


def of_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a flattened group of adafactor_torch."""
    out: dict[str, Any] = {}
    for name in _NAMES:
        if name in group:
            out[name] = group[name]
        elif nested := _below(group, name):
            out[name] = RelativeStep(**nested) if name == "step_size" else _listed(nested)
    rate = out.get("lr")
    if rate is not None and hasattr(rate, "item"):  # a tensor, for capturable steps
        out["lr"] = float(rate.item())
    return out


def _listed(nested: Mapping[str, Any]) -> tuple[Any, ...]:
    """{"0": 1, "1.0": 2} -> (1, (2,))"""
    heads = sorted({key.split(".")[0] for key in nested}, key=int)
    return tuple(nested[h] if h in nested else _listed(_below(nested, h)) for h in heads)


def _below(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {k.removeprefix(name + "."): v for k, v in flat.items() if k.startswith(name + ".")}
