"""The order of things in a step: who takes which tensors, reductions, decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._decisions import clip_globally, decide, gathered
from ._numerics import Array
from ._passes import Passes
from ._work import Partial, Work

Reduce = Callable[[Sequence[Partial]], Sequence[Array]]
Group = tuple[Passes, Sequence[Work]]


def execute(
    works: Sequence[Work], passes: Sequence[Passes], reduce: Reduce | None
) -> tuple[list[Group], Any]:
    """All tensors through all passes; `passes`: the last one must serve everything.

    Returns the groups that they went in, and whether all of them were finite (if `guarded`).
    """
    arranged = arrange(works, passes)
    odd = gathered([run(together, reduce) for together in arranged])
    fine = odd == 0 if not isinstance(odd, float) else bool(odd == 0)
    return [group for together in arranged for group in together], fine


def arrange(works: Sequence[Work], passes: Sequence[Passes]) -> Sequence[Sequence[Group]]:
    """Who takes which tensors, in the order to `run` them: all together if the step is `joint`.

    An in-place adapter may keep the arrangement while its arrays stay the same.
    """
    groups: list[tuple[Passes, list[Work]]] = [(p, []) for p in passes]
    for w in works:
        next(group for p, group in groups if not p.serves(w)).append(w)
    batches: list[Group] = [(p, batch) for p, group in groups for batch in p.batches(group)]
    joint = bool(works) and works[0].whole.joint
    return [batches] if joint else [[batch] for batch in batches]


def run(groups: Sequence[Group], reduce: Reduce | None) -> Any:
    """Takes the groups through a step; returns how many tensors were not finite, if `guarded`.

    One reduction after observe and one after measure, however many tensors there are; decisions
    over all tensors come right after them, and before anything is stored.
    """
    works = [w for _, group in groups for w in group]
    if not works:
        return 0
    whole = works[0].whole
    for p, group in groups:
        p.observe(group)
    _reduce(works, reduce, first=True)
    if whole.normed:
        clip_globally(whole, gathered([p.squares(group) for p, group in groups]))
    for p, group in groups:
        p.advance(group)
        p.measure(group)
    _reduce(works, reduce, first=False)
    odd: Any = 0
    if whole.guarded:
        odd = gathered([p.judge(group) for p, group in groups])
        decide(whole, odd, works)
    for p, group in groups:
        p.scale(group)
        p.apply(group)
    return odd


_LATE = ("u2", "odd")  # what the second reduction adds up


def _reduce(works: Sequence[Work], reduce: Reduce | None, first: bool) -> None:
    if reduce is None:
        return
    sums = [(w, s) for w in works for n, s in w.partials.items() if first == (n not in _LATE)]
    for (w, s), value in zip(sums, reduce([s for _, s in sums]), strict=True):
        w.partials[s.name] = s._replace(value=value)
