"""The options of a state: the format's, what torch's groups say, and what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from glob import escape
from typing import Any

from .._config import Config, RelativeStep
from .._errors import ConfigError
from ..variants._from import check_names
from ..variants._record import NAMES
from ._find import Place
from ._flat import Flat
from ._format import Format
from ._table import FORMATS, SHOWN, meaning

_SHOWN = (*SHOWN, "beta1", "rounding")


def chosen_options(
    format: str,
    given: Mapping[str, Any] | Config | None,
    state: Flat,
    where: Sequence[Place],
) -> Config:
    """The format's own, in the place of which what groups say, in whose place what is given.

    Where groups of a torch state differ, tensors of later ones have rules. Raises ConfigError.
    """
    if isinstance(given, Config):
        return given
    fmt, given = FORMATS[format], given or {}
    groups = {name: _of_group(fmt, state, name) for name in _groups(fmt, where)}
    base = groups.get("0", {})
    rules = list(given.get("rules", ()))
    for place in where:
        own = groups.get(place.fields.get("group", "0"), base)
        differ = {
            name: value
            for name, value in own.items()
            if name in _SHOWN and name not in given and value != base.get(name)
        }
        if differ:
            rules.append((escape(place.param.path), differ))
    check_names(given, format)
    given = {name: _relative(x) if name == "step_size" else x for name, x in given.items()}
    return Config(**{**meaning(format), **base, **given, "rules": rules})


def _relative(value: Any) -> Any:
    """A dict of its fields, as JSON and torch groups have it, is a RelativeStep."""
    if not isinstance(value, Mapping):
        return value
    known = [f.name for f in fields(RelativeStep)]
    for name in value:
        if name not in known:
            raise ConfigError(
                f"step_size has the unknown entry {name!r}. Expected some of {', '.join(known)}."
            )
    return RelativeStep(**value)


def _groups(fmt: Format, where: Sequence[Place]) -> list[str]:
    if fmt.family != "torch":
        return []
    return sorted({"0", *(place.fields["group"] for place in where)}, key=int)


def _of_group(fmt: Format, state: Flat, group: str) -> dict[str, Any]:
    first = _below(state, f"param_groups.{group}")
    if fmt.ours:
        return of_group(first)
    told = {name: first[name] for name in fmt.groups if first.get(name) is not None}
    return {k: v + fmt.groups[k] if isinstance(v, int) else v for k, v in told.items()}


def of_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a flattened group of adafactor_torch."""
    out: dict[str, Any] = {"beta1": None, "batch_axes": ()}  # leaves no trace when flattened
    for name in NAMES:
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
