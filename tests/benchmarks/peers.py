"""The real peers, as installed from PyPI, with options equal to ours where they have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contestants import OURS, Contestant, Entry, jitted, torch_optimizer
from problems import Problem


class UnsupportedError(Exception):
    """A peer has no such option; its row is skipped."""


def _torch_adafactor(foreach: bool) -> Callable[[Problem], Contestant]:
    def build(problem: Problem) -> Contestant:
        import torch

        if problem.beta1 is not None:
            raise UnsupportedError("torch.optim.Adafactor has no momentum")
        # Its lr is the cap of the relative step; it scales by RMS(p) and clips at 1 as we do.
        return torch_optimizer(
            problem, lambda ps: torch.optim.Adafactor(ps, lr=1e-2, foreach=foreach)
        )

    return build


def _torch_adamw(**kind: Any) -> Callable[[Problem], Contestant]:
    def build(problem: Problem) -> Contestant:
        import torch

        return torch_optimizer(problem, lambda ps: torch.optim.AdamW(ps, lr=1e-3, **kind))

    return build


def _transformers(problem: Problem) -> Contestant:
    from transformers.optimization import Adafactor

    options = {"lr": None, "relative_step": True, "scale_parameter": True, "warmup_init": False}
    return torch_optimizer(problem, lambda ps: Adafactor(ps, beta1=problem.beta1, **options))


def _optax(problem: Problem) -> Contestant:
    import jax.numpy as jnp
    import optax

    tx = optax.adafactor(
        learning_rate=lambda count: jnp.minimum(1e-2, (count + 1.0) ** -0.5),
        min_dim_size_to_factor=1,
        momentum=problem.beta1,
    )

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jitted(problem, tx.init, step)


# name: entry
PEERS = {
    "torch-loop": Entry("torch.optim.Adafactor, for-loop", "peer", True, _torch_adafactor(False)),
    "torch-foreach": Entry("torch.optim.Adafactor, foreach", "peer", True, _torch_adafactor(True)),
    "hf": Entry("transformers Adafactor", "peer", True, _transformers),
    "optax": Entry("optax.adafactor, jit", "peer", True, _optax),
    "adamw-fused": Entry("torch AdamW, fused", "peer", False, _torch_adamw(fused=True)),
    "adamw-foreach": Entry("torch AdamW, foreach", "peer", False, _torch_adamw(foreach=True)),
}
ENTRIES = OURS | PEERS
