"""Every known Adafactor as options of `Config`: `variants.optax(lr=1e-3)` returns a Config.

Options that are given replace the variant's own; `lr=None` is the variant's own rate. Adapters take
`variant="optax"`. `names` lists them, `get` looks one up; a record says where its options come
from, what they reproduce, and what they leave out. `from_*_kwargs` translate calls of other
libraries. The table: docs/variants.md, or `python -m adafactor_core variants`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from .._config import Config
from .._errors import ConfigError
from ._collections import adafactor8bit as adafactor8bit
from ._collections import came_vectors as came_vectors
from ._collections import pytorch_optimizer as pytorch_optimizer
from ._collections import timm as timm
from ._collections import timm_bigvision as timm_bigvision
from ._fairseq import fairseq as fairseq
from ._fairseq import kohya as kohya
from ._fairseq import mindspore as mindspore
from ._fairseq import mlx as mlx
from ._fairseq import onetrainer as onetrainer
from ._fairseq import transformers as transformers
from ._fairseq import transformers_trainer as transformers_trainer
from ._frameworks import big_vision as big_vision
from ._frameworks import flax as flax
from ._frameworks import keras as keras
from ._frameworks import optax as optax
from ._frameworks import praxis as praxis
from ._frameworks import t5x as t5x
from ._frameworks import torch as torch
from ._frameworks import trax as trax
from ._from import check_names as _check_names
from ._from import from_keras_kwargs as from_keras_kwargs
from ._from import from_optax_kwargs as from_optax_kwargs
from ._from import from_timm_kwargs as from_timm_kwargs
from ._from import from_torch_kwargs as from_torch_kwargs
from ._from import from_transformers_kwargs as from_transformers_kwargs
from ._numbered import algorithm1 as algorithm1
from ._numbered import algorithm2 as algorithm2
from ._numbered import algorithm3 as algorithm3
from ._numbered import bias_corrected as bias_corrected
from ._numbered import palm_decay as palm_decay
from ._papers import mesh_tensorflow as mesh_tensorflow
from ._papers import palm as palm
from ._papers import paper as paper
from ._papers import t5 as t5
from ._papers import tensor2tensor as tensor2tensor
from ._record import NAMES as _NAMES
from ._record import Variant as Variant

_ALL = {
    v.name: v
    for v in (
        paper, tensor2tensor, mesh_tensorflow, t5, fairseq, transformers, transformers_trainer,
        torch, keras, optax, flax, t5x, praxis, big_vision, timm, timm_bigvision,
        pytorch_optimizer, mlx, trax, palm, kohya, onetrainer, came_vectors, adafactor8bit,
        mindspore,
    )
}  # fmt: skip

SCHEDULES = {"palm_decay": palm_decay}
"""The functions among the variants' options, for those that keep options as plain data."""


def names() -> tuple[str, ...]:
    """The names of all variants, the authors' own first."""
    return tuple(_ALL)


def get(name: str) -> Variant:
    """The record of this name. Raises ConfigError for a name that is none."""
    if not isinstance(name, str) or name not in _ALL:
        near = difflib.get_close_matches(str(name).lower().replace("-", "_"), _ALL, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no variant {name!r}.{hint} Variants: {', '.join(_ALL)}.")
    return _ALL[name]


def record(variant: str | Variant) -> Variant:
    """A record as it is, or the one of this name."""
    return variant if isinstance(variant, Variant) else get(variant)


def options(config: Config) -> dict[str, Any]:
    """The options of a Config that are not the defaults, by name.

    For adapters that take options alone: `Adafactor(params, **variants.options(config))`.
    """
    default = Config()
    named = ((name, getattr(config, name)) for name in _NAMES)
    return {name: value for name, value in named if value != getattr(default, name)}


def config(variant: str | Variant | None, options: Mapping[str, Any]) -> Config:
    """The Config that these options by name mean, over those of a variant if one is named.

    For adapters that take `variant=` beside options. Raises ConfigError.
    """
    if variant is not None:
        return record(variant)(**options)
    _check_names(options)
    return Config(**options)
