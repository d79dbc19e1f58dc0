"""The paper's Adafactor in float64 NumPy, one tensor at a time: what every backend is held to.

Written from Shazeer and Stern 2018 (arXiv 1804.04235, Algorithms 4 to 6) and docs/options.md, in
the paper's own terms: statistics are *sums*, and `V = R C / sum(R)` is formed as an outer product,
matrix by matrix. Slow, and different in structure from any fast implementation, on purpose: it
shares no line and no idea with the core, so a mistake in one is not a mistake in both.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ._oracle_axes import batch_axes, factored_axes
from ._rounding import round_to
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
    "weight_decay": 0.0, "weight_decay_by": "alpha", "weight_decay_first": False,
    "max_scratch_bytes": None, "maximize": False,
}  # fmt: skip
DECAY_RATE = {"pow": 0.8, "adam": 0.999, "constant": 0.999}
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Trajectory:
    """What a run left behind after each step, path to value; what a subject cannot show is empty.

    `params`: in their dtype. `updates`: the wide change before that rounding. `moments`: `row`,
    `col`, `full` (means, reduced axes kept) and `momentum`, where in use: "layers.0.w.row".
    """

    params: Sequence[Mapping[str, Array]]
    updates: Sequence[Mapping[str, Array]] = ()
    moments: Sequence[Mapping[str, Array]] = ()


def run(params: Tree, grads: Iterable[Tree], options: Options, dtype: str) -> Trajectory:
    """Follow every tensor through all gradients.

    `params` and each of `grads`: trees of float64 NumPy arrays, exact in `dtype`. Parameters are
    rounded at each step where `dtype` is "bfloat16" or "float16"; "float32" stays unrounded, since
    its rounding is what the tolerance allows. Raises KeyError for an option it does not know.
    """
    common = {key: value for key, value in options.items() if key != "rules"}
    flat = [leaves(grad) for grad in grads]
    after: list[dict[str, Array]] = [{} for _ in flat]
    updates: list[dict[str, Array]] = [{} for _ in flat]
    moments: list[dict[str, Array]] = [{} for _ in flat]
    for path, x in leaves(params).items():
        o = {**DEFAULTS, **common, **_rule(options.get("rules", ()), path)}
        if unknown := o.keys() - DEFAULTS.keys():
            raise KeyError(f"the oracle has no option {sorted(unknown)}")
        steps = follow(x, [grad[path] for grad in flat], o, dtype)
        for step, (x_new, update, slots) in enumerate(steps):
            after[step][path], updates[step][path] = x_new, update
            moments[step] |= {join(path, name): slot for name, slot in slots.items()}
    return Trajectory(after, updates, moments)


def _rule(rules: Sequence[tuple[str, Options]], path: str) -> Options:
    return next((options for pattern, options in rules if fnmatchcase(path, pattern)), {})


def follow(
    x: Array, grads: Sequence[Array], o: Options, dtype: str
) -> Iterator[tuple[Array, Array, dict[str, Array]]]:
    """Yield (parameter, unrounded update, moments) of one tensor after each step."""
    second = SecondMoment(x.shape, o, dtype)
    momentum = np.zeros(x.shape)
    stored = "float64" if o["momentum_dtype"] == "float32" else o["momentum_dtype"]
    for t, gradient in enumerate(grads, 1):
        g = -gradient if o["maximize"] else gradient
        lr, rho = _rates(o, t)
        beta1, wd = _at(o["beta1"], t), _at(o["weight_decay"], t)
        second.advance(g, one_minus_beta2(o, t))
        x_seen = x - wd * (lr if o["weight_decay_by"] == "lr" else 1) * x
        alpha = lr * rho * _scale(x_seen if o["weight_decay_first"] else x, o)
        if beta1 is not None and o["momentum_on"] == "grad":
            g, momentum = average(momentum, g, beta1, o["momentum_arithmetic"], stored)
        step = clipped(second.normalise(g), o)
        if beta1 is None or o["momentum_on"] != "update":
            step = alpha * step
        if beta1 is not None and o["momentum_on"] != "grad":
            step, momentum = average(momentum, step, beta1, o["momentum_arithmetic"], stored)
            step = alpha * step if o["momentum_on"] == "update" else step
        by = {"alpha": alpha, "lr": lr, "none": 1.0}[o["weight_decay_by"]]
        update = -step - wd * by * x
        x = round_to(x + update, dtype) if dtype in ("bfloat16", "float16") else x + update
        moments = second.means()
        yield x, update, moments if beta1 is None else moments | {"momentum": momentum}


class SecondMoment:
    """`V` of one tensor, as a stack of matrices (k, n, m); what is not factored stays one array."""

    def __init__(self, shape: tuple[int, ...], o: Options, dtype: str) -> None:
        self.shape, self.axes = shape, factored_axes(shape, o)
        self.mode = o["eps1_mode"]
        self.eps = EPSILON[dtype] if o["eps1"] == "finfo" else o["eps1"]
        if self.axes is None:
            self.full = np.zeros(shape)
            return
        rows, cols = self.axes
        apart = [axis for axis in range(len(shape)) if axis not in rows + cols]
        self.order = [*apart, *rows, *cols]
        self.n, self.m = (prod(shape[axis] for axis in axes) for axes in self.axes)
        k = prod(shape[axis] for axis in apart)
        self.row, self.col = np.zeros((k, self.n)), np.zeros((k, self.m))

    def advance(self, g: Array, b: float) -> None:
        """Move the sums (or `V` itself) by `b` towards those of `g * g`, and eps1 if inside."""
        squares = g * g + (self.eps if self.mode == "grad_sq" else 0.0)
        if self.axes is None:
            self.full = (1 - b) * self.full + b * squares
            return
        stack = squares.transpose(self.order).reshape(len(self.row), self.n, self.m)
        self.row = (1 - b) * self.row + b * stack.sum(axis=2)  # Algorithm 4: (G^2 + eps1) 1_m
        self.col = (1 - b) * self.col + b * stack.sum(axis=1)  # 1_n^T (G^2 + eps1)

    def normalise(self, g: Array) -> Array:
        """`g / sqrt(V)`; 0 where `g` is 0, which is the limit where `V` is 0 or infinite too."""
        root = np.sqrt(self._estimate())
        return np.divide(g, root, out=np.zeros(self.shape), where=g != 0)

    def _estimate(self) -> Array:
        if self.axes is None:
            v = self.full + (self.eps if self.mode == "stats" else 0.0)
        else:
            matrices = [self._matrix(r, c) for r, c in zip(self.row, self.col, strict=True)]
            v = self._unstacked(np.array(matrices), self.shape)
        return np.maximum(v, self.eps**2) if self.mode == "clamp" else v

    def _matrix(self, r: Array, c: Array) -> Array:
        """`V = R C / sum(R)` of one matrix, from sums: r (n,), c (m,) -> (n, m)."""
        total = r.sum()
        if self.mode == "stats":
            r, c = r + self.m * self.eps, c + self.n * self.eps
        if self.mode == "clamp":
            total = max(total, self.n * self.m * self.eps)
        with np.errstate(divide="ignore", invalid="ignore"):  # a matrix without any gradient
            return np.asarray(np.outer(r, c) / total)

    def means(self) -> dict[str, Array]:
        """The statistics as every implementation stores them: means, reduced axes kept."""
        if self.axes is None:
            return {"full": self.full}
        row_axes, col_axes = self.axes
        sizes = list(enumerate(self.shape))
        without_cols = [1 if axis in col_axes else size for axis, size in sizes]
        without_rows = [1 if axis in row_axes else size for axis, size in sizes]
        return {
            "row": self._unstacked(self.row / self.m, without_cols),
            "col": self._unstacked(self.col / self.n, without_rows),
        }

    def _unstacked(self, stack: Array, shape: Sequence[int]) -> Array:
        """From axes in the order (apart, rows, columns) back to the tensor's own order."""
        back = [self.order.index(axis) for axis in range(len(shape))]
        return stack.reshape([shape[axis] for axis in self.order]).transpose(back)


