"""Implementations that cannot be installed, transcribed from their published formulas.

Each function is one of them in its own words, for one tensor in float64 NumPy, and shares no line
with the package; what they have in common stands first. `n` counts finished steps, as theirs do.
Sources and versions: the records of `adafactor_core.variants`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Grads = Sequence[Array]
Axes = tuple[tuple[int, ...], tuple[int, ...]] | None  # (row axes, column axes)


def rms(x: Array, axes: tuple[int, ...] | None = None) -> Any:
    return np.sqrt(np.mean(x * x, axis=axes, keepdims=axes is not None))


class Second:
    """Averages `vr`, `vc` of a factored tensor, or `v`; `precondition` is `g / sqrt(estimate)`."""

    def __init__(self, axes: Axes, shape: tuple[int, ...]) -> None:
        self.axes = axes
        self.v = np.zeros(shape)
        self.vr = self.vc = np.zeros(())

    def move(self, squares: Array, beta2: float) -> None:
        if self.axes is None:
            self.v = beta2 * self.v + (1 - beta2) * squares
            return
        rows, cols = self.axes
        self.vr = beta2 * self.vr + (1 - beta2) * squares.mean(axis=cols, keepdims=True)
        self.vc = beta2 * self.vc + (1 - beta2) * squares.mean(axis=rows, keepdims=True)

    def precondition(self, g: Array, after: float = 0.0) -> Array:
        """`after`: an epsilon that is added to averages, trax's."""
        if self.axes is None:
            return g * (self.v + after) ** -0.5
        mean = self.vr.mean(axis=self.axes[0], keepdims=True)
        return g * (mean / (self.vr + after)) ** 0.5 * (self.vc + after) ** -0.5


def last_two(shape: tuple[int, ...]) -> Axes:
    rank = len(shape)
    return ((rank - 2,), (rank - 1,)) if rank >= 2 else None


def two_largest(shape: tuple[int, ...], least: int) -> Axes:
    """optax, flax, t5x, big_vision: argsort, so that the later of equal axes is the larger."""
    if len(shape) < 2:
        return None
    order = np.argsort(shape, kind="stable")
    return ((int(order[-2]),), (int(order[-1]),)) if shape[order[-2]] >= least else None


def clipped(u: Array, threshold: float | None, axes: tuple[int, ...] | None = None) -> Array:
    return u if threshold is None else u / np.maximum(1.0, rms(u, axes) / threshold)


def power(n: int, exponent: float = 0.8, offset: int = 0) -> float:
    return 1.0 - float(max(n - offset + 1, 1)) ** -exponent


def adam(n: int, beta2: float) -> float:
    t = n + 1
    return beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)


def paper(x: Array, grads: Grads) -> Array:
    """Algorithms 4 to 6, with sums for R and C."""
    r: Any = 0.0
    c: Any = 0.0
    v: Any = 0.0
    for t, g in enumerate(grads, 1):
        alpha, beta2, squares = max(1e-3, rms(x)) * min(1e-2, t**-0.5), 1 - t**-0.8, g * g + 1e-30
        if x.ndim == 2:
            r = beta2 * r + (1 - beta2) * squares.sum(axis=1)
            c = beta2 * c + (1 - beta2) * squares.sum(axis=0)
            u = g / np.sqrt(np.outer(r, c) / r.sum())
        else:
            v = beta2 * v + (1 - beta2) * squares
            u = g / np.sqrt(v)
        x = x - alpha * u / max(1.0, rms(u))
    return x


def tensor2tensor(
    x: Array, grads: Grads, learning_rate: float | None = None, beta1: float = 0.0,
    multiply_by_parameter_scale: bool = True, decay_rate: float | None = None,
    axes: Axes | str = "last", scale_axes: tuple[int, ...] | None = None, offset: int = 0,
) -> Array:  # fmt: skip
    """Also Mesh TensorFlow's, with other `axes`; `scale_axes`: one scale per stacked slice."""
    second, m = Second(last_two(x.shape) if axes == "last" else axes, x.shape), np.zeros(x.shape)
    for n, g in enumerate(grads):
        rate = min((n + 1) ** -0.5, 0.01) if learning_rate is None else learning_rate
        if learning_rate is None and not multiply_by_parameter_scale:
            rate *= 0.05
        if multiply_by_parameter_scale:
            rate = rate * np.maximum(1e-3, rms(x, scale_axes))
        second.move(
            g * g + 1e-30, power(n, 0.8, offset) if decay_rate is None else adam(n, decay_rate)
        )
        m = beta1 * m + (1 - beta1) * rate * clipped(second.precondition(g), 1.0)
        x = x - m
    return x


def mesh_tensorflow(
    x: Array, grads: Grads, min_dim_size_to_factor: int = 128, stacked: tuple[int, ...] = (),
    **rest: Any,
) -> Array:  # fmt: skip
    """The two largest dimensions that are not stacked; of equal ones the earlier is the larger."""
    free = [axis for axis in range(x.ndim) if axis not in stacked]
    order = sorted(free, key=lambda axis: -x.shape[axis])
    axes: Axes = None
    if len(order) >= 2 and x.shape[order[1]] >= min_dim_size_to_factor:
        axes = (order[1],), (order[0],)  # vr drops the largest
    return tensor2tensor(x, grads, axes=axes, scale_axes=tuple(free) if stacked else None, **rest)


