"""`from_*_kwargs`: a call of another library's Adafactor as a Config."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from .._config import Config
from .._errors import ConfigError
from ._call_tables import KERAS, OPTAX, TIMM, TORCH, TRANSFORMERS
from ._calls import Call
from ._record import NAMES

CALLS: dict[str, Call] = {
    "transformers": TRANSFORMERS,
    "torch": TORCH,
    "optax": OPTAX,
    "timm": TIMM,
    "keras": KERAS,
}


def check_names(given: Iterable[str], variant: str = "") -> None:
    """Raises ConfigError for what is no option; a word of another library is told from a slip."""
    for name in given:
        if name in NAMES:
            continue
        theirs = [other for other, call in CALLS.items() if name in call.arguments]
        near = difflib.get_close_matches(name, NAMES, n=1)
        if theirs:
            other = variant if variant in theirs else theirs[0]
            hint = (
                f"It is a word of {CALLS[other].name}: variants.from_{other}_kwargs({name}=...) "
                f"makes a Config of such a call."
            )
        else:
            hint = f"Did you mean {near[0]!r}?" if near else f"Options: {', '.join(NAMES)}."
        raise ConfigError(f"unknown option {name!r}. {hint}")


def from_transformers_kwargs(**kwargs: Any) -> Config:
    """What `transformers.Adafactor(params, **kwargs)` does. Its defaults are those of 5.24.

    Raises ConfigError for what it does not know or refuses itself: lr with relative_step=True.
    """
    return TRANSFORMERS.config(kwargs)


def from_torch_kwargs(**kwargs: Any) -> Config:
    """What `torch.optim.Adafactor(params, **kwargs)` does. Its defaults are those of 2.14.

    `foreach` is accepted: no number depends on it. Raises ConfigError.
    """
    return TORCH.config(kwargs)


def from_optax_kwargs(**kwargs: Any) -> Config:
    """What `optax.adafactor(**kwargs)` does. Its defaults are those of 0.2.8.

    Schedules count from 0 there and are wrapped in `schedules.zero_based`. Raises ConfigError for
    weight_decay_mask, which is `rules` here.
    """
    return OPTAX.config(kwargs)


def from_timm_kwargs(**kwargs: Any) -> Config:
    """What `timm.optim.Adafactor(params, **kwargs)` does. Its defaults are those of 1.0.31.

    Raises ConfigError for caution with momentum, and for warmup_init with lr.
    """
    return TIMM.config(kwargs)


def from_keras_kwargs(**kwargs: Any) -> Config:
    """What `keras.optimizers.Adafactor(**kwargs)` documents. Its defaults are those of 3.15.

    relative_step=False removes the cap of 1/sqrt(t), which Keras itself then keeps all the same.
    Schedules count from 0 there and are wrapped in `schedules.zero_based`. Raises ConfigError for
    clipping per variable or entry, for averages of parameters, and for accumulation.
    """
    return KERAS.config(kwargs)
