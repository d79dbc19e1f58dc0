"""Sums over the ranks of a mesh: one all-reduce, however many tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any, NamedTuple

import torch

from adafactor_core import Config
from adafactor_core._factoring import without
from adafactor_core._work import Partial

from ._rows import Row
from ._sharded import Placed, Shape, check_blocks, placed


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


class Meshes:
    """Where the parameters of an optimizer lie, looked up once; and the reduction over all."""

    def __init__(self) -> None:
        self._placed: dict[int, Placed] = {}
        self._sums: Sums | None = None

    def of(self, p: torch.Tensor, options: Config, path: str) -> Placed | None:
        """None for a tensor that is not distributed. Raises ShapeError."""
        if id(p) not in self._placed:
            found = placed(p, path)
            if found is None:
                return None
            self._placed[id(p)], self._sums = found, None
        check_blocks(self._placed[id(p)], options, path)
        return self._placed[id(p)]

    def meet(self, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Settles with the other ranks, if there are any, how sums are added up."""
        if self._placed and self._sums is None:
            self._sums = Sums({n: self._placed[id(p)] for n, p in named if id(p) in self._placed})

    def sums(self, rows: Iterable[Row]) -> Sums | None:
        """The reduction for a step of these rows, None if none of them is distributed."""
        if all(row.placed is None for row in rows):
            return None
        assert self._sums is not None  # else every rank would step by itself, in silence
        return self._sums
