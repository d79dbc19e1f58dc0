"""Algorithms 1 to 3 of the paper (arXiv 1804.04235), and schedules of recipes.

1 to 3 are Adam, with the second moment factored in 2 and 3; 4 to 6 are Adafactor for matrices, for
vectors, and its proposed settings: `variants.paper`.
"""

from __future__ import annotations

from typing import Any

from .._config import Config
from .._numerics import at_most


def bias_corrected(beta: float) -> Any:
    """Adam's first-moment bias correction as a schedule for `beta1`.

    `beta * (1 - beta**(t-1)) / (1 - beta**t)` makes `m` the corrected average (paper, section 7.1).
    """

    def beta1(t: Any) -> Any:
        return beta * (1.0 - beta ** (t - 1)) / (1.0 - beta**t)

    return beta1


def palm_decay(t: Any) -> Any:
    """PaLM's weight decay, the square of its rate: `min(1e-4, 1/t)` (arXiv 2204.02311).

    `t`: a number or a 0-D array, of which an array is made.
    """
    return at_most(1.0 / t, 1e-4)


def algorithm1(lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, **rest: Any) -> Config:
    """Adam. Its epsilon is added to the gradient's square here instead of to the root."""
    return _adam(lr, beta2, factored=False, beta1=bias_corrected(beta1), **rest)


def algorithm2(lr: float = 1e-3, beta2: float = 0.999, **rest: Any) -> Config:
    """Adam with beta1 = 0 and a factored second moment."""
    return _adam(lr, beta2, **rest)


def algorithm3(lr: float = 1e-3, beta2: float = 0.999, **rest: Any) -> Config:
    """Algorithm 2 with update clipping (paper, section 6)."""
    return _adam(lr, beta2, **{"clip_threshold": 1.0, **rest})


def _adam(lr: float, beta2: float, **options: Any) -> Config:
    adam: dict[str, Any] = {
        "lr": lr,
        "scale_parameter": False,
        "decay_type": "adam",
        "decay_rate": beta2,
        "clip_threshold": None,
        "momentum_on": "grad",
    }
    return Config(**{**adam, **options})
