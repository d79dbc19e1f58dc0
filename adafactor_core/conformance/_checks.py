"""The checks that any subject can be put to: each takes a Trial and tallies what it compared."""

from dataclasses import replace

import numpy as np

from ._cases import Case
from ._compare import (
    Tally,
    require_alike,
)
from ._each import Check, each
from ._named_guarded import NAN, SCALES
from ._rows import Row, per_value
from ._state_checks import kahan, moments
from ._trees import leaves, map_leaves
from ._trial import Trial, all_options

MATRICES = {"w": (7, 4), "v": (1, 5), "u": (5, 5)}
TRANSPOSABLE = [
    Row("transpose-auto", {"lr": 0.25, "beta1": 0.5}, MATRICES, "dead"),
    Row("transpose-last", {"lr": 0.25, "factored_dims": "last", "weight_decay": 0.25}, MATRICES),
    Row("transpose-stats", {"lr": 0.25, "eps1_mode": "stats", "eps1": 0.25}, MATRICES, "spike"),
    Row("transpose-clamp", {"lr": 0.25, "eps1_mode": "clamp", "eps1": 0.25}, MATRICES),
    Row("transpose-full", {"lr": 0.25, "factored": False, "clip_threshold": 0.5}, MATRICES),
]
LARGE = {"a": (37, 29), "b": (1200,), "c": (3, 19, 23), "d": (2, 700)}  # each over 1024 bytes
BLOCKED = [
    Row("scratch", {"lr": 0.25, "beta1": 0.5}, LARGE, "spike"),
    Row("scratch-decay", {"lr": 0.25, "weight_decay": 0.25, "maximize": True}, LARGE, "dead"),
    Row("scratch-full", {"lr": 0.25, "factored": False, "eps1_mode": "stats"}, LARGE),
    Row("scratch-batch", {"lr": 0.25, "batch_axes": [0]}, {"c": (3, 19, 23), "d": (2, 700)}),
    Row("scratch-first", {"lr": 0.25, "factored_dims": [0, 1], "clip_scope": "tensor"}, LARGE),
    Row("scratch-stochastic", {"lr": 0.25, "rounding": "stochastic", "seed": 5}, LARGE),
    Row("scratch-kahan", {"lr": 0.25, "rounding": "kahan", "weight_decay": 0.13}, LARGE),
    *per_value(
        "scratch-int8",
        "momentum_rounding",
        ["nearest", "stochastic"],
        {"lr": 0.25, "beta1": 0.87654, "momentum_dtype": "int8"},
        shapes={"d": (2, 300), "e": (301,)},
        steps=2,
    ),
    Row("scratch-norm", {"lr": 0.25, "max_grad_norm": 2.7}, LARGE, "spike", grad_scale=SCALES),
    *per_value(
        "scratch",
        "nonfinite",
        ["skip_tensor", "skip_step"],
        {"lr": 0.25, "beta1": 0.5},
        shapes=LARGE,
        faults=[(1, "a", 1000, NAN), (3, "b", 1100, NAN)],
    ),
]


def golden(trial: Trial) -> Tally:
    """The named cases: parameters after each step against the golden vectors."""
    return _against_oracle(trial, trial.named)


def drawn(trial: Trial) -> Tally:
    """Random cases: parameters after each step against the oracle."""
    return _against_oracle(trial, trial.drawn)


def _against_oracle(trial: Trial, cases: list[Case]) -> Tally:
    tally = trial.params_tally()

    def judge(case: Case) -> None:
        trial.compare_params(tally, case, trial.actual(case), trial.expected(case))

    return each(tally, cases, judge)


def dead(trial: Trial) -> Tally:
    """An entry that never had a gradient stays exactly where it was, unless decay moves it."""
    tally = Tally(0.0, "moved")

    def judge(case: Case) -> None:
        before, after = leaves(case.at(trial.dtype).params), trial.actual(case).params[-1]
        for path, x in before.items():
            require_alike(after[path], x)
            never = np.all([leaves(grad)[path] == 0 for grad in case.grads], axis=0)
            if never.any():
                tally.note(f"{case.name} {path!r}", float(np.sum((after[path] != x) & never)))

    undecayed = [
        case
        for case in (*trial.named, *trial.drawn)
        if not any(options.get("weight_decay") for options in all_options(case))
        and np.all([np.isfinite(x).all() for x in trial.expected(case).params[-1].values()])
    ]
    return each(tally, undecayed, judge)


def transpose(trial: Trial) -> Tally:
    """Transposing a matrix and its gradients transposes its trajectory."""
    tally = trial.params_tally()

    def judge(case: Case) -> None:
        turned = replace(
            case,
            name=f"{case.name}-turned",
            params=map_leaves(np.transpose, case.params),
            grads=tuple(map_leaves(np.transpose, grad) for grad in case.grads),
        )
        upright, lying = trial.actual(case), trial.actual(turned)
        back = [map_leaves(np.transpose, dict(step)) for step in lying.params]
        trial.compare_params(tally, case, replace(lying, params=back), upright)

    return each(tally, trial.build(*TRANSPOSABLE), judge)


def scratch(trial: Trial) -> Tally:
    """Tensors larger than `max_scratch_bytes` get the same result, to rounding."""
    tally = trial.params_tally()

    def judge(case: Case) -> None:
        options = {**case.options, "max_scratch_bytes": 1024}
        blocked = replace(case, name=f"{case.name}-1024", options=options)
        trial.compare_params(tally, case, trial.actual(blocked), trial.expected(case))

    return each(tally, trial.build(*BLOCKED), judge)


def zero_size(trial: Trial) -> Tally:
    """Tensors without entries pass through, beside others and alone."""
    tally = trial.params_tally()
    rows = [
        Row("zero-alone", {}, (0,)),
        Row("zero-matrix", {"beta1": 0.5, "weight_decay": 0.5, "factored_dims": "last"}, (0, 3)),
        Row("zero-beside", {"lr": 0.5}, {"a": (2, 0, 3), "b": (0, 4, 3), "c": (2, 3)}),
        Row("zero-batch", {"lr": 0.5, "batch_axes": [0], "eps1_mode": "stats"}, {"a": (0, 4, 3)}),
    ]

    def judge(case: Case) -> None:
        trial.compare_params(tally, case, trial.actual(case), trial.expected(case))

    return each(tally, trial.build(*rows), judge)


CHECKS: dict[str, Check] = {
    "golden": golden,
    "drawn": drawn,
    "moments": moments,
    "kahan": kahan,
    "dead": dead,
    "transpose": transpose,
    "scratch": scratch,
    "zero-size": zero_size,
}
