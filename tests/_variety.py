"""Sets of options that between them go through every branch of the algorithm."""

import adafactor_core as af

VARIETY = {
    "defaults": {},
    "full": {"lr": 0.1, "factored": False},
    "full, clip off": {"lr": 0.1, "factored": False, "clip_threshold": None},
    "clip off": {"lr": 0.1, "clip_threshold": None},
    "tight clip": {"lr": 0.1, "clip_threshold": 0.1},
    "no scale": {"lr": 0.1, "scale_parameter": False},
    "no scale, no clip, full": {
        "lr": 0.1, "scale_parameter": False, "clip_threshold": None, "factored": False,
    },
    "momentum": {"lr": 0.1, "beta1": 0.9},
    "momentum of updates": {"lr": 0.1, "beta1": 0.9, "momentum_on": "update"},
    "momentum of gradients": {"lr": 0.1, "beta1": 0.9, "momentum_on": "grad", "maximize": True},
    "momentum of gradients, full": {
        "lr": 0.1, "beta1": 0.9, "momentum_on": "grad", "factored": False,
    },
    "decay by alpha": {"lr": 0.1, "weight_decay": 0.1},
    "decay first": {
        "lr": 0.1, "weight_decay": 0.1, "weight_decay_by": "lr", "weight_decay_first": True,
    },
    "maximize with decay": {
        "lr": 0.1, "weight_decay": 0.1, "weight_decay_by": "none", "maximize": True,
    },
    "adam decay, schedules": {
        "lr": lambda t: 0.1 / t, "decay_type": "adam", "decay_rate": 0.9,
        "weight_decay": lambda t: 0.1 / t, "beta1": lambda t: 1.0 - 1.0 / (t + 1.0),
    },
    "constant decay, capped scale": {
        "lr": 0.1, "decay_type": "constant", "decay_rate": 0.9, "max_parameter_scale": 0.5,
    },
    "eps1 outside": {"lr": 0.1, "eps1": 0.01, "eps1_mode": "stats"},
    "eps1 clamped": {"lr": 0.1, "eps1": 0.5, "eps1_mode": "clamp"},
    "eps1 clamped, full": {"lr": 0.1, "eps1": 0.5, "eps1_mode": "clamp", "factored": False},
    "like torch.optim": {
        "lr": 0.1, "step_size": af.RelativeStep(cap=None), "eps1": "finfo", "eps1_mode": "clamp",
        "factored_dims": "last", "weight_decay": 0.1, "weight_decay_by": "lr",
    },
}  # fmt: skip
BATCHED = {
    "batch axis": {"lr": 0.1, "batch_axes": 0},
    "batch axis, tensor scopes": {
        "lr": 0.1, "batch_axes": 0, "scale_scope": "tensor", "clip_scope": "tensor",
    },
    "batch axis, decay and momentum": {
        "lr": 0.1, "batch_axes": 0, "weight_decay": 0.1, "beta1": 0.9, "clip_threshold": 0.3,
    },
    "batch axis, full": {"lr": 0.1, "batch_axes": (0,), "factored": False},
    "batch axis in the middle": {"lr": 0.1, "batch_axes": 1},
    "last axis is a batch": {"lr": 0.1, "batch_axes": -1, "clip_threshold": 0.3},
    "two row axes": {"lr": 0.1, "factored_dims": ((0, 1), 2)},
    "rows after columns": {"lr": 0.1, "factored_dims": (2, 0), "clip_threshold": None},
}  # fmt: skip
# Apart, because a stack, a transpose or a shard of these is not a step of its own: int8 blocks go
# along the last axis, the norm over all tensors, and counters have no axes.
CAREFUL = {
    "stochastic": {"lr": 0.1, "rounding": "stochastic", "seed": 2**40},
    "kahan, decay and momentum": {
        "lr": 0.1, "rounding": "kahan", "weight_decay": 0.1, "beta1": 0.9,
    },
    "int8 momentum": {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8"},
    "int8 momentum of gradients": {
        "lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8", "momentum_rounding": "stochastic",
        "momentum_on": "grad", "factored": False,
    },
    "tensors skipped, norm clipped": {
        "lr": 0.1, "nonfinite": "skip_tensor", "max_grad_norm": 0.5, "weight_decay": 0.1,
    },
    "steps skipped, telemetry": {"lr": 0.1, "nonfinite": "skip_step", "telemetry": True},
    "everything": {
        "lr": lambda t: 0.1 / t, "nonfinite": "skip_tensor", "max_grad_norm": 0.5,
        "telemetry": True, "clip_threshold": None, "rounding": "stochastic", "beta1": 0.9,
        "momentum_dtype": "int8", "momentum_rounding": "stochastic", "weight_decay": 0.1,
    },
}  # fmt: skip
