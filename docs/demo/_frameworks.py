"""The frameworks, one class each behind one interface. The loop in _training.py knows no more.

A row is the same network, the gradient by that framework's own means, and Adafactor. `x` is
(batch, in), `y` one-hot, (batch, classes).
Everything runs on the CPU, so that the numbers can be compared, and on one thread: at this size
more only get in each other's way.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import numpy as np
import optree
from _network import Params, by_hand

import adafactor_core as af


class Framework(ABC):
    """One network in training. Every method returns when its work is done, not when queued."""

    package: str  # what runs the optimizer, for the table

    def __init__(self, start: Params, config: af.Config, activation: str) -> None:
        self.config, self.activation = config, activation
        self.params = self.native(start)
        self.state = af.init(self.params, config)

    @classmethod
    def prepare(cls) -> None:
        """Settings of the library for this process, before its first array."""
        from threadpoolctl import threadpool_limits  # comes with scikit-learn

        threadpool_limits(1)

    @abstractmethod
    def native(self, tree: Any) -> Any:
        """This framework's own copies of NumPy arrays, in any nesting."""

    @abstractmethod
    def gradients(self, x: Any, y: Any) -> tuple[Any, Params]:
        """Mean cross-entropy of a batch, and its gradient."""

    def step(self, grads: Params) -> None:
        """Adafactor moves `self.params`. Here: by the core alone, without an adapter."""
        self.params, self.state = af.step(self.params, grads, self.state, self.config, donate=True)

    def numpy(self) -> Params:
        """Copies of the parameters."""
        return optree.tree_map(np.array, self.params)

    @property
    def state_bytes(self) -> int:
        """Of the arrays that are really there; the step counter is not counted."""
        return _bytes(self.state)


class NumPy(Framework):
    """The reference: adafactor_numpy in place, and a backward pass by hand."""

    package = "adafactor_numpy"

    def __init__(self, start: Params, config: af.Config, activation: str) -> None:
        from adafactor_numpy import Adafactor

        self.activation = activation
        self.params = self.native(start)
        self.optimizer = Adafactor(self.params, config)

    def native(self, tree: Any) -> Any:
        return optree.tree_map(lambda a: np.array(a, np.float32), tree)

    def gradients(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Params]:
        return by_hand(self.params, x, y, self.activation)

    def step(self, grads: Params) -> None:
        self.optimizer.step(grads)

    @property
    def state_bytes(self) -> int:
        return _bytes(self.optimizer.state)


class Float64(Framework):
    """The yardstick: the same in double precision, through the core alone."""

    package = "core alone"

    def native(self, tree: Any) -> Any:
        return optree.tree_map(lambda a: np.array(a, np.float64), tree)

    def gradients(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Params]:
        return by_hand(self.params, x, y, self.activation)


class Torch(Framework):
    """torch tensors, torch autograd."""

    package = "core alone"

    @classmethod
    def prepare(cls) -> None:
        import torch

        torch.set_num_threads(1)

    def native(self, tree: Any) -> Any:
        import torch

        return optree.tree_map(torch.tensor, tree)

    def gradients(self, x: Any, y: Any) -> tuple[Any, Params]:
        import torch

        optree.tree_map_(lambda a: a.requires_grad_(), self.params)
        h = x  # (batch, in)
        for layer in self.params[:-1]:
            h = getattr(torch, self.activation)(h @ layer["weight"] + layer["bias"])
        logits = h @ self.params[-1]["weight"] + self.params[-1]["bias"]
        loss = torch.nn.functional.cross_entropy(logits, y)
        leaves, tree = optree.tree_flatten(self.params)
        return loss.detach(), optree.tree_unflatten(tree, torch.autograd.grad(loss, leaves))

    def step(self, grads: Params) -> None:
        import torch

        with torch.no_grad():
            super().step(grads)

    def numpy(self) -> Params:
        return optree.tree_map(lambda a: a.detach().numpy().copy(), self.params)


class Jax(Framework):
    """JAX arrays, jax.grad, and the core's step; two jitted functions, so that both are timed."""

    package = "core alone, jit"

    @classmethod
    def prepare(cls) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when JAX is imported

    def native(self, tree: Any) -> Any:
        import jax.numpy as jnp

        return optree.tree_map(jnp.array, tree)

    def gradients(self, x: Any, y: Any) -> tuple[Any, Params]:
        import jax

        return jax.block_until_ready(_jax_gradients(self.activation)(self.params, x, y))

    def step(self, grads: Params) -> None:
        import jax

        moved = _jax_step(self.config)(self.params, grads, self.state)
        self.params, self.state = jax.block_until_ready(moved)


def _bytes(state: af.State) -> int:
    return sum(a.nbytes for a in optree.tree_leaves(state.moments))


@cache
def _jax_gradients(activation: str) -> Any:
    import jax

    def loss(params: Params, x: Any, y: Any) -> Any:
        h = x  # (batch, in)
        for layer in params[:-1]:
            h = getattr(jax.nn, activation)(h @ layer["weight"] + layer["bias"])
        logits = h @ params[-1]["weight"] + params[-1]["bias"]
        return -(y * jax.nn.log_softmax(logits)).sum(axis=1).mean()

    return jax.jit(jax.value_and_grad(loss))


@cache
def _jax_step(config: af.Config) -> Any:
    import jax

    return jax.jit(lambda params, grads, state: af.step(params, grads, state, config))


# The names on the command line. An adapter that lands takes its row's place here.
ROWS: dict[str, type[Framework]] = {"numpy": NumPy, "torch": Torch, "jax": Jax}
