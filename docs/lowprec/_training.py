"""One training run: dtypes, Adafactor's options, a rate, a text, a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from _model import Params, Size, held_out_loss, loss, start
from _texts import ALPHABET, batches, read_text

import adafactor_core as af

CURVE = 20  # steps: the curve of the training loss holds means over so many


@dataclass(frozen=True)
class Kind:
    """What differs between the runs of an experiment.

    `parameters`, `arithmetic`: dtypes; the second is that of activations and gradients.
    """

    parameters: str
    arithmetic: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What the runs of an experiment share."""

    text: str
    steps: int
    peak: float  # learning rate: a linear warm-up over a twentieth, then cosine to peak / 100
    options: Mapping[str, Any]
    size: Size = field(default_factory=Size)
    held_out: int = 24_000  # characters of the held-out text that are looked at
    evaluations: int = 10  # the last one after the last step


@dataclass
class Run:
    """What came out. Losses in nats per character."""

    train: list[float] = field(default_factory=list)  # means over CURVE steps
    train_last: float = 0.0  # mean over the last tenth of the steps
    held_out: dict[int, float] = field(default_factory=dict)  # after so many steps
    held_out_float32: float = 0.0  # at the end, evaluated in float32
    seconds: float = 0.0


def train(
    kind: Kind,
    setting: Setting,
    seed: int,
    begin: Path | None,
    end: Path | None,
    tick: Callable[[], None],
) -> dict[str, Any]:
    """A Run as a dict. `begin`, `end`: files of parameters to start from, and to write."""
    torch.set_num_threads(1)
    size, began, run = setting.size, perf_counter(), Run()
    arithmetic = getattr(torch, kind.arithmetic)
    first = start(size, len(ALPHABET), seed) if begin is None else torch.load(begin)
    params = cast(first, getattr(torch, kind.parameters))
    rate = af.schedules.cosine(
        setting.peak, setting.steps, max(1, setting.steps // 20), setting.peak / 100
    )
    config = af.Config(lr=rate, seed=seed, **setting.options, **kind.options)
    with warnings.catch_warnings():  # nearest is here on purpose
        warnings.simplefilter("ignore", af.LowPrecisionWarning)
        state = af.init(params, config)
    text, losses = read_text(setting.text), []
    unseen = text.held_out[: setting.held_out]
    drawn = batches(text.train, size.context + 1, size.batch, setting.steps, seed)
    for t, windows in enumerate(drawn, 1):
        value, grads = gradients(params, size, windows, arithmetic)
        with torch.no_grad():
            params, state = af.step(params, grads, state, config, donate=True)
        losses.append(value)
        if t * setting.evaluations % setting.steps < setting.evaluations:
            run.held_out[t] = held_out_loss(cast(params, arithmetic), size, unseen)
        tick()
    run.held_out_float32 = held_out_loss(cast(params, torch.float32), size, unseen)
    starts = range(0, setting.steps, CURVE)
    run.train = [round(float(np.mean(losses[k : k + CURVE])), 5) for k in starts]
    run.train_last = float(np.mean(losses[-max(1, setting.steps // 10) :]))
    run.seconds = perf_counter() - began
    if end is not None:
        torch.save(cast(params, torch.float32), end)
    return asdict(run)


def cast(params: Params, dtype: torch.dtype) -> Params:
    """The parameters in this dtype; the same memory where it is theirs already."""
    return {name: x.detach().to(dtype) for name, x in params.items()}


def gradients(
    params: Params, size: Size, windows: torch.Tensor, arithmetic: torch.dtype
) -> tuple[float, Params]:
    """The loss and its gradients, in this arithmetic."""
    leaves = {name: x.requires_grad_() for name, x in cast(params, arithmetic).items()}
    value = loss(leaves, size, windows)
    grads = torch.autograd.grad(value, list(leaves.values()))
    return value.item(), dict(zip(leaves, grads, strict=True))
