"""A parameter with its gradient and state as a step sees them: local, plain, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from array_api_compat import torch as xp

from adafactor_core import Config, DTypeError, Moments, StateError
from adafactor_core._factoring import Layout, layout
from adafactor_core._state import NO_MOMENTS, check, slots, zeros
from adafactor_core._tree import check_grad

from ._sharded import PLAIN, Placed, averaged_away, distribute, local

State = dict[str, Any]
START_OVER = "set parameter and options back, or start its state over: del optimizer.state[param]"


def begun(state: Any) -> bool:
    """Whether a parameter's entry in the optimizer's state is ours, and not only a user's."""
    return isinstance(state, dict) and "step" in state


class Row(NamedTuple):
    """A parameter that has a gradient, and what belongs to it; arrays are the parts held here."""

    path: str
    param: torch.Tensor
    grad: torch.Tensor
    options: Config
    plan: Layout  # of the whole tensor
    placed: Placed | None  # None: the tensor is not distributed
    owner: torch.Tensor  # the parameter itself, which may be distributed
    state: State  # the optimizer's; its arrays are distributed as the parameter is

    def moments(self) -> Moments:
        """The slots that its state has."""
        return Moments(*(local(self.state.get(name)) for name in Moments._fields))

    def identity(self) -> tuple[Any, ...]:
        """What has to stay for what was prepared for it to stay valid: objects and memory."""
        found: list[Any] = [id(self.owner), id(self.options)]
        x = self.param
        found += (place(x), x.stride(), x.shape, x.dtype)  # p.data may be a part of what it was
        for a in self.state.values():
            found += (id(a), place(a if type(a) in PLAIN else local(a)))
        return tuple(found)

    def check(self) -> None:
        """Raises StateError unless the state is one that this parameter's step can move."""
        step, x = self.state["step"], self.param
        counts = isinstance(step, torch.Tensor) and step.dtype is torch.int32
        if not counts or step.shape != ():
            raise StateError(
                f"the state of parameter {self.path!r} has step={step!r}, expected a 0-D int32 "
                f"tensor. Use load_state_dict, or {START_OVER}."
            )
        found = self.moments()
        check(found, slots(xp, x, self.plan, self.options), self.path, START_OVER)
        for name, a in (("step", step), *found._asdict().items()):
            if a is not None and a.device != x.device:
                raise StateError(
                    f"the state of parameter {self.path!r} has {name} on {a.device}, the parameter "
                    f"is on {x.device}. Move models before building optimizers, or use "
                    f"load_state_dict(state_dict()), which moves the state after them."
                )

    def lag(self) -> Moments:
        """Its counter of skips alone, as a number where it is in CPU memory."""
        skipped: Any = self.state.get("skipped")
        if skipped is None:
            return NO_MOMENTS
        return NO_MOMENTS._replace(skipped=int(skipped.numpy()) if on_cpu(skipped) else skipped)


def checked_grad(path: str, p: torch.Tensor, g: torch.Tensor) -> None:
    """Raises DTypeError, ShapeError or DeviceError, naming the parameter, unless `g` fits `p`."""
    usual = g.dtype is p.dtype and g.shape == p.shape and g.device == p.device
    if usual and g.layout is torch.strided:
        return
    if g.layout is not torch.strided:
        raise DTypeError(
            f"the gradient of tensor {path!r} is sparse; Adafactor takes dense ones. "
            f"Use sparse=False for its embedding."
        )
    check_grad(xp, p, g, path)


def place(x: torch.Tensor) -> int:
    """Where the memory is, on whatever device; asking waits for none. 0 for what has no memory."""
    return x.data_ptr() if type(x) in PLAIN else 0


def on_cpu(x: torch.Tensor) -> bool:
    """Whether the numbers are at hand: reading them waits for no device and breaks no trace."""
    return type(x) in PLAIN and x.is_cpu and not torch.compiler.is_compiling()


def lasting(x: torch.Tensor) -> torch.Tensor:
    """`x`, which later steps can write to even if it was made in inference mode."""
    if torch.compiler.is_compiling() or not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def fresh(path: str, p: torch.Tensor, options: Config, at: Placed | None) -> State:
    """The slots before the first step, placed as the parameter is."""
    plan = layout(tuple(p.shape), options, path)
    moments = zeros(xp, local(p), plan, options)
    kept: State = {name: a for name, a in moments._asdict().items() if a is not None}
    if at is not None:
        wholes = slots(xp, p, plan, options)
        for name in kept.keys() - {"skipped"}:
            gone = averaged_away(name, plan)
            kept[name] = distribute(kept[name], wholes[name].shape, gone, at)
    return kept
