"""Nestings of arrays: paths, matching, and the checks that run before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import optree

from ._errors import DeviceError, DTypeError, ReadOnlyError, ShapeError, TreeError
from ._numerics import TRAINABLE, Array, Namespace, device, dtype_name, namespace
from ._state import Moments

Tree = Any
_INDEXED = (dict, list, tuple)  # not as a union of types: torch.compile cannot make one


class Leaves(NamedTuple):
    """A flattened tree of parameters.

    `paths` join keys, indices and the names of namedtuples' fields with "."; a bare array: "".
    """

    paths: list[str]
    arrays: list[Array]
    spec: optree.PyTreeSpec


def flatten(params: Tree) -> Leaves:
    """Raises TreeError for two tensors with one path."""
    keys, arrays, spec = optree.tree_flatten_with_path(params)
    paths = [_path(params, key) for key in keys]
    if len(set(paths)) != len(paths):
        twice = next(p for p in paths if paths.count(p) > 1)
        raise TreeError(f"two tensors have the path {twice!r}. Rename one of their keys.")
    return Leaves(paths, list(arrays), spec)


def _path(tree: Tree, key: tuple[Any, ...]) -> str:
    """optree tells positions in a namedtuple; JAX, and so its state files, the names of fields."""
    words = []
    for k in key:
        fields = getattr(tree, "_fields", ())
        words.append(str(fields[k]) if fields and isinstance(k, int) else str(k))
        tree = tree[k] if isinstance(tree, _INDEXED) else None
    return ".".join(words)


def matching(leaves: Leaves, tree: Tree, what: str) -> list[Any]:
    """`tree` cut at the leaves of the parameters. Raises TreeError that lists what differs."""
    try:
        return leaves.spec.flatten_up_to(tree)
    except (ValueError, TypeError) as error:
        # optree's message prints whole trees, arrays included: only its beginning says something.
        reason = str(error).split(";")[0].split("\n")[0][:150]
    found = {_path(tree, key) for key in optree.tree_paths(tree, is_leaf=_is_leaf)}
    wanted = set(leaves.paths)
    raise TreeError(
        f"{what} must be nested like params. Missing: {some(wanted - found)}; "
        f"unknown: {some(found - wanted)}. ({reason})"
    )


def _is_leaf(x: Any) -> bool:
    """Of gradients, of states, and of whole shapes."""
    shape = type(x) is tuple and all(isinstance(n, int) for n in x)
    return x is None or isinstance(x, Moments) or shape


def some(paths: set[str]) -> str:
    """The first few, for a message."""
    shown = ", ".join(map(repr, sorted(paths)[:5]))
    return (shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")) or "none"


def check_param(x: Any, path: str) -> Namespace:
    """Its namespace. Raises DTypeError for what is no array, or no real floating one."""
    xp = namespace(x, f"tensor {path!r}")
    check_dtype(x, path)
    return xp


def check_dtype(x: Any, path: str) -> None:
    """Raises DTypeError for what is not real floating."""
    if dtype_name(x) not in TRAINABLE:
        raise DTypeError(
            f"tensor {path!r} of shape {tuple(x.shape)} has dtype {x.dtype}; Adafactor trains "
            f"{', '.join(TRAINABLE)}. Cast it, or keep it out of params."
        )


def check_grad(xp: Namespace, x: Array, g: Any, path: str) -> None:
    """Raises TreeError, DTypeError, ShapeError or DeviceError unless `g` fits `x`."""
    if g is None:
        raise TreeError(f"the gradient of tensor {path!r} is None. Pass zeros, or leave it out.")
    if namespace(g, f"the gradient of tensor {path!r}") is not xp:
        raise DTypeError(
            f"tensor {path!r} is a {type(x).__name__}, its gradient a {type(g).__name__}. "
            f"Convert one, for example with from_dlpack."
        )
    if dtype_name(g) not in TRAINABLE:
        raise DTypeError(
            f"the gradient of tensor {path!r} has dtype {g.dtype}, expected one of "
            f"{', '.join(TRAINABLE)}."
        )
    if tuple(g.shape) != tuple(x.shape):
        raise ShapeError(
            f"the gradient of tensor {path!r} has shape {tuple(g.shape)}, the tensor itself "
            f"{tuple(x.shape)}. Pass the gradient of this tensor, not reduced or broadcast."
        )
    if device(g) != device(x):
        raise DeviceError(
            f"tensor {path!r} is on device {device(x)}, its gradient on {device(g)}. Use one "
            f"device for both."
        )


def check_writable(x: Array, path: str) -> None:
    """Raises ReadOnlyError for an array that says it cannot be written (NumPy's flag)."""
    flags = getattr(x, "flags", None)
    if flags is not None and not getattr(flags, "writeable", True):
        raise ReadOnlyError(
            f"tensor {path!r} is read-only, and this optimizer updates in place. Pass a copy, or "
            f"use adafactor_core.step, which returns new arrays."
        )


def check_disjoint(
    leaves: Leaves,
    bounds: Callable[[Array], tuple[int, int]],
    shares: Callable[[Array, Array], bool],
) -> None:
    """Raises TreeError for two tensors in the same memory.

    `bounds`: the addresses of an array's first byte and behind its last; `shares`: whether two
    arrays whose bounds overlap do have a byte in common.
    """
    spans = [
        (*bounds(x), path, x)
        for path, x in zip(leaves.paths, leaves.arrays, strict=True)
        if math.prod(x.shape)
    ]
    spans.sort(key=lambda span: span[:2])
    for (_, end, path, x), (start, _, other, y) in pairwise(spans):
        if start < end and shares(x, y):
            raise TreeError(
                f"tensors {path!r} and {other!r} share memory, so one step would change them "
                f"twice. Pass shared parameters once, with the sum of their gradients."
            )


def unflatten(leaves: Leaves, values: Sequence[Any]) -> Tree:
    """A tree nested like the parameters."""
    return leaves.spec.unflatten(values)
