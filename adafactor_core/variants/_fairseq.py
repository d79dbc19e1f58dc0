"""fairseq's implementation and those that descend from it."""

from ._record import EXACT, FORMULAS, Variant

LAST = {"factored_dims": "last"}
ONE_WARNING = "lr=None is the relative step; a given lr means relative_step=False there."

fairseq = Variant(
    name="fairseq",
    project="facebookresearch/fairseq",
    file="fairseq/optim/adafactor.py",
    version="3d262bb2",
    options=LAST,
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory: relative and given rates, scale, momentum, weight decay",
    left_out=(
        "The group's lr is overwritten by the scaled one: with a given lr and scale_parameter the "
        "scale compounds over tensors and steps.",
    ),
    notes=(
        ONE_WARNING,
        "On fairseq's command line scale_parameter is off unless it is asked for.",
    ),
)
transformers = Variant(
    name="transformers",
    project="huggingface/transformers",
    file="src/transformers/optimization.py",
    version="5.23.0",
    options=LAST,
    reproduced="the trajectory; of 16-bit parameters too, to single flips of the rounding",
    left_out=("load_state_dict casts the float32 state to bfloat16 for bfloat16 parameters.",),
    notes=(ONE_WARNING, "warmup_init is step_size=RelativeStep(warmup_init=True)."),
)
transformers_trainer = Variant(
    name="transformers_trainer",
    project="huggingface/transformers",
    file="src/transformers/trainer_optimizer.py",
    version="5.23.0",
    options={**LAST, "scale_parameter": False},
    required=("lr",),
    reproduced='optim="adafactor" of the Trainer, which is also the usual recipe for T5: an '
    "external rate without parameter scale",
    notes=("The Trainer's lr and weight_decay are to be given here.",),
)
kohya = Variant(
    name="kohya",
    project="kohya-ss/sd-scripts",
    file="library/adafactor_fused.py",
    version="48d368fa",
    options={**LAST, "rounding": "stochastic"},
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory of float32 and float64 parameters; bfloat16 ones are rounded "
    "stochastically, with other random bits",
    not_reproduced=("float16 parameters are rounded to nearest there (give rounding='nearest')",),
    notes=(ONE_WARNING,),
)
onetrainer = Variant(
    name="onetrainer",
    project="Nerogar/OneTrainer",
    file="modules/util/optimizer/adafactor_extensions.py",
    version="23df3832",
    options={**LAST, "rounding": "stochastic"},
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory of float32 and float64 parameters; bfloat16 ones are rounded "
    "stochastically, with other random bits",
    notes=(ONE_WARNING, "Stochastic rounding is a switch there: rounding='nearest' is its off."),
)
mlx = Variant(
    name="mlx",
    project="ml-explore/mlx",
    file="python/mlx/optimizers/optimizers.py",
    version="0.32.4",
    options=LAST,
    accuracy={"float32": EXACT["float32"]},
    reproduced="the trajectory of float32 parameters",
    not_reproduced=("state and arithmetic in the parameter's 16-bit dtype",),
    notes=(ONE_WARNING,),
)
mindspore = Variant(
    name="mindspore",
    project="mindspore-ai/mindspore",
    file="mindspore/nn/optim/adafactor.py",
    version="read without a commit",
    options={**LAST, "beta1": 0.9, "momentum_arithmetic": "buffer"},
    checked="formulas",
    accuracy=FORMULAS,
    reproduced="the trajectory of float32 parameters",
    not_reproduced=("state in the parameter's 16-bit dtype, and its float16 compression",),
    notes=(ONE_WARNING, "decay_rate is positive there too: +0.8."),
)
