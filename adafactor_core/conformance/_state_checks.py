"""The checks of what is kept between steps."""

from collections.abc import Sequence

from ._cases import Case
from ._compare import (
    MismatchError,
    Tally,
    Tensors,
    largest_so_far,
    relative_error,
    scaled_error,
)
from ._each import each
from ._oracle import Trajectory
from ._oracle_rounding import BLOCK, spread
from ._rounding import wide
from ._tolerances import KAHAN
from ._trees import join, leaves
from ._trial import SIXTEEN_BIT, Trial, all_options

SUBNORMAL = 2.0**-126  # below it float32 loses digits, and XLA on CPU flushes to 0


def moments(trial: Trial) -> Tally:
    """The state after every step: means entrywise; momentum scaled, and of wide tensors only.

    A 16-bit parameter that fell on the other side of a tie moves alpha, hence the momentum; there
    `update` looks at it, from the oracle's own parameters.
    """
    tally = Tally(trial.tolerance.moments, "relative")
    floor = SUBNORMAL / tally.tolerance if wide(trial.dtype) == "float32" else 0.0

    def judge(case: Case) -> None:
        expected = _readable(trial.oracle(case).moments)
        actual = _readable(trial.actual(case).moments)  # empty: it shows no state
        steps = zip(actual, expected, largest_so_far({}, expected), strict=bool(actual))
        for step, (ours, theirs, so_far) in enumerate(steps, 1):
            here, there = _in_use(ours), _in_use(theirs)
            if here.keys() != there.keys():
                raise MismatchError(f"slots {sorted(here)}, expected {sorted(there)}")
            for path, x in there.items():
                where = f"{case.name} step {step} {path!r}"
                name = path.rpartition(".")[2]
                if name not in ("momentum", "momentum_scale", "compensation"):
                    tally.note(where, relative_error(here[path], x, floor))
                elif trial.dtype not in SIXTEEN_BIT:  # these have no compensation
                    tally.note(where, scaled_error(here[path], x, so_far[path]))

    return each(tally, [*trial.named, *trial.drawn], judge)


def _readable(steps: Sequence[Tensors]) -> list[Tensors]:
    """Integers of int8 momentum as the numbers that they stand for."""
    found: list[Tensors] = []
    for slots in steps:
        scales = {path: slot for path, slot in slots.items() if path.endswith("momentum_scale")}
        read = dict(slots)
        for path, scale in scales.items():
            q = slots[values := path.removesuffix("_scale")]
            if q.size and scale.shape == (*q.shape[:-1], *[-(-n // BLOCK) for n in q.shape[-1:]]):
                read[values] = q * spread(scale, q.shape)
        found.append(read)
    return found


def kahan(trial: Trial) -> Tally:
    """A parameter and its compensation, added up: wider than the parameter by as many bits again.

    The compensation alone says little: its last bits are those that float32 rounds away.
    """
    tally = Tally(KAHAN.get(trial.dtype, 0.0))

    def judge(case: Case) -> None:
        actual, expected = trial.actual(case), trial.oracle(case)
        sums = [_compensated(run) for run in (actual, expected)]
        histories = largest_so_far(leaves(case.at(trial.dtype).params), expected.params)
        for step, (ours, theirs, so_far) in enumerate(zip(*sums, histories, strict=True), 1):
            if ours.keys() != theirs.keys():
                raise MismatchError(f"compensated {sorted(ours)}, expected {sorted(theirs)}")
            for path, x in theirs.items():
                error = scaled_error(ours[path], x, so_far[path])
                tally.note(f"{case.name} step {step} {path!r}", error)

    if trial.dtype not in SIXTEEN_BIT:
        return tally
    cases = [case for case in (*trial.named, *trial.drawn) if "kahan" in _roundings(case)]
    return each(tally, [case for case in cases if trial.actual(case).moments], judge)


def _roundings(case: Case) -> set[str | None]:
    return {options.get("rounding") for options in all_options(case)}


def _compensated(run: Trajectory) -> list[Tensors]:
    return [
        {
            path: x + slots[slot]
            for path, x in params.items()
            if (slot := join(path, "compensation")) in slots
        }
        for params, slots in zip(run.params, run.moments, strict=True)
    ]


def _in_use(slots: Tensors) -> Tensors:
    """The slots that hold anything; how a tensor without entries is kept is nobody's concern."""
    return {path: slot for path, slot in slots.items() if slot.size}
