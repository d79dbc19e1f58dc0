"""Which kernels there are for the tensors of a step: Numba's in CPU memory, Triton's on GPUs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from adafactor_core import ConfigError, Passes
from adafactor_core._numerics import dtype_name
from adafactor_numpy._compile import available
from adafactor_numpy._table import Buffer

from ._sharded import PLAIN

GPUS = ("cuda", "xpu")  # ROCm's GPUs are called cuda as well


def describe(x: Any) -> Buffer:
    """A CPU tensor's memory; tensors elsewhere, fake or wrapped ones have none to show."""
    plain = type(x) in PLAIN and x.device.type == "cpu"
    contiguous = plain and x.is_contiguous() and not x.is_neg()  # else its signs are not there
    return Buffer(x.data_ptr() if contiguous else 0, dtype_name(x), contiguous)


def kernel_passes(wanted: bool | None, params: Sequence[torch.Tensor]) -> tuple[Passes, ...]:
    """Raises ConfigError where they are wanted and what compiles them is not installed."""
    if wanted is False:
        return ()
    # Fake tensors tell a device that they are not on.
    devices = {p.device for p in params if type(p) in PLAIN}
    gpus = {d for d in devices if d.type in GPUS}
    cpu = _cpu(wanted) if any(d.type == "cpu" for d in devices) else ()
    return (*(_gpu(wanted, gpus) if gpus else ()), *cpu)


def _cpu(wanted: bool | None) -> tuple[Passes, ...]:
    if available():
        from adafactor_numpy._compiled import CompiledPasses

        return (CompiledPasses(describe, torch.Tensor.data_ptr),)
    if wanted:
        raise ConfigError(
            "compiled=True needs Numba. Install it with pip install 'adafactor-core[numba]', or "
            "leave compiled out."
        )
    return ()


def _gpu(wanted: bool | None, devices: set[torch.device]) -> tuple[Passes, ...]:
    if find_spec("triton") is None:
        if not wanted:
            return ()
        raise ConfigError(
            "compiled=True needs Triton for tensors on a GPU. Install it with pip install triton "
            "(it comes with torch's builds for CUDA and ROCm), or leave compiled out."
        )
    from ._triton import TritonPasses, unusable

    reasons = [reason for d in devices if (reason := unusable(d))]
    if not reasons:
        return (TritonPasses(GPUS),)
    if wanted:
        raise ConfigError(f"compiled=True, but Triton cannot compile here: {reasons[0]}")
    warnings.warn(
        f"Triton is installed but cannot compile here, so a step takes plain passes, which are "
        f"several times slower: {reasons[0]}. compiled=False says that this is meant.",
        stacklevel=2,
    )
    return ()
