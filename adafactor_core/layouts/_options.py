"""Options of Config as the groups of adafactor_torch have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .._config import Config, RelativeStep

_NAMES = [f.name for f in fields(Config) if f.name != "_"]


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
