"""Tensors that lie in parts on a mesh of ranks (DTensor, FSDP2).

A part is a block at another size: each rank takes its own through the passes, and what crosses
ranks are sums (`_sums.py`).
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch

from adafactor_core import Config, ShapeError, StateError
from adafactor_core._factoring import Layout
from adafactor_core._rounding import BLOCK

Shape = tuple[int, ...]
PLAIN = (torch.Tensor, torch.nn.Parameter)  # compared with type(), which is cheap and exact


class Placed(NamedTuple):
    """How one tensor lies on its mesh, seen from this rank."""

    mesh: Any
    placements: tuple[Any, ...]
    offset: Shape  # where the part held here starts in the whole
    axes: tuple[int | None, ...]  # per mesh dimension: the tensor axis that it splits
    shape: Shape  # of the whole


def is_distributed(x: Any) -> bool:
    """Whether `x` is a DTensor; torch.distributed is not imported to find out."""
    if type(x) in PLAIN:
        return False
    return hasattr(x, "placements") and hasattr(x, "device_mesh")


def local(x: Any) -> Any:
    """The part of a distributed tensor that lies here; anything else as it is."""
    if not is_distributed(x):
        return x
    part = x.to_local()
    return part.wait() if hasattr(part, "wait") else part


def placed(x: Any, path: str) -> Placed | None:
    """None for a tensor that is not distributed. Raises ShapeError for what no step can take."""
    if getattr(x, "_fsdp_flattened", False):
        raise ShapeError(
            f"parameter {path!r} is flattened by FSDP1 (FullyShardedDataParallel): its rows and "
            f"columns are gone, so there is nothing to factor. Shard the model with "
            f"torch.distributed.fsdp.fully_shard (FSDP2), which keeps shapes."
        )
    if not is_distributed(x):
        return None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, mesh, placements = tuple(x.shape), x.device_mesh, tuple(x.placements)
    if any(p.is_partial() for p in placements):
        raise ShapeError(
            f"parameter {path!r} has placements {placements}: pending sums are no values. "
            f"Redistribute it to Shard or Replicate."
        )
    if mesh.get_coordinate() is None:
        raise ShapeError(
            f"parameter {path!r} lies on a mesh that this rank is not part of. Give the optimizer "
            f"the parameters of its own ranks only."
        )
    _, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    # Strided shards (tensor parallel, then FSDP) say which axis too, but are no Shard.
    axes = tuple(p.dim % len(shape) if hasattr(p, "dim") else None for p in placements)
    return Placed(mesh, placements, tuple(offset), axes, shape)


def check_blocks(at: Placed, options: Config, path: str) -> None:
    """Raises ShapeError where int8 momentum would be cut within the blocks of its scales."""
    if options.beta1 is None or options.momentum_dtype != "int8":
        return
    # By sizes and not by this rank's offset, so that all ranks raise or none.
    size = at.shape[-1] if at.shape else 1
    for ranks, axis in zip(at.mesh.shape, at.axes, strict=True):
        if axis == len(at.shape) - 1 and ranks > 1:
            size = -(-size // ranks)
            if size % BLOCK:
                raise ShapeError(
                    f"parameter {path!r} of shape {at.shape} is split along its last axis into "
                    f"parts of {size}, but momentum_dtype='int8' has a scale per {BLOCK} entries "
                    f"of it. Use a multiple of {BLOCK}, or momentum_dtype='bfloat16' in a group."
                )


def averaged_away(slot: str, plan: Layout) -> Shape:
    """The axes on which this slot of the state has size 1."""
    return {"row": plan.col_axes, "col": plan.row_axes}.get(slot, ())


def distribute(part: torch.Tensor, shape: Shape, gone: Shape, at: Placed) -> Any:
    """A slot as a DTensor of this whole shape: split as its parameter, but on the axes `gone`."""
    from torch.distributed.tensor import DTensor, Replicate

    placements = [
        Replicate() if a is None or a in gone else p
        for p, a in zip(at.placements, at.axes, strict=True)
    ]
    stride = tuple(prod(shape[a + 1 :]) for a in range(len(shape)))
    return DTensor.from_local(
        part, at.mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def laid(a: Any, shape: Shape, part: Shape, gone: Shape, at: Placed | None, path: str) -> Any:
    """A loaded slot as it belongs to its parameter. `shape`: of the whole; `part`: held here."""
    if at is None and is_distributed(a):
        raise StateError(
            f"the state of parameter {path!r} lies on {a.device_mesh}, the parameter on no mesh. "
            f"Save with get_optimizer_state_dict(..., options=StateDictOptions("
            f"full_state_dict=True)), or resume through torch.distributed.checkpoint."
        )
    if at is None or not shape:
        return a
    if not is_distributed(a):
        for axis, size in enumerate(part):
            start = 0 if axis in gone else at.offset[axis]
            if axis not in gone and shape[axis] != at.shape[axis]:  # scales of blocks
                start = -(-start // BLOCK)
            a = a.narrow(axis, start, size)
        return distribute(a, shape, gone, at)
    if a.device_mesh != at.mesh:
        raise StateError(
            f"the state of parameter {path!r} lies on {a.device_mesh}, the parameter on {at.mesh}. "
            f"Resume through torch.distributed.checkpoint."
        )
    empty = torch.empty(part, dtype=a.dtype, device=a.device)
    wanted = distribute(empty, shape, gone, at).placements
    return a if a.placements == wanted else a.redistribute(placements=wanted)


def placed_like(g: Any, p: Any, path: str) -> Any:
    """The gradient as its parameter is placed; what is pending in it is added up."""
    if not is_distributed(p) and not is_distributed(g):
        return g
    if not (is_distributed(p) and is_distributed(g)) or g.device_mesh != p.device_mesh:
        what = "not distributed" if not is_distributed(g) else f"on {g.device_mesh}"
        on = p.device_mesh if is_distributed(p) else "no mesh"
        raise ShapeError(
            f"the gradient of parameter {path!r} is {what}, the parameter on {on}. Make both "
            f"DTensors on one mesh, for example with distribute_tensor."
        )
    return g if g.placements == p.placements else g.redistribute(placements=p.placements)