def average(m: Array, z: Array, beta1: float, arithmetic: str, stored: str) -> tuple[Array, Array]:
    """Move the momentum buffer; returns (what the step uses, what is stored)."""
    if arithmetic == "buffer":
        m = round_to(beta1 * m + (1 - beta1) * round_to(z, stored), stored)
        return m, m
    held = beta1 * m
    if arithmetic == "weak":  # optax: the decay is a number of the buffer's own type
        held = round_to(float(round_to(np.asarray(beta1), stored)) * m, stored)
    m = held + (1 - beta1) * z
    return m, round_to(m, stored)


def clipped(u: Array, o: Options) -> Array:
    """`U / max(1, RMS(U) / d)`."""
    if o["clip_threshold"] is None:
        return u
    return np.asarray(u / np.maximum(1.0, _rms(u, o, "clip_scope") / o["clip_threshold"]))


def one_minus_beta2(o: Options, t: int) -> float:
    """`1 - beta2_t` of docs/options.md."""
    kind = o["decay_type"]
    rate = _at(o["decay_rate"], t) if o["decay_rate"] is not None else DECAY_RATE[kind]
    since = max(t - o["decay_offset"], 1)
    if kind == "pow":
        b = since**-rate
    elif kind == "adam":  # (1 - beta) / (1 - beta^t), as a sum, which does not cancel
        b = 1 / sum(rate**k for k in range(since))
    else:
        b = 1 - rate
    return float(b if o["beta2_cap"] is None else max(b, 1 - o["beta2_cap"]))


def _rates(o: Options, t: int) -> tuple[float, float]:
    """(lr_t, what multiplies it). A cap of None takes lr as the cap, so rho absorbs lr."""
    lr = 1.0 if o["lr"] is None else _at(o["lr"], t)
    relative = o["step_size"]
    if relative is None:
        return lr, 1.0 if o["lr"] is not None else min(1e-2, t**-0.5)
    limits = [t**-0.5, lr if relative.cap is None else relative.cap]
    rho = min([*limits, 1e-6 * t] if relative.warmup_init else limits)
    return lr, rho / lr if relative.cap is None and lr else rho


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


def _at(value: Any, t: int) -> Any:
    return value(t) if callable(value) else value
