"""Counters of steps and of skips, moved by as few operations as a device allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch

from adafactor_core import Work
from adafactor_core._decisions import advance, advanced, skips

from ._rows import Row, State, lasting


def count_skips(rows: Sequence[Row], works: Sequence[Work]) -> None:
    """Moves the counters of the tensors that were not finite: on a device, all of them at once."""
    waiting: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for row, work in zip(rows, works, strict=True):
        counter, fine = row.state["skipped"], work.fine
        if fine is False:
            counter += 1
        elif isinstance(fine, torch.Tensor):
            there = fine.reshape(()).to(counter.device)
            waiting.setdefault(counter.device, []).append((counter, there))
    for pairs in waiting.values():
        counters, verdicts = zip(*pairs, strict=True)
        torch._foreach_add_(counters, skips(torch.stack(verdicts)).unbind())


def count_step(rows: Sequence[Row], states: Sequence[State], fine: Any) -> None:
    """Moves the counters of steps; in place where all of `states` that share one have moved."""
    verdict = True if fine is None else fine
    sharing = Counter(id(state["step"]) for state in states)
    moving: dict[int, list[Row]] = {}
    for row in rows:
        moving.setdefault(id(row.state["step"]), []).append(row)
    for same in moving.values():
        counter = same[0].state["step"]
        if len(same) == sharing[id(counter)]:
            advance(counter, verdict)
            continue
        after = lasting(cast(torch.Tensor, advanced(counter, verdict)))
        for row in same:
            row.state["step"] = after
