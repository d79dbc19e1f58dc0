"""Optimizers of PyTorch's family, run as their users run them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _peer_inputs import Arrays, dtype_of

NARROW = ("bfloat16", "float16")


def tensor(x: np.ndarray) -> torch.Tensor:
    dtype = str(x.dtype)
    wide = torch.tensor(x.astype(np.float32) if dtype in NARROW else x)
    return wide.to(getattr(torch, dtype))


def array(x: torch.Tensor) -> np.ndarray:
    dtype = str(x.dtype).rpartition(".")[2]
    x = x.detach()
    wide = (x.float() if dtype in NARROW else x).numpy()
    return wide.astype(dtype_of(dtype)) if dtype in NARROW else wide.copy()


def follow(
    make: Callable[..., torch.optim.Optimizer],
    call: dict[str, Any],
    params: Arrays,
    grads: list[Arrays],
    rate: Callable[[int], float] | None = None,
) -> list[Arrays]:
    """The parameters after each step. `rate`: put into the groups before each step."""
    own = {name: torch.nn.Parameter(tensor(x)) for name, x in params.items()}
    optimizer = make(list(own.values()), **call)
    after = []
    for t, gradient in enumerate(grads, 1):
        for name, p in own.items():
            p.grad = tensor(gradient[name])
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(t)
        optimizer.step()
        after.append({name: array(p) for name, p in own.items()})
    return after


def _torch(params: Any, **call: Any) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(params, **call)


def _transformers(params: Any, **call: Any) -> torch.optim.Optimizer:
    from transformers import Adafactor

    return Adafactor(params, **call)


def _timm(params: Any, **call: Any) -> torch.optim.Optimizer:
    from timm.optim import Adafactor

    return Adafactor(params, **call)


def _timm_bigvision(params: Any, **call: Any) -> torch.optim.Optimizer:
    from timm.optim import AdafactorBigVision

    return AdafactorBigVision(params, **call)


def _pytorch_optimizer(params: Any, **call: Any) -> torch.optim.Optimizer:
    from pytorch_optimizer import AdaFactor

    if "momentum_dtype" in call:
        call = {**call, "momentum_dtype": getattr(torch, call["momentum_dtype"])}
    return AdaFactor(params, **call)


def _came(params: Any, **call: Any) -> torch.optim.Optimizer:
    from came_pytorch import CAME

    return CAME(params, **call)


def _adafactor8bit(params: Any, **call: Any) -> torch.optim.Optimizer:
    from adafactor8bit import Adafactor8Bit

    return Adafactor8Bit(params, quantize=False, use_cuda_kernel=False, **call)


# By the names of the table.
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "torch": _torch,
    "transformers": _transformers,
    "timm": _timm,
    "timm_bigvision": _timm_bigvision,
    "pytorch_optimizer": _pytorch_optimizer,
    "came": _came,
    "adafactor8bit": _adafactor8bit,
}
