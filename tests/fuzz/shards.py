"""The core on two ranks that hold parts of every tensor."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

import adafactor_core as af
from _mesh import Mesh

from . import subjects
from .draw import FuzzCase
from .subjects import SLOTS, Snap


def sharded(case: FuzzCase) -> tuple[list[Snap], list[str]]:
    """(what the ranks hold put together after each step, where they disagree)."""
    random = Random(case.seed)
    shapes = {p: x.shape for p, x in case.params.items()}
    cuts: dict[str, dict[int, Any]] = {}
    for path, shape in shapes.items():
        # Of an axis of size 1 nobody could tell whether a slot has it or was reduced over it.
        # A shard along the last axis has int8 blocks of its own.
        whole = {len(shape) - 1} if case.of(path)["momentum_dtype"] == "int8" else set()
        axes = [axis for axis, size in enumerate(shape) if size > 1 and axis not in whole]
        axis = random.choice(axes) if axes else 0
        cuts[path] = {axis: (0, [random.randint(0, shape[axis])])} if axes else {}
    mesh, config = Mesh([2], cuts), case.config

    def on(rank: tuple[int, ...]) -> list[tuple[Any, af.State, str]]:
        local = {p: mesh.part(p, x, rank) for p, x in case.params.items()}
        offsets = {}
        for path, shape in shapes.items():
            at = [0] * len(shape)
            for axis, (_, cut) in cuts[path].items():
                at[axis] = cut[0] if rank[0] else 0
            offsets[path] = tuple(at)
        sharding = af.Sharding(shapes, mesh.reduce(rank), offsets)
        state, found = af.init(local, config, sharding=sharding), []
        for g in case.grads:
            g, raised = {p: mesh.part(p, x, rank) for p, x in g.items()}, ""
            try:
                local, state = af.step(
                    local, g, state, config, grad_scale=case.grad_scale, sharding=sharding
                )
            except af.NonFiniteError as error:
                raised = str(error)
            found.append((local, state, raised))
        return found

    with np.errstate(all="ignore"):
        ranks = mesh.run(on)
    return _merged(case, mesh, cuts, ranks)


def _merged(case: FuzzCase, mesh: Mesh, cuts: Any, ranks: Any) -> tuple[list[Snap], list[str]]:
    snaps, trouble, before = [], [], None
    for step in range(len(case.grads)):
        parts = {rank: found[step] for rank, found in ranks.items()}
        _, first, raised = parts[mesh.ranks[0]]
        for _, state, words in parts.values():
            same = int(state.step) == int(first.step) and words == raised
            same &= state.skipped is None or int(state.skipped) == int(first.skipped)
            for path, m in state.moments.items():
                count = first.moments[path].skipped
                same &= count is None or int(m.skipped) == int(count)
            if not same:
                trouble.append(f"step {step}: ranks disagree")
        params, moments = {}, {}
        for path, x in case.params.items():
            pieces = {rank: p[path] for rank, (p, _, _) in parts.items()}
            params[path] = _whole(mesh, path, pieces, range(x.ndim))
            slots = {}
            for name in SLOTS:
                pieces = {r: getattr(s.moments[path], name) for r, (_, s, _) in parts.items()}
                some = next(iter(pieces.values()))
                if some is None:
                    slots[name] = None
                    continue
                split = [a for a in cuts[path] if _split(pieces, x.shape, a, cuts[path])]
                slots[name] = _whole(mesh, path, pieces, split)
            slots["skipped"] = first.moments[path].skipped
            moments[path] = af.Moments(**slots)
        state = af.State(first.step, moments, first.skipped)
        before = subjects.snap(params, state, before, raised)
        snaps.append(before)
    return snaps, trouble


def _split(pieces: Any, shape: tuple[int, ...], axis: int, cuts: Any) -> bool:
    """Whether a slot is split along `axis` as its tensor is, and not reduced over it."""
    (cut,) = cuts[axis][1]
    return [p.shape[axis] for _, p in sorted(pieces.items())] == [cut, shape[axis] - cut]


def _whole(mesh: Mesh, path: str, pieces: Any, axes: Any) -> np.ndarray:
    """`mesh.whole`, by way of float64: no two NaN of ml_dtypes count as equal in a comparison."""
    dtype = next(iter(pieces.values())).dtype
    wide = {rank: np.asarray(x).astype(np.float64) for rank, x in pieces.items()}
    return np.asarray(mesh.whole(path, wide, axes)).astype(dtype)
