"""The metrics of a step for TensorBoard, or any logger with `add_scalar`."""

from __future__ import annotations

from math import hypot
from typing import Any

import torch

from ._optimizer import Adafactor


def log_metrics(
    optimizer: Adafactor, writer: Any, step: int | None = None, prefix: str = "adafactor/"
) -> dict[str, float]:
    """Writes the numbers of the last step by `writer.add_scalar(tag, value, step)`; returns them.

    `writer`: for example a torch.utils.tensorboard.SummaryWriter. `step`: None for the optimizer's
    count of steps. Tags: prefix, metric, "/", parameter, so that TensorBoard draws a metric's
    curves side by side: "adafactor/update_rms/layers.0.weight"; and "adafactor/grad_norm" over all
    parameters. Reads the device once. Raises StateError without `telemetry=True`.
    """
    told = optimizer.metrics()
    tags = [f"{name}/{path}" for path, metrics in told.items() for name in metrics._fields]
    scalars = [value for metrics in told.values() for value in metrics]
    counts = [state["step"] for state in optimizer._states()]
    numbers = _read([*scalars, *(counts if step is None else [])])
    values = dict(zip(tags, numbers, strict=False))
    norms = [value for tag, value in values.items() if tag.startswith("grad_norm/")]
    values["grad_norm"] = hypot(*norms)
    if step is None:
        step = int(max(numbers[len(tags) :], default=0))
    found = {f"{prefix}{tag}": value for tag, value in values.items()}
    for tag, value in found.items():
        writer.add_scalar(tag, value, step)
    return found


def _read(scalars: list[torch.Tensor]) -> list[float]:
    """All numbers in one transfer per device."""
    numbers = [0.0] * len(scalars)
    places: dict[torch.device, list[int]] = {}
    for k, scalar in enumerate(scalars):
        places.setdefault(scalar.device, []).append(k)
    for ks in places.values():
        stacked = torch.stack([scalars[k].to(torch.float64).reshape(()) for k in ks])
        for k, number in zip(ks, stacked.tolist(), strict=True):
            numbers[k] = number
    return numbers
