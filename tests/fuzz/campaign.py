"""One case through everything that it is judged by."""

from __future__ import annotations

import traceback
import warnings
from random import Random

import numpy as np

from . import against_oracle, exact, ranges, reference, refused, subjects
from .draw import FuzzCase, draw
from .reference import Track
from .shards import sharded
from .subjects import Snap
from .tally import Tally


def judge(seed: int, tally: Tally, few: bool = False) -> None:
    """Every check that falls to this seed. `few`: compile kernels for float32 alone."""
    tally.seed = seed
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            case = draw(seed)
            _judge(case, tally, few)
        except Exception as error:
            trace = traceback.extract_tb(error.__traceback__)
            place = next((f for f in reversed(trace) if "adafactor_" in f.filename), trace[-1])
            where = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
            tally.check(
                "no other error", False, f"{type(error).__name__} at {where}: {error}"[:300]
            )
        else:
            tally.check("no other error", True)


def _judge(case: FuzzCase, tally: Tally, few: bool) -> None:
    random = Random(case.seed)
    base = subjects.pure(case)  # its inputs are read-only: purity
    tally.check("inputs are not written to", True)
    tracks = reference.follow(case, base)
    against_oracle.verdicts(case, base, tracks, tally)
    against_oracle.numbers("pure", case, base, tracks, tally)
    exact.skips(case, base, tally)
    exact.without_bad(case, base, tally)
    compiled = _compiled(case, few)
    _in_place(case, base, tracks, compiled, random, tally)
    for share, check in (
        (0.25, exact.donated), (0.25, exact.told), (0.25, exact.resumed), (0.15, exact.added),
        (0.4, refused.refuse),
    ):  # fmt: skip
        if random.random() < share:
            check(case, base, tally)
    if random.random() < 0.15:
        _blocks(case, base, tracks, tally)
    if random.random() < 0.04:
        _shards(case, base, tracks, tally)
    for library, share in (("torch", 0.04), ("strict", 0.06)):
        if random.random() < share and not subjects.lacks(case, library):
            _agree(library, case, subjects.elsewhere(case, library), base, tracks, tally)


def _compiled(case: FuzzCase, few: bool) -> bool | None:
    if few:
        arrays = [*case.params.values(), *case.grads[0].values()]
        plain = all(a.dtype == np.float32 for a in arrays)
        plain &= all(case.of(p)["beta1"] is None for p in case.params)
        return None if plain else False
    return None if subjects.common(case) else False


def _in_place(
    case: FuzzCase, base: list[Snap], tracks: dict[str, Track], compiled: bool | None,
    random: Random, tally: Tally,
) -> None:  # fmt: skip
    name = "in place" if compiled is False else "compiled"
    ours = subjects.in_place(case, compiled)
    if compiled is False:
        exact.compare("in place without kernels has the bits of the core", ours, base, tally)
    else:
        _agree(name, case, ours, base, tracks, tally)
    exact.skips(case, ours, tally, name)
    if random.random() < 0.25:
        exact.resumed_in_place(case, ours, compiled, tally)
    if random.random() < 0.25:
        refused.refuse_in_place(case, ours, compiled, tally)


def _agree(
    name: str, case: FuzzCase, ours: list[Snap], base: list[Snap], tracks: dict[str, Track],
    tally: Tally,
) -> None:  # fmt: skip
    """The same verdicts as the core on NumPy, then held to the same oracle."""
    for step, (a, b) in enumerate(zip(ours, base, strict=True)):
        same = (a.odd, a.step, a.skipped, a.counts) == (b.odd, b.step, b.skipped, b.counts)
        if not same and (why := _near_the_limit(case, step, base, tracks, a.odd ^ b.odd)):
            tally.excuse(f"verdicts as the core's, {name}", why)
            return
        if not tally.check(
            f"verdicts as the core's, {name}", same,
            f"step {step}: odd {set(a.odd)}, core {set(b.odd)}, step {a.step}, {b.step}",
        ):  # fmt: skip
            return
    against_oracle.numbers(name, case, ours, tracks, tally)


def _near_the_limit(
    case: FuzzCase, step: int, base: list[Snap], tracks: dict[str, Track], paths: frozenset[str]
) -> str:
    """Why two subjects may judge tensors differently: a sum that is nearly beyond the dtype."""
    past = base[step - 1].params if step else case.params
    for path in paths:
        x = ranges.values_of(past[path])
        probe = against_oracle.probe(case, step, path, base[step], tracks[path])
        sure = ranges.odd_for_sure(case, step, path, x)
        if not sure and (why := ranges.may_be_odd(tracks[path], probe, x)):
            return why
    return ""


def _blocks(case: FuzzCase, base: list[Snap], tracks: dict[str, Track], tally: Tally) -> None:
    other = exact.reblocked(case)
    if other is None:
        return
    ours = subjects.pure(other)
    if exact.elementwise(case):
        exact.compare("blocks change no bit where nothing is summed", ours, base, tally)
    _agree("other blocks", case, ours, base, tracks, tally)


def _shards(case: FuzzCase, base: list[Snap], tracks: dict[str, Track], tally: Tally) -> None:
    ours, trouble = sharded(case)
    name = "ranks agree on a fault" if case.faults else "ranks agree"
    tally.check(name, not trouble, "; ".join(trouble))
    if exact.elementwise(case):
        here = {p: x for s in ours[-1:] for p, x in s.params.items()}
        there = {p: x for s in base[-1:] for p, x in s.params.items()}
        found = exact.differing(here, there)
        tally.check("shards change no bit where nothing is summed", not found, f"{found}")
    _agree("sharded", case, ours, base, tracks, tally)
