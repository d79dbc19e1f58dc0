"""One training run: the parameters' dtype, the arithmetic, Adafactor's options, a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from _model import Params, Size, Text, held_out_loss, loss, read_text, start

import adafactor_core as af

FOUND_EVERY = 25  # steps: the curve of the training loss holds means over so many


@dataclass(frozen=True)
class Kind:
    """`parameters`, `arithmetic`: dtypes. `arithmetic`: of activations and gradients."""

    parameters: str
    arithmetic: str
    options: Mapping[str, Any]


BF16 = "bfloat16"
ROUNDING = {
    "float32": Kind("float32", "float32", {}),
    "float32, bf16 arithmetic": Kind("float32", BF16, {}),
    "bf16 nearest": Kind(BF16, BF16, {"rounding": "nearest"}),
    "bf16 stochastic": Kind(BF16, BF16, {"rounding": "stochastic"}),
    "bf16 kahan": Kind(BF16, BF16, {"rounding": "kahan"}),
}
DRAWN = {"momentum_rounding": "stochastic"}
MOMENTUM = {
    "momentum float32": Kind("float32", "float32", {"beta1": 0.9}),
    "momentum bf16": Kind("float32", "float32", {"beta1": 0.9, "momentum_dtype": BF16}),
    "momentum int8": Kind("float32", "float32", {"beta1": 0.9, "momentum_dtype": "int8"}),
    "momentum int8 stochastic": Kind(
        "float32", "float32", {"beta1": 0.9, "momentum_dtype": "int8", **DRAWN}
    ),
    "bf16 stochastic, momentum int8 stochastic": Kind(
        BF16,
        BF16,
        {"rounding": "stochastic", "beta1": 0.9, "momentum_dtype": "int8", **DRAWN},
    ),
}


@dataclass(frozen=True)
class Setting:
    """What all runs of an experiment share."""

    size: Size
    steps: int
    peak: float  # learning rate, times each tensor's RMS
    floor: float
    warmup: int
    evaluations: int  # over the held-out text, spread evenly, the last one after the last step

    def lr(self) -> af.schedules.cosine:
        return af.schedules.cosine(self.peak, self.steps, self.warmup, self.floor)


@dataclass
class Run:
    """What came out. Losses in nats per character."""

    train: list[float] = field(default_factory=list)  # means over FOUND_EVERY steps
    held_out: dict[int, float] = field(default_factory=dict)  # after so many steps
    held_out_float32: dict[int, float] = field(default_factory=dict)  # evaluated in float32
    train_last: float = 0.0  # mean over the last tenth of the steps
    seconds: float = 0.0


def train(kind: Kind, setting: Setting, seed: int, tick: Callable[[], None]) -> dict[str, Any]:
    """A Run as a dict. Initial values and batches depend on the seed alone."""
    torch.set_num_threads(1)
    text, size, begin = read_text(), setting.size, perf_counter()
    dtype, arithmetic = getattr(torch, kind.parameters), getattr(torch, kind.arithmetic)
    first = start(size, text.characters, seed)
    params = {name: x.to(dtype) for name, x in first.items()}
    config = af.Config(lr=setting.lr(), seed=seed, **kind.options)
    with warnings.catch_warnings():  # nearest is here on purpose
        warnings.simplefilter("ignore", af.LowPrecisionWarning)
        state = af.init(params, config)
    run, losses = Run(), []
    for t, windows in enumerate(batches(text, setting, seed), 1):
        value, grads = gradients(params, size, windows, arithmetic)
        with torch.no_grad():
            params, state = af.step(params, grads, state, config, donate=True)
        losses.append(value)
        if t * setting.evaluations % setting.steps < setting.evaluations:
            run.held_out[t] = held_out_loss(cast(params, arithmetic), size, text.held_out)
            wide = cast(params, torch.float32)
            run.held_out_float32[t] = held_out_loss(wide, size, text.held_out)
        tick()
    starts = range(0, setting.steps, FOUND_EVERY)
    run.train = [float(np.mean(losses[k : k + FOUND_EVERY])) for k in starts]
    run.train_last = float(np.mean(losses[-max(1, setting.steps // 10) :]))
    run.seconds = perf_counter() - begin
    return asdict(run)


def batches(text: Text, setting: Setting, seed: int) -> Any:
    """(batch, context + 1) characters per step, from places drawn with replacement."""
    windows = text.train.unfold(0, setting.size.context + 1, 1)
    rng = np.random.default_rng(seed)
    for _ in range(setting.steps):
        yield windows[torch.from_numpy(rng.integers(len(windows), size=setting.size.batch))]


def cast(params: Params, dtype: torch.dtype) -> Params:
    """The parameters as leaves of this dtype; the same memory where it is theirs already."""
    return {name: x.detach().to(dtype) for name, x in params.items()}


def gradients(
    params: Params, size: Size, windows: torch.Tensor, arithmetic: torch.dtype
) -> tuple[float, Params]:
    """The loss and its gradients, in this arithmetic."""
    leaves = {name: x.requires_grad_() for name, x in cast(params, arithmetic).items()}
    value = loss(leaves, size, windows)
    grads = torch.autograd.grad(value, list(leaves.values()))
    return value.item(), dict(zip(leaves, grads, strict=True))
