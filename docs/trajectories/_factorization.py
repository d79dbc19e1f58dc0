"""A real matrix as `left @ right`, where factoring the second moment saves and loses something.

scikit-learn's breast cancer measurements, 569 cells x 30 columns, each column standardised. The
best rank-5 approximation is known from the singular values, so loss is shown in excess of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from _descents import RATES, config_of, direction, height, stepper
from sklearn.datasets import load_breast_cancer

import adafactor_core as af

RANK = 5
STEPS = 1000
SNAPSHOT = 20  # after this step the second moments are compared
# Name: optimizer, its options, label.
RUNS: dict[str, tuple[str, dict[str, Any], str]] = {
    "sgd": ("sgd", {}, "SGD"),
    "momentum": ("momentum", {}, "SGD with momentum"),
    "adam": ("adam", {}, "Adam"),
    "relative": ("relative", {}, "Adafactor, relative step"),
    "relative, full": ("relative", {"factored": False}, "the same, not factored"),
    "absolute": ("absolute", {}, "Adafactor, absolute rate"),
    "absolute, full": ("absolute", {"factored": False}, "the same, not factored"),
}
Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """`floor`: the loss of the best approximation of this rank (Eckart and Young)."""

    matrix: np.ndarray  # (569, 30)
    start: Params  # left (569, RANK), right (RANK, 30)
    floor: float


@dataclass(frozen=True)
class Fit:
    lr: float | None
    excess: np.ndarray  # loss - floor before each step and after the last, (steps + 1,)
    numbers: int  # that the optimizer keeps


def problem() -> Problem:
    raw = load_breast_cancer().data
    matrix = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    rng = np.random.default_rng(0)
    start = {
        "left": 0.1 * rng.standard_normal((len(matrix), RANK)),
        "right": 0.1 * rng.standard_normal((RANK, matrix.shape[1])),
    }
    singular = np.linalg.svd(matrix, compute_uv=False)
    return Problem(matrix, start, float(np.sum(singular[RANK:] ** 2) / matrix.size))


def loss_and_gradients(of: Problem, params: Params) -> tuple[float, Params]:
    """The mean squared error over all entries, and its gradients times the number of rows.

    Times the rows, or SGD would need rates in the hundreds; the others hardly notice.
    """
    left, right = params["left"], params["right"]
    errors = left @ right - of.matrix
    scaled = errors * (2.0 * len(errors) / errors.size)
    return float(np.mean(errors * errors)), {"left": scaled @ right.T, "right": left.T @ scaled}


def all_fits(of: Problem, steps: int = STEPS) -> dict[str, Fit]:
    """By name in RUNS, each with its best rate; a run that is not factored has the same rate."""
    fits: dict[str, Fit] = {}
    for name, (optimizer, options, _) in RUNS.items():
        if optimizer in fits:
            fits[name] = fit(of, optimizer, fits[optimizer].lr, steps, options)
            continue
        rates = (None,) if optimizer == "relative" else RATES
        found = [fit(of, optimizer, lr, steps, options) for lr in rates]
        fits[name] = min(found, key=lambda f: height(f.excess, steps))
    return fits


def fit(of: Problem, optimizer: str, lr: float | None, steps: int, options: dict[str, Any]) -> Fit:
    params = {name: x.copy() for name, x in of.start.items()}
    step = stepper(optimizer, params, lr, **options)
    losses = []
    with np.errstate(all="ignore"):
        for _ in range(steps):
            loss, grads = loss_and_gradients(of, params)
            losses.append(loss)
            if not np.isfinite(loss) or loss > 1e3 * losses[0]:
                break
            step(grads)
        losses.append(loss_and_gradients(of, params)[0])
    excess = np.maximum(np.array(losses) - of.floor, 0.0)
    return Fit(lr, excess, kept(of, optimizer, lr, options))


def kept(of: Problem, optimizer: str, lr: float | None, options: dict[str, Any]) -> int:
    """How many numbers of state, as `af.memory_report` counts them."""
    if optimizer == "sgd":
        return 0
    if optimizer == "momentum":
        return sum(x.size for x in of.start.values())
    config = config_of(optimizer, lr, **options)
    return af.memory_report(of.start, config).state_bytes // 8


def second_moments(of: Problem, name: str = "right") -> dict[str, np.ndarray]:
    """Of one tensor after SNAPSHOT steps of the relative step: what factoring keeps, the V that it
    stands for, and the full V of the same gradients."""
    params = {k: x.copy() for k, x in of.start.items()}
    config, whole = af.Config(), af.Config(factored=False)
    state, full = af.init(params, config), af.init(params, whole)
    for _ in range(SNAPSHOT):
        _, grads = loss_and_gradients(of, params)
        u = direction(grads, state, params, config)
        _, full = af.update(grads, full, params, whole)  # the statistics see the gradients alone
        params, state = af.step(params, grads, state, config)
    moments = state.moments[name]
    return {
        "row": moments.row,
        "col": moments.col,
        "estimate": (grads[name] / u[name]) ** 2,
        "full": full.moments[name].full,
    }
