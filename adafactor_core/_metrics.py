"""Telemetry: numbers of the last step, on the device until somebody reads them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import optree

from ._config import Config
from ._errors import StateError
from ._formulas import clip_factor, step_size
from ._numerics import Array, Namespace, choose, device, namespace, square_root
from ._schedules import Rates
from ._state import Moments, State
from ._work import Work


class Metrics(NamedTuple):
    """Numbers of one tensor at one step, 0-D arrays in the compute dtype.

    `update_rms`: RMS of U before clipping (paper, section 6). `param_rms`: of X before the step.
    `learning_rate`: alpha, what U after clipping is multiplied by. `clip_factor`: 1/max(1,
    RMS(U)/d). `grad_norm`: of the gradient, after grad_scale and before max_grad_norm. With batch
    axes the rate is the mean over slices and the clip factor the smallest.
    """

    update_rms: Array
    param_rms: Array
    learning_rate: Array
    clip_factor: Array
    grad_norm: Array


def of_scopes(
    xp: Namespace, like: Array, o: Config, r: Rates, x2: Array, u2: Array, norm: Array
) -> Metrics:
    """`x2`, `u2`: mean squares of X and U per scope, in the compute dtype."""
    alpha, clip = step_size(o, r, x2), clip_factor(o, u2)

    def scalar(x: Any) -> Array:
        return xp.asarray(x, dtype=x2.dtype, device=device(like))

    def over_scopes(of: Any, x: Any, nothing: float) -> Any:
        if isinstance(x, float):
            return x
        return of(x) if math.prod(x.shape) else nothing

    return Metrics(
        scalar(square_root(over_scopes(xp.mean, u2, 0.0))),
        scalar(square_root(over_scopes(xp.mean, x2, 0.0))),
        scalar(over_scopes(xp.mean, alpha, 0.0)),
        scalar(over_scopes(xp.min, clip, 1.0)),
        scalar(norm),
    )


def metrics_of(w: Work) -> Metrics:
    """From the sums of a step that has been applied."""
    xp, plan, sums = w.xp, w.layout, w.partials
    x2 = sums["x2"].value * (1.0 / plan.count(plan.scale_axes))
    # NaN for a tensor that was skipped without forming U; only then, or NaN checkers report it.
    u2 = sums["u2"].value * (1.0 / plan.count(plan.clip_axes)) if "u2" in sums else x2 * math.nan
    norm = square_root(xp.reshape(sums["g2"].value, ())) * (1.0 / w.unit)
    unscale = w.here(w.whole.unscale)
    norm = norm if unscale is None else norm * unscale
    return of_scopes(xp, w.param, w.options, w.rates, x2, u2, norm)


def no_metrics(xp: Namespace, x: Array, dtype: Any) -> Metrics:
    """Before the first step: zeros, so that the state's structure never changes."""
    return Metrics(*(xp.zeros((), dtype=dtype, device=device(x)) for _ in Metrics._fields))


def read(state: State) -> Any:
    """The metrics of the last step with all that the state tells: params' tree of dicts.

    Each dict has 0-D arrays, on the device: the fields of Metrics, `second_moment_min` and
    `second_moment_max` (of V, of the part held here), and `skipped` where skips are counted.
    Raises StateError for a state without `telemetry`.
    """
    if state.metrics is None:
        raise StateError(
            "this state has no metrics. Use Config(telemetry=True), and convert_state(params, "
            "state, config) for a state from before."
        )
    tensors = optree.tree_structure(state.metrics, is_leaf=lambda x: isinstance(x, Metrics))
    found: list[Any] = tensors.flatten_up_to(state.metrics)
    slots: list[Any] = tensors.flatten_up_to(state.moments)
    return tensors.unflatten([_told(m, s) for m, s in zip(found, slots, strict=True)])


def _told(m: Metrics, moments: Moments) -> dict[str, Array]:
    low, high = _range(moments)
    told = {**m._asdict(), "second_moment_min": low, "second_moment_max": high}
    return told if moments.skipped is None else {**told, "skipped": moments.skipped}


def _range(moments: Moments) -> tuple[Array, Array]:
    """The smallest and the largest entry of V, without forming V."""
    if moments.full is not None:
        xp = namespace(moments.full)
        if not math.prod(moments.full.shape):
            nothing = xp.zeros((), dtype=moments.full.dtype, device=device(moments.full))
            return nothing, nothing
        return xp.asarray(xp.min(moments.full)), xp.asarray(xp.max(moments.full))
    row: Array = moments.row
    col: Array = moments.col
    xp = namespace(row)
    if not math.prod(row.shape) * math.prod(col.shape):
        nothing = xp.zeros((), dtype=row.dtype, device=device(row))
        return nothing, nothing
    sizes = list(enumerate(zip(row.shape, col.shape, strict=True)))
    rows = tuple(a for a, (r, c) in sizes if c == 1 != r)
    cols = tuple(a for a, (r, c) in sizes if r == 1 != c)
    # The quotient first: it has no unit, while a product of two statistics may underflow.
    mean = xp.mean(row, axis=rows, keepdims=True)
    thin = row / choose(mean > 0, mean, 1.0)

    def extreme(of: Any) -> Array:
        return xp.asarray(
            of(of(thin, axis=rows, keepdims=True) * of(col, axis=cols, keepdims=True))
        )

    return extreme(xp.min), extreme(xp.max)


def flat(state: State, prefix: str = "") -> dict[str, float]:
    """`metrics(state)` as a plain dict for any logger; reads the device once per number.

    Keys: "layers.0.w/update_rms", ..., and "grad_norm" over all tensors, "step", and "skipped",
    the number of steps at which anything was skipped. `prefix` comes before each.
    """
    tree = read(state)
    paths, told, _ = optree.tree_flatten_with_path(
        tree, is_leaf=lambda x: isinstance(x, dict) and "update_rms" in x
    )
    out: dict[str, float] = {}
    for keys, numbers in zip(paths, told, strict=True):
        path = ".".join(map(str, keys))
        for name, value in numbers.items():
            out[f"{prefix}{path}/{name}" if path else f"{prefix}{name}"] = float(value)
    norms = [float(numbers["grad_norm"]) for numbers in told]
    out[f"{prefix}grad_norm"] = math.hypot(*norms)
    out[f"{prefix}step"] = int(state.step)
    if state.skipped is not None:
        out[f"{prefix}skipped"] = int(state.skipped)
    return out
