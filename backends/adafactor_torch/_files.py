"""State files: what the optimizer has of its parameters, whole, and back to where they lie."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from array_api_compat import torch as xp

from adafactor_core import Config, Moments, StateError, StateFileError, interchange
from adafactor_core._factoring import Layout, layout
from adafactor_core._numerics import dtype_name
from adafactor_core._state import Slots, check, counts, slots
from adafactor_core.interchange import Raw, Record, TensorRecord
from adafactor_core.interchange._arrays import array_of, lazily, zeros
from adafactor_core.interchange._file import in_order
from adafactor_core.interchange._fit import by_path, check_skips, fit
from adafactor_core.interchange._options import label, options_of
from adafactor_core.variants import Variant

from ._loading import SAVED
from ._options import at_rest
from ._rows import begun
from ._sharded import Placed, averaged_away, distribute, is_distributed, laid, local

if TYPE_CHECKING:
    from ._optimizer import Adafactor

Progress = Callable[[int, int], None]


class Whole(NamedTuple):
    """A parameter and what is known of its whole, wherever its parts lie."""

    path: str
    param: torch.Tensor
    options: Config
    plan: Layout
    wanted: Slots


class Gather:
    """A slot of the state, brought together from all ranks when it is written."""

    def __init__(self, part: torch.Tensor) -> None:
        self._part, self.done = part, False

    def __call__(self) -> torch.Tensor:
        self.done = True
        part: Any = self._part
        whole: torch.Tensor = part.full_tensor() if is_distributed(part) else part
        return whole


def save_state(
    optimizer: Adafactor,
    file: str | os.PathLike[str],
    variant: str | Variant | None,
    progress: Progress | None,
) -> None:
    """See Adafactor.save_state."""
    record, gathers = _record(optimizer, label(variant))
    mesh = _largest_mesh(optimizer)
    if mesh is None:
        interchange.write(file, record, progress=progress)
        return
    described = tuple((t.path, t.shape, t.dtype, t.step, *t.slots) for t in record.tensors)
    if len(_over(mesh, {(record.step, described)})) > 1:
        raise StateError(
            f"the ranks of {mesh} have parameters or steps that others of them do not have, and "
            f"one file holds the state of all. Give every rank the same ones: the stages of a "
            f"pipeline belong on meshes, and into files, of their own."
        )
    failed: Exception | None = None
    if not any(mesh.get_coordinate()):
        try:
            interchange.write(file, record, progress=progress)
        except Exception as error:  # raised when the other ranks have been told
            failed = error
    # The others gather what the first one writes, in its order; if it fails, so does it.
    for _, raw in in_order(file, record):
        gather = gathers.get(id(raw))
        if gather is not None and not gather.done and raw.nbytes:
            gather()
    told = _over(mesh, {f"{type(failed).__name__}: {failed}"} if failed else set())
    if failed is not None:
        raise failed
    if told:
        raise StateFileError(f"the first rank did not write {os.fspath(file)}: {told.pop()}")


def _record(optimizer: Adafactor, variant: str) -> tuple[Record, Mapping[int, Gather]]:
    """And what brings the arrays of each Raw in it together, by id."""
    gathers: dict[int, Gather] = {}
    tensors, steps = [], []
    for row in _wholes(optimizer):
        state = optimizer.state.get(row.param, {})
        held: dict[str, Raw] = {}
        step, skipped = 0, 0 if "skipped" in row.wanted else None
        if begun(state):
            step = int(state["step"])
            moments = Moments(*(state.get(name) for name in Moments._fields))
            check(moments, row.wanted, row.path, SAVED)
            for name, a in moments._asdict().items():
                if name == "skipped" and a is not None:
                    skipped = int(local(a))
                elif a is not None:
                    gather = Gather(a)
                    held[name] = lazily(dtype_name(a), tuple(a.shape), gather)
                    gathers[id(held[name])] = gather
        else:  # had no gradient yet: all of it would begin as zeros
            for name, slot in row.wanted.items():
                if name != "skipped":
                    held[name] = zeros(dtype_name(slot), slot.shape)
        dtype, axes = dtype_name(row.param), (row.plan.row_axes, row.plan.col_axes)
        tensors.append((row.path, row.plan.shape, dtype, *axes, held, skipped))
        steps.append(step)
    # Those that have had fewer gradients count for themselves.
    most = max(steps, default=0)
    found = tuple(
        TensorRecord(*t, None if step == most else step)
        for t, step in zip(tensors, steps, strict=True)
    )
    lost = [t.skipped for t in found if t.skipped is not None]
    counted = bool(optimizer.param_groups) and counts(at_rest(optimizer.param_groups[0]))
    skips = max(lost, default=0) if counted else None
    return Record(most, found, skips, variant, _options(optimizer)), gathers


def load_state(optimizer: Adafactor, file: str | os.PathLike[str]) -> None:
    """See Adafactor.load_state."""
    record = interchange.read(file)
    rows = list(_wholes(optimizer))
    found = by_path(record, [row.path for row in rows])
    for row, t in zip(rows, found, strict=True):
        check_skips(record, row.options)
        fit(t, row.plan, row.wanted)
    new: dict[torch.Tensor, dict[str, Any]] = {}
    with torch.inference_mode(False), torch.no_grad():  # or no step could write to the state
        counters: dict[Any, torch.Tensor] = {}  # those that go together are one
        for row, t in zip(rows, found, strict=True):
            p, step = row.param, record.step if t.step is None else t.step
            together = (p.device, step)
            if together not in counters:
                counters[together] = torch.tensor(step, dtype=torch.int32, device=p.device)
            at = optimizer._meshes.of(p, row.options, row.path)
            parts = slots(xp, local(p), row.plan, row.options)
            kept = optimizer.state.get(p, {})
            kept = {k: v for k, v in kept.items() if k not in ("step", *Moments._fields)}
            made = {name: _placed(raw, name, row, parts, at) for name, raw in t.slots.items()}
            if t.skipped is not None:
                made["skipped"] = torch.tensor(t.skipped, dtype=torch.int32, device=p.device)
            new[p] = {**kept, "step": counters[together], **made}
    optimizer._replaced(new)


def _placed(raw: Raw, name: str, row: Whole, parts: Slots, at: Placed | None) -> torch.Tensor:
    """A slot where its parameter is; of a distributed one, this rank's part of it."""
    if at is None:
        alone: torch.Tensor = array_of(raw, row.param)
        return alone
    whole = array_of(raw, torch.empty(0))
    gone = averaged_away(name, row.plan)
    if not row.plan.shape:  # `laid` takes it for a counter
        return distribute(whole.to(row.param.device), (), gone, at)  # type: ignore[no-any-return]
    part = laid(whole, row.wanted[name].shape, parts[name].shape, gone, at, row.path)
    cut: torch.Tensor = part.to(row.param.device, copy=True)  # or it would keep the whole alive
    return cut


