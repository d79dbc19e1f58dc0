"""Tensors that lie in parts on a mesh of ranks (DTensor, FSDP2): the parts, and sums over them.

A tensor's parts are steps' blocks at another size: each rank takes its own through the passes, and
what crosses ranks are sums, in two all-reduces per step however many tensors there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any, NamedTuple

import torch

from adafactor_core import Config, ShapeError, StateError
from adafactor_core._factoring import Layout, without
from adafactor_core._rounding import BLOCK
from adafactor_core._work import Partial

Shape = tuple[int, ...]


class Placed(NamedTuple):
    """How one tensor lies on its mesh, seen from this rank."""

    mesh: Any
    placements: tuple[Any, ...]
    offset: Shape  # where the part held here starts in the whole
    axes: tuple[int | None, ...]  # per mesh dimension: the tensor axis that it splits
    shape: Shape  # of the whole


def is_distributed(x: Any) -> bool:
    """Whether `x` is a DTensor; torch.distributed is not imported to find out."""
    if type(x) is torch.Tensor or type(x) is torch.nn.Parameter:
        return False
    return hasattr(x, "placements") and hasattr(x, "device_mesh")


def local(x: Any) -> Any:
    """The part of a distributed tensor that lies here; anything else as it is."""
    if not is_distributed(x):
        return x
    part = x.to_local()
    return part.wait() if hasattr(part, "wait") else part


def placed(x: Any, options: Config, path: str) -> Placed | None:
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
    found = Placed(mesh, placements, tuple(offset), axes, shape)
    if options.beta1 is not None and options.momentum_dtype == "int8":
        _check_blocks(found, path)
    return found


def _check_blocks(at: Placed, path: str) -> None:
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


class _Host(NamedTuple):
    """The ranks that one all-reduce goes over."""

    group: Any
    dims: tuple[int, ...]  # of the mesh
    coordinate: Shape


class _Seat(NamedTuple):
    """A tensor as seen from its host's mesh, which may have more dimensions than its own."""

    host: int
    axes: tuple[int | None, ...]
    first: bool  # of the ranks that hold the same part
    offset: Shape
    shape: Shape


class _Piece(NamedTuple):
    """One partial sum in a bucket."""

    at: int  # among the partial sums
    room: Shape  # what it takes, the same on all ranks
    start: Shape  # of this rank's part in it
    counts: bool  # another rank may have the same part


