"""Which key is whose: parameters, and the templates of a format, matched with a flattened state."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .._errors import StateError
from .._tree import some
from ._flat import Flat
from ._format import Format
from ._params import Param

BARE_GROUP = {"params", "param_names", "step"}
"""What a torch group holds besides options."""

_KNOWN = ("path", "index", "id", "group", "first", "second", "third")


class Place(NamedTuple):
    """A parameter, and what the fields of a template are for it."""

    param: Param
    fields: dict[str, str]


def places(fmt: Format, params: Sequence[Param], state: Flat) -> list[Place]:
    """Raises StateError where the state is of other parameters."""
    ids = _torch_ids(params, state) if fmt.family == "torch" else None
    first = _first(fmt, len(params), state)
    out = []
    for k, param in enumerate(params):
        fields = {"path": param.path, "index": str(k)}
        for n, name in enumerate(("first", "second", "third"), first + 3 * k):
            fields[name] = str(n)
        if ids is not None:
            fields["id"], fields["group"] = ids[k]
        out.append(Place(param, fields))
    return out


def _first(fmt: Format, params: int, state: Flat) -> int:
    """The number of the first parameter's first variable: under a schedule Keras has no rate."""
    numbers = [int(key) for key in state if key.isdecimal()]
    if "{first}" not in fmt.factored.get("row", "") or not numbers:
        return 2
    variables = max(numbers) + 1
    first = variables - 3 * params
    if first not in (1, 2):
        raise StateError(
            f"the state has {variables} variables, and {params} parameters have 3 each, beside the "
            f"iteration and the learning rate. Pass the parameters that the optimizer was built "
            f"with, in its order."
        )
    return first


def torch_dict(state: Any) -> tuple[str, Mapping[str, Any]]:
    """(key, value) of the state dict in whatever a training script has saved.

    Raises StateError where there is none, or more than one.
    """
    found = list(_torch_dicts(state, ""))
    if len(found) == 1:
        _check_torch(found[0][1])
        return found[0]
    if not found:
        raise StateError(
            "this is no optimizer's state: nowhere in it are 'state' and 'param_groups' side by "
            "side. Pass optimizer.state_dict(), or a checkpoint that has it in it."
        )
    raise StateError(
        f"there are {len(found)} optimizers in it: {some({k for k, _ in found})}. Pass the one "
        f"that is meant."
    )


def _check_torch(found: Mapping[str, Any]) -> None:
    """Raises StateError unless it is built as torch builds them."""
    groups, state = found["param_groups"], found["state"]
    whole = isinstance(groups, list | tuple) and all(
        isinstance(g, Mapping) and isinstance(g.get("params"), list | tuple) for g in groups
    )
    if not whole or not all(isinstance(i, int | str) for g in groups for i in g["params"]):
        raise StateError(
            "its param_groups are no list of groups with a list 'params' of ids each. Pass what "
            "optimizer.state_dict() returned."
        )
    if not isinstance(state, Mapping) or not all(isinstance(s, Mapping) for s in state.values()):
        raise StateError(
            "its 'state' is no dict with a dict of slots for each parameter. Pass what "
            "optimizer.state_dict() returned."
        )


def _torch_dicts(x: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(x, Mapping):
        if {"state", "param_groups"} <= x.keys():
            yield key, x
            return
        for name, child in x.items():
            yield from _torch_dicts(child, f"{key}.{name}" if key else str(name))
    elif isinstance(x, list | tuple):
        for k, child in enumerate(x):
            yield from _torch_dicts(child, f"{key}.{k}" if key else str(k))


def has_names(state: Flat) -> bool:
    """Whether a flattened torch state dict says what its parameters are called."""
    rows = torch_rows(state)
    return bool(rows) and all(name is not None for *_, name in rows)


def torch_rows(state: Flat) -> list[tuple[str, str, str | None]]:
    """(id, group, name or None) of the parameters of a flattened torch state dict, in order."""
    groups: dict[str, dict[str, dict[int, Any]]] = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "param_groups" and len(parts) == 4 and parts[3].isdecimal():
            groups.setdefault(parts[1], {}).setdefault(parts[2], {})[int(parts[3])] = value
    rows: list[tuple[str, str, str | None]] = []
    for group in sorted(groups, key=int):
        ids, names = groups[group].get("params", {}), groups[group].get("param_names", {})
        for k in sorted(ids):
            name = names.get(k, ids[k] if isinstance(ids[k], str) else None)
            rows.append((str(ids[k]), group, None if name is None else str(name)))
    return rows


def _torch_ids(params: Sequence[Param], state: Flat) -> list[tuple[str, str]]:
    """(id, group) by parameter: by name where the state dict has names, else by position."""
    rows = torch_rows(state)
    if not rows:  # a template without groups
        return [(str(k), "0") for k in range(len(params))]
    if all(name is not None for *_, name in rows):
        by_name = {str(name): (id_, group) for id_, group, name in rows}
        paths = {p.path for p in params}
        if paths != by_name.keys():
            raise StateError(
                f"the state dict is of other parameters. Missing: {some(paths - by_name.keys())}; "
                f"unknown: {some(by_name.keys() - paths)}. Rename one side (see renamed)."
            )
        return [by_name[p.path] for p in params]
    if len(rows) != len(params):
        raise StateError(
            f"the state dict has {len(rows)} parameters, and {len(params)} were given. It has no "
            f"names: give the parameters of the optimizer, in the order of its groups."
        )
    return [(id_, group) for id_, group, _ in rows]


class Keys:
    """Templates resolved in one flattened state; without one, by the format's prefixes."""

    def __init__(self, fmt: Format, state: Flat | None) -> None:
        self._fmt, self._state = fmt, state
        self._found: dict[str, dict[str, list[str]]] = {}

    def of(self, template: str, place: Place) -> str | None:
        """The key, None where the state has none like it. Raises StateError for several."""
        if not template:
            return None
        wild = _wild(template)
        if wild is None:
            key = _join(template.format(**place.fields))
            return key if self._state is None or key in self._state else None
        rest = template[len(wild) + 2 :]
        if self._state is None:
            return _join(self._fmt.prefixes.get(wild, "") + rest.format(**place.fields))
        found = self._by_path(template, rest).get(place.param.path, [])
        if len(found) > 1:
            found = [key for key in found if self._has_siblings(key, rest, wild, place)]
        if len(found) > 1:
            raise StateError(
                f"tensor {place.param.path!r} is in the state more than once: {some(set(found))}. "
                f"Pass the part of it that is meant."
            )
        return found[0] if found else None

    def _has_siblings(self, key: str, rest: str, wild: str, place: Place) -> bool:
        """Whether what belongs beside it is there: "v_row.v.w" ends like the "v.w" of optax."""
        before = key[: len(key) - len(_join(rest.format(**place.fields)))]
        fmt, others = self._fmt, [t for t in self._fmt.counters if not by_tensor(t)]
        if fmt.placeholder is not None:
            others += [*fmt.factored.values(), *fmt.unfactored.values()]
        names = (t[len(wild) + 2 :] for t in others if _wild(t) == wild)
        return all(_join(before + n.format(**place.fields)) in (self._state or {}) for n in names)

    def _by_path(self, template: str, rest: str) -> dict[str, list[str]]:
        if template not in self._found:
            before, _, after = rest.partition("{path}")
            pattern = re.compile(
                rf"(?:.*?\.)??{re.escape(before.rstrip('.'))}"
                rf"(?:\.(?P<path>.+?))??{re.escape(after)}",
                re.DOTALL,
            )
            rows: dict[str, list[str]] = {}
            for key in self._state or {}:
                match = pattern.fullmatch(key)
                if match:
                    rows.setdefault(match["path"] or "", []).append(key)
            self._found[template] = rows
        return self._found[template]

    def counters(self, used: set[str]) -> list[str]:
        """Keys of numbers of steps that the whole state has; those in `used` are slots."""
        out = []
        for template in self._fmt.counters:
            wild = _wild(template)
            if wild is None:
                out += [template] if self._state is None or template in self._state else []
                continue
            name = template[len(wild) + 2 :]
            if self._state is None:
                prefix = self._fmt.prefixes.get(wild, "")
                out += [prefix + name] if any(key.startswith(prefix) for key in used) else []
                continue
            ends = (key for key in self._state if key == name or key.endswith("." + name))
            out += [key for key in ends if key not in used]
        return list(dict.fromkeys(out))


def by_tensor(template: str) -> bool:
    """Whether each tensor, or its group, has one of its own."""
    return any("{" + name + "}" in template for name in _KNOWN)


def _wild(template: str) -> str | None:
    match = re.match(r"\{(\w+)\}", template)
    return match[1] if match and match[1] not in _KNOWN else None


def _join(key: str) -> str:
    """The path of a single array is empty, and leaves no dot behind."""
    return re.sub(r"\.\.+", ".", key).strip(".")
