"""The optimizers, and Hugging Face's options in the words of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from transformers.optimization import Adafactor as Theirs

from adafactor_torch import Adafactor as Ours

Build = Callable[[torch.nn.Module], Optimizer]


def in_our_words(
    lr: float | None = None,
    eps: tuple[float, float] = (1e-30, 1e-3),
    clip_threshold: float = 1.0,
    decay_rate: float = -0.8,
    beta1: float | None = None,
    weight_decay: float = 0.0,
    scale_parameter: bool = True,
    relative_step: bool = True,
    warmup_init: bool = False,
) -> dict[str, Any]:
    """The arguments of transformers.optimization.Adafactor, with its defaults, as ours.

    Raises ValueError where that class cannot take a step either.
    """
    if (lr is None) != relative_step:
        raise ValueError(f"it takes lr or relative_step=True: got {lr=}, {relative_step=}")
    return {
        "lr": lr,
        "step_size": {"cap": 1e-2, "warmup_init": warmup_init} if relative_step else None,
        "scale_parameter": scale_parameter,
        "eps2": eps[1],
        "factored_dims": "last",
        "min_dim_size_to_factor": 1,
        "eps1": eps[0],
        "eps1_mode": "grad_sq",
        "decay_type": "pow",
        "decay_rate": -decay_rate,
        "clip_threshold": clip_threshold,
        "beta1": beta1,
        "momentum_on": "scaled_update",
        "weight_decay": weight_decay,
        "weight_decay_by": "alpha",
    }


def ours(**options: Any) -> Build:
    """adafactor_torch.Adafactor with these options."""
    return lambda model: Ours(model.named_parameters(), **options)


def theirs(**options: Any) -> Build:
    """transformers.optimization.Adafactor with these options."""
    return lambda model: Theirs(model.parameters(), **options)


def adamw(**options: Any) -> Build:
    """torch.optim.AdamW with these options."""
    return lambda model: torch.optim.AdamW(model.parameters(), **options)


def state_bytes(optimizer: Optimizer) -> int:
    """Of all tensors in its state, counters included; one that is shared counts once."""
    slots = [x for state in optimizer.state.values() for x in state.values()]
    return sum({x.data_ptr(): x.nbytes for x in slots if isinstance(x, torch.Tensor)}.values())
