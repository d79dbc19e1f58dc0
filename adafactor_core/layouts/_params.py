"""Parameters as an importer needs them: path, shape and dtype, in the order of their tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .._errors import DTypeError, TreeError
from .._numerics import TRAINABLE, Shape, dtype_name
from ..interchange import Record, TensorRecord
from ._arrays import is_array, shape_of, unboxed
from ._flat import flat


class Param(NamedTuple):
    path: str
    shape: Shape
    dtype: str


def described(params: Any, tree_order: bool = False) -> list[Param]:
    """Of a tree of arrays, a torch module, pairs (name, array) as `named_parameters` gives them, a
    mapping {path: (shape, dtype)}, or a Record.

    Pairs and mappings of names to arrays keep their order, by which torch's and Keras' states are
    matched; nested trees are in the order of JAX. Raises TreeError or DTypeError.
    """
    if isinstance(params, Record):
        params = params.tensors
    named = getattr(params, "named_parameters", None)
    if callable(named):
        params = list(named())
    elif isinstance(params, Iterable) and not isinstance(params, Mapping | list | tuple):
        params = params if is_array(params) else list(params)
    pairs = _pairs(params)
    found = [_param(path, x) for path, x in pairs]
    if len({p.path for p in found}) != len(found):
        raise TreeError("two parameters have one path. Rename one of them.")
    if tree_order:
        found.sort(key=lambda p: p.path.split("."))
    return found


def _pairs(params: Any) -> list[tuple[str, Any]]:
    if isinstance(params, list | tuple) and params:
        if all(isinstance(x, TensorRecord | Param) for x in params):
            return [(t.path, (t.shape, t.dtype)) for t in params]
        pairs = [x for x in params if isinstance(x, tuple) and len(x) == 2]
        if len(pairs) == len(params) and all(isinstance(name, str) for name, _ in pairs):
            return [(name, x) for name, x in pairs]
    if isinstance(params, Mapping) and all(_is_leaf(x) for x in params.values()):
        return [(str(name), x) for name, x in params.items()]
    leaves = flat(params)
    return [(path, leaves[path]) for path in sorted(leaves, key=lambda p: _numbered(p))]


def _numbered(path: str) -> list[tuple[int, int, str]]:
    """Indices of lists by their number, keys of dicts by their letters."""
    parts = path.split(".")
    return [(0, int(k), "") if k.isdecimal() else (1, 0, k) for k in parts]


def _is_leaf(x: Any) -> bool:
    return is_array(unboxed(x)) or _is_spec(x)


def _is_spec(x: Any) -> bool:
    """(shape, dtype)"""
    whole = isinstance(x, list | tuple) and len(x) == 2 and isinstance(x[0], list | tuple)
    return whole and all(isinstance(n, int) for n in x[0]) and not is_array(x[1])


def _param(path: str, x: Any) -> Param:
    if _is_spec(x):
        shape, dtype = tuple(x[0]), str(x[1]).rsplit(".", 1)[-1].strip("'<>\"")
    else:
        x = unboxed(x)
        if not is_array(x):
            raise DTypeError(
                f"parameter {path!r} is a {type(x).__name__}, expected an array or a pair (shape, "
                f"dtype)."
            )
        shape, dtype = shape_of(x), dtype_name(x)
    if dtype not in TRAINABLE:
        raise DTypeError(
            f"parameter {path!r} of shape {shape} has dtype {dtype}; Adafactor trains "
            f"{', '.join(TRAINABLE)}. Leave it out."
        )
    return Param(path, shape, dtype)
