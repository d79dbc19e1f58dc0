"""A parameter with its gradient and state as a step sees them: local, plain, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from array_api_compat import torch as xp

from adafactor_core import Config, DTypeError, Moments
from adafactor_core._factoring import Layout, layout
from adafactor_core._state import NO_MOMENTS, slots, zeros
from adafactor_core._tree import check_grad

from ._sharded import Placed, averaged_away, distribute, local

State = dict[str, Any]
PLAIN = (torch.Tensor, torch.nn.Parameter)  # compared with type(), which is cheap and exact


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
