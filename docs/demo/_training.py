"""The data, the loop, and how far a framework's parameters are from NumPy's at every step."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import optree
from _frameworks import Framework, NumPy
from _network import Params, by_hand, forward
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import adafactor_core as af

SIZES = (64, 128, 64, 10)  # 8x8 pixels in, ten digits out
BATCH = 64


@dataclass(frozen=True)
class Task:
    """What every framework gets alike. Images are (n, 64) in [0, 1], targets one-hot (n, 10)."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    start: Params
    batches: np.ndarray  # (steps, BATCH) rows of x, drawn with replacement
    activation: str


@dataclass
class Run:
    """What one framework did. Lists have one entry per step."""

    package: str
    losses: list[float] = field(default_factory=list)  # of the batch, before the step
    gradient_seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)
    training_deviation: list[float] = field(default_factory=list)  # own gradients
    optimizer_deviation: list[float] = field(default_factory=list)  # NumPy's gradients
    accuracy: dict[int, float] = field(default_factory=dict)  # held out, after so many steps
    train_loss: float = math.nan  # of the whole training set, at the end
    state_bytes: int = 0
    adam_bytes: int = 0


def make_task(steps: int, seed: int, activation: str) -> Task:
    """scikit-learn's digits, a quarter held out; weights of variance 2 / inputs, biases 0."""
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)  # (1797, 64)
    y = np.eye(10, dtype=np.float32)[labels]  # (1797, 10)
    x, test_x, y, test_y = train_test_split(
        x, y, test_size=0.25, random_state=seed, stratify=labels
    )
    rng = np.random.default_rng(seed)
    start = [
        {
            "weight": rng.normal(0, math.sqrt(2 / a), (a, b)).astype(np.float32),
            "bias": np.zeros(b, np.float32),
        }
        for a, b in pairwise(SIZES)
    ]
    batches = rng.integers(len(x), size=(steps, BATCH))
    return Task(x, y, test_x, test_y, start, batches, activation)


def train(
    row: type[Framework], task: Task, config: af.Config, name: str, *, compare: bool = True
) -> Run:
    """Trains one framework. `compare`: beside NumPy, which runs again instead of being stored."""
    row.prepare()
    run, model = Run(row.package), row(task.start, config, task.activation)
    shadow = row(task.start, config, task.activation) if compare else None
    beside = replay(task, config)
    calm = 0.1 if sys.stderr.isatty() else 5.0  # seconds between redraws; in a log each is a line
    bar = tqdm(
        task.batches, desc=f"{name:>9}", unit="step", mininterval=calm,
        postfix="the first step may have to compile",
    )  # fmt: skip
    for t, batch in enumerate(bar, 1):
        _step(run, model, task, batch)
        if shadow is not None:
            _compare(run, model, shadow, *next(beside))
        if t % 20 == 0 or t == len(task.batches):
            run.accuracy[t] = accuracy(model.numpy(), task)
            shown = {"loss": f"{run.losses[-1]:.4f}", "accuracy": f"{run.accuracy[t]:.1%}"}
            bar.set_postfix(shown, refresh=False)
    run.train_loss = float(by_hand(model.numpy(), task.x, task.y, task.activation)[0])
    run.state_bytes = model.state_bytes
    run.adam_bytes = af.memory_report(model.params, config).adam_bytes
    return run


def _step(run: Run, model: Framework, task: Task, batch: np.ndarray) -> None:
    x, y = model.native((task.x[batch], task.y[batch]))
    begin = perf_counter()
    loss, grads = model.gradients(x, y)
    middle = perf_counter()
    model.step(grads)
    run.gradient_seconds.append(middle - begin)
    run.optimizer_seconds.append(perf_counter() - middle)
    run.losses.append(float(loss))


def _compare(
    run: Run, model: Framework, shadow: Framework, grads: Params, expected: Params
) -> None:
    """`shadow` is a second copy that lives on NumPy's gradients: its optimizer alone differs."""
    shadow.step(shadow.native(grads))
    run.training_deviation.append(deviation(model.numpy(), expected))
    run.optimizer_deviation.append(deviation(shadow.numpy(), expected))


def replay(task: Task, config: af.Config) -> Iterator[tuple[Params, Params]]:
    """NumPy's run once more: (gradient, parameters after the step), valid until the next one."""
    model = NumPy(task.start, config, task.activation)
    for batch in task.batches:
        _, grads = model.gradients(task.x[batch], task.y[batch])
        model.step(grads)
        yield grads, model.params


def deviation(found: Params, expected: Params) -> float:
    """The largest max|a - b| / max|b| over the tensors; 0 is equal."""

    def one(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))

    tensors: Any = optree.tree_map(one, found, expected)
    return max(optree.tree_leaves(tensors))


def accuracy(params: Params, task: Task) -> float:
    """The share of held-out digits named right."""
    _, logits = forward(params, task.test_x, task.activation)
    return float(np.mean(logits.argmax(axis=1) == task.test_y.argmax(axis=1)))
