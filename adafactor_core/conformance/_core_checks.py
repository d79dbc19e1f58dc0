"""The checks that need the core's functions: they call `af.step` and `af.update` themselves."""

from collections.abc import Callable

import numpy as np

from ._cases import Case
from ._checks import CHECKS, Check, each
from ._compare import Tally, largest, largest_so_far, require_same, scaled_error
from ._rounding import round_to, spacing, wide
from ._subjects import CoreSubject
from ._trees import rebuild
from ._trial import Trial

# Where each case costs a compilation per function, these stand for the rest.
FEW = (
    "default", "relative-cap-is-lr", "axes-auto", "axes-several", "batch-scale-tensor",
    "eps1-stats", "eps1-clamp", "decay-adam", "clip-off", "momentum-scaled_update",
    "momentum-update", "momentum-grad", "weight-decay-first-lr", "maximize", "rules", "zero-size",
)  # fmt: skip


def purity(trial: Trial) -> Tally:
    """A step leaves its inputs as they were, to the bit, and does the same thing twice."""
    tally = Tally(0.0, "changed")

    def judge(subject: CoreSubject, case: Case) -> None:
        step, (params, state) = subject.step(case), subject.start(case, trial.dtype)
        one, two = (subject.arrays(grads, trial.dtype) for grads in case.grads[:2])
        settle = subject.namespace.settle
        inputs = (params, two, settle(step(params, one, state))[1])
        before = subject.numbers(inputs)
        first, again = (subject.numbers(settle(step(*inputs))) for _ in range(2))
        for path, numbers in subject.numbers(inputs).items():
            require_same(numbers, before[path])
        for path, numbers in again.items():
            require_same(numbers, first[path])
        tally.note(case.name, 0.0)

    return _each(trial, tally, judge)


def update(trial: Trial) -> Tally:
    """`af.update` against the oracle's unrounded change, each time from the oracle's parameters."""
    tally = Tally(trial.tolerance.updates)

    def judge(subject: CoreSubject, case: Case) -> None:
        expected, move = case.expected(trial.dtype), subject.update(case)
        _, state = subject.start(case, trial.dtype)
        positions = [case.params, *(rebuild(case.params, after) for after in expected.params[:-1])]
        histories = largest_so_far({}, expected.updates)
        steps = zip(positions, case.grads, expected.updates, histories, strict=True)
        for step, (params, grads, theirs, so_far) in enumerate(steps, 1):
            params, grads = (subject.arrays(tree, trial.dtype) for tree in (params, grads))
            updates, state = subject.namespace.settle(move(params, grads, state))
            for path, ours in subject.numbers(updates, wide(trial.dtype)).items():
                error = scaled_error(ours, theirs[path], so_far[path])
                tally.note(f"{case.name} step {step} {path!r}", error)

    return _each(trial, tally, judge)


def update_is_step(trial: Trial) -> Tally:
    """Adding the update and rounding once gives the bits of `af.step`.

    Under jit the limit is one unit: XLA contracts `x + k * g` into one rounding where it sees both.
    """
    tally = Tally(float(trial.subject.mode == "jit"), "ulp")

    def judge(subject: CoreSubject, case: Case) -> None:
        step, move = subject.step(case), subject.update(case)
        params, state = subject.start(case, trial.dtype)
        for grads in case.grads:
            inputs = params, subject.arrays(grads, trial.dtype), state
            before, change = subject.numbers(params), subject.numbers(move(*inputs)[0])
            params, state = subject.namespace.settle(step(*inputs))
            for path, after in subject.numbers(params).items():
                summed = round_to(before[path] + change[path], wide(trial.dtype))
                unit = spacing(np.maximum(np.abs(before[path]), np.abs(summed)), trial.dtype)
                distance = (after - round_to(summed, trial.dtype)) / unit
                tally.note(f"{case.name} {path!r}", largest(distance))

    return _each(trial, tally, judge)


def donate(trial: Trial) -> Tally:
    """Leave to overwrite changes nothing in the result."""
    tally = Tally(0.0, "changed")

    def judge(subject: CoreSubject, case: Case) -> None:
        pure, step, thaw = trial.actual(case), subject.step(case, True), subject.namespace.thaw
        params, state = map(thaw, subject.start(case, trial.dtype))
        for grads, expected in zip(case.grads, pure.params, strict=True):
            params, state = step(params, subject.arrays(grads, trial.dtype), state)
            for path, numbers in subject.numbers(params, trial.dtype).items():
                require_same(numbers, expected[path])
        for path, numbers in subject.numbers(state.moments).items():
            require_same(numbers, pure.moments[-1][path])
        tally.note(case.name, 0.0)

    return _each(trial, tally, judge)


def _each(trial: Trial, tally: Tally, judge: Callable[[CoreSubject, Case], None]) -> Tally:
    """Judge the named cases in the dtype, inside whatever the library needs switched on for it."""
    subject = trial.subject
    if not isinstance(subject, CoreSubject):
        raise TypeError(f"{subject.name} has no `step` and `update` of the core to look into")

    def prepared(case: Case) -> None:
        trial.tick(case.name)
        with subject.namespace.scope(trial.dtype):
            judge(subject, case.at(trial.dtype))

    cases = [case for case in trial.named if subject.quick or case.name in FEW]
    return each(tally, cases, prepared)


CORE_CHECKS: dict[str, Check] = {
    **CHECKS,
    "purity": purity,
    "update": update,
    "update=step": update_is_step,
    "donate": donate,
}
