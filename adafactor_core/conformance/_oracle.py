"""The paper's Adafactor in float64 NumPy, one tensor at a time: what every backend is held to.

Written from Shazeer and Stern 2018 (arXiv 1804.04235, Algorithms 4 to 6) and docs/options.md, in
the paper's own terms: statistics are *sums*, and `V = R C / sum(R)` is formed as an outer product,
matrix by matrix. Slow, and different in structure from any fast implementation, on purpose: it
shares no line and no idea with the core, so a mistake in one is not a mistake in both.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ._oracle_axes import batch_axes
from ._oracle_guard import look
from ._oracle_moments import Momentum, SecondMoment
from ._oracle_rates import at, one_minus_beta2, rates
from ._oracle_rounding import SIXTEEN_BIT, Draws, draws, rounded
from ._rounding import round_to, wide
from ._tolerances import NOISE
from ._trees import Tree, join, leaves

Array = npt.NDArray[np.float64]
Options = Mapping[str, Any]

DEFAULTS: dict[str, Any] = {
    "lr": None, "step_size": None, "scale_parameter": True, "eps2": 1e-3,
    "max_parameter_scale": None, "factored": True, "factored_dims": "auto",
    "min_dim_size_to_factor": 1, "batch_axes": (), "scale_scope": "block", "clip_scope": "block",
    "eps1": 1e-30, "eps1_mode": "grad_sq", "decay_type": "pow", "decay_rate": None,
    "decay_offset": 0, "beta2_cap": None, "clip_threshold": 1.0, "beta1": None,
    "momentum_on": "scaled_update", "momentum_dtype": "float32", "momentum_arithmetic": "float32",
    "momentum_rounding": "nearest", "weight_decay": 0.0, "weight_decay_by": "alpha",
    "weight_decay_first": False, "rounding": "nearest", "seed": 0, "nonfinite": "propagate",
    "max_grad_norm": None, "telemetry": False, "max_scratch_bytes": None, "maximize": False,
}  # fmt: skip
SKIPPING = ("skip_tensor", "skip_step")


@dataclass(frozen=True)
class Trajectory:
    """What a run left behind after each step, path to value; what a subject cannot show is empty.

    `params`: in their dtype. `updates`: the wide change before that rounding. `moments`: `row`,
    `col`, `full` (means, reduced axes kept), `momentum` (of int8 the integers), `momentum_scale`,
    `compensation` and `skipped`, where in use: "layers.0.w.row". `steps` and `skipped`: the state's
    counters; `skipped` is empty where nothing is ever skipped. `metrics`: "layers.0.w.grad_norm",
    of tensors that moved. `close`: how many rounded momenta are too close to call, see Momentum.
    """

    params: Sequence[Mapping[str, Array]]
    updates: Sequence[Mapping[str, Array]] = ()
    moments: Sequence[Mapping[str, Array]] = ()
    steps: Sequence[int] = ()
    skipped: Sequence[int] = ()
    metrics: Sequence[Mapping[str, float]] = ()
    close: int = 0


def run(
    params: Tree,
    grads: Iterable[Tree],
    options: Options,
    dtype: str,
    grad_scale: Sequence[float | None] | None = None,
) -> Trajectory:
    """Follow all tensors through all gradients.

    `params` and each of `grads`: trees of float64 NumPy arrays, exact in `dtype`. Parameters are
    rounded at each step where `dtype` is "bfloat16" or "float16"; "float32" stays unrounded, since
    its rounding is what the tolerance allows. `grad_scale`: one per step. Raises KeyError for an
    option it does not know, FloatingPointError where `nonfinite="raise"` says so.
    """
    common = {key: value for key, value in options.items() if key != "rules"}
    tensors = {}
    for path, x in leaves(params).items():
        own = _rule(options.get("rules", ()), path)
        tensors[path] = Tensor(path, x, {**DEFAULTS, **common, **own}, dtype)
    flat = [leaves(grad) for grad in grads]
    pairs = zip(flat, grad_scale or [None] * len(flat), strict=True)
    rows = list(_follow(tensors, pairs, {**DEFAULTS, **common}, dtype))
    after, updates, moments, steps, skipped, metrics = zip(*rows, strict=True)
    counted = common.get("nonfinite") in SKIPPING
    close = sum(tensor.momentum.close for tensor in tensors.values() if tensor.momentum)
    return Trajectory(after, updates, moments, steps, skipped if counted else (), metrics, close)


def _rule(rules: Sequence[tuple[str, Options]], path: str) -> Options:
    return next((options for pattern, options in rules if fnmatchcase(path, pattern)), {})


def _follow(
    tensors: Mapping[str, "Tensor"],
    pairs: Iterable[tuple[Mapping[str, Array], float | None]],
    o: Options,
    dtype: str,
) -> Iterator[tuple[Any, ...]]:
    """Yield what a Trajectory holds of each step, up to `metrics`."""
    t, skipped = 1, 0
    for grads, scale in pairs:
        before = {path: tensor.x for path, tensor in tensors.items()}
        verdict = look(grads, before, o, dtype, scale)
        updates = {path: np.zeros(x.shape) for path, x in before.items()}
        metrics: dict[str, float] = {}
        for path, tensor in tensors.items():
            tensor.skips += path in verdict.bad
            if path not in verdict.still:
                updates[path] = tensor.step(verdict.grads[path], t)
                found = {**tensor.metrics, "grad_norm": verdict.norms[path]}
                metrics |= {join(path, name): value for name, value in found.items()}
        skipped += bool(verdict.still)
        t += not (verdict.still and o["nonfinite"] == "skip_step")
        after = {path: tensor.x for path, tensor in tensors.items()}
        moments = {
            join(path, name): slot
            for path, tensor in tensors.items()
            for name, slot in tensor.slots().items()
        }
        yield after, updates, moments, t - 1, skipped, metrics


class Tensor:
    """One tensor: its value and all that is kept of it between steps."""

    def __init__(self, path: str, x: Array, o: Options, dtype: str) -> None:
        if unknown := o.keys() - DEFAULTS.keys():
            raise KeyError(f"the oracle has no option {sorted(unknown)}")
        self.path, self.x, self.o, self.dtype = path, x, o, dtype
        self.second = SecondMoment(x.shape, o, dtype)
        averaged = o["beta1"] is not None
        self.momentum = Momentum(x.shape, o, NOISE[wide(dtype)]) if averaged else None
        kept = o["rounding"] == "kahan" and dtype in SIXTEEN_BIT
        self.compensation = np.zeros(x.shape) if kept else None
        self.skips = 0
        self.metrics: dict[str, float] = {}

    @np.errstate(invalid="ignore", over="ignore", divide="ignore")  # of NaN and infinity
    def step(self, gradient: Array, t: int) -> Array:
        """Move by this gradient; returns the change before it was rounded."""
        o, x = self.o, self.x
        g = -gradient if o["maximize"] else gradient
        own = t - self.skips if o["nonfinite"] == "skip_tensor" else t
        lr, rho = rates(o, t)
        beta1, wd = at(o["beta1"], t), at(o["weight_decay"], t)
        self.second.advance(g, one_minus_beta2(o, t, own))
        x_seen = x - wd * (lr if o["weight_decay_by"] == "lr" else 1) * x
        alpha = lr * rho * _scale(x_seen if o["weight_decay_first"] else x, o)
        draw = partial(self._draws, t, 1)
        if self.momentum and o["momentum_on"] == "grad":
            g = self.momentum.average(g, beta1, draw)
        u = self.second.normalise(g)
        excess = _excess(u, o)
        step = u / excess
        if not self.momentum or o["momentum_on"] != "update":
            step = alpha * step
        if self.momentum and o["momentum_on"] != "grad":
            step = self.momentum.average(step, beta1, draw)
            step = alpha * step if o["momentum_on"] == "update" else step
        self.metrics = _metrics(u, x, alpha, excess)
        by = {"alpha": alpha, "lr": lr, "none": 1.0}[o["weight_decay_by"]]
        held = np.zeros(x.shape) if self.compensation is None else self.compensation
        update = held - step - wd * by * (x + held)
        self._move(x + update, t)
        return np.asarray(update)

    def _move(self, total: Array, t: int) -> None:
        e = self._draws(t, 0) if self.o["rounding"] == "stochastic" else None
        self.x = rounded(total, self.dtype, e)
        if self.compensation is not None:
            self.compensation = round_to(total - self.x, self.dtype)

    def _draws(self, t: int, stream: int) -> Draws:
        seed = self.o["seed"]
        return draws(self.x.shape, seed=seed, t=t, path=self.path, stream=stream)

    def slots(self) -> dict[str, Array]:
        """All that is in use, by the names of a Trajectory."""
        found = self.second.means()
        if self.momentum:
            found |= self.momentum.slots()
        if self.compensation is not None:
            found["compensation"] = self.compensation
        if self.o["nonfinite"] in SKIPPING:
            found["skipped"] = np.asarray(float(self.skips))
        return found


def _metrics(u: Array, x: Array, alpha: Array, excess: Array) -> dict[str, float]:
    """What telemetry shows of a step, the norm of the gradient aside."""
    count = max(1, u.size)
    return {
        "update_rms": float(np.sqrt(np.sum(u * u) / count)),
        "param_rms": float(np.sqrt(np.sum(x * x) / count)),
        "learning_rate": float(np.mean(alpha)) if alpha.size else 0.0,
        "clip_factor": float(1 / np.max(excess, initial=1.0)),
    }


def _excess(u: Array, o: Options) -> Array:
    """`max(1, RMS(U) / d)`, what U is divided by."""
    if o["clip_threshold"] is None:
        return np.ones((1,) * u.ndim)
    return np.asarray(np.maximum(1.0, _rms(u, o, "clip_scope") / o["clip_threshold"]))


def _scale(x: Array, o: Options) -> Array:
    if not o["scale_parameter"]:
        return np.ones((1,) * x.ndim)
    scale = np.maximum(o["eps2"], _rms(x, o, "scale_scope"))
    limit = o["max_parameter_scale"]
    return scale if limit is None else np.minimum(scale, limit)


def _rms(x: Array, o: Options, scope: str) -> Array:
    """Root mean square with all axes kept: one number, or one per slice of the batch axes."""
    apart = batch_axes(x.shape, o) if o[scope] == "block" else ()
    axes = tuple(axis for axis in range(x.ndim) if axis not in apart)
    count = max(1, prod(x.shape[axis] for axis in axes))
    return np.asarray(np.sqrt(np.sum(x * x, axis=axes, keepdims=True) / count))
