"""Nested containers of arrays, without optree: the kit must not share the core's walk."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

# An array, or any nesting of dict, list, tuple and namedtuple of arrays. The arrays are float64
# NumPy in a `Case` and of the tested library in a subject, so no better type exists.
Tree = Any


def _children(tree: Tree) -> Iterable[tuple[Any, Tree]] | None:
    """(key, child) of a container, None for a leaf."""
    if isinstance(tree, dict):
        return tree.items()
    if hasattr(tree, "_fields"):  # fields go by name
        return zip(tree._fields, tree, strict=True)
    return enumerate(tree) if isinstance(tree, (list, tuple)) else None


def walk(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, leaf), keys joined by dots; a bare array has the path "". None is no leaf."""
    children = _children(tree)
    if children is not None:
        for key, child in children:
            yield from walk(child, join(path, str(key)))
    elif tree is not None:
        yield path, tree


def join(path: str, key: str) -> str:
    """The path of a child."""
    return f"{path}.{key}" if path else key


def leaves(tree: Tree) -> dict[str, Any]:
    """Path to leaf, for the whole tree."""
    return dict(walk(tree))


def map_leaves(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """The same tree with `function` applied to each leaf."""
    children = _children(tree)
    if children is None:
        return tree if tree is None else function(tree)
    mapped = [(key, map_leaves(function, child)) for key, child in children]
    if isinstance(tree, dict):
        return dict(mapped)
    values = [child for _, child in mapped]
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)


def rebuild(tree: Tree, values: Mapping[str, Any]) -> Tree:
    """The tree with its leaves taken from `values`, by path."""
    in_order = iter([values[path] for path, _ in walk(tree)])
    return map_leaves(lambda _: next(in_order), tree)
