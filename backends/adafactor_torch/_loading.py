"""State dicts: matched by name, checked before anything is changed, dtypes kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from array_api_compat import torch as xp

from adafactor_core import Config, Moments, StateError
from adafactor_core._factoring import layout
from adafactor_core._state import check, slots
from adafactor_core._tree import some

from ._options import NAMES, Group, agree, check_executors, config
from ._sharded import Placed, averaged_away, laid, local

StateDict = dict[str, Any]
SAVED = "give the optimizer the parameters and the options it was saved with, and load it then"


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
        params = group["params"]
        names = group.get("param_names", params)
        keys = all(isinstance(key, int | str) for key in params)
        if not keys or not isinstance(names, list) or len(names) != len(params):
            raise StateError(
                f"group {index} of the state dict has {len(params)} params, and keys or "
                f"param_names that do not go with them. Pass what state_dict() returned."
            )
    every = [name for g in theirs for name in g.get("param_names", ())]
    if len(set(map(str, every))) != len(every):
        raise StateError("a name is twice in the state dict. Pass what state_dict() returned.")
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
            f"the state dict is of other parameters. Missing: {some(ours - found)}; unknown: "
            f"{some(found - ours)}. Rename them in its param_names, or leave them out of both."
        )
    ordered = []
    for index, group in enumerate(groups):
        names = set(group["param_names"])
        same = [g for g in theirs if set(g["param_names"]) == names]
        if len(same) != 1:
            raise StateError(
                f"group {index} ({some(names)}) has other parameters in the state dict. Build "
                f"the optimizer with the groups it was saved with."
            )
        ids = dict(zip(same[0]["param_names"], same[0]["params"], strict=True))
        order = [ids[name] for name in group["param_names"]]
        ordered.append({**same[0], "params": order, "param_names": list(group["param_names"])})
    return ordered


@torch.inference_mode(False)  # or no step after that mode could write to the state
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
    for other in saved["param_groups"]:
        missing = sorted(k for k in NAMES if k not in other)
        if missing:
            raise StateError(
                f"a group of the state dict has no {missing[0]!r}: it was saved by another "
                f"optimizer. Use one that Adafactor saved; `python -m adafactor_core convert` "
                f"makes state files of other Adafactors' states."
            )
        check_executors(other)
    agree(saved["param_groups"])
    for group, other in zip(groups, saved["param_groups"], strict=True):
        options = config({**other, "params": []})
        names = group.get("param_names")
        for k, (p, key) in enumerate(zip(group["params"], other["params"], strict=True)):
            path = names[k] if names else str(position)
            position += 1
            state = saved["state"].get(key)
            if state is None or (isinstance(state, Mapping) and not state):
                continue
            moments, step = _read(state, p, path)
            plan = layout(tuple(p.shape), options, path)
            check(moments, wholes := slots(xp, p, plan, options), path, SAVED)
            together = (p.device, step)
            if together not in counters:
                counters[together] = torch.tensor(step, dtype=torch.int32, device=p.device)
            at, parts = placed(p, options, path), slots(xp, local(p), plan, options)
            copies = {}
            for name, a in moments._asdict().items():
                if a is not None:
                    shapes = wholes[name].shape, parts[name].shape
                    a = laid(a.detach(), *shapes, averaged_away(name, plan), at, path)
                    copies[name] = a.to(p.device, copy=True)
            out[p] = {"step": counters[together], **copies}
    return out


def _read(state: Any, p: torch.Tensor, path: str) -> tuple[Moments, int]:
    """The slots, and the number of completed steps."""
    if not isinstance(state, Mapping):
        raise StateError(
            f"the state of tensor {path!r} is a {type(state).__name__}, not a dict of slots. Pass "
            f"what state_dict() returned."
        )
    unknown = sorted(set(state) - {"step", *Moments._fields}, key=str)
    if unknown or "step" not in state:
        what = f"the unknown entry {unknown[0]!r}" if unknown else "no entry 'step'"
        raise StateError(
            f"the state of tensor {path!r} has {what}: it was saved by another optimizer. "
            f"`python -m adafactor_core convert` takes over states of other Adafactors."
        )
    for name in Moments._fields:
        a = state.get(name)
        if isinstance(a, torch.Tensor) and not _dense(a, p):
            raise StateError(
                f"the state of tensor {path!r} has as {name} a {type(a).__name__} without numbers "
                f"that could be copied. Pass what state_dict() returned."
            )
    found = state["step"]
    one = isinstance(found, torch.Tensor) and found.numel() == 1 and _dense(found, p)
    step = found.item() if one else found
    whole = isinstance(step, int | float) and not isinstance(step, bool)
    if not whole or not 0 <= step < 2**31 - 1 or step != int(step):
        raise StateError(
            f"the state of tensor {path!r} has step={found!r}, expected the number of completed "
            f"steps, an int >= 0."
        )
    return Moments(*(state.get(name) for name in Moments._fields)), int(step)


def _dense(a: Any, p: torch.Tensor) -> bool:
    """Whether it is a tensor that can be copied to where `p` is."""
    if not isinstance(a, torch.Tensor) or a.layout is not torch.strided:
        return False
    return a.device.type != "meta" or p.device.type == "meta"
