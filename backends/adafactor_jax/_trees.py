"""JAX's own trees (flax and equinox modules too) as the core sees them: one dict, path to leaf."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from adafactor_core import Moments, ShapeError, State, StateError, TreeError
from adafactor_core._rounding import BLOCK, dequantised
from adafactor_core._state import NO_MOMENTS

Tree = Any


class Named(NamedTuple):
    """A flattened tree. `paths` join keys, indices and field names with "."; a bare array: "".

    `boxed`: whether flax's nnx has its leaves in Variables.
    """

    leaves: dict[str, Any]
    paths: list[str]
    spec: Any
    boxed: bool = False

    def tree(self, leaves: Mapping[str, Any]) -> Tree:
        """A tree nested like this one; None where it holds no leaf, as in this one."""
        return jax.tree_util.tree_unflatten(self.spec, [leaves[path] for path in self.paths])

    def state(self, state: State) -> State:
        """The core's state of a dict as the state of this tree."""
        metrics = None if state.metrics is None else self._slots(state.metrics)
        return state._replace(moments=self._slots(state.moments), metrics=metrics)

    def _slots(self, found: Mapping[str, Any]) -> Tree:
        """A tree of named tuples, except in Variables: nnx.Optimizer would make mappings of them
        at its first step, and what it saves would no longer fit into what it builds."""
        if self.boxed:
            mapping = sys.modules["flax.nnx"].State  # imported, or there were no Variables
            found = {
                path: mapping({k: v for k, v in slots._asdict().items() if v is not None})
                for path, slots in found.items()
            }
        return self.tree(found)


