"""Drawn numbers, the core's trajectory on a backend, and the oracle's for the same input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optree

import adafactor_core as af
from _backends import Backend
from _close import dtype_of, spacing
from adafactor_core import conformance

Tree = Any
Flat = dict[str, np.ndarray]


def normal(shape: Sequence[int], seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Standard normal float64 numbers, the same ones for the same shape and seed."""
    return np.random.default_rng([seed, len(shape), *shape]).normal(size=shape) * scale


def drawn(shape: Sequence[int], steps: int = 3) -> tuple[np.ndarray, list[np.ndarray]]:
    """A parameter and a gradient per step, for NumPy."""
    return normal(shape), [normal(shape, seed=t) for t in range(1, steps + 1)]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def run(x: Tree, grads: Sequence[Tree], config: af.Config | None = None) -> tuple[Tree, af.State]:
    """The parameters and the state after all steps."""
    config = config or af.Config()
    state = af.init(x, config)
    for g in grads:
        x, state = af.step(x, g, state, config)
    return x, state


def flat(tree: Tree) -> dict[str, Any]:
    """Path to array; paths as the core makes them, and then those of slots: "layers.0.w.row"."""
    paths, leaves, _ = optree.tree_flatten_with_path(tree, is_leaf=lambda x: type(x) is af.Moments)
    found: dict[str, Any] = {}
    for keys, leaf in zip(paths, leaves, strict=True):
        slots = leaf._asdict() if type(leaf) is af.Moments else {None: leaf}
        for slot, array in slots.items():
            path = ".".join(map(str, (*keys, slot) if slot else keys))
            found |= {} if array is None else {path: array}
    return found


def numbers(backend: Backend, tree: Tree) -> Flat:
    """The same as float64 NumPy."""
    return {path: backend.numpy(x) for path, x in flat(tree).items()}


def core(
    backend: Backend,
    params: Tree,
    grads: Sequence[Tree],
    config: af.Config,
    dtype: str = "float32",
    mode: str = "eager",
) -> tuple[list[Flat], list[Flat]]:
    """(parameters, moments) after each step of `af.step`; NumPy in, NumPy out."""
    after, moments = [], []
    with backend.scope(dtype):

        def one(params: Tree, grads: Tree, state: af.State) -> tuple[Tree, af.State]:
            return af.step(params, grads, state, config)

        step = backend.jit(one) if mode == "jit" else one
        x = backend.tree(params, dtype)
        state = af.init(x, config)
        for g in grads:
            x, state = step(x, backend.tree(g, dtype), state)
            assert {dtype_of(leaf) for leaf in flat(x).values()} <= {dtype}
            after.append(numbers(backend, x))
            moments.append(numbers(backend, state.moments))
    return after, moments


def oracle(
    params: Tree, grads: Sequence[Tree], config: dict[str, Any], dtype: str = "float32"
) -> tuple[Sequence[Flat], Sequence[Flat], Sequence[Flat]]:
    """(parameters, moments, updates) after each step, by the independent float64 oracle."""
    done = conformance.oracle(params, grads, config, dtype)
    return done.params, done.moments, done.updates


def rounded(tree: Tree, dtype: str) -> Tree:
    """Float64 numbers that are exact in `dtype`: what both sides start from."""

    def narrow(x: Any) -> np.ndarray:
        x = np.asarray(x, np.float64)
        if dtype == "bfloat16":
            unit = spacing(x, dtype)
            return np.asarray(np.rint(x / unit) * unit)
        return x.astype(dtype).astype(np.float64)

    return optree.tree_map(narrow, tree)
