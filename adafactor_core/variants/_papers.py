"""The authors' own implementations, and the recipes of papers."""

from .._config import RelativeStep
from ._numbered import palm_decay
from ._record import FORMULAS, Variant, When

# Without the parameter's scale the relative step of the authors' code is 20 times smaller.
UNSCALED = When({"lr": None, "scale_parameter": False}, {"lr": 0.05, "step_size": RelativeStep()})

paper = Variant(
    name="paper",
    project="Shazeer and Stern 2018",
    file="arXiv 1804.04235, Algorithms 4 to 6",
    version="2018",
    options={},
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="everything; rank > 2, which the paper leaves open, is factored as 'auto' says",
)
tensor2tensor = Variant(
    name="tensor2tensor",
    project="tensorflow/tensor2tensor",
    file="tensor2tensor/utils/adafactor.py",
    version="bafdc1b6",
    options={"factored_dims": "last"},
    when=(UNSCALED,),
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory, relative and given rates, both decay types, momentum",
    not_reproduced=(
        "momentum in the variable's own 16-bit dtype (give momentum_dtype)",
        "parameter encodings with quantisation noise (rounding='stochastic' has that purpose)",
    ),
    notes=("A given lr replaces the relative step and is still multiplied by the scale.",),
)
mesh_tensorflow = Variant(
    name="mesh_tensorflow",
    project="tensorflow/mesh",
    file="mesh_tensorflow/optimize.py",
    version="da907937",
    options={
        "factored_dims": "largest_first",
        "min_dim_size_to_factor": 128,
        "clip_scope": "tensor",
    },
    when=(UNSCALED,),
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory; stacked dimensions as batch_axes, with one clip per tensor",
    notes=(
        "Of equally large axes the earlier one counts as the larger, unlike in optax.",
        "exclude_from_parameter_scale: rules=[(pattern, {'scale_parameter': False})].",
    ),
)
t5 = Variant(
    name="t5",
    project="google-research/text-to-text-transfer-transformer",
    file="trained with mesh_tensorflow/optimize.py",
    version="da907937",
    options=mesh_tensorflow.options,
    when=(UNSCALED,),
    checked="settings",
    accuracy={},
    reproduced="the optimizer that T5 was trained with, which is mesh_tensorflow's",
    notes=(
        "The paper's rate, 1/sqrt(max(n, 10^4)), is the relative step of lr=None to within one "
        "step of the count.",
        "For fine-tuning at a constant 1e-3 give lr=1e-3; the parameter scale stays on.",
        "Hugging Face's T5 recipe, which has no parameter scale, is transformers_trainer.",
    ),
)
palm = Variant(
    name="palm",
    project="PaLM's recipe in young-geng/EasyLM",
    file="EasyLM/optimizers.py",
    version="fe5b2c35",
    options={
        "factored": False,
        "clip_threshold": None,
        "beta1": 0.9,
        "max_grad_norm": 1.0,
        "weight_decay": palm_decay,
        "weight_decay_by": "none",
    },
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="lr = min(1e-2, 1/sqrt(t)) times the parameter scale, full second moments, weight "
    "decay lr^2, gradients clipped to norm 1",
    left_out=("EasyLM passes beta2 = 0.99 where optax expects the exponent of the decay.",),
    notes=(
        "Whether updates were clipped is not stated: EasyLM does not, t5x's configuration of the "
        "recipe clips at 1 (clip_threshold=1.0).",
        "lr replaces the schedule, but weight_decay stays that of PaLM's: give both.",
    ),
)
