"""The oracle's numbers of a step that depend on nothing but `t`: rates and decay."""

from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]

DECAY_RATE = {"pow": 0.8, "adam": 0.999, "constant": 0.999}


def one_minus_beta2(o: Options, t: int, own: int) -> float:
    """`1 - beta2` of docs/options.md; `own`: `t` less the steps that this tensor skipped."""
    kind = o["decay_type"]
    rate = at(o["decay_rate"], t) if o["decay_rate"] is not None else DECAY_RATE[kind]
    since = max(own - o["decay_offset"], 1)
    if kind == "pow":
        b = since**-rate
    elif kind == "adam":  # (1 - beta) / (1 - beta^t), as a sum, which does not cancel
        b = 1 / sum(rate**k for k in range(since))
    else:
        b = 1 - rate
    return float(b if o["beta2_cap"] is None else max(b, 1 - o["beta2_cap"]))


def rates(o: Options, t: int) -> tuple[float, float]:
    """(lr_t, what multiplies it). A cap of None takes lr as the cap, so rho absorbs lr."""
    lr = 1.0 if o["lr"] is None else at(o["lr"], t)
    relative = o["step_size"]
    if relative is None:
        return lr, 1.0 if o["lr"] is not None else min(1e-2, t**-0.5)
    limits = [t**-0.5, lr if relative.cap is None else relative.cap]
    rho = min([*limits, 1e-6 * t] if relative.warmup_init else limits)
    return lr, rho / lr if relative.cap is None and lr else rho


def at(value: Any, t: int) -> Any:
    """An option at step `t`."""
    return value(t) if callable(value) else value
