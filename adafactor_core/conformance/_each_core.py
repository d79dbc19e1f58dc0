"""How a check goes through its cases when it calls the core itself."""

from collections.abc import Callable, Iterable

from ._cases import Case
from ._compare import Tally
from ._each import each
from ._named_guarded import SKIP
from ._subjects import CoreSubject
from ._trial import Trial

# Where each case costs a compilation per function, these stand for the rest.
FEW = (
    "default", "relative-cap-is-lr", "axes-auto", "axes-several", "batch-scale-tensor",
    "eps1-stats", "eps1-clamp", "decay-adam", "clip-off", "momentum-scaled_update",
    "momentum-update", "momentum-grad", "weight-decay-first-lr", "maximize", "rules", "zero-size",
    "rounding-stochastic", "rounding-kahan-decay", "int8-float32-scaled_update-nearest",
    "int8-buffer-update-stochastic", "momentum-bfloat16-float32-stochastic", "norm-scaled",
    "nan-norm", *(f"fault-{policy}-{kind}" for policy in SKIP for kind in ("twice", "everything")),
)  # fmt: skip


def core(trial: Trial) -> CoreSubject:
    """The subject, which has to be the core. Raises TypeError."""
    if not isinstance(trial.subject, CoreSubject):
        raise TypeError(f"{trial.subject.name} has no functions of the core to look into")
    return trial.subject


def judge_core(
    trial: Trial,
    tally: Tally,
    judge: Callable[[CoreSubject, Case], None],
    suits: Callable[[Case], bool] = lambda case: True,
    cases: Iterable[Case] | None = None,
) -> Tally:
    """Judge `cases`, or the named ones that suit, inside whatever the library needs switched on."""
    subject = core(trial)

    def prepared(case: Case) -> None:
        trial.tick(case.name)
        with subject.namespace.scope(trial.dtype):
            judge(subject, case.at(trial.dtype))

    if cases is None:
        cases = [case for case in trial.named if subject.quick or case.name in FEW]
    return each(tally, filter(suits, cases), prepared)
