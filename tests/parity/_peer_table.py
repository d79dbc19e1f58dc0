"""What is compared: calls of every implementation, and the Config that means the same here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from _peer_inputs import ALIVE, MATRICES, SHAPES, VECTORS

import adafactor_core as af
from adafactor_core import variants

WIDE = ("float32", "float64")
Rate = Callable[[int], float]


def ramp(t: int) -> float:
    """An external rate: up for five steps, then down."""
    return 2e-2 * min(t / 5, 1.0) * t**-0.25


@dataclass(frozen=True)
class Case:
    """`call` of `peer`, in its own words; `config`, the same here; on the tensors `only`.

    rate: put into the peer before each step, or into the call where that takes a function of the
    count from 0. flips: 16-bit momentum, whose rounding may fall to either side. steps: 100, or 10
    where the peer's own defaults grow without bound.
    """

    peer: str
    label: str
    call: dict[str, Any]
    config: af.Config
    dtypes: tuple[str, ...] = WIDE
    only: tuple[str, ...] = tuple(SHAPES)
    rate: Rate | None = None
    flips: bool = False
    steps: int = 100

    def __str__(self) -> str:
        return f"{self.peer} {self.label}".replace(" ", "-")


def translated(peer: str, label: str, call: dict[str, Any], **rest: Any) -> Case:
    """The Config that `from_*_kwargs` makes of the call; its tests are these too."""
    config = getattr(variants, f"from_{peer}_kwargs")(**call)
    rate = rest.get("rate")
    return Case(peer, label, call, replace(config, lr=rate) if rate else config, **rest)


def named(
    peer: str, label: str, call: dict[str, Any], variant: str, ours: dict[str, Any], **rest: Any
) -> Case:
    """The Config of a named variant with options of our own."""
    return Case(peer, label, call, variants.get(variant)(**ours), **rest)


TORCH = [
    translated("torch", f"{label}{way}", {**call, "foreach": foreach}, **rest)
    for way, foreach in ((" for-loop", False), (" foreach", True))
    for label, call, rest in [
        ("defaults", {}, {}),
        ("lr=.5 wd=.1", {"lr": 0.5, "weight_decay": 0.1}, {}),
        ("eps=1e-3 d=2 decay=-.5", {"eps": (1e-3, 1e-2), "d": 2.0, "beta2_decay": -0.5}, {}),
        ("eps=1e-15 maximize", {"eps": (1e-15, 1e-3), "maximize": True}, {}),
        ("scheduled", {"lr": 1e-2, "weight_decay": 0.1}, {"rate": ramp}),
    ]
]
UNSCALED = {"lr": 1e-3, "relative_step": False, "scale_parameter": False}
ALL = {
    "lr": 1e-2, "relative_step": False, "scale_parameter": False, "weight_decay": 0.1,
    "eps": (1e-4, 1e-2), "clip_threshold": 0.5, "decay_rate": -0.6, "beta1": 0.5,
}  # fmt: skip
TRANSFORMERS = [
    translated("transformers", "defaults", {}),
    translated("transformers", "warmup_init", {"warmup_init": True}),
    translated("transformers", "T5 recipe", UNSCALED),
    translated("transformers", "lr scaled", {"lr": 1e-2, "relative_step": False}),
    translated("transformers", "beta1=.9 wd=.1", {"beta1": 0.9, "weight_decay": 0.1}),
    translated("transformers", "everything", ALL),
    translated(
        "transformers", "scheduled", {"lr": 1e-2, "relative_step": False, "beta1": 0.9}, rate=ramp
    ),
    named(
        "transformers", "of the Trainer", {**UNSCALED, "weight_decay": 0.1},
        "transformers_trainer", {"lr": 1e-3, "weight_decay": 0.1},
    ),
]  # fmt: skip
TIMM = [
    translated("timm", "defaults", {}),
    translated("timm", "warmup_init", {"warmup_init": True}),
    translated("timm", "lr betas wd", {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}),
    translated("timm", "minimum 1 wd", {"min_dim_size_to_factor": 1, "weight_decay": 0.1}),
    translated("timm", "no scale", {"scale_parameter": False, "eps_scale": 1e-2}),
    translated("timm", "scheduled", {"lr": 1e-2, "eps": 1e-8, "decay_rate": -0.6}, rate=ramp),
]
BV = "timm_bigvision"
TIMM_BIGVISION = [
    named(BV, "defaults, lr=1e-2", {"lr": 1e-2}, BV, {"lr": 1e-2}, flips=True),
    named(
        BV, "bf16 momentum wd scheduled", {"lr": 1e-2, "weight_decay": 0.1}, BV,
        {"lr": ramp, "weight_decay": 0.1}, rate=ramp, flips=True,
    ),
    named(
        BV, "fp32 momentum", {"lr": 1e-2, "momentum_dtype": "float32"}, BV,
        {"lr": 1e-2, "momentum_dtype": "float32"}, dtypes=("float32",),
    ),
    named(
        BV, "no momentum clip wd",
        {"lr": 1e-2, "momentum": None, "clipping_threshold": 1.0, "weight_decay": 0.1}, BV,
        {"lr": 1e-2, "beta1": None, "clip_threshold": 1.0, "weight_decay": 0.1},
    ),
    named(
        BV, "unscaled_wd minimum 2 offset cap",
        {
            "lr": 1e-2, "momentum": None, "unscaled_wd": True, "weight_decay": 0.01,
            "min_dim_size_to_factor": 2, "decay_offset": 3, "beta2_cap": 0.5,
        },
        BV,
        {
            "lr": 1e-2, "beta1": None, "weight_decay_by": "none", "weight_decay": 0.01,
            "min_dim_size_to_factor": 2, "decay_offset": 3, "beta2_cap": 0.5,
        },
    ),
]  # fmt: skip
PO = "pytorch_optimizer"
PYTORCH_OPTIMIZER = [
    *(
        named(PO, f"defaults{way}", {"foreach": foreach}, PO, {}, flips=True)
        for way, foreach in ((" for-loop", False), (" foreach", True))
    ),
    *(
        named(
            PO, f"momentum in {dtype}", {"momentum_dtype": dtype, "foreach": False}, PO,
            {"momentum_dtype": "float32"}, dtypes=(dtype,),
        )
        for dtype in WIDE
    ),
    named(
        PO, "no momentum lr wd",
        {"betas": (None, 0.999), "lr": 1e-2, "relative_step": False, "weight_decay": 0.1}, PO,
        {"beta1": None, "lr": 1e-2, "weight_decay": 0.1},
    ),
    named(
        PO, "fixed_decay cap=.5",
        {
            "betas": (None, 0.5), "lr": 1e-2, "relative_step": False, "fixed_decay": True,
            "weight_decay": 0.01,
        },
        PO,
        {
            "beta1": None, "beta2_cap": 0.5, "lr": 1e-2, "weight_decay": 0.01,
            "weight_decay_by": "none",
        },
    ),
    named(
        PO, "warmup_init no scale",
        {"betas": (None, 0.999), "warmup_init": True, "scale_parameter": False}, PO,
        {
            "beta1": None, "scale_parameter": False,
            "step_size": af.RelativeStep(warmup_init=True),
        },
    ),
]  # fmt: skip
CAME = [
    named(
        "came", "vectors", {"lr": 1e-2, "weight_decay": 0.1}, "came_vectors",
        {"lr": 1e-2, "weight_decay": 0.1}, only=VECTORS,
    ),
    named(
        "came", "vectors, betas clip scheduled",
        {"lr": 1e-2, "betas": (0.5, 0.9, 0.99), "clip_threshold": 0.5}, "came_vectors",
        {"lr": ramp, "beta1": 0.5, "decay_rate": 0.9, "clip_threshold": 0.5},
        only=VECTORS, rate=ramp,
    ),
]  # fmt: skip
A8 = "adafactor8bit"
ADAFACTOR8BIT = [  # its norms refuse float64
    replace(case, dtypes=("float32",))
    for case in [
        named(A8, "defaults, unquantised", {}, A8, {}),
        named(A8, "lr=.5 wd=.1", {"lr": 0.5, "weight_decay": 0.1}, A8,
              {"lr": 0.5, "weight_decay": 0.1}),
        named(A8, "no relative step, no scale",
              {"relative_step": False, "scale_parameter": False, "weight_decay": 0.1}, A8,
              {"step_size": None, "scale_parameter": False, "weight_decay": 0.1}),
        named(A8, "beta1=.9, matrices", {"beta1": 0.9}, A8, {"beta1": 0.9}, only=MATRICES),
        named(A8, "beta1=.9, vectors", {"beta1": 0.9}, A8,
              {"beta1": 0.9, "momentum_on": "update"}, only=VECTORS),
    ]
]  # fmt: skip
OPTAX = [
    translated("optax", "defaults", {}, only=tuple(SHAPES)[:3], steps=10),
    translated("optax", "lr minimum 2", {"learning_rate": 1e-2, "min_dim_size_to_factor": 2}),
    translated("optax", "momentum wd", {
        "learning_rate": 1e-2, "min_dim_size_to_factor": 32, "momentum": 0.9,
        "weight_decay_rate": 1e-3,
    }),
    translated("optax", "schedules", {
        "learning_rate": lambda count: 2e-2 * (count + 1) ** -0.5,
        "weight_decay_rate": lambda count: 1e-3 / (count + 1), "min_dim_size_to_factor": 2,
    }),
    translated("optax", "no scale no clip", {
        "learning_rate": 1e-2, "min_dim_size_to_factor": 2, "eps": 1e-6, "decay_rate": 0.5,
        "multiply_by_parameter_scale": False, "clipping_threshold": None,
    }),
    translated("optax", "unfactored", {
        "learning_rate": 1e-2, "factored": False, "clipping_threshold": None, "momentum": 0.9,
    }),
    translated("optax", "bf16 momentum", {
        "learning_rate": 1e-2, "min_dim_size_to_factor": 2, "momentum": 0.9,
        "dtype_momentum": "bfloat16",
    }, dtypes=("float32",), flips=True),
]  # fmt: skip
KERAS = [  # without the tensor whose dead row crosses a dead column
    translated("keras", label, call, only=ALIVE, **rest)
    for label, call, rest in [
        ("defaults", {}, {}),
        ("lr=.5 wd=.1", {"learning_rate": 0.5, "weight_decay": 0.1}, {}),
        ("global_clipnorm", {"learning_rate": 0.5, "global_clipnorm": 1.0}, {}),
        ("everything", {
            "learning_rate": 1e-2, "beta_2_decay": -0.6, "epsilon_1": 1e-6, "epsilon_2": 1e-2,
            "clip_threshold": 0.5,
        }, {}),
        ("scheduled", {"learning_rate": 1e-2, "weight_decay": 0.1}, {"rate": ramp}),
    ]
]  # fmt: skip
MLX = [
    named("mlx", label, call, "mlx", ours, dtypes=("float32",), rate=rate)
    for label, call, ours, rate in [
        ("defaults", {}, {}, None),
        ("warmup_init", {"warmup_init": True},
         {"step_size": af.RelativeStep(warmup_init=True)}, None),
        ("beta_1=.9 wd=.1", {"beta_1": 0.9, "weight_decay": 0.1},
         {"beta1": 0.9, "weight_decay": 0.1}, None),
        ("lr no scale", {"learning_rate": 1e-2, "relative_step": False, "scale_parameter": False},
         {"lr": 1e-2, "scale_parameter": False}, None),
        ("scheduled", {"learning_rate": 1e-2, "relative_step": False}, {"lr": ramp}, ramp),
    ]
]  # fmt: skip

CASES = [
    *TORCH, *TRANSFORMERS, *TIMM, *TIMM_BIGVISION, *PYTORCH_OPTIMIZER, *CAME, *ADAFACTOR8BIT,
    *OPTAX, *KERAS, *MLX,
]  # fmt: skip