def _wholes(optimizer: Adafactor) -> Iterator[Whole]:
    for index, group in enumerate(optimizer.param_groups):
        options = optimizer._config(index, group)
        for path, p in optimizer._named(index, group):
            plan = layout(tuple(p.shape), options, path)
            yield Whole(path, p, options, plan, slots(xp, p, plan, options))


def _options(optimizer: Adafactor) -> dict[str, Any]:
    """Those of the first group, and a rule for each tensor of another that has others."""
    groups = optimizer.param_groups
    if not groups:
        return {}
    first = at_rest(groups[0])
    rules = []
    for index, group in enumerate(groups[1:], 1):
        own = _differing(at_rest(group), first)
        paths: Iterable[str] = (path for path, _ in optimizer._named(index, group))
        rules += [[glob.escape(path), own] for path in paths] if own else []
    return options_of(first) | ({"rules": rules} if rules else {})


def _differing(ours: Config, theirs: Config) -> dict[str, Any]:
    mine, usual = options_of(ours), options_of(Config(decay_type=ours.decay_type))
    other = options_of(theirs)
    names = [n for n in {**mine, **other} if getattr(ours, n) != getattr(theirs, n)]
    return {n: mine.get(n, usual.get(n, getattr(ours, n))) for n in names}


def _largest_mesh(optimizer: Adafactor) -> Any:
    """None where nothing is distributed."""
    every = [p for _, p in optimizer._every()]
    meshes = [p.device_mesh for p in every if is_distributed(p)]  # type: ignore[attr-defined]
    return max(meshes, key=lambda mesh: mesh.size(), default=None)


def _over(mesh: Any, values: set[Any]) -> set[Any]:
    """What all ranks of the mesh have to say; none goes on before all have."""
    from torch import distributed as dist

    for group in mesh.get_all_groups():
        found: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(found, values, group=group)
        values = set().union(*found)
    return values
