"""The compiled passes of adafactor_numpy for torch tensors in CPU memory."""

from __future__ import annotations

from typing import Any

import torch

from adafactor_core import ConfigError, Passes
from adafactor_core._numerics import dtype_name
from adafactor_numpy._compile import available
from adafactor_numpy._table import Buffer

from ._sharded import PLAIN


def describe(x: Any) -> Buffer:
    """A CPU tensor's memory; tensors elsewhere, fake or wrapped ones have none to show."""
    plain = type(x) in PLAIN and x.device.type == "cpu"
    contiguous = plain and x.is_contiguous() and not x.is_neg()  # else its signs are not there
    return Buffer(x.data_ptr() if contiguous else 0, dtype_name(x), contiguous)


def compiled_passes(wanted: bool | None) -> tuple[Passes, ...]:
    """Raises ConfigError where they are wanted and Numba is not installed."""
    if wanted is False:
        return ()
    if available():
        from adafactor_numpy._compiled import CompiledPasses

        return (CompiledPasses(describe, torch.Tensor.data_ptr),)
    if wanted:
        raise ConfigError(
            "compiled=True needs Numba. Install it with pip install 'adafactor-core[numba]', or "
            "leave compiled out."
        )
    return ()
