"""The named cases, a table: name, options, shapes, kind of gradient."""

from . import _named_guarded
from ._rows import ALL_RANKS, BLOCKS
from ._rows import Row as Row
from ._rows import build as build
from ._rows import per_value as _rows

LAYERS = {"w": (2, 4, 3), "b": (2, 4)}  # two stacked layers
RELATIVE = {"cap": 1e-2, "warmup_init": False}
FALLING = {"schedule": "inverse_sqrt", "peak": 0.5}
RISING = {"schedule": "linear", "start": 0.5, "slope": 0.0625}
SHRINKING = {"schedule": "exponential", "start": 0.5, "rate": 0.75}


# fmt: off
RATES = [
    Row("default", {}, ALL_RANKS),
    Row("lr-number", {"lr": 0.25}),
    Row("lr-zero", {"lr": 0.0}),
    Row("lr-schedule", {"lr": FALLING}),
    Row("relative-and-lr", {"lr": 20.0, "step_size": RELATIVE}),
    Row("relative-cap", {"step_size": {"cap": 0.6, "warmup_init": False}}),
    Row("relative-cap-is-lr", {"lr": 0.6, "step_size": {"cap": None, "warmup_init": False}}),
    Row("relative-warmup", {"lr": 1e5, "step_size": {"cap": 3e-6, "warmup_init": True}}),
    Row("relative-warmup-lr", {"lr": 3e-6, "step_size": {"cap": None, "warmup_init": True}}),
    Row("scale-off", {"lr": 0.1, "scale_parameter": False, "eps2": 7.0}),
    Row("scale-floor", {"lr": 0.1, "eps2": 4.0}),
    Row("scale-ceiling", {"lr": 0.5, "max_parameter_scale": 0.125}),
    Row("from-zero", {"lr": 0.1}, ALL_RANKS, "zero-params"),
]
AXES = [
    Row("full", {"lr": 0.1, "factored": False, "factored_dims": "largest"}, ALL_RANKS),
    *_rows(
        "axes", "factored_dims", ["auto", "last", "largest", "largest_first", "conv"], {"lr": 0.1},
        shapes={"a": (4, 2, 3), "b": (2, 2, 2), "c": (4, 3), "d": (1, 5), "e": (3, 2, 2, 2)},
    ),
    *_rows(
        "axes-min", "factored_dims", ["auto", "last", "largest", "largest_first", "conv"],
        {"lr": 0.1, "min_dim_size_to_factor": 3},
        shapes={"a": (4, 2, 3), "b": (2, 3, 2), "c": (3, 3, 2, 2), "d": (3, 3)},
    ),
    Row("axes-explicit", {"lr": 0.1, "factored_dims": [-1, 0], "min_dim_size_to_factor": 64},
        {"a": (3, 2, 4), "b": (4, 3), "v": (3,)}),
    Row("axes-several", {"lr": 0.1, "factored_dims": [[0, -1], 1]},
        {"a": (2, 4, 3), "b": (2, 3, 2, 2)}),
    Row("batch", {"lr": 0.1, "batch_axes": [0], "clip_threshold": 0.5}, LAYERS),
    Row("batch-scale-tensor", {"lr": 0.1, "batch_axes": [0], "scale_scope": "tensor"}, LAYERS),
    Row("batch-clip-tensor", {"lr": 0.1, "batch_axes": [0], "clip_scope": "tensor"}, LAYERS),
    Row("batch-two", {"lr": 0.1, "batch_axes": [0, -1], "weight_decay": 0.5}, {"w": (2, 4, 3, 2)}),
    Row("batch-conv", {"lr": 0.1, "batch_axes": [0], "factored_dims": "conv"}, {"w": (2, 3, 4, 2)}),
    Row("batch-several", {"lr": 0.1, "batch_axes": [1], "factored_dims": [[0, 2], 3]},
        {"w": (3, 2, 2, 4)}),
]
SECOND_MOMENT = [
    Row("eps1-zero", {"lr": 0.1, "eps1": 0.0}, ALL_RANKS),
    Row("eps1-large", {"lr": 0.1, "eps1": 0.5}, ALL_RANKS),
    *_rows("eps1-finfo", "eps1_mode", ["grad_sq", "stats", "clamp"], {"lr": 0.1, "eps1": "finfo"},
           shapes=ALL_RANKS, kind="small"),
    Row("eps1-stats", {"lr": 0.1, "eps1": 0.5, "eps1_mode": "stats"}, ALL_RANKS),
    Row("eps1-clamp", {"lr": 0.1, "eps1": 0.5, "eps1_mode": "clamp"}, ALL_RANKS),
    Row("decay-rate", {"lr": 0.1, "decay_rate": 0.5}),
    Row("decay-schedule", {"lr": 0.1, "decay_rate": RISING}),
    Row("decay-offset", {"lr": 0.1, "decay_offset": 2}),
    Row("decay-offset-falling", {"lr": 0.1, "decay_offset": 4}, ALL_RANKS, "falling"),
    Row("decay-offset-sparse", {"lr": 0.1, "decay_offset": 4}, {"w": (5, 3)}, "sparse"),
    Row("decay-adam", {"lr": 0.1, "decay_type": "adam"}, ALL_RANKS),
    Row("decay-adam-offset",
        {"lr": 0.1, "decay_type": "adam", "decay_rate": 0.75, "decay_offset": 2}),
    Row("decay-adam-offset-falling", {"lr": 0.1, "decay_type": "adam", "decay_offset": 3},
        kind="falling"),
    Row("decay-constant", {"lr": 0.1, "decay_type": "constant", "decay_rate": 0.75}),
    Row("decay-constant-default", {"lr": 0.1, "decay_type": "constant", "clip_threshold": None}),
    Row("beta2-cap", {"lr": 0.1, "beta2_cap": 0.5}),
    Row("beta2-cap-zero", {"lr": 0.1, "beta2_cap": 0.0}, {"w": (5, 3)}, "sparse"),
    Row("clip-off", {"lr": 0.1, "clip_threshold": None}, kind="spike"),
    Row("clip-tight", {"lr": 0.1, "clip_threshold": 0.25}, ALL_RANKS),
]
MOMENTUM = [
    *_rows("momentum", "momentum_on", ["scaled_update", "update", "grad"],
           {"lr": FALLING, "beta1": 0.75}, shapes=ALL_RANKS),
    Row("momentum-schedule", {"lr": 0.1, "beta1": RISING}),
    Row("momentum-zero", {"lr": 0.1, "beta1": 0.0}),
    *(
        Row(f"momentum-{dtype}-{arithmetic}-{on}",  # 0.9 and these numbers meet rounding ties
            {"lr": 0.1, "beta1": 0.87654, "momentum_on": on, "momentum_dtype": dtype,
             "momentum_arithmetic": arithmetic})
        for dtype in ("bfloat16", "float16")
        for arithmetic, on in [("float32", "scaled_update"), ("buffer", "update"), ("weak", "grad")]
    ),
]
WEIGHT_DECAY = [
    *_rows("weight-decay", "weight_decay_by", ["alpha", "lr", "none"],
           {"lr": 0.25, "weight_decay": 0.25}),
    Row("weight-decay-no-lr", {"weight_decay": 0.25, "weight_decay_by": "lr"}),
    Row("weight-decay-schedule", {"lr": 0.1, "weight_decay": SHRINKING}),
    *_rows("weight-decay-first", "weight_decay_by", ["lr", "none"],
           {"lr": 0.5, "weight_decay": 0.5, "weight_decay_first": True}),
    Row("maximize", {"lr": 0.1, "maximize": True, "weight_decay": 0.5, "beta1": 0.5}),
]
SHAPES = [
    Row("one-array", {"lr": 0.1}, (3, 4)),
    Row("nested", {"lr": 0.1}, BLOCKS),
    Row("rules",
        {"lr": 0.1, "weight_decay": 0.5,
         "rules": [["*.b", {"weight_decay": 0.0, "scale_parameter": False}],
                   ["layers.1.*", {"beta1": 0.5, "factored": False}],
                   ["layers.*", {"clip_threshold": None, "lr": 0.5}]]},
        BLOCKS),
    Row("shapes", {"lr": 0.1},
        {"a": (1, 5), "b": (5, 1), "c": (1, 1), "d": (1,), "e": (13,), "f": (2, 1, 3, 2, 2)}),
    Row("primes", {"lr": 0.1}, {"w": (5, 7)}),
    Row("zero-size", {"lr": 0.1, "beta1": 0.9},
        {"a": (0,), "b": (0, 5), "c": (0, 3, 4), "w": (2, 3)}),
]
GRADIENTS = [
    *(Row(f"{kind}-{mode}", {"lr": 0.1, "eps1_mode": mode, "eps1": eps1}, ALL_RANKS, kind)
      for kind in ("dead", "dead-huge", "silent")
      for mode, eps1 in [("grad_sq", 1e-30), ("stats", 1e-16), ("clamp", 1e-15)]),
    Row("dead-large", {"lr": 0.1}, {"w": (4, 3)}, "dead-large"),
    *(Row(kind, {"lr": 0.1, "beta1": 0.5}, ALL_RANKS, kind)
      for kind in ("huge", "tiny", "spike", "sparse", "falling")),
]
RECIPES = [
    Row("as-torch", {"lr": 0.25, "step_size": {"cap": None, "warmup_init": False}, "eps1": "finfo",
                     "eps1_mode": "clamp", "factored_dims": "last", "weight_decay": 0.25,
                     "weight_decay_by": "lr"}, ALL_RANKS),
    Row("as-t5", {"factored_dims": "largest_first", "min_dim_size_to_factor": 3}, ALL_RANKS),
    Row("as-optax", {"lr": 0.1, "factored_dims": "largest", "min_dim_size_to_factor": 2,
                     "beta1": 0.9, "weight_decay": 0.125, "weight_decay_by": "none"}, ALL_RANKS),
    Row("as-big-vision", {"lr": 0.1, "scale_parameter": False, "factored_dims": "largest",
                          "min_dim_size_to_factor": 3, "beta2_cap": 0.5, "clip_threshold": None,
                          "beta1": 0.9, "momentum_on": "update"}, ALL_RANKS),
    Row("as-palm", {"lr": FALLING, "factored": False, "beta1": 0.9, "clip_threshold": None},
        ALL_RANKS),
]
# fmt: on
TABLE = [*RATES, *AXES, *SECOND_MOMENT, *MOMENTUM, *WEIGHT_DECAY, *SHAPES, *GRADIENTS, *RECIPES]
TABLE += _named_guarded.TABLE
