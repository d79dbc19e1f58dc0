"""JAX's own trees (flax and equinox modules too) as the core sees them: one dict, path to leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adafactor_core import Moments, ShapeError, State, StateError, TreeError
from adafactor_core._state import NO_MOMENTS

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
    flatten = jax.tree_util.tree_flatten_with_path
    rows, spec = flatten(tree, is_leaf=is_leaf)
    if any(_is_value(keys) for keys, _ in rows):
        # flax's nnx shows a Variable now as itself, now as the array in it: both have its name.
        def stops(x: Any) -> bool:
            return _is_variable(x) or (is_leaf is not None and is_leaf(x))

        boxed, _ = flatten(tree, is_leaf=stops)
        inside = ((keys, flatten(x, is_leaf=is_leaf)[0], _is_variable(x)) for keys, x in boxed)
        rows = [((*keys, *rest[box:]), leaf) for keys, found, box in inside for rest, leaf in found]
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
    moments = {path: NO_MOMENTS._replace(**m) if _is_slots(m) else m for path, m in slots.items()}
    return state._replace(moments=moments, metrics=None)


def check_mesh(path: str, x: Any, g: Any, moments: Any) -> None:
    """Raises ShapeError or StateError where a trace shows that these lie on different meshes."""
    ours = _place(x)
    for a in moments if isinstance(moments, Moments) else ():
        theirs = _place(a)
        if ours and theirs and ours.mesh.axis_sizes != theirs.mesh.axis_sizes:
            raise StateError(
                f"the state of tensor {path!r} lies on the mesh {_words(theirs.mesh)}, the tensor "
                f"on {_words(ours.mesh)}. Move it: jax.device_put(state, state_sharding(shardings, "
                f"params, ...))."
            )
    theirs = _place(g)
    if ours and theirs and jax.typeof(x).ndim == jax.typeof(g).ndim and ours.spec != theirs.spec:
        raise ShapeError(
            f"the gradient of tensor {path!r} has the sharding {theirs.spec}, the tensor itself "
            f"{ours.spec}. Use jax.sharding.reshard(grads, ...) to give it that of the tensor."
        )


def put_back(new: State, old: State) -> State:
    """Every slot as it was cut before, where types say how: a step in a scan has to keep them.

    XLA would cut the scales of int8 momentum as the entries are, also where `init` left them whole.
    """

    def put(a: Any, was: Any) -> Any:
        ours, theirs = _place(a), _place(was)
        if not ours or not theirs or ours.spec == theirs.spec:
            return a
        reshard: Any = jax.sharding.reshard  # untyped in JAX
        return reshard(a, theirs)

    return new._replace(moments=jax.tree.map(put, new.moments, old.moments))


def _place(x: Any) -> Any:
    """The sharding in the type of an array on several devices, None elsewhere."""
    at = getattr(jax.typeof(x), "sharding", None) if isinstance(x, jax.Array) else None
    return at if at is not None and at.mesh.size > 1 else None


def _words(mesh: Any) -> str:
    return f"({', '.join(f'{name}={size}' for name, size in mesh.shape.items())})"


def _is_variable(x: Any) -> bool:
    names = {(c.__module__.partition(".")[0], c.__name__) for c in type(x).__mro__}
    return ("flax", "Variable") in names


def _is_value(keys: Any) -> bool:
    return any(getattr(key, "name", None) == "value" for key in keys)


def _is_slots(x: Any) -> bool:
    return (
        isinstance(x, Mapping)
        and len(x) > 0
        and all(k in Moments._fields and (v is None or hasattr(v, "shape")) for k, v in x.items())
        and any(v is not None for v in x.values())
    )


def _array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf
