"""Every known checkpoint format. Sources and versions: research/peers.md, as docs/converting.md."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from .. import variants
from .._errors import ConfigError
from ._format import Format

_STATE = "state.{id}."
_MOMENTS = "{at}moments.{path}."
_HF = {"row": _STATE + "exp_avg_sq_row", "col": _STATE + "exp_avg_sq_col"}
_M = {"momentum": _STATE + "exp_avg"}

_TRANSFORMERS = Format(
    of="transformers.optimization.Adafactor",
    family="torch",
    factored={**_HF, **_M},
    unfactored={"full": _STATE + "exp_avg_sq", **_M},
    counters=(_STATE + "step",),
    averages="beta1",
    note="`RMS` is recomputed at every step and carries nothing",
)
_TORCH = Format(
    of="torch.optim.Adafactor",
    family="torch",
    factored={"row": _STATE + "row_var", "col": _STATE + "col_var"},
    unfactored={"full": _STATE + "variance"},
    counters=(_STATE + "step",),
    keepdims=True,
    counter_dtype="float32",
    statistics="param",
    note="no momentum",
)
_OPTAX = Format(
    of="optax.adafactor, optax.scale_by_factored_rms",
    family="tree",
    factored={
        "row": "{at}v_row.{path}",
        "col": "{at}v_col.{path}",
        "momentum": "{ema}ema.{path}",
    },
    unfactored={"full": "{at}v.{path}", "momentum": "{ema}ema.{path}"},
    counters=("{at}count", "{ema}count"),
    counter_dtype="int32",
    statistics="param",
    placeholder=(1,),
    prefixes={"at": "0.", "ema": "4."},  # of optax.adafactor(lr, momentum=...)
    note="found by field names, wherever they are in the chain; every `count` is the step",
)
_FLAX = Format(
    of="flax.optim.Adafactor (flax < 0.6), t5x.adafactor.Adafactor",
    family="tree",
    factored={
        "row": "{at}param_states.{path}.v_row",
        "col": "{at}param_states.{path}.v_col",
        "momentum": "{at}param_states.{path}.m",
    },
    unfactored={
        "full": "{at}param_states.{path}.v",
        "momentum": "{at}param_states.{path}.m",
    },
    counters=("{at}step",),
    counter_dtype="int32",
    statistics="float32",
    placeholder=(1,),
    placed_momentum=True,
    prefixes={"at": "state."},
)
_QUANTISED = "it is quantised: set quantize=False, let it take a step, and save again"
_OURS = ("momentum", "momentum_scale", "compensation")

_FORMATS: dict[str, Format] = {
    "transformers": _TRANSFORMERS,
    "fairseq": replace(_TRANSFORMERS, of="fairseq.optim.adafactor.Adafactor"),
    "kohya": replace(_TRANSFORMERS, of="kohya sd-scripts, adafactor_fused"),
    "onetrainer": replace(_TRANSFORMERS, of="OneTrainer, adafactor_extensions"),
    "torch": _TORCH,
    "timm": replace(
        _TRANSFORMERS,
        of="timm.optim.Adafactor",
        groups={"min_dim_size_to_factor": 1},
    ),
    "timm_bigvision": Format(
        of="timm.optim.AdafactorBigVision",
        family="torch",
        factored={"row": _STATE + "exp_avg_sq_r", "col": _STATE + "exp_avg_sq_c", **_M},
        unfactored={"full": _STATE + "exp_avg_sq", **_M},
        counters=(_STATE + "step",),
        keepdims=True,
        counter_dtype="float32",
        statistics="param",
        groups={"min_dim_size_to_factor": 0, "momentum_dtype": 0},
        averages="momentum",
    ),
    "pytorch_optimizer": replace(
        _TRANSFORMERS,
        of="pytorch_optimizer.AdaFactor",
        counters=("param_groups.{group}.step",),
        averages="betas.0",
        statistics="param",
        refused={"exp_avg_sq_hat": "ams_bound keeps a running maximum, which no other one has"},
    ),
    "adafactor8bit": Format(
        of="adafactor8bit.Adafactor8Bit(quantize=False)",
        family="torch",
        factored={
            "row": _STATE + "row_var",
            "col": _STATE + "col_var",
            "momentum": _STATE + "m",
        },
        unfactored={"full": _STATE + "variance", "momentum": _STATE + "m"},
        counters=(_STATE + "step",),
        unfactored_options={"momentum_on": "update"},
        averages="beta1",
        keepdims=True,
        statistics="float32",
        refused={
            "row_var_q": _QUANTISED,
            "col_var_q": _QUANTISED,
            "variance_q": _QUANTISED,
            "m_q": _QUANTISED,
            "conf_row": "it is CAME's confidence, which no other one has",
            "v_low": "it is APOLLO's projection, which no other one has",
        },
        note="momentum of matrices is of the gradient, of vectors of the update",
    ),
    "came_vectors": replace(
        _TRANSFORMERS,
        of="came_pytorch.CAME, vectors and scalars alone",
        averages="betas.0",
        refused={"exp_avg_res_row": "it is CAME's confidence, which no other one has"},
    ),
    "adafactor_torch": Format(
        of="adafactor_torch.Adafactor",
        family="torch",
        factored={name: _STATE + name for name in ("row", "col", *_OURS)},
        unfactored={name: _STATE + name for name in ("full", *_OURS)},
        counters=(_STATE + "step",),
        keepdims=True,
        counter_dtype="int32",
        skipped=(_STATE + "skipped", ""),
        ours=True,
    ),
    "adafactor_core": Format(
        of="adafactor_core.State, also that of adafactor_jax",
        family="tree",
        factored={name: f"{_MOMENTS}{name}" for name in ("row", "col", *_OURS)},
        unfactored={name: f"{_MOMENTS}{name}" for name in ("full", *_OURS)},
        counters=("{at}step",),
        keepdims=True,
        counter_dtype="int32",
        skipped=(f"{_MOMENTS}skipped", "{at}skipped"),
        ours=True,
    ),
    "optax": _OPTAX,
    "big_vision": replace(
        _OPTAX,
        of="big_vision.optax.scale_by_adafactor",
        prefixes={"at": "0.", "ema": "1."},
    ),
    "flax": _FLAX,
    "t5x": _FLAX,
    "praxis": Format(
        of="praxis.optimizers.ShardedAdafactor",
        family="tree",
        factored={"row": "{at}vr.{path}", "col": "{at}vc.{path}", "momentum": "{at}m.{path}"},
        unfactored={"full": "{at}v.{path}", "momentum": "{at}m.{path}"},
        counters=("{at}count",),
        counter_dtype="int32",
        statistics="float32",
        placeholder=(1,),
        placed_momentum=True,
        note="with sort_factored_second_moment_dims: factored_dims='largest_first'",
    ),
    "mesh_tensorflow": Format(
        of="mesh_tensorflow.optimize.AdafactorOptimizer (T5)",
        family="tree",
        factored={
            "row": "{path}_slot_vr",
            "col": "{path}_slot_vc",
            "momentum": "{path}_slot_m",
        },
        unfactored={"full": "{path}_slot_v", "momentum": "{path}_slot_m"},
        counters=("global_step",),
        counter_dtype="int64",
        statistics="float32",
        note="paths are names of variables, which may hold slashes",
    ),
    "tensor2tensor": Format(
        of="tensor2tensor.utils.adafactor.AdafactorOptimizer",
        family="tree",
        factored={"row": "{path}.vr", "col": "{path}.vc", "momentum": "{path}.m"},
        unfactored={"full": "{path}.v", "momentum": "{path}.m"},
        counters=("global_step",),
        counter_dtype="int64",
        statistics="float32",
        momentum_dtype="param",
        note="slots by the names that `get_slot` takes; TensorFlow's names on disk differ",
    ),
    "keras": Format(
        of="keras.optimizers.Adafactor",
        family="tree",
        factored={"row": "{first}", "col": "{second}"},
        unfactored={"full": "{third}"},
        counters=("0",),
        counter_dtype="int32",
        statistics="param",
        placeholder=(),
        placeholder_dtype="int32",
        derived={"full": "{third}"},
        note="positions in `variables`; 1 is the learning rate; no momentum",
    ),
    "mlx": Format(
        of="mlx.optimizers.Adafactor",
        family="tree",
        factored={
            "row": "{path}.exp_avg_sq_row",
            "col": "{path}.exp_avg_sq_col",
            "momentum": "{path}.exp_avg",
        },
        unfactored={"full": "{path}.exp_avg_sq", "momentum": "{path}.exp_avg"},
        counters=("step",),
        counter_dtype="uint64",
        statistics="param",
        momentum_dtype="param",
    ),
    "trax": Format(
        of="trax.optimizers.Adafactor, its slots",
        family="tree",
        factored={"row": "{index}.0", "col": "{index}.1", "momentum": "{index}.2"},
        unfactored={"full": "{index}.0", "momentum": "{index}.1"},
        counters=(),
        statistics="float32",
        momentum_dtype="param",
        tree_order=True,
        note="the step is the trainer's: give `step`",
    ),
    "mindspore": Format(
        of="mindspore.nn.AdaFactor",
        family="tree",
        factored={
            "row": "exp_avg_sq_row_{path}",
            "col": "exp_avg_sq_col_{path}",
            "momentum": "exp_avg.{path}",
        },
        unfactored={"full": "exp_avg_sq_{path}", "momentum": "exp_avg.{path}"},
        counters=("afactor_step",),
        counter_dtype="int32",
        statistics="param",
        momentum_dtype="param",
        placeholder=(1,),
        placed_momentum=True,
    ),
}

FORMATS: Mapping[str, Format] = MappingProxyType(_FORMATS)
"""By name: that of the variant, for all but our own."""

SHOWN = (
    "factored", "factored_dims", "min_dim_size_to_factor", "batch_axes", "momentum_on",
    "momentum_dtype", "momentum_arithmetic",
)  # fmt: skip


def format_of(name: str) -> Format:
    """Raises ConfigError for a name that there is not."""
    if not isinstance(name, str) or name not in FORMATS:
        near = difflib.get_close_matches(str(name).lower().replace("-", "_"), FORMATS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no format {name!r}.{hint} Formats: {', '.join(FORMATS)}.")
    return FORMATS[name]


def meaning(name: str) -> dict[str, Any]:
    """The variant's options that a state shows, or depends on: axes, and the kind of momentum."""
    if FORMATS[name].ours:
        return {}
    options = variants.get(name).options
    return {option: options[option] for option in SHOWN if option in options}