class Sums:
    """The reduction that the core asks for: called twice a step, with all partial sums.

    One all-reduce over the largest mesh, so that tensors on a mesh and on its slices (tensor
    parallel x data parallel) share it. Where several mesh dimensions split tensors, every rank
    puts its part at its own place in the whole slot, and one of equal replicas counts.
    """

    def __init__(self, parts: Mapping[str, Placed]) -> None:
        meshes = _distinct(at.mesh for at in parts.values())
        hosts = [m for m in meshes if not any(_slice(m, o) for o in meshes if o is not m)]
        homes = {path: _home(at.mesh, hosts) for path, at in parts.items()}
        used: list[set[int]] = [set() for _ in hosts]
        for path, at in parts.items():
            index, dims = homes[path]
            used[index] |= {
                dims[k]
                for k, axis in enumerate(at.axes)
                if axis is not None and at.mesh.size(k) > 1
            }
        self._hosts = [_host(m, dims) for m, dims in zip(hosts, used, strict=True)]
        self._seats: dict[str, _Seat] = {}
        for path, at in parts.items():
            index, dims = homes[path]
            axes: list[int | None] = [None] * hosts[index].ndim
            for k, axis in enumerate(at.axes):
                axes[dims[k]] = axis if at.mesh.size(k) > 1 else None
            coordinate = self._hosts[index].coordinate
            first = all(c == 0 for c, a in zip(coordinate, axes, strict=True) if a is None)
            self._seats[path] = _Seat(index, tuple(axes), first, at.offset, at.shape)
        self._known: dict[tuple[Any, ...], list[list[_Piece]]] = {}

    def __call__(self, partials: Sequence[Partial]) -> Sequence[torch.Tensor]:
        values = [p.value for p in partials]
        key = tuple((p.path, p.name) for p in partials)
        buckets = self._known.get(key)
        if buckets is None:
            buckets = self._known[key] = self._arranged(partials)
        for host, pieces in zip(self._hosts, buckets, strict=True):
            if pieces:
                self._reduce(host, pieces, values)
        return values

    def _arranged(self, partials: Sequence[Partial]) -> list[list[_Piece]]:
        buckets: list[list[_Piece]] = [[] for _ in self._hosts]
        for index, p in enumerate(partials):
            seat = self._seats.get(p.path)
            # The core sums over axes; only those that are split need other ranks' shares.
            if seat is None or not any(a in p.axes for a in seat.axes if a is not None):
                continue
            local_shape = tuple(p.value.shape)
            if len(self._hosts[seat.host].dims) == 1:
                piece = _Piece(index, local_shape, (0,) * len(local_shape), True)
            else:
                start = tuple(0 if a in p.axes else o for a, o in enumerate(seat.offset))
                piece = _Piece(index, without(seat.shape, p.axes), start, seat.first)
            buckets[seat.host].append(piece)
        return buckets

    @staticmethod
    def _reduce(host: _Host, pieces: list[_Piece], values: list[torch.Tensor]) -> None:
        from torch.distributed import all_reduce

        flat = torch.cat([_seated(piece, values[piece.at]).reshape(-1) for piece in pieces])
        all_reduce(flat, group=host.group)
        sizes = [prod(piece.room) for piece in pieces]
        for piece, summed in zip(pieces, torch.split(flat, sizes), strict=True):
            old = values[piece.at]
            whole = summed.to(old.dtype).view(piece.room)
            for axis, (start, size) in enumerate(zip(piece.start, old.shape, strict=True)):
                whole = whole.narrow(axis, start, size)
            values[piece.at] = whole


def _seated(piece: _Piece, value: torch.Tensor) -> torch.Tensor:
    """`value` at its place in zeros of the room's shape."""
    if not piece.counts:
        return torch.zeros(piece.room, dtype=value.dtype, device=value.device)
    if tuple(value.shape) == piece.room:
        return value
    edges: list[int] = []
    for start, size, room in zip(piece.start, value.shape, piece.room, strict=True):
        edges = [start, room - start - size, *edges]  # the last axis comes first
    return torch.nn.functional.pad(value, edges)


def _distinct(meshes: Iterable[Any]) -> list[Any]:
    """Meshes of the same ranks in the same order are one."""
    found: list[Any] = []
    for mesh in meshes:
        if not any(torch.equal(mesh.mesh, other.mesh) for other in found):
            found.append(mesh)
    return found


def _slice(mesh: Any, other: Any) -> Shape:
    """Which dimensions of `other` are `mesh`, at this rank's place along the rest; () if none."""
    here = other.get_coordinate()
    for dims in combinations(range(other.ndim), mesh.ndim):
        index = tuple(slice(None) if d in dims else here[d] for d in range(other.ndim))
        if torch.equal(other.mesh[index], mesh.mesh):
            return tuple(dims)
    return ()


def _home(mesh: Any, hosts: list[Any]) -> tuple[int, tuple[int, ...]]:
    """The first host that has the mesh, and as which dimensions."""
    for index, host in enumerate(hosts):
        dims = _slice(mesh, host)
        if dims:
            return index, dims
    raise AssertionError(f"{mesh} is no slice of {hosts}")


def _host(mesh: Any, split: set[int]) -> _Host:
    import torch.distributed as dist

    dims = tuple(sorted(split))
    coordinate = tuple(mesh.get_coordinate())
    if not dims:
        return _Host(None, dims, coordinate)
    if len(dims) == 1:
        return _Host(mesh.get_group(dims[0]), dims, coordinate)
    ranks = sorted(mesh.mesh.flatten().tolist())
    if len(ranks) == dist.get_world_size():
        return _Host(dist.group.WORLD, dims, coordinate)
    return _Host(dist.new_group(ranks, use_local_synchronization=True), dims, coordinate)
