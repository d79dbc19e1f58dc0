"""Drawn calls: each argument from a few values, where the library itself takes the combination."""

from typing import Any

import numpy as np
from _peer_table import Case, translated

SPACES: dict[str, dict[str, list[Any]]] = {
    "torch": {
        "lr": [1e-2, 0.1, 0.3], "beta2_decay": [-0.8, -0.5, -1.0],
        "eps": [(None, 1e-3), (1e-12, 1e-2), (1e-4, 0.3)], "d": [1.0, 1.5, 3.0],
        "weight_decay": [0.0, 0.05], "foreach": [False, True], "maximize": [False, True],
    },
    "transformers": {
        "lr": [None, 1e-3, 2e-2], "eps": [(1e-30, 1e-3), (1e-10, 0.3)],
        "clip_threshold": [1.0, 0.3, 3.0], "decay_rate": [-0.8, -0.5], "beta1": [None, 0.9, 0.5],
        "weight_decay": [0.0, 0.05], "scale_parameter": [True, False],
        "relative_step": [True, False], "warmup_init": [False, True],
    },
    "timm": {
        "lr": [None, 1e-3, 2e-2], "eps": [1e-30, 1e-10], "eps_scale": [1e-3, 0.3],
        "clip_threshold": [1.0, 0.3], "decay_rate": [-0.8, -0.5],
        "betas": [None, (0.9, 0.999), (0.5, 0.9)], "weight_decay": [0.0, 0.05],
        "scale_parameter": [True, False], "warmup_init": [False, True],
        "min_dim_size_to_factor": [0, 1, 4, 16],
    },
    "optax": {
        "learning_rate": [1e-3, 2e-2], "min_dim_size_to_factor": [1, 2, 8, 128],
        "decay_rate": [0.8, 0.5], "multiply_by_parameter_scale": [True, False],
        "clipping_threshold": [1.0, 0.3, None], "momentum": [None, 0.9],
        "weight_decay_rate": [None, 1e-3], "eps": [1e-30, 1e-10], "factored": [True, True, False],
    },
    "keras": {
        "learning_rate": [1e-3, 0.3], "beta_2_decay": [-0.8, -0.5], "epsilon_1": [1e-30, 1e-10],
        "epsilon_2": [1e-3, 0.3], "clip_threshold": [1.0, 0.3], "weight_decay": [None, 0.05],
        "global_clipnorm": [None, 1.0],
    },
}  # fmt: skip
COUNTS = {"torch": 8, "transformers": 8, "timm": 8, "optax": 3, "keras": 3}  # JAX compiles long


def _taken(peer: str, call: dict[str, Any]) -> dict[str, Any]:
    """Made one that the library takes: what it refuses is tested elsewhere."""
    if peer == "transformers":
        relative = call["lr"] is None
        call |= {"relative_step": relative, "warmup_init": relative and call["warmup_init"]}
    if peer == "timm":
        call["warmup_init"] = call["lr"] is None and call["warmup_init"]
    return call


def drawn(peer: str, seed: int) -> Case:
    """The call of this seed, and what `from_*_kwargs` makes of it."""
    rng = np.random.default_rng([seed, 3])
    space = SPACES[peer]
    call = {name: values[int(rng.integers(len(values)))] for name, values in space.items()}
    return translated(peer, f"drawn {seed}", _taken(peer, call))


DRAWN = [(peer, seed) for peer, count in COUNTS.items() for seed in range(count)]