def named(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> Named:
    """NumPy leaves become JAX arrays. Raises TreeError for two leaves with one path."""
    flatten = jax.tree_util.tree_flatten_with_path
    rows, spec = flatten(tree, is_leaf=is_leaf)
    variables = False
    if any(_is_value(keys) for keys, _ in rows):
        # flax's nnx shows a Variable now as itself, now as the array in it: both have its name.
        def stops(x: Any) -> bool:
            return _is_variable(x) or (is_leaf is not None and is_leaf(x))

        boxed, _ = flatten(tree, is_leaf=stops)
        inside = [(keys, flatten(x, is_leaf=is_leaf)[0], _is_variable(x)) for keys, x in boxed]
        variables = any(box for _, _, box in inside)
        rows = [((*keys, *rest[box:]), leaf) for keys, found, box in inside for rest, leaf in found]
    paths = [jax.tree_util.keystr(keys, simple=True, separator=".") for keys, _ in rows]
    leaves = dict(zip(paths, (_array(leaf) for _, leaf in rows), strict=True))
    if len(leaves) != len(paths):
        twice = next(p for p in paths if paths.count(p) > 1)
        raise TreeError(f"two tensors have the path {twice!r}. Rename one of their keys.")
    return Named(leaves, paths, spec, variables)


def unnamed(state: Any) -> Any:
    """The state of a tree as the core's of a dict; what is no State is left for it to refuse.

    Mappings of slots by name pass for Moments: flax's nnx.Optimizer makes them of named tuples.
    """
    if not isinstance(state, State):
        return state
    slots = named(state.moments, lambda x: isinstance(x, Moments) or _is_slots(x)).leaves
    moments = {path: NO_MOMENTS._replace(**m) if _is_slots(m) else m for path, m in slots.items()}
    return state._replace(moments=jax.tree.map(_array, moments), metrics=None)


def as_given(made: State, given: State) -> State:
    """`made` in the containers of `given`: no branch of a lax.cond may change them."""
    structure: Any = jax.tree.structure  # untyped in JAX
    if structure(made) == structure(given):
        return made
    new, old = named(made).leaves, named(given)
    return old.tree(new) if new.keys() == old.leaves.keys() else made  # telemetry was turned on


def check_mesh(path: str, x: Any, g: Any, moments: Any) -> None:
    """Raises ShapeError or StateError where types show that these cannot meet, or would be moved
    from mesh to mesh. JAX's own errors name neither the tensor nor the remedy."""
    ours = _place(x)
    if ours is None:
        return
    for name, a in moments._asdict().items() if isinstance(moments, Moments) else ():
        theirs = _place(a)
        if theirs is None:
            continue
        if _apart(ours.mesh, theirs.mesh) or _moved(ours.mesh, theirs.mesh):
            raise StateError(
                f"the state of tensor {path!r} lies on the mesh {_words(theirs.mesh)}, the tensor "
                f"on {_words(ours.mesh)}. {MOVE_STATE}"
            )
        # The scales of int8 momentum may be cut by fewer axes than what they scale.
        scales = name == "momentum_scale"
        if a.ndim == x.ndim and not scales and _crossed(ours.spec, theirs.spec):
            raise StateError(
                f"the state of tensor {path!r} has {name} with the sharding {theirs.spec}, the "
                f"tensor itself has {ours.spec}. {MOVE_STATE}"
            )
        if scales:
            _check_blocks(path, x, moments)
    theirs = _place(g)
    if theirs is None or jax.typeof(x).ndim != jax.typeof(g).ndim:  # the core tells of shapes
        return
    if _apart(ours.mesh, theirs.mesh):
        raise ShapeError(
            f"the gradient of tensor {path!r} lies on the mesh {_words(theirs.mesh)}, the tensor "
            f"itself on {_words(ours.mesh)}. Move it: jax.device_put(grads, shardings), where "
            f"shardings are those of params."
        )
    if ours.spec != theirs.spec:
        raise ShapeError(
            f"the gradient of tensor {path!r} has the sharding {theirs.spec}, the tensor itself "
            f"{ours.spec}. Use jax.sharding.reshard(grads, ...) to give it that of the tensor."
        )


def _check_blocks(path: str, x: Any, moments: Moments) -> None:
    """Raises ShapeError where axes of type Explicit cut int8 momentum within its blocks."""

    def blocked(q: Any, scale: Any) -> Any:
        return dequantised(jnp, q.astype(scale.dtype), scale)

    try:
        # Asked, because which reshapes keep types that JAX can name is its own to know.
        jax.eval_shape(blocked, moments.momentum, moments.momentum_scale)
    except Exception as error:
        if type(error).__name__ == "ShardingTypeError":  # private in JAX; the core tells of others
            raise ShapeError(
                f"tensor {path!r} of shape {tuple(x.shape)} has the sharding {_place(x).spec}, "
                f"which cuts its last axis within the blocks of {BLOCK} that share a scale under "
                f"momentum_dtype='int8'. Use momentum_dtype='bfloat16' in a rule for it, cut it "
                f"into multiples of {BLOCK}, or use a mesh with axes of type Auto."
            ) from error


MOVE_STATE = "Move it: jax.device_put(state, state_sharding(shardings, params, ...))."


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
    """The sharding in the type of an array, None where the type knows no mesh."""
    at = getattr(jax.typeof(x), "sharding", None) if isinstance(x, jax.Array) else None
    return None if at is None or at.mesh.empty else at


def _apart(a: Any, b: Any) -> bool:
    """Whether JAX refuses an operation on arrays of these two meshes."""
    return bool(a != b and any(k != AxisType.Auto for k in (*a.axis_types, *b.axis_types)))


def _moved(a: Any, b: Any) -> bool:
    """Whether it would move one of them over at every step."""
    return bool(a.axis_sizes != b.axis_sizes and a.size * b.size > 1)


def _crossed(a: Any, b: Any) -> bool:
    """Whether JAX refuses to add arrays that are cut like this; one may be cut less."""
    both = [n or m for n, m in zip(a, b, strict=True)]
    used = [name for n in both if n for name in (n if isinstance(n, tuple) else (n,))]
    return len(set(used)) < len(used) or any(
        m not in (None, n) for m, n in zip(b, both, strict=True)
    )


def _words(mesh: Any) -> str:
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return f"({', '.join(f'{name}={size} {kind.name}' for name, size, kind in axes)})"


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
