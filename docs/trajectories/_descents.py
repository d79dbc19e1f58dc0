"""The five optimizers. Adam is `af.variants.algorithm1`; Adafactor runs as `adafactor_numpy`.

SGD and momentum are the well-known two lines. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optree

import adafactor_core as af
from adafactor_numpy import Adafactor

MOMENTUM = 0.9
STEPS = 500
RATES = (*(float(f"{a}e{b}") for b in range(-5, 0) for a in (1, 3)), 1.0, 3.0)
SMALLEST = 1e-16  # below it, differences of f are rounding
Gradient = Callable[[np.ndarray], np.ndarray]

LABELS = {
    "sgd": "SGD",
    "momentum": "SGD with momentum",
    "adam": "Adam",
    "relative": "Adafactor, relative step",
    "absolute": "Adafactor, absolute rate",
}
# Shapes in which a point (x, y) can be given to an optimizer.
LAYOUTS: dict[str, tuple[int, ...]] = {
    "vector": (2,),
    "1x2": (1, 2),
    "2x1": (2, 1),
    "diagonal": (2, 2),
}


def config_of(name: str, lr: float | None, **options: Any) -> af.Config:
    """What an optimizer of the library is made with. `options` come on top."""
    if name == "adam":
        return af.variants.algorithm1(lr=lr or 0.0, **options)
    if name == "relative":
        return af.Config(**options)
    return af.Config(lr=lr, **{"scale_parameter": False, **options})


def placed(point: Any, layout: str) -> np.ndarray:
    """(2,) to the layout's shape; off the diagonal there are zeros."""
    x = np.array(point, dtype=np.float64)
    return np.diag(x) if layout == "diagonal" else x.reshape(LAYOUTS[layout])


def point_of(x: np.ndarray) -> np.ndarray:
    """Back to (2,)."""
    return np.diagonal(x) if x.shape == (2, 2) else x.reshape(2)


def stepper(name: str, x: Any, lr: float | None, **options: Any) -> Callable[[Any], None]:
    """A function that takes gradients shaped like `x`, an array or a tree, and changes `x`."""
    if name in ("adam", "relative", "absolute"):
        return Adafactor(x, config_of(name, lr, **options), compiled=False).step
    leaves: dict[Any, np.ndarray] = x if isinstance(x, dict) else {None: x}
    velocity = {key: np.zeros_like(leaf) for key, leaf in leaves.items()}
    mu = MOMENTUM if name == "momentum" else 0.0

    def step(grads: Any) -> None:
        for key, leaf in leaves.items():
            velocity[key] = mu * velocity[key] + (grads if key is None else grads[key])
            leaf -= lr * velocity[key]

    return step


def direction(grads: Any, state: af.State, params: Any, config: af.Config) -> Any:
    """U = G / sqrt(V) of the next step, before clipping: the update where nothing scales it."""
    plain = replace(config, lr=1.0, step_size=None, scale_parameter=False, clip_threshold=None)
    forgets = None if config.beta1 is None else 0.0  # the state has its buffer
    update, _ = af.update(grads, state, params, replace(plain, beta1=forgets))
    return optree.tree_map(np.negative, update)


def descend(
    name: str, gradient: Gradient, start: Any, lr: float | None, steps: int, **options: Any
) -> np.ndarray:
    """The points of a run, the start included: (at most steps + 1, 2). Ends where one overflows."""
    x = np.array(start, dtype=np.float64)
    step = stepper(name, x, lr, **options)
    path = [x.copy()]
    with np.errstate(all="ignore"):  # a rate that is too large overflows; that is an answer
        for _ in range(steps):
            step(gradient(x))
            if not np.all(np.isfinite(x)):
                break
            path.append(x.copy())
    return np.array(path)


def height(values: np.ndarray, steps: int) -> float:
    """Mean of log10(f) over a run, what rates are chosen by; infinite where the run broke off."""
    if len(values) <= steps or not np.all(np.isfinite(values)):
        return float("inf")
    return float(np.mean(np.log10(np.maximum(values, SMALLEST))))
