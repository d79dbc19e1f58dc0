"""init, update, step: for any nesting of arrays of any namespace."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from ._config import Config, as_config
from ._decisions import advanced, counted, unscaling
from ._errors import LowPrecisionWarning
from ._metrics import no_metrics
from ._numerics import (
    Array,
    device,
    dtype_name,
    is_narrow,
    namespace,
    wide_dtype,
)
from ._order import execute
from ._passes import ArrayPasses, Passes
from ._prepare import Sharding, planned, prepare
from ._state import State, counts, zeros
from ._tree import Tree, check_param, flatten, unflatten
from ._work import Whole


def init(params: Tree, config: Config | None = None, *, sharding: Sharding | None = None) -> State:
    """The state before the first step.

    `params`: one array or any optree nesting of arrays, float16, bfloat16, float32 or float64.
    Row, column and full slots are float32 (float64 for float64 tensors) zeros on the parameter's
    device. Raises ConfigError, ShapeError or DTypeError, naming the tensor.
    """
    config = as_config(config)
    leaves = flatten(params)
    namespaces = [check_param(x, p) for p, x in zip(leaves.paths, leaves.arrays, strict=True)]
    plans = planned(leaves, config, sharding)
    rows = list(zip(namespaces, leaves.arrays, plans, strict=True))
    options = [o for o, _ in plans]
    warn_of_frozen(list(zip(leaves.paths, leaves.arrays, options, strict=True)))
    moments = [zeros(xp, x, plan, o) for xp, x, (o, plan) in rows]
    metrics = [no_metrics(xp, x, wide_dtype(xp, x)) for xp, x, _ in rows]
    step: Array | int = 0
    if leaves.arrays:
        xp, first = namespaces[0], leaves.arrays[0]
        step = xp.zeros((), dtype=xp.int32, device=device(first))
    return State(
        step,
        unflatten(leaves, moments),
        _next(step, False) if counts(config) else None,
        unflatten(leaves, metrics) if config.telemetry else None,
    )


def warn_of_frozen(rows: Sequence[tuple[str, Array, Config]]) -> None:
    """LowPrecisionWarning for 16-bit parameters that are rounded to nearest."""
    frozen = [
        f"{path!r} ({dtype_name(x)})"
        for path, x, o in rows
        if o.rounding == "nearest" and is_narrow(x)
    ]
    if frozen:
        more = f" and {len(frozen) - 3} more" if len(frozen) > 3 else ""
        warnings.warn(
            f"rounding='nearest' trains {', '.join(frozen[:3])}{more}: updates below half a unit "
            f"in the last place are lost, and such a parameter can stay where it is for good. Use "
            f"rounding='stochastic' (no memory) or 'kahan' (16 bits per entry).",
            LowPrecisionWarning,
            stacklevel=_callers_level(),
        )


def _callers_level() -> int:
    """How far up the stack, seen from the calling function, the user's own line is."""
    frame, level = sys._getframe(1), 1
    ours = __name__.split("_")[0]  # the core and every adapter
    while frame.f_back is not None:
        package = frame.f_globals.get("__name__", "").split(".")[0]
        if not package.startswith(f"{ours}_") and package not in ("torch", "jax"):
            break
        frame, level = frame.f_back, level + 1
    return level


def step(
    params: Tree,
    grads: Tree,
    state: State,
    config: Config | None = None,
    *,
    donate: bool = False,
    grad_scale: Any = None,
    passes: Sequence[Passes] = (),
    sharding: Sharding | None = None,
) -> tuple[Tree, State]:
    """One step: (new params, new state), of the same shapes, dtypes and devices.

    Pure; with `donate=True` the arrays of `params` and `state` may be overwritten and must not be
    used again. `grad_scale`: a number or 0-D array that gradients are divided by (loss scaling).
    `passes` are a backend's replacements, asked in order; the rest run in array API.
    Raises before anything is computed: TreeError, ShapeError, DTypeError, StateError, ConfigError;
    before anything is changed: NonFiniteError.
    """
    return _run(params, grads, state, config, "param", donate, grad_scale, passes, sharding)


def update(
    grads: Tree,
    state: State,
    params: Tree,
    config: Config | None = None,
    *,
    grad_scale: Any = None,
    passes: Sequence[Passes] = (),
    sharding: Sharding | None = None,
) -> tuple[Tree, State]:
    """The update D with `params + D` the new parameters, and the new state; optax's order.

    D is float32 (float64 for float64 tensors) whatever the tensor's dtype; adding it and rounding
    once to nearest gives the bits of `step`. So under `rounding="stochastic"` or "kahan" it is the
    way to the rounded parameter, and otherwise not rounded at all. Raises as `step` does.
    """
    return _run(params, grads, state, config, "update", False, grad_scale, passes, sharding)


def _run(
    params: Tree,
    grads: Tree,
    state: State,
    config: Config | None,
    emit: Literal["param", "update"],
    donate: bool,
    grad_scale: Any,
    passes: Sequence[Passes],
    sharding: Sharding | None,
) -> tuple[Tree, State]:
    config = as_config(config)
    leaves = flatten(params)
    unscale = unscaling(grad_scale)
    whole = Whole(config, sharding is not None, unscale=unscale, gain=unscale)
    works = prepare(leaves, grads, state, emit, donate, whole, sharding)
    groups, fine = execute(works, (*passes, ArrayPasses()), sharding.reduce if sharding else None)
    if counts(config):
        for w in (w for w in works if not w.counted):
            fine_here = w.fine is None or w.fine
            skips = counted(w.moments.skipped, fine_here)
            w.new = w.new._replace(skipped=w.put("skipped", skips))
    metrics = None
    if config.telemetry:
        told = {id(w): m for p, ws in groups for w, m in zip(ws, p.metrics(ws), strict=True)}
        metrics = unflatten(leaves, [told[id(w)] for w in works])
    after = State(
        _next(state.step, whole.fine),
        unflatten(leaves, [w.new for w in works]),
        None if state.skipped is None else counted(state.skipped, fine),
        metrics,
    )
    return unflatten(leaves, [w.result for w in works]), after


def _next(step: Array | int, fine: Any) -> Array | int:
    """Completed steps; a step that was skipped as a whole is none."""
    if fine is not None:
        return advanced(step, fine)
    if isinstance(step, int):
        return step + 1
    xp = namespace(step)
    return xp.asarray(step + 1, dtype=step.dtype)
