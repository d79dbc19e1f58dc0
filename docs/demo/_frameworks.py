"""The frameworks, one class each behind one interface. The loop in _training.py knows no more.

A row is the same network, the gradient by that framework's own means, and Adafactor. Parameters
are a list of layers, `{"weight": (in, out), "bias": (out,)}`; `y` is one-hot, (batch, classes).
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

import adafactor_core as af

Params = list[dict[str, Any]]  # arrays of one framework; np.ndarray where nothing else is said


class Framework(ABC):
    """One network in training. Every method returns when its work is done, not when queued."""

    package: str  # what runs the optimizer, for the table
    module: str  # what must be installed for it

    def __init__(self, start: Params, config: af.Config) -> None:
        self.config = config
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
        self.params, self.state = af.step(
            self.params, grads, self.state, self.config, donate=True
        )

    def numpy(self) -> Params:
        """Copies of the parameters."""
        return optree.tree_map(np.array, self.params)

    @property
    def state_bytes(self) -> int:
        """Of the arrays that are really there; the step counter is not counted."""
        return sum(a.nbytes for a in optree.tree_leaves(self.state.moments))


class NumPy(Framework):
    """The reference: adafactor_numpy in place, and a backward pass by hand."""

    package, module = "adafactor_numpy", "numpy"

    def __init__(self, start: Params, config: af.Config) -> None:
        from adafactor_numpy import Adafactor

        self.params = self.native(start)
        self.optimizer = Adafactor(self.params, config)

    def native(self, tree: Any) -> Any:
        return optree.tree_map(lambda a: np.array(a, np.float32), tree)

    def gradients(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Params]:
        return by_hand(self.params, x, y)

    def step(self, grads: Params) -> None:
        self.optimizer.step(grads)
        self.state = self.optimizer.state


class Float64(Framework):
    """The yardstick: the same in double precision, through the core alone."""

    package, module = "core alone", "numpy"

    def native(self, tree: Any) -> Any:
        return optree.tree_map(lambda a: np.array(a, np.float64), tree)

    def gradients(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Params]:
        return by_hand(self.params, x, y)


class Torch(Framework):
    """torch tensors, torch autograd."""

    package, module = "core alone", "torch"

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
            h = torch.relu(h @ layer["weight"] + layer["bias"])
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

    package, module = "core alone, jit", "jax"

    @classmethod
    def prepare(cls) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when JAX is imported

    def native(self, tree: Any) -> Any:
        import jax.numpy as jnp

        return optree.tree_map(jnp.array, tree)

    def gradients(self, x: Any, y: Any) -> tuple[Any, Params]:
        import jax

        return jax.block_until_ready(_jax_gradients()(self.params, x, y))

    def step(self, grads: Params) -> None:
        import jax

        moved = _jax_step(self.config)(self.params, grads, self.state)
        self.params, self.state = jax.block_until_ready(moved)


@cache
def _jax_gradients() -> Any:
    import jax

    def loss(params: Params, x: Any, y: Any) -> Any:
        h = x  # (batch, in)
        for layer in params[:-1]:
            h = jax.nn.relu(h @ layer["weight"] + layer["bias"])
        logits = h @ params[-1]["weight"] + params[-1]["bias"]
        return -(y * jax.nn.log_softmax(logits)).sum(axis=1).mean()

    return jax.jit(jax.value_and_grad(loss))


@cache
def _jax_step(config: af.Config) -> Any:
    import jax

    return jax.jit(lambda params, grads, state: af.step(params, grads, state, config))


def by_hand(params: Params, x: np.ndarray, y: np.ndarray) -> tuple[Any, Params]:
    """Mean cross-entropy and its gradient, in the dtype of the arrays."""
    inputs = hidden(params, x)  # [(batch, in) of each layer]
    logits = inputs[-1] @ params[-1]["weight"] + params[-1]["bias"]  # (batch, classes)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))  # (batch, classes)
    loss = -(y * log_p).sum(axis=1).mean()
    delta = (np.exp(log_p) - y) / len(x)  # d loss / d logits
    grads: Params = []
    for layer, h in zip(reversed(params), reversed(inputs), strict=True):
        grads.append({"weight": h.T @ delta, "bias": delta.sum(axis=0)})
        delta = (delta @ layer["weight"].T) * (h > 0)  # (batch, in), through the ReLU below
    return loss, grads[::-1]


def hidden(params: Params, x: np.ndarray) -> list[np.ndarray]:
    """The input of every layer: x, then the ReLU of each layer but the last."""
    inputs = [x]
    for layer in params[:-1]:
        inputs.append(np.maximum(inputs[-1] @ layer["weight"] + layer["bias"], 0))
    return inputs


# The names on the command line. An adapter that lands takes its row's place here.
ROWS: dict[str, type[Framework]] = {"numpy": NumPy, "torch": Torch, "jax": Jax}