def fairseq(
    x: Array, grads: Grads, lr: float | None = None, eps: tuple[float, float] = (1e-30, 1e-3),
    clip_threshold: float = 1.0, decay_rate: float = -0.8, beta1: float | None = None,
    weight_decay: float = 0.0, scale_parameter: bool = True, relative_step: bool = True,
    warmup_init: bool = False,
) -> Array:  # fmt: skip
    """Without the overwritten group lr; also kohya's and OneTrainer's, of wide parameters."""
    second, m = Second(last_two(x.shape), x.shape), np.zeros(x.shape)
    for step, g in enumerate(grads, 1):
        rate = min(1e-6 * step if warmup_init else 1e-2, step**-0.5) if relative_step else lr
        rate = rate * (max(eps[1], rms(x)) if scale_parameter else 1.0)
        second.move(g * g + eps[0], 1.0 - step**decay_rate)
        u = rate * clipped(second.precondition(g), clip_threshold)
        if beta1 is not None:
            u = m = beta1 * m + (1 - beta1) * u
        x = x - weight_decay * rate * x - u
    return x


def mindspore(
    x: Array, grads: Grads, beta1: float = 0.9, decay_rate: float = 0.8, **rest: Any
) -> Array:
    return fairseq(x, grads, beta1=beta1, decay_rate=-decay_rate, **rest)


def flax(
    x: Array, grads: Grads, learning_rate: float, min_dim_size_to_factor: int = 128,
    beta1: float | None = None, weight_decay_rate: float | None = None, decay_rate: float = 0.8,
    step_offset: int = 0, multiply_by_parameter_scale: bool = True,
    clipping_threshold: float | None = 1.0, max_parameter_scale: float = np.inf,
    axes: Axes | str = "largest", batch: tuple[int, ...] = (),
) -> Array:  # fmt: skip
    """Also t5x's, with its rules as `axes`; `batch` axes have RMS values of their own."""
    inside = tuple(a for a in range(x.ndim) if a not in batch) if batch else None
    found = two_largest(x.shape, min_dim_size_to_factor) if axes == "largest" else axes
    second, m = Second(found, x.shape), np.zeros(x.shape)
    for n, g in enumerate(grads):
        rate: Any = learning_rate
        if multiply_by_parameter_scale:
            rate = rate * np.clip(rms(x, inside), 1e-3, max_parameter_scale)
        second.move(g * g + 1e-30, power(n, decay_rate, step_offset))
        u = rate * clipped(second.precondition(g), clipping_threshold, inside)
        if beta1 is not None:
            u = m = beta1 * m + (1 - beta1) * u
        x = (1 - (weight_decay_rate or 0.0)) * x - u
    return x


def praxis(
    x: Array, grads: Grads, lr: Callable[[int], float], decay_method: str, decay_adam: float = 0.0,
    decay_pow: float = 0.0, beta1: float = 0.0, weight_decay: float = 0.0,
    multiply_by_parameter_scale: bool = False,
) -> Array:  # fmt: skip
    second, m = Second(last_two(x.shape), x.shape), np.zeros(x.shape)
    for n, g in enumerate(grads):
        beta2 = adam(n, decay_adam) if decay_method == "adam" else power(n, decay_pow)
        second.move(g * g + 1e-30, beta2)
        rate = lr(n) * (max(1e-3, rms(x)) if multiply_by_parameter_scale else 1.0)
        m = beta1 * m + (1 - beta1) * rate * clipped(second.precondition(g), 1.0)
        x = x - m - weight_decay * lr(n) * x
    return x


def big_vision(
    x: Array, grads: Grads, lr: float, schedule: Callable[[int], float], wd: float = 0.0,
    momentum: float = 0.9, min_dim_size_to_factor: int = 32, beta2_cap: float = 0.999,
    clipping_threshold: float | None = None,
) -> Array:  # fmt: skip
    """With a momentum of full precision."""
    second, m = Second(two_largest(x.shape, min_dim_size_to_factor), x.shape), np.zeros(x.shape)
    for n, g in enumerate(grads):
        second.move(g * g + 1e-30, min(beta2_cap, power(n)))
        m = momentum * m + (1 - momentum) * clipped(second.precondition(g), clipping_threshold)
        x = x - schedule(n) * (lr * m + wd * x)
    return x


def trax(
    x: Array, grads: Grads, learning_rate: float = 0.05, epsilon1: float = 1e-16,
    weight_decay_rate: float = 1e-5, weight_decay_n_steps: int = 0, beta1: float | None = None,
) -> Array:  # fmt: skip
    second, m = Second(last_two(x.shape), x.shape), np.zeros(x.shape)
    for n, g in enumerate(grads):
        second.move(g * g, power(n))
        u = clipped(second.precondition(g, after=epsilon1), 1.0)
        u = learning_rate * max(1e-3, rms(x)) * u
        if beta1 is not None:
            u = m = beta1 * m + (1 - beta1) * u
        fade = max(0.0, 1 - n / weight_decay_n_steps) if weight_decay_n_steps else 1.0
        x = (1 - weight_decay_rate * fade) * x - u
    return x


def palm(x: Array, grads: Grads, clip: float | None = None) -> Array:
    """EasyLM's chain with the paper's decay; one tensor, so the global norm is its own."""
    second, m = Second(None, x.shape), np.zeros(x.shape)
    for k, g in enumerate(grads, 1):
        g = g / max(1.0, float(np.sqrt(np.sum(g * g))))
        lr = 1e-2 if k <= 10_000 else k**-0.5
        second.move(g * g + 1e-30, 1 - k**-0.8)
        m = 0.9 * m + 0.1 * lr * max(1e-3, rms(x)) * clipped(second.precondition(g), clip)
        x = x - m - lr**2 * x
    return x
