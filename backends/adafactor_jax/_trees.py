"""JAX's own trees (flax and equinox modules too) as the core sees them: one dict, path to leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adafactor_core import Moments, State, TreeError

Tree = Any


class Named(NamedTuple):
    """A flattened tree. `paths` join keys, indices and field names with "."; a bare array: ""."""

    leaves: dict[str, Any]
    paths: list[str]
    spec: Any

    def tree(self, leaves: Mapping[str, Any]) -> Tree:
        """A tree nested like this one; None where it holds no leaf, as in this one."""
        return jax.tree_util.tree_unflatten(self.spec, [leaves[path] for path in self.paths])

    def state(self, state: State) -> State:
        """The core's state of a dict as the state of this tree."""
        metrics = None if state.metrics is None else self.tree(state.metrics)
        return state._replace(moments=self.tree(state.moments), metrics=metrics)


def named(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> Named:
    """NumPy leaves become JAX arrays. Raises TreeError for two leaves with one path."""
    rows, spec = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    paths = [jax.tree_util.keystr(keys, simple=True, separator=".") for keys, _ in rows]
    leaves = dict(zip(paths, (_array(leaf) for _, leaf in rows), strict=True))
    if len(leaves) != len(paths):
        twice = next(p for p in paths if paths.count(p) > 1)
        raise TreeError(f"two tensors have the path {twice!r}. Rename one of their keys.")
    return Named(leaves, paths, spec)


def unnamed(state: Any) -> Any:
    """The state of a tree as the core's of a dict; what is no State is left for it to refuse.

    Mappings of slots by name pass for Moments: flax's nnx.Optimizer makes them of named tuples.
    """
    if not isinstance(state, State):
        return state
    slots = named(state.moments, lambda x: isinstance(x, Moments) or _is_slots(x)).leaves
    moments = {path: _EMPTY._replace(**m) if _is_slots(m) else m for path, m in slots.items()}
    return state._replace(moments=moments, metrics=None)


_EMPTY = Moments(None, None, None, None)


def _is_slots(x: Any) -> bool:
    return (
        isinstance(x, Mapping)
        and len(x) > 0
        and all(k in Moments._fields and (v is None or hasattr(v, "shape")) for k, v in x.items())
    )


def _array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf
