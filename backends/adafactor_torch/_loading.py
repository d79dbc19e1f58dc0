"""State dicts: matched by name, checked before anything is changed, dtypes kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from array_api_compat import torch as xp

from adafactor_core import Config, Moments, StateError
from adafactor_core._factoring import layout
from adafactor_core._state import check, slots

from ._options import NAMES, Group, config
from ._sharded import Placed, averaged_away, laid, local

StateDict = dict[str, Any]


def matched(groups: Sequence[Group], saved: Any) -> StateDict:
    """`saved` with its groups and parameters in the order of `groups`: by name where both have
    names, else by position. Raises StateError that lists what does not fit."""
    if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= saved.keys():
        raise StateError(
            "a state dict has 'state' and 'param_groups'. Pass what state_dict() returned."
        )
    state, theirs = saved["state"], saved["param_groups"]
    if not isinstance(state, Mapping) or not isinstance(theirs, list | tuple):
        raise StateError(
            f"the state dict has a {type(state).__name__} as 'state' and a "
            f"{type(theirs).__name__} as 'param_groups'. Pass what state_dict() returned."
        )
    for index, group in enumerate(theirs):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), list):
            raise StateError(
                f"group {index} of the state dict has no list 'params'. Pass what state_dict() "
                f"returned."
            )
    # torch's flattened state dicts lose empty lists.
    theirs = [{**group, "batch_axes": group.get("batch_axes", [])} for group in theirs]
    if len(theirs) != len(groups):
        raise StateError(
            f"the state dict has {len(theirs)} parameter groups, the optimizer {len(groups)}. "
            f"Build the optimizer with the groups it was saved with."
        )
    named = all("param_names" in g for g in (*groups, *theirs))
    if not named:
        for index, (ours, other) in enumerate(zip(groups, theirs, strict=True)):
            if len(ours["params"]) != len(other["params"]):
                raise StateError(
                    f"group {index} has {len(other['params'])} parameters in the state dict, "
                    f"{len(ours['params'])} here. Build the optimizer as it was saved."
                )
        return {**saved, "param_groups": list(theirs)}
    return {**saved, "param_groups": _by_name(groups, theirs)}


def _by_name(groups: Sequence[Group], theirs: Sequence[Group]) -> list[Group]:
    ours = {name for g in groups for name in g["param_names"]}
    found = {name for g in theirs for name in g["param_names"]}
    if ours != found:
        raise StateError(
            f"the state dict is of other parameters. Missing: {_some(ours - found)}; unknown: "
            f"{_some(found - ours)}. Rename them in its param_names, or leave them out of both."
        )
    ordered = []
    for index, group in enumerate(groups):
        names = set(group["param_names"])
        same = [g for g in theirs if set(g["param_names"]) == names]
        if len(same) != 1:
            raise StateError(
                f"group {index} ({_some(names)}) has other parameters in the state dict. Build "
                f"the optimizer with the groups it was saved with."
            )
        ids = dict(zip(same[0]["param_names"], same[0]["params"], strict=True))
        order = [ids[name] for name in group["param_names"]]
        ordered.append({**same[0], "params": order, "param_names": list(group["param_names"])})
    return ordered


def exact(
    groups: Sequence[Group],
    saved: StateDict,
    placed: Callable[[torch.Tensor, Config, str], Placed | None],
) -> dict[torch.Tensor, dict[str, Any]]:
    """The state per parameter, copied to its device in the dtypes it was saved in.

    torch casts floating state to the dtype of the parameter, which would cut float32 averages of
    a bfloat16 parameter to 8 bits. Counters that are equal are one tensor again. Whole slots are
    cut to the part of a distributed parameter. Raises StateError, ShapeError or ConfigError, naming
    the parameter or the option, before anything is changed.
    """
    out: dict[torch.Tensor, dict[str, Any]] = {}
    counters: dict[Any, torch.Tensor] = {}
    position = 0
    for group, other in zip(groups, saved["param_groups"], strict=True):
        missing = sorted(k for k in NAMES if k not in other)
        if missing:
            raise StateError(
                f"a group of the state dict has no {missing[0]!r}: it was saved by another "
                f"optimizer. Use one that Adafactor saved."
            )
        options = config({**other, "params": []})
        names = group.get("param_names")
        for k, (p, at) in enumerate(zip(group["params"], other["params"], strict=True)):
            path = names[k] if names else str(position)
            position += 1
            state = saved["state"].get(at)
            if state is None or (isinstance(state, Mapping) and not state):
                continue
            moments = _moments(state, path)
            plan = layout(tuple(p.shape), options, path)
            check(moments, wholes := slots(xp, p, plan, options), path)
            step = state["step"]
            key = (p.device, int(step))
            if key not in counters:
                counters[key] = torch.tensor(int(step), dtype=torch.int32, device=p.device)
            at, parts = placed(p, options, path), slots(xp, local(p), plan, options)
            copies = {}
            for name, a in moments._asdict().items():
                if a is not None:
                    shapes = wholes[name].shape, parts[name].shape
                    a = laid(a.detach(), *shapes, averaged_away(name, plan), at, path)
                    copies[name] = a.to(p.device, copy=True)
            out[p] = {"step": counters[key], **copies}
    return out


def _moments(state: Any, path: str) -> Moments:
    if not isinstance(state, Mapping):
        raise StateError(
            f"the state of tensor {path!r} is a {type(state).__name__}, not a dict of slots. Pass "
            f"what state_dict() returned."
        )
    unknown = sorted(set(state) - {"step", *Moments._fields})
    if unknown or "step" not in state:
        what = f"the unknown entry {unknown[0]!r}" if unknown else "no entry 'step'"
        raise StateError(
            f"the state of tensor {path!r} has {what}: it was saved by another optimizer."
        )
    step = state["step"]
    one = step.numel() == 1 if isinstance(step, torch.Tensor) else isinstance(step, int)
    if not one or not step >= 0:  # NaN neither
        raise StateError(f"the state of tensor {path!r} has step={step!r}, expected an int >= 0.")
    return Moments(*(state.get(name) for name in Moments._fields))


def _some(names: set[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:5]))
    return (shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
