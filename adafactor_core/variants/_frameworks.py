"""The optimizers that come with PyTorch, Keras and the JAX family."""

from .._config import RelativeStep
from ._record import EXACT, FORMULAS, Variant

CAPPED = RelativeStep(cap=None)
LARGEST = {"factored_dims": "largest", "min_dim_size_to_factor": 128, "weight_decay_by": "none"}
BIG_VISION = {
    "factored_dims": "largest",
    "scale_parameter": False,
    "beta2_cap": 0.999,
    "clip_threshold": None,
    "beta1": 0.9,
    "momentum_on": "update",
    "momentum_dtype": "bfloat16",
}
FACTOR_RULES = (
    "factor_map and logical_factor_rules: rules=[(pattern, {'factored_dims': (rows, columns), "
    "'batch_axes': ...})]."
)

torch = Variant(
    name="torch",
    project="pytorch/pytorch",
    file="torch/optim/_adafactor.py",
    version="2.13.0",
    options={
        "lr": 1e-2,
        "step_size": CAPPED,
        "factored_dims": "last",
        "eps1": "finfo",
        "eps1_mode": "clamp",
        "weight_decay_by": "lr",
    },
    reproduced="the trajectory of float32 and float64 parameters, for-loop and foreach",
    left_out=(
        "eps1 is resolved once per group: a float32 tensor after a bfloat16 one gets 7.8e-3.",
        "eps1^2 underflows in float32 for eps1=1e-30, and dead rows become NaN.",
    ),
    not_reproduced=("state and arithmetic in the gradient's 16-bit dtype",),
    notes=(
        "lr is a cap: rates above 1/sqrt(t) have no effect. step_size=None makes lr exact.",
        "The machine epsilon as eps1 damps small gradients: eps1=1e-30, eps1_mode='grad_sq' is "
        "the paper's.",
    ),
)
keras = Variant(
    name="keras",
    project="keras-team/keras",
    file="keras/src/optimizers/adafactor.py",
    version="3.15.1",
    options={
        "lr": 1e-3,
        "step_size": CAPPED,
        "factored_dims": "last",
        "weight_decay_by": "lr",
        "weight_decay_first": True,
    },
    accuracy={"float32": 1e-6, "float64": 5e-7},
    reproduced="the trajectory; rates stay float32 there under float64",
    left_out=(
        "NaN where a dead row crosses a dead column in float32.",
        "relative_step=False does not remove the cap of 1/sqrt(t); here it does.",
        "A full second moment is kept for factored variables.",
    ),
    not_reproduced=("state and arithmetic in the variable's 16-bit dtype",),
    notes=("lr is a cap: rates above 1/sqrt(t) have no effect. step_size=None makes lr exact.",),
)
optax = Variant(
    name="optax",
    project="google-deepmind/optax",
    file="optax/_src/factorized.py, alias.py",
    version="0.2.8",
    options={"lr": 1.0, **LARGEST, "momentum_arithmetic": "weak"},
    accuracy={**EXACT, "float64": 1e-7},
    reproduced="the trajectory, to its rates, which stay float32 under float64; 16-bit momentum as "
    "op-by-op JAX computes it",
    left_out=(
        "decay_offset beyond the count gives NaN for good.",
        "0.9 is 0.8984375 beside a bfloat16 momentum, and jit computes otherwise than op by op: "
        "momentum_arithmetic='float32' is free of both.",
    ),
    not_reproduced=("state and arithmetic in the parameter's 16-bit dtype",),
    notes=(
        "Weight decay is not multiplied by lr, nor is there a relative step: lr=None is 1.0.",
        "weight_decay_mask: rules=[(pattern, {'weight_decay': 0.0})].",
    ),
)
flax = Variant(
    name="flax",
    project="google/flax",
    file="flax/optim/adafactor.py, removed in 0.6",
    version="cda7a4c8^",
    options=LARGEST,
    required=("lr",),
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory",
    notes=("Weight decay is not multiplied by lr.",),
)
t5x = Variant(
    name="t5x",
    project="google-research/t5x",
    file="t5x/adafactor.py",
    version="cc342d41",
    options=LARGEST,
    required=("lr",),
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory, with batch axes and several axes on each side",
    not_reproduced=("a rate per regular expression (rules take every option but lr's schedule)",),
    notes=(
        FACTOR_RULES,
        "weight_decay_rate_lr_exponent=k: weight_decay=lambda t: rate * lr(t)**k.",
        "global_norm_clip_threshold is max_grad_norm, skip_nan_updates nonfinite='skip_step'.",
    ),
)
praxis = Variant(
    name="praxis",
    project="google/praxis",
    file="praxis/optimizers.py, ShardedAdafactor",
    version="feeaff19",
    options={"factored_dims": "last", "scale_parameter": False, "weight_decay_by": "lr"},
    required=("lr",),
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory, momentum in float32 or bfloat16, both decay types",
    left_out=(
        "With sorted dimensions of a tensor of rank > 2 it normalises over an axis that is not "
        "the rows'.",
    ),
    not_reproduced=(
        "its int8 momentum, with one scale per slice of the first axis (momentum_dtype='int8' has "
        "one per 128 entries of the last)",
        "layerwise_adaptation, a LAMB-like ratio",
    ),
    notes=(
        "There decay_method has no default: this is 'pow', 0.8. HParamsAdamB is decay_type='adam', "
        "decay_rate=0.98, beta1=0.9, momentum_dtype='int8'.",
        "sort_factored_second_moment_dims: factored_dims='largest_first', "
        "min_dim_size_to_factor=128.",
    ),
)
big_vision = Variant(
    name="big_vision",
    project="google-research/big_vision",
    file="big_vision/optax.py",
    version="0127fb6b",
    options={
        **BIG_VISION,
        "min_dim_size_to_factor": 32,
        "momentum_arithmetic": "weak",
        "weight_decay_by": "none",
    },
    required=("lr",),
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="scale_by_adafactor and what follows it, as op-by-op JAX computes it",
    left_out=(
        "0.9 is 0.8984375 beside a bfloat16 momentum: momentum_arithmetic='float32' is free of it.",
    ),
    notes=(
        "lr is base rate times schedule; its weight decay follows the schedule alone: give a "
        "schedule.",
        "grad_clip_norm is max_grad_norm; the mask of weight decay is rules.",
    ),
)
trax = Variant(
    name="trax",
    project="google/trax",
    file="trax/optimizers/adafactor.py",
    version="7c189c2c",
    options={
        "lr": 0.05,
        "factored_dims": "last",
        "eps1": 1e-16,
        "eps1_mode": "stats",
        "weight_decay": 1e-5,
        "weight_decay_by": "none",
    },
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory",
    notes=(
        "weight_decay_n_steps=n: weight_decay=lambda t: 1e-5 * max(0, 1 - (t - 1) / n).",
        "Weight decay is on by default, and not multiplied by lr.",
    ),
)
