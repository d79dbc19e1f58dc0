"""Golden vectors of implementations that cannot be installed: cases, inputs, and the file.

`python tests/_golden_peers.py` writes golden_peers.json from the transcriptions of _published.py.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import _published as published
from adafactor_core import Config, RelativeStep, variants
from adafactor_core.schedules import zero_based

FILE = Path(__file__).parent / "golden_peers.json"
STEPS = 10
SHAPES = {
    "matrix": (7, 5), "stack": (3, 4, 5), "vector": (5,), "scalar": (), "dead": (6, 5),
    "dead_vector": (5,), "thin": (6, 2, 7), "cube": (5, 5, 5), "tall": (40, 36),
    "wide": (36, 3, 40), "large": (160, 130),
}  # fmt: skip
SMALL = ("matrix", "stack", "vector", "scalar", "dead", "dead_vector", "thin", "cube")
FLAT = ("matrix", "vector", "scalar", "dead", "dead_vector")


@dataclass(frozen=True)
class Golden:
    """`options` over the variant mean what `call` means to the transcription `formula`."""

    variant: str
    label: str
    formula: Callable[..., np.ndarray]
    call: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = tuple(SHAPES)

    @property
    def name(self) -> str:
        return f"{self.variant}, {self.label}"

    def config(self) -> Config:
        return variants.get(self.variant)(**self.options)


def slope(n: int) -> float:
    """A schedule of the count from 0."""
    return min((n + 1) / 4, 1.0) * 0.9**n


WARM = {"step_size": RelativeStep(warmup_init=True)}
P = published
CASES = [
    Golden("paper", "defaults", P.paper, only=FLAT),
    Golden("tensor2tensor", "defaults", P.tensor2tensor),
    Golden("tensor2tensor", "no parameter scale, 0.05 times the step", P.tensor2tensor,
           {"multiply_by_parameter_scale": False}, {"scale_parameter": False}),
    Golden("tensor2tensor", "adam decay, lr, momentum", P.tensor2tensor,
           {"learning_rate": 0.01, "decay_rate": 0.999, "beta1": 0.9},
           {"lr": 0.01, "decay_type": "adam", "beta1": 0.9}),
    Golden("mesh_tensorflow", "defaults", P.mesh_tensorflow),
    Golden("mesh_tensorflow", "minimum 2, momentum, offset", P.mesh_tensorflow,
           {"min_dim_size_to_factor": 2, "beta1": 0.9, "offset": 3},
           {"min_dim_size_to_factor": 2, "beta1": 0.9, "decay_offset": 3}),
    Golden("mesh_tensorflow", "first dimension stacked", P.mesh_tensorflow,
           {"min_dim_size_to_factor": 2, "stacked": (0,)},
           {"min_dim_size_to_factor": 2, "batch_axes": (0,)}, ("stack", "thin", "cube", "wide")),
    Golden("fairseq", "defaults", P.fairseq),
    Golden("fairseq", "momentum and weight decay", P.fairseq,
           {"beta1": 0.9, "weight_decay": 0.1}, {"beta1": 0.9, "weight_decay": 0.1}),
    Golden("fairseq", "lr with scale", P.fairseq, {"lr": 0.01, "relative_step": False},
           {"lr": 0.01}),
    Golden("fairseq", "everything", P.fairseq,
           {"lr": 0.01, "relative_step": False, "scale_parameter": False, "eps": (1e-4, 1e-2),
            "clip_threshold": 0.5, "decay_rate": -0.6, "weight_decay": 0.1, "beta1": 0.5},
           {"lr": 0.01, "scale_parameter": False, "eps1": 1e-4, "eps2": 1e-2,
            "clip_threshold": 0.5, "decay_rate": 0.6, "weight_decay": 0.1, "beta1": 0.5}),
    Golden("kohya", "momentum and weight decay", P.fairseq,
           {"beta1": 0.9, "weight_decay": 0.1}, {"beta1": 0.9, "weight_decay": 0.1}),
    Golden("onetrainer", "warmup_init", P.fairseq, {"warmup_init": True}, WARM),
    Golden("mindspore", "defaults", P.mindspore),
    Golden("mindspore", "lr, weight decay", P.mindspore,
           {"lr": 0.01, "relative_step": False, "weight_decay": 0.1},
           {"lr": 0.01, "weight_decay": 0.1}),
    Golden("flax", "lr", P.flax, {"learning_rate": 0.01}, {"lr": 0.01}),
    Golden("flax", "minimum 2, momentum, weight decay, offset", P.flax,
           {"learning_rate": 0.01, "min_dim_size_to_factor": 2, "beta1": 0.9,
            "weight_decay_rate": 1e-3, "step_offset": 2},
           {"lr": 0.01, "min_dim_size_to_factor": 2, "beta1": 0.9, "weight_decay": 1e-3,
            "decay_offset": 2}),
    Golden("t5x", "a batch axis, one column axis, two row axes", P.flax,
           {"learning_rate": 0.01, "axes": ((1,), (2,)), "batch": (0,), "beta1": 0.9},
           {"lr": 0.01, "factored_dims": (1, 2), "batch_axes": (0,), "beta1": 0.9},
           ("stack", "thin", "cube", "wide")),
    Golden("t5x", "two row axes", P.flax,
           {"learning_rate": 0.01, "axes": ((0, 1), (2,)), "weight_decay_rate": 1e-3},
           {"lr": 0.01, "factored_dims": ((0, 1), 2), "weight_decay": 1e-3},
           ("stack", "thin", "cube", "wide")),
    Golden("t5x", "max_parameter_scale", P.flax,
           {"learning_rate": 0.01, "min_dim_size_to_factor": 2, "max_parameter_scale": 0.1},
           {"lr": 0.01, "min_dim_size_to_factor": 2, "max_parameter_scale": 0.1}),
    Golden("praxis", "pow", P.praxis,
           {"lr": lambda n: 0.01, "decay_method": "pow", "decay_pow": 0.8}, {"lr": 0.01}),
    Golden("praxis", "HParamsAdamB's decay and momentum, weight decay, schedule", P.praxis,
           {"lr": slope, "decay_method": "adam", "decay_adam": 0.98, "beta1": 0.9,
            "weight_decay": 0.1, "multiply_by_parameter_scale": True},
           {"lr": zero_based(slope), "decay_type": "adam", "decay_rate": 0.98, "beta1": 0.9,
            "weight_decay": 0.1, "scale_parameter": True}),
    Golden("big_vision", "momentum in full precision, schedule, weight decay", P.big_vision,
           {"lr": 0.01, "schedule": slope, "wd": 1e-3},
           {"lr": zero_based(lambda n: 0.01 * slope(n)), "momentum_dtype": "float32",
            "weight_decay": zero_based(lambda n: 1e-3 * slope(n))}),
    Golden("big_vision", "cap 0.5, clip, minimum 2", P.big_vision,
           {"lr": 0.01, "schedule": lambda n: 1.0, "beta2_cap": 0.5, "clipping_threshold": 1.0,
            "min_dim_size_to_factor": 2},
           {"lr": 0.01, "momentum_dtype": "float32", "beta2_cap": 0.5, "clip_threshold": 1.0,
            "min_dim_size_to_factor": 2}),
    Golden("trax", "defaults", P.trax),
    Golden("trax", "momentum, epsilon1, fading weight decay", P.trax,
           {"epsilon1": 1e-3, "beta1": 0.9, "weight_decay_rate": 0.01, "weight_decay_n_steps": 7},
           {"eps1": 1e-3, "beta1": 0.9,
            "weight_decay": zero_based(lambda n: 0.01 * max(0.0, 1 - n / 7))}),
    Golden("palm", "defaults", P.palm),
    Golden("palm", "with clipped updates", P.palm, {"clip": 1.0}, {"clip_threshold": 1.0}),
]  # fmt: skip


def inputs(name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """A parameter and ten gradients, from NumPy's frozen generator."""
    rng = np.random.RandomState(list(SHAPES).index(name))
    shape = SHAPES[name]
    x = np.asarray(rng.standard_normal(shape) * 0.5)
    x, grads = np.asarray(x + np.copysign(0.2, x)), []
    for t in range(1, STEPS + 1):
        g = np.asarray(rng.standard_normal(shape)) ** 3 * (100.0 if t == 7 else 1.0)
        g = np.asarray(g)
        if name == "dead":
            g[2], g[:, 3] = 0.0, 0.0
        elif name == "dead_vector":
            g[[1, 3]] = 0.0
        grads.append(g)
    return x, grads


def sample(x: np.ndarray) -> list[float]:
    """At most 20 entries, evenly spread."""
    return [float(v) for v in np.ravel(x)[:: max(1, x.size // 20)][:20]]


def vectors() -> dict[str, dict[str, list[float]]]:
    """What the transcriptions make of every case: entries of the parameters after ten steps."""
    return {
        case.name: {n: sample(case.formula(*inputs(n), **case.call)) for n in case.only}
        for case in CASES
    }


NOTE = (
    "Computed from published formulas by tests/_published.py, not by the implementations "
    "themselves, which cannot be installed here. Entries of the parameters after 10 steps."
)

if __name__ == "__main__":
    lines = [f' "note": {json.dumps(NOTE)}']
    lines += [f" {json.dumps(name)}: {json.dumps(found)}" for name, found in vectors().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
