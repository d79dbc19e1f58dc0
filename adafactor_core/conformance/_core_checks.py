"""The checks that need the core's functions: they call `af.step` and `af.update` themselves."""

import numpy as np

from ._cases import Case
from ._checks import CHECKS
from ._compare import (
    MismatchError,
    Tally,
    largest,
    largest_so_far,
    require_alike,
    require_same,
    scaled_error,
)
from ._each import Check
from ._each_core import FEW as FEW
from ._each_core import judge_core
from ._guard_checks import GUARD_CHECKS
from ._rounding import round_to, spacing, wide
from ._subjects import CoreSubject
from ._trees import rebuild
from ._trial import SIXTEEN_BIT, Trial, all_options


def purity(trial: Trial) -> Tally:
    """A step leaves its inputs as they were, to the bit, and does the same thing twice."""
    tally = Tally(0.0, "changed")

    def judge(subject: CoreSubject, case: Case) -> None:
        step, (params, state) = subject.step(case), subject.start(case, trial.dtype)
        attempts = [(subject.arrays(grads, trial.dtype), scale) for grads, scale in case.attempts()]
        (one, first_scale), (two, scale), *_ = attempts
        settle = subject.namespace.settle
        inputs = (params, two, settle(step(params, one, state, first_scale))[1])
        before = subject.numbers(inputs)
        first, again = (subject.numbers(settle(step(*inputs, scale))) for _ in range(2))
        for path, numbers in subject.numbers(inputs).items():
            require_same(numbers, before[path])
        for path, numbers in again.items():
            require_same(numbers, first[path])
        tally.note(case.name, 0.0)

    return judge_core(trial, tally, judge)


def update(trial: Trial) -> Tally:
    """`af.update` against the oracle's unrounded change, each time from the oracle's parameters."""
    tally = Tally(trial.tolerance.updates)

    def judge(subject: CoreSubject, case: Case) -> None:
        expected, move = trial.oracle(case), subject.update(case)
        _, state = subject.start(case, trial.dtype)
        positions = [case.params, *(rebuild(case.params, after) for after in expected.params[:-1])]
        histories = largest_so_far({}, expected.updates)
        steps = zip(positions, case.attempts(), expected.updates, histories, strict=True)
        for step, (params, (grads, scale), theirs, so_far) in enumerate(steps, 1):
            params, grads = (subject.arrays(tree, trial.dtype) for tree in (params, grads))
            updates, state = subject.namespace.settle(move(params, grads, state, scale))
            for path, ours in subject.numbers(updates, wide(trial.dtype)).items():
                error = scaled_error(ours, theirs[path], so_far[path])
                tally.note(f"{case.name} step {step} {path!r}", error)

    # A 16-bit tensor that is not rounded to nearest has the rounding in its update: see below.
    unrounded = trial.dtype not in SIXTEEN_BIT
    return judge_core(trial, tally, judge, lambda case: unrounded or not _rounds(case))


def _rounds(case: Case) -> bool:
    return any(options.get("rounding", "nearest") != "nearest" for options in all_options(case))


def update_is_step(trial: Trial) -> Tally:
    """Adding the update and rounding once gives the bits of `af.step`.

    Under jit the limit is one unit: XLA contracts `x + k * g` into one rounding where it sees both.
    """
    tally = Tally(float(trial.subject.mode == "jit"), "ulp")

    def judge(subject: CoreSubject, case: Case) -> None:
        step, move = subject.step(case), subject.update(case)
        params, state = subject.start(case, trial.dtype)
        for grads, scale in case.attempts():
            inputs = params, subject.arrays(grads, trial.dtype), state, scale
            before, change = subject.numbers(params), subject.numbers(move(*inputs)[0])
            params, state = subject.namespace.settle(step(*inputs))
            for path, after in subject.numbers(params).items():
                summed = round_to(before[path] + change[path], wide(trial.dtype))
                there = np.isfinite(summed)
                unit = spacing(np.maximum(np.abs(before[path]), np.abs(summed)), trial.dtype)
                expected = round_to(summed, trial.dtype)
                require_alike(after, expected)
                distance = (after[there] - expected[there]) / unit[there]
                tally.note(f"{case.name} {path!r}", largest(distance))

    return judge_core(trial, tally, judge)


def donate(trial: Trial) -> Tally:
    """Leave to overwrite changes nothing in the result."""
    tally = Tally(0.0, "changed")

    def judge(subject: CoreSubject, case: Case) -> None:
        pure, step, thaw = trial.actual(case), subject.step(case, True), subject.namespace.thaw
        params, state = map(thaw, subject.start(case, trial.dtype))
        for (grads, scale), expected in zip(case.attempts(), pure.params, strict=True):
            params, state = step(params, subject.arrays(grads, trial.dtype), state, scale)
            for path, numbers in subject.numbers(params, trial.dtype).items():
                require_same(numbers, expected[path])
        for path, numbers in subject.numbers(state.moments).items():
            require_same(numbers, pure.moments[-1][path])
        if subject.count(state.step) != pure.steps[-1]:
            raise MismatchError(f"step {subject.count(state.step)}, expected {pure.steps[-1]}")
        tally.note(case.name, 0.0)

    return judge_core(trial, tally, judge)


CORE_CHECKS: dict[str, Check] = {
    **CHECKS,
    "purity": purity,
    "update": update,
    "update=step": update_is_step,
    "donate": donate,
    **GUARD_CHECKS,
}
