"""Calls that have to be refused: the right kind of error, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np

import adafactor_core as af
from adafactor_numpy import Adafactor

from . import schedules, subjects
from .draw import Arrays, FuzzCase
from .exact import compare, differing
from .tally import Tally

Call = dict[str, Any]  # the arguments of one step: params, grads, state, config, grad_scale


def wrong_shape(call: Call, path: str, random: Random) -> None:
    g = call["grads"][path]
    wrong = [np.zeros((*g.shape, 1), g.dtype), np.zeros((*g.shape, 2), g.dtype)]
    if g.ndim:
        wrong.append(np.zeros((g.shape[0] + 1, *g.shape[1:]), g.dtype))
    call["grads"] |= {path: random.choice(wrong)}


def wrong_dtype(call: Call, path: str, random: Random) -> None:
    dtype = random.choice([np.int32, np.complex64, np.bool_, np.uint8])
    call["grads"] |= {path: np.zeros(call["grads"][path].shape, dtype)}


def no_array(call: Call, path: str, random: Random) -> None:
    call["grads"] |= {path: random.choice([1.5, "gradient", object()])}


def none(call: Call, path: str, random: Random) -> None:
    call["grads"] |= {path: None}


def missing(call: Call, path: str, random: Random) -> None:
    call["grads"] = {p: g for p, g in call["grads"].items() if p != path}


def unknown(call: Call, path: str, random: Random) -> None:
    call["grads"] |= {"nobody": np.zeros(2, np.float32)}


def other_options(call: Call, path: str, random: Random) -> None:
    """The state does not fit the options: momentum or counters come or go."""
    options = {f: getattr(call["config"], f) for f in ("beta1", "nonfinite")}
    counted = options["nonfinite"] in ("skip_tensor", "skip_step")
    other = {"nonfinite": "propagate" if counted else "skip_step"}
    ruled = any("beta1" in o for _, o in call["config"].rules)
    if random.random() < 0.5 and not ruled:
        other = {"beta1": 0.5 if options["beta1"] is None else None}
    call["config"] = replace(call["config"], **other)


def bad_scale(call: Call, path: str, random: Random) -> None:
    bad = [0.0, -1.0, float("nan"), float("inf"), "2", np.ones(1, np.float32), np.float32(-2)]
    call["grad_scale"] = random.choice(bad)


def bad_schedule(call: Call, path: str, random: Random) -> None:
    """A schedule that returns NaN; of beta1 only where all have momentum, or the state differs."""
    averaged = [call["config"].beta1, *(o.get("beta1", 0.0) for _, o in call["config"].rules)]
    names = ["lr", "weight_decay", "decay_rate"] + ["beta1"] * (None not in averaged)
    name = random.choice(names)
    rules = [(p, {k: v for k, v in o.items() if k != name}) for p, o in call["config"].rules]
    call["config"] = replace(call["config"], **{name: schedules.broken, "rules": rules})


def bad_counter(call: Call, path: str, random: Random) -> None:
    bad = [-1, 1.5, None, np.zeros(1, np.int32), np.asarray(1.0)]
    call["state"] = call["state"]._replace(step=random.choice(bad))


def no_state(call: Call, path: str, random: Random) -> None:
    moments = call["state"].moments
    bad = [moments, call["state"]._replace(moments={}), None, moments | {path: None}]
    call["state"] = random.choice([*bad[:3], call["state"]._replace(moments=bad[3])])


IN_PLACE: dict[str, Callable[[Call, str, Random], None]] = {
    f.__name__: f
    for f in (wrong_shape, wrong_dtype, no_array, none, missing, unknown, bad_scale, bad_schedule)
}
PURE = IN_PLACE | {f.__name__: f for f in (other_options, bad_counter, no_state)}


def _arrays(call: Call) -> Arrays:
    """Every array of a call, copied, by name."""
    state = call["state"]
    found = {f"param {p}": x for p, x in call["params"].items()}
    found |= {f"grad {p}": g for p, g in call["grads"].items() if isinstance(g, np.ndarray)}
    moments = getattr(state, "moments", None)
    for path, m in moments.items() if isinstance(moments, dict) else ():
        slots = m._asdict() if isinstance(m, af.Moments) else {}
        found |= {f"{path}.{n}": a for n, a in slots.items() if a is not None}
    if isinstance(state, af.State) and isinstance(state.step, np.ndarray):
        found["step"] = state.step
    return {name: np.array(x) for name, x in found.items()}


def _judge(
    name: str, what: str, function: Callable[[], Any], tally: Tally, look: Callable[[], Arrays]
) -> None:
    before = look()
    error: BaseException | None = None
    try:
        function()
    except Exception as caught:
        error = caught
    kind = f"{name}: {what}"
    typed = isinstance(error, af.AdafactorError)
    tally.check(f"refused, {kind}", typed, f"{what}: {type(error).__name__}: {error}"[:300])
    changed = differing(before, look())
    tally.check(f"refused calls change nothing, {name}", not changed, f"{what}: {changed}")


def refuse(case: FuzzCase, snaps: list[subjects.Snap], tally: Tally) -> None:
    """One bad call of each interface, at a random step of the case."""
    random = Random(case.seed + 1)
    donate = random.random() < 0.5
    config = case.config
    params, state = subjects.copied(case.params), af.init(case.params, config)
    at = random.randrange(len(case.grads))
    for g in case.grads[:at]:
        with suppress(af.NonFiniteError):
            params, state = af.step(params, g, state, config, grad_scale=case.grad_scale)
    path, what = random.choice(list(case.params)), random.choice(list(PURE))
    call: Call = {
        "params": params, "grads": dict(case.grads[at]), "state": subjects.copied(state),
        "config": config, "grad_scale": case.grad_scale,
    }  # fmt: skip
    PURE[what](call, path, random)
    name = "donate=True" if donate else "pure"
    _judge(name, what, lambda: af.step(**call, donate=donate), tally, lambda: _arrays(call))
    if case.options["nonfinite"] == "raise" and snaps[at].odd:
        call |= {"grads": dict(case.grads[at]), "state": state, "config": config}
        call["grad_scale"] = case.grad_scale
        step = partial(af.step, **call, donate=True)
        _judge("donate=True", "not finite", step, tally, lambda: _arrays(call))


def refuse_in_place(
    case: FuzzCase, base: list[subjects.Snap], compiled: bool | None, tally: Tally
) -> None:
    """A bad call at a random step; then the optimizer goes on as if it had not been made."""
    random = Random(case.seed + 2)
    params = {p: x.copy() for p, x in case.params.items()}
    optimizer = Adafactor(params, case.config, compiled=compiled)
    scale = None if case.grad_scale is None else float(case.grad_scale)
    at = random.randrange(len(case.grads))
    path, what = random.choice(list(params)), random.choice([*IN_PLACE, "read_only"])
    found, before = [], None
    for step, g in enumerate(case.grads):
        if step == at:
            _one_bad(what, path, random, case, optimizer, g, scale, tally)
        raised = ""
        try:
            optimizer.step(g, grad_scale=scale)
        except af.NonFiniteError as error:
            raised = str(error)
        before = subjects.snap(params, optimizer.state, before, raised)
        found.append(before)
    compare("after a refused call it goes on as before", found, base, tally)


def _one_bad(
    what: str, path: str, random: Random, case: FuzzCase, optimizer: Adafactor, g: Arrays,
    scale: Any, tally: Tally,
) -> None:  # fmt: skip
    call: Call = {"params": optimizer.params, "grads": dict(g), "state": optimizer.state,
                  "config": case.config, "grad_scale": scale}  # fmt: skip
    if what == "read_only":
        optimizer.params[path].flags.writeable = False
    else:
        IN_PLACE[what](call, path, random)
        if call["config"] != case.config:
            optimizer.config = call["config"]

    def look() -> Arrays:
        return _arrays(call | {"params": optimizer.params, "state": optimizer.state})

    step = partial(optimizer.step, call["grads"], grad_scale=call["grad_scale"])
    _judge("in place", what, step, tally, look)
    optimizer.params[path].flags.writeable = True
    if call["config"] != case.config:
        optimizer.config = case.config
