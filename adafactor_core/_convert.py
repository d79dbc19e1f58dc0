"""A state under other options: what fits is kept, what is new starts as `init` starts it."""

from __future__ import annotations

from typing import Any

from ._config import Config, as_config
from ._errors import StateError
from ._metrics import no_metrics
from ._numerics import (
    TINY,
    Array,
    Namespace,
    device,
    dtype_name,
    namespace,
    wide,
    wide_dtype,
)
from ._prepare import Sharding, planned
from ._rounding import dequantised, quantised
from ._state import Moments, Slots, State, check, counts, slots, zeros
from ._tree import Tree, check_param, flatten, matching, unflatten


def convert_state(
    params: Tree, state: State, config: Config, *, sharding: Sharding | None = None
) -> State:
    """`state`, made under other options, as `config` needs it. Nothing is changed in place.

    Momentum is rounded to its new dtype (int8 by blocks), or starts at 0 where there was none; a
    compensation that was not there starts at 0, and one that is no longer wanted is dropped: to
    keep it, add it to the parameters first, which loses nothing in float32. Counters and metrics
    come and go. Counts of "skip_step" look like those of "skip_tensor", by which a tensor's decay
    goes: set `moments.skipped` to 0 on the way from the first to the second. The second moment has
    to fit: raises StateError where axes or dtype differ.
    """
    config = as_config(config)
    if not isinstance(state, State):
        raise StateError(f"state must be a State from init() or step(), got {type(state).__name__}")
    leaves = flatten(params)
    old = matching(leaves, state.moments, "state.moments")
    new, metrics = [], []
    for path, x, m, (options, plan) in zip(
        leaves.paths, leaves.arrays, old, planned(leaves, config, sharding), strict=True
    ):
        xp = check_param(x, path)
        wanted = slots(xp, x, plan, options)
        start = zeros(xp, x, plan, options)
        new.append(_converted(xp, x, m, wanted, start, path))
        metrics.append(no_metrics(xp, x, wide_dtype(xp, x)))
    told = unflatten(leaves, metrics) if state.metrics is None else state.metrics
    skipped = _no_skips(state.step) if state.skipped is None else state.skipped
    return State(
        state.step,
        unflatten(leaves, new),
        skipped if counts(config) else None,
        told if config.telemetry else None,
    )


def _no_skips(step: Array | int) -> Array | int:
    if isinstance(step, int):
        return 0
    return namespace(step).zeros((), dtype=step.dtype, device=device(step))


def _converted(
    xp: Namespace, x: Array, old: Any, wanted: Slots, start: Moments, path: str
) -> Moments:
    if not isinstance(old, Moments):
        raise StateError(f"the state of tensor {path!r} is a {type(old).__name__}, not Moments.")
    kept = {name: getattr(old, name) for name in wanted if getattr(old, name) is not None}
    if "momentum" in kept and "momentum" in wanted:
        kept |= _momentum(xp, x, old, wanted)
    # As they are, absent ones included: zeros in the place of another factoring would be a guess.
    moments = start._replace(**{**kept, "row": old.row, "col": old.col, "full": old.full})
    check(moments, wanted, path)
    return moments


def _momentum(xp: Namespace, x: Array, old: Moments, wanted: Slots) -> dict[str, Array]:
    slot = wanted["momentum"]
    if old.momentum is not None and old.momentum.dtype == slot.dtype:
        return {}
    dtype = wide_dtype(xp, x)
    m = wide(xp, old.momentum, dtype)
    if old.momentum_scale is not None:
        m = dequantised(xp, m, old.momentum_scale)
    if "momentum_scale" not in wanted:
        return {"momentum": xp.astype(m, slot.dtype, copy=False)}
    q, scale = quantised(xp, m, None, TINY[dtype_name(m)])
    return {"momentum": xp.astype(q, slot.dtype), "momentum_scale": scale}
