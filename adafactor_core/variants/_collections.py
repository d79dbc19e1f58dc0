"""Optimizers of collections for PyTorch."""

from ._fairseq import LAST
from ._frameworks import BIG_VISION, CAPPED
from ._record import EXACT, GIVEN, Variant, When

timm = Variant(
    name="timm",
    project="huggingface/pytorch-image-models",
    file="timm/optim/adafactor.py",
    version="1.0.31",
    options={"factored_dims": "conv", "min_dim_size_to_factor": 17},
    when=(When({"lr": GIVEN}, {"scale_parameter": False}),),
    reproduced="the trajectory, 16-bit parameters too, to single flips of the rounding",
    left_out=("The group's lr is overwritten with a tensor under the relative step.",),
    not_reproduced=("caution",),
    notes=(
        "A given lr switches the parameter scale off, unlike in fairseq and transformers.",
        "min_dim_size_to_factor=16 there means more than 16, which is 17 here.",
    ),
)
timm_bigvision = Variant(
    name="timm_bigvision",
    project="huggingface/pytorch-image-models",
    file="timm/optim/adafactor_bv.py",
    version="1.0.31",
    options={
        "lr": 1.0,
        **BIG_VISION,
        "min_dim_size_to_factor": 16,
        "momentum_arithmetic": "buffer",
        "weight_decay_by": "lr",
    },
    reproduced="the trajectory of float32 and float64 parameters; bfloat16 momentum to flips of "
    "its rounding",
    left_out=(
        "Until 1.0.15 the rows of tall matrices were not normalised, the clip amplified, and "
        "decay_offset was ignored.",
    ),
    not_reproduced=(
        "second moments and arithmetic in the gradient's 16-bit dtype",
        "caution, corrected_weight_decay",
    ),
    notes=("unscaled_wd is weight_decay_by='none'.", "float16 gradients get eps1=1e-7 there."),
)
pytorch_optimizer = Variant(
    name="pytorch_optimizer",
    project="kozistr/pytorch_optimizer",
    file="pytorch_optimizer/optimizer/adafactor.py",
    version="4.1.0",
    options={
        **LAST,
        "beta2_cap": 0.999,
        "beta1": 0.9,
        "momentum_dtype": "bfloat16",
        "momentum_arithmetic": "buffer",
    },
    reproduced="the trajectory of float32 and float64 parameters; bfloat16 momentum to flips of "
    "its rounding",
    not_reproduced=(
        "second moments and arithmetic in the gradient's 16-bit dtype",
        "ams_bound, weight_decouple=False, cautious",
    ),
    notes=(
        "lr=None is the relative step, its default; there lr is ignored unless "
        "relative_step=False.",
        "betas[0]=None is beta1=None; in adafactor_jax, where None is the variant's own value, "
        "beta1=0.0 with momentum_dtype='float32'.",
        "fixed_decay is weight_decay_by='none'.",
    ),
)
came_vectors = Variant(
    name="came_vectors",
    project="yangluo7/CAME",
    file="came_pytorch/CAME.py",
    version="e77c5c02",
    options={
        **LAST,
        "scale_parameter": False,
        "decay_type": "constant",
        "beta1": 0.9,
        "momentum_on": "update",
        "weight_decay_by": "lr",
    },
    required=("lr",),
    reproduced="what CAME does with vectors and scalars",
    not_reproduced=("the confidence factor that divides the momentum of tensors of rank >= 2",),
    notes=("On matrices this is another optimizer than CAME.",),
)
adafactor8bit = Variant(
    name="adafactor8bit",
    project="adafactor8bit (PyPI)",
    file="adafactor8bit/optimizer.py",
    version="0.4.6",
    options={"lr": 1e-2, "step_size": CAPPED, **LAST, "momentum_on": "grad"},
    accuracy={"float32": EXACT["float32"]},
    reproduced="the unquantised path (quantize=False) of float32 parameters, without momentum or "
    "with it on matrices",
    not_reproduced=(
        "block-quantised logarithmic states",
        "momentum of a kind per rank, in one setting: with beta1, gradients are averaged for "
        "matrices and updates for vectors. Give vectors a rule: rules=[('*.bias', "
        "{'momentum_on': 'update'})]",
        "APOLLO, CAME, Fira and lag_norm",
    ),
    notes=(
        "lr is a cap: rates above 1/sqrt(t) have no effect. step_size=None is relative_step=False.",
        "scale_weight_decay=False decays by the rate without the scale; without the relative step "
        "that is weight_decay_by='lr'.",
    ),
)
