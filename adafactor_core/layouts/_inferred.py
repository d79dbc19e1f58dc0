"""Parameters by what a state shows of them, where nobody says what they are."""

from __future__ import annotations

from .._errors import StateError
from .._numerics import Shape, dtype_name
from ._arrays import is_array, shape_of, unboxed
from ._find import torch_rows
from ._flat import Flat
from ._format import Format
from ._params import Param
from ._table import FORMATS, meaning


def inferred(format: str, state: Flat) -> list[Param]:
    """Of a torch state dict that has names. float32 where the format's statistics are, whatever the
    parameter is, float64 where they are.

    Raises StateError where names or shapes are not to be seen.
    """
    fmt = FORMATS[format]
    rows = torch_rows(state) if fmt.family == "torch" else []
    if not rows or any(name is None for *_, name in rows):
        raise StateError(
            f"the parameters are needed: this state of {format!r} does not tell which tensor a "
            f"slot belongs to. Pass params."
        )
    out = []
    for id_, group, name in rows:
        found = {}
        for slot, template in (*fmt.factored.items(), *fmt.unfactored.items()):
            key = template.format(id=id_, group=group)
            if key in state and is_array(state[key]):
                found[slot] = state[key]
        if found:
            shape = _shape(fmt, format, {s: shape_of(x) for s, x in found.items()}, str(name))
            dtype = dtype_name(unboxed(found.get("full", found.get("row"))))
            if fmt.statistics != "param" and dtype != "float64":  # only its own are float64
                dtype = "float32"
            out.append(Param(str(name), shape, dtype))
    return out


def _shape(fmt: Format, format: str, shapes: dict[str, Shape], path: str) -> Shape:
    for slot in ("momentum", "full"):
        if slot in shapes:
            return shapes[slot]
    row, col = shapes.get("row", ()), shapes.get("col", ())
    if fmt.keepdims and len(row) == len(col):
        return tuple(map(max, row, col))
    if meaning(format).get("factored_dims") == "last" and row[:-1] == col[:-1]:
        return (*row, *col[-1:])
    raise StateError(
        f"tensor {path!r} has rows of shape {row} and columns of shape {col}, which do not tell "
        f"its own. Pass params."
    )
