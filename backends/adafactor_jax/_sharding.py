"""Where state lies: as its parameter does, but on the axes that were averaged away."""

from __future__ import annotations

import warnings
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import shard_alike as alike
from jax.sharding import NamedSharding, Sharding

import adafactor_core as af
from adafactor_core._config import resolve
from adafactor_core._numerics import namespace
from adafactor_core._rounding import BLOCK
from adafactor_core._step import warn_of_frozen

from ._options import config
from ._trees import Tree, named

Shape = tuple[int, ...]

P: Any = jax.sharding.PartitionSpec  # untyped in JAX, like shard_alike
shard_alike: Any = alike.shard_alike


def state_sharding(
    param_shardings: Tree, params: Tree, lr: Any = None, *, scan: bool | None = None, **options: Any
) -> af.State:
    """The shardings of the state for parameters that lie like this: a State of shardings.

    `param_shardings`: params' tree of NamedShardings, or of PartitionSpecs (the result has these
    then). `params`: arrays, or ShapeDtypeStructs. The options are those of `adafactor`,
    of which `scan` makes no difference. For
    `out_shardings` of jax.jit, and for restoring a checkpoint onto another mesh.
    Raises TreeError where the trees differ, and what `adafactor(...).init` raises.
    """
    tree = named(params)
    given = named(param_shardings, _is_sharding).leaves
    if given.keys() != tree.leaves.keys():
        odd = sorted(given.keys() ^ tree.leaves.keys())
        raise af.TreeError(f"param_shardings must be nested like params, but they differ in {odd}.")
    wanted = shapes(tree.leaves, config({"lr": lr, **options}))
    whole = next((reduced(s, (), ()) for s in given.values()), None)

    def like(path: str) -> Any:
        at, shape = given[path], tuple(tree.leaves[path].shape)
        return jax.tree.map(lambda s: reduced(at, shape, s.shape), wanted.moments[path])

    moments = {path: like(path) for path in tree.paths}
    rest = jax.tree.map(lambda _: whole, wanted._replace(moments=None))
    return tree.state(rest._replace(moments=moments))


def fresh(params: Tree, options: af.Config, rounds: bool) -> af.State:
    """The state before the first step, every slot where it belongs from the start.

    Eagerly: by the shardings of committed arrays. Under a trace, where these are not known (mesh
    axes of type Auto), by asking the compiler to place it like the parameter. `rounds`: whether
    parameters are rounded here, so that 16-bit ones may need a warning.
    """
    tree = named(params)
    wanted = shapes(tree.leaves, options)
    if rounds:
        each = resolve(options, tree.paths)
        warn_of_frozen(list(zip(tree.paths, tree.leaves.values(), each, strict=True)))
    moments = {
        path: jax.tree.map(lambda s, x=x: _zeros(x, s), wanted.moments[path])
        for path, x in tree.leaves.items()
    }
    places = (place(x) for x in tree.leaves.values())
    whole = next((reduced(at, (), ()) for at in places if at is not None), None)
    rest = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype, device=whole), wanted._replace(moments=None)
    )
    return tree.state(rest._replace(moments=moments))


def shapes(leaves: dict[str, Any], options: af.Config) -> af.State:
    """Shapes and dtypes of the core's state; all of it starts as zeros."""
    for path, x in leaves.items():
        if not hasattr(x, "dtype"):  # nor is it a ShapeDtypeStruct
            namespace(x, f"tensor {path!r}")  # raises, and names it
    with warnings.catch_warnings():  # where it means anything, `fresh` warns
        warnings.simplefilter("ignore", af.LowPrecisionWarning)
        found: af.State = jax.eval_shape(lambda x: af.init(x, options), leaves)
    counter = np.int32(0)  # where there is no tensor, the core counts with a Python int
    return found._replace(step=counter, skipped=None if found.skipped is None else counter)


def reduced(at: Any, whole: Shape, slot: Shape) -> Any:
    """The sharding of a slot, for a parameter of shape `whole` placed `at`."""
    if isinstance(at, P):
        return _spec(at, whole, slot, {})
    if isinstance(at, NamedSharding):
        spec = _spec(at.spec, whole, slot, dict(at.mesh.shape))
        return NamedSharding(at.mesh, spec, memory_kind=at.memory_kind)
    return at if at.is_fully_replicated else None


def _spec(at: Any, whole: Shape, slot: Shape, mesh: dict[str, int]) -> Any:
    def kept(entry: Any, n: int, m: int) -> Any:
        if n == m or entry is None:
            return entry
        # The scales of int8 momentum, where every device has whole blocks of them.
        names = entry if isinstance(entry, tuple) else (entry,)
        ways = prod(mesh.get(name, m) for name in names)
        return entry if n == -(-m // BLOCK) and m % (BLOCK * ways) == 0 else None

    # Not strict: a spec may be shorter than its array, and counters have no axes.
    return P(*(kept(*sizes) for sizes in zip(at, slot, whole, strict=False)))


def _zeros(x: Any, slot: Any) -> Any:
    if not isinstance(x, jax.core.Tracer):
        at = place(x)
        where = None if at is None else reduced(at, tuple(x.shape), slot.shape)
        return jnp.zeros(slot.shape, slot.dtype, device=where)
    if len(slot.shape) != len(x.shape):  # a counter
        return jnp.zeros(slot.shape, slot.dtype)
    # XLA forms none of these zeros; summing them away drops their axes from the sharding.
    whole = shard_alike(x, jnp.zeros_like(x, dtype=slot.dtype))[1]
    if slot.shape[-1:] not in ((), (1,)) and slot.shape[-1] * BLOCK == x.shape[-1]:  # int8 scales
        return jnp.sum(jnp.reshape(whole, (*slot.shape, BLOCK)), axis=-1, dtype=slot.dtype)
    gone = tuple(a for a, (n, m) in enumerate(zip(slot.shape, x.shape, strict=True)) if n != m)
    thin = jnp.sum(whole, axis=gone, keepdims=True, dtype=slot.dtype) if gone else whole
    return jnp.broadcast_to(thin, slot.shape)


def place(x: Any) -> Any:
    """Where a committed array lies; None for what JAX may place as it likes."""
    traced = isinstance(x, jax.core.Tracer)
    return x.sharding if not traced and getattr(x, "committed", False) else None


def _is_sharding(x: Any) -> bool:
    return isinstance(x, Sharding | P)
