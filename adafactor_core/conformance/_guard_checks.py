"""What the core does about rounding bits, bad gradients and telemetry, beyond a trajectory."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

import adafactor_core as af

from . import _bits
from ._cases import Case
from ._compare import MismatchError, Tally, Tensors, relative_error, require_same
from ._each import Check, each
from ._each_core import FEW, core, judge_core
from ._named_guarded import INF, NAN, SKIP
from ._namespaces import Function
from ._oracle import Trajectory
from ._rounding import FORMATS, round_to
from ._rows import ALL_RANKS, BLOCKS, Row, build
from ._subjects import CoreSubject
from ._trees import Tree, join, leaves, rebuild
from ._trial import Trial
from ._vectors import rounding as stored_rounding

SLOTS = ("row", "col", "full", "momentum", "momentum_scale", "compensation")
LOW, HIGH = 2.0**-50, 2.0**60  # norms whose squares float32 has digits for
SQUARES_OVERFLOW = {"float64": 1e200, "float32": 2.0**65, "bfloat16": 2.0**65}


def rounding(trial: Trial) -> Tally:
    """`af.stochastic_round`, every bit of it: whole tensors, and the same ones in pieces.

    It takes and gives float32, so that with float32 come the formats that the library lacks.
    """
    tally = Tally(0.0, "bits")

    def judge(row: _bits.Row) -> None:
        subject = core(trial)
        trial.tick(row.name)
        bits = _bits.patterns(_bits.expected(row), row.dtype)
        if _bits.digest(bits) != hashes[row.name]:
            raise MismatchError("the oracle is not the one that wrote the file")
        for offset, part in _pieces(row):
            ours = _round(subject, row, offset, part)
            wrong = int((ours != bits[part]).sum())
            tally.note(f"{row.name} {offset}", float(wrong))

    hashes = {row.name: stored for row, stored in stored_rounding()}
    lacks = core(trial).lacks if trial.dtype == "float32" else lambda dtype: None
    table = [row for row, _ in stored_rounding()]
    rows = [row for row in table if row.dtype == trial.dtype or lacks(row.dtype)]
    return each(tally, rows, judge)


def _pieces(row: _bits.Row) -> Iterator[tuple[tuple[int, ...] | None, tuple[slice, ...]]]:
    """The whole, and each axis cut in two: (offset in the row's own whole, slices)."""
    yield row.offset, tuple(slice(0, n) for n in row.shape)
    if len(row.shape) > 4 or not row.shape:
        return
    for part in product(*([slice(0, n // 2), slice(n // 2, n)] for n in row.shape)):
        starts = zip(row.offset or (0,) * len(row.shape), part, strict=True)
        yield tuple(at + piece.start for at, piece in starts), part


def _round(
    subject: CoreSubject,
    row: _bits.Row,
    offset: tuple[int, ...] | None,
    part: tuple[slice, ...],
) -> _bits.Patterns:
    whole = row.whole or (row.shape if offset else None)

    def function(x: object) -> object:
        return af.stochastic_round(
            x, row.dtype, seed=row.seed, t=row.t, path=row.path, stream=row.stream,
            offset=offset, shape=whole,
        )  # fmt: skip

    call = function if subject.mode == "eager" else subject.namespace.compile(function)
    x = subject.namespace.asarray(_bits.inputs(row)[part], "float32")
    (done,) = subject.numbers(subject.namespace.settle(call(x)), "float32").values()
    inside = np.abs(done) <= FORMATS[row.dtype][2]
    require_same(done[inside], round_to(done, row.dtype)[inside])
    return _bits.patterns(done, row.dtype)


def faults(trial: Trial) -> Tally:
    """What is skipped keeps every bit; squares beyond the range are skipped like NaN."""
    tally = Tally(0.0, "changed")
    beyond = SQUARES_OVERFLOW.get(trial.dtype, INF)
    options = {"lr": 0.1, "beta1": 0.75, "rounding": "stochastic"}
    where = [(1, "w", 3, beyond), (2, "w", 0, -beyond), (2, "s", 0, beyond), (3, "v", 1, NAN)]
    rows = [
        Row(f"overflow-{policy}", {**options, "nonfinite": policy}, ALL_RANKS, faults=where)
        for policy in SKIP
    ]

    def judge(subject: CoreSubject, case: Case) -> None:
        expected, actual = trial.oracle(case), trial.actual(case)
        _require_agreement(trial, case, actual, expected)
        before: Tensors = leaves(case.params)
        kept: Tensors = {name: np.zeros(x.shape) for name, x in actual.moments[0].items()}
        steps = zip(actual.params, actual.moments, expected.metrics, strict=True)
        for params, slots, moved in steps:
            for path in (path for path in params if join(path, "update_rms") not in moved):
                require_same(params[path], before[path])
                for name in (join(path, slot) for slot in SLOTS if join(path, slot) in kept):
                    require_same(slots[name], kept[name])
            before, kept = params, slots
        tally.note(case.name, 0.0)

    return judge_core(trial, tally, judge, cases=[*_chosen(trial, "fault-"), *trial.build(*rows)])


def _require_agreement(trial: Trial, case: Case, one: Trajectory, two: Trajectory) -> None:
    tally = trial.params_tally()
    trial.compare_params(tally, case, one, two)
    if tally.failures:
        raise MismatchError(tally.failures[0])


def _chosen(trial: Trial, prefix: str) -> list[Case]:
    cases = [case for case in trial.named if case.name.startswith(prefix)]
    return [case for case in cases if core(trial).quick or case.name in FEW]


def raises(trial: Trial) -> Tally:
    """`nonfinite="raise"` names the tensors and changes nothing, donated arrays included."""
    tally = Tally(0.0, "changed")
    options = {"lr": 0.1, "nonfinite": "raise", "beta1": 0.75}
    sound = Row("raise", options, BLOCKS)
    faulty = sound._replace(faults=[(1, "layers.1.b", 1, NAN), (1, "head", 2, INF)])

    def judge(subject: CoreSubject, case: Case) -> None:
        step, thaw = subject.step(case, True), subject.namespace.thaw
        params, state = map(thaw, subject.start(case, trial.dtype))
        attempts = zip(build(faulty).at(trial.dtype).grads, case.grads, strict=True)
        for number, (bad, grads) in enumerate(attempts):
            if number == 1:
                before = subject.numbers((params, state))
                _require_error(step, params, subject.arrays(bad, trial.dtype), state)
                for path, numbers in subject.numbers((params, state)).items():
                    require_same(numbers, before[path])
            params, state = step(params, subject.arrays(grads, trial.dtype), state)
        propagates = {**case.options, "nonfinite": "propagate"}
        other = trial.actual(replace(case, name="raise-not", options=propagates))
        for path, numbers in subject.numbers(params).items():
            require_same(numbers, other.params[-1][path])
        tally.note(case.name, 0.0)

    if core(trial).mode == "jit":  # an exception needs a number on the host
        return tally
    return judge_core(trial, tally, judge, cases=trial.build(sound))


def _require_error(step: Function, params: Tree, grads: Tree, state: af.State) -> None:
    try:
        step(params, grads, state)
    except af.NonFiniteError as error:
        if missing := [path for path in ("layers.1.b", "head") if path not in str(error)]:
            raise MismatchError(f"the error does not name {missing}: {error}") from None
    else:
        raise MismatchError("no NonFiniteError")


def telemetry(trial: Trial) -> Tally:
    """Watching changes no bit, and shows what the oracle saw at each step from its parameters."""
    tally = Tally(trial.tolerance.metrics, "relative")

    def judge(subject: CoreSubject, case: Case) -> None:
        options = {**case.options, "telemetry": True}
        watched = replace(case, name=f"{case.name}-watched", options=options)
        expected, pure, seen = trial.oracle(case), trial.actual(case), trial.actual(watched)
        if subject.mode == "jit":  # another program, which XLA fuses in another way
            _require_agreement(trial, case, seen, pure)
        else:
            for path, numbers in pure.params[-1].items():
                require_same(seen.params[-1][path], numbers)
        step, (_, state) = subject.step(watched), subject.start(watched, trial.dtype)
        positions = [case.params, *(rebuild(case.params, after) for after in expected.params[:-1])]
        steps = zip(positions, case.attempts(), expected.metrics, strict=True)
        for number, (params, (grads, scale), metrics) in enumerate(steps, 1):
            params, grads = (subject.arrays(tree, trial.dtype) for tree in (params, grads))
            _, state = subject.namespace.settle(step(params, grads, state, scale))
            ours = subject.numbers(state.metrics)
            for name, value in metrics.items():
                if ours[name].shape != ():
                    raise MismatchError(f"{name} has shape {ours[name].shape}")
                if not name.endswith("grad_norm") or value == 0 or LOW < value < HIGH:
                    error = relative_error(ours[name], np.asarray(value))
                    tally.note(f"{case.name} step {number} {name!r}", error)

    def suits(case: Case) -> bool:
        sizes = [x.size for x in leaves(case.params).values()]
        return all(sizes) and not case.options.get("telemetry")

    return judge_core(trial, tally, judge, suits)


GUARD_CHECKS: dict[str, Check] = {
    "rounding": rounding,
    "faults": faults,
    "raise": raises,
    "telemetry": telemetry,
}
