"""States of any library as one mapping of keys to leaves, and back into the same containers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from .._errors import TreeError

Flat = dict[str, Any]
"""Key -> leaf: an array of any library, a Raw, or a Python value."""


def flat(tree: Any) -> Flat:
    """The leaves of a nesting of mappings, lists, (named) tuples, dataclasses and whatever JAX
    takes for a container, by keys, indices and field names joined by ".".

    A mapping whose keys have dots in them already comes out as it is. Raises TreeError for two
    leaves with one key.
    """
    out: Flat = {}
    for keys, leaf in _walk(tree, ()):
        key = ".".join(keys)
        if key in out:
            raise TreeError(f"two leaves have the key {key!r}. Rename one of their containers.")
        out[key] = leaf
    return out


def filled(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """`tree` with these leaves in the place of its own; those without a new one stay.

    Raises TreeError for a key that the tree has not.
    """
    unknown = sorted(leaves.keys() - flat(tree).keys())
    if unknown:
        raise TreeError(
            f"the template has no leaf {unknown[0]!r}. Make it with the optimizer, and for the "
            f"parameters, that are to go on."
        )
    return _mapped(tree, (), lambda key, leaf: leaves.get(key, leaf))


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    """None for a leaf."""
    if isinstance(tree, Mapping):
        return [(str(key), child) for key, child in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, list | tuple):
        return [(str(k), child) for k, child in enumerate(tree)]
    if is_dataclass(tree) and not isinstance(tree, type) and not hasattr(tree, "dtype"):
        return [(f.name, getattr(tree, f.name)) for f in fields(tree)]
    return None


def _walk(tree: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if tree is None:
        return
    children = _children(tree)
    if children is not None:
        for key, child in children:
            yield from _walk(child, (*keys, key))
        return
    other = _jax_nodes(tree)
    if other is None:
        yield keys, tree
        return
    for inner, child in other[0]:
        yield from _walk(child, (*keys, *inner))


def _mapped(tree: Any, keys: tuple[str, ...], change: Callable[[str, Any], Any]) -> Any:
    if tree is None:
        return None
    children = _children(tree)
    if children is not None:
        made = [_mapped(child, (*keys, key), change) for key, child in children]
        if isinstance(tree, Mapping):
            same = dict(zip(tree, made, strict=True))
            return same if type(tree) is dict else type(tree)(same)  # type: ignore[call-arg]
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            return type(tree)(*made)
        if isinstance(tree, list | tuple):
            return type(tree)(made)
        names = [key for key, _ in children]
        return replace(tree, **dict(zip(names, made, strict=True)))
    other = _jax_nodes(tree)
    if other is None:
        return change(".".join(keys), tree)
    return other[1]([_mapped(child, (*keys, *key), change) for key, child in other[0]])


def _jax_nodes(
    tree: Any,
) -> tuple[list[tuple[tuple[str, ...], Any]], Callable[[list[Any]], Any]] | None:
    """What JAX sees in a container of its own (flax, equinox); None where it sees a leaf."""
    jax = sys.modules.get("jax")
    # Arrays of libraries and numbers are leaves to JAX too: do not ask it about each of them.
    if jax is None or (hasattr(tree, "dtype") and hasattr(tree, "__array__")):
        return None
    if isinstance(tree, bool | int | float | str):
        return None
    util = jax.tree_util
    rows, spec = util.tree_flatten_with_path(tree)
    if len(rows) == 1 and rows[0][1] is tree:
        return None
    named = [
        (tuple(util.keystr((k,), simple=True, separator=".") for k in keys), leaf)
        for keys, leaf in rows
    ]
    return named, lambda made: util.tree_unflatten(spec, made)
