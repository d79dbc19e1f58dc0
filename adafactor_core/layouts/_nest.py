"""What a converted state is put into: keys, and then containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._errors import StateError
from .._numerics import Shape, dtype_name
from ..interchange import Raw, TensorRecord
from ..interchange._arrays import zeros
from ..interchange._raw import computed
from ._arrays import ARRAYS, is_array, like, scalar, shape_of, unboxed
from ._find import Place
from ._flat import Flat, filled, flat
from ._format import Format
from ._numbers import encoded, rebuilt, values
from ._sight import Sight, stored_shape

Make = Callable[[Raw], Any]


def put(
    fmt: Format,
    slots: Mapping[str, Raw],
    t: TensorRecord,
    place: Place,
    sight: Sight,
    state: Flat,
    out: Flat,
) -> None:
    axes = sight.row_axes, sight.col_axes
    for slot, found in slots.items():
        if slot not in sight.keys:
            raise StateError(
                f"tensor {t.path!r} of shape {t.shape} has {slot}, for which the template has no "
                f"place. Make it with the optimizer that is to go on."
            )
        out[sight.keys[slot]] = found.reshape(stored_shape(fmt, slot, t.shape, *axes))
    dtype = next(iter(slots.values())).dtype
    for key in sight.derived.values():
        out[key] = _estimate(slots["row"], slots["col"], t.shape, sight.row_axes, dtype)
    for key in sight.idle.values():
        if key not in state:
            out[key] = zeros(fmt.placeholder_dtype or dtype, fmt.placeholder or ())


def _estimate(row: Raw, col: Raw, shape: Shape, row_axes: Shape, dtype: str) -> Raw:
    def make() -> bytes:
        return encoded(rebuilt(values(row), values(col), row_axes).reshape(-1), dtype)

    return computed(dtype, shape, make)


def count(fmt: Format, step: int, leaf: Any) -> Any:
    """The number of steps, as in `leaf` where there is one."""
    if is_array(leaf):
        found = shape_of(leaf)
        return scalar(dtype_name(unboxed(leaf)), step).reshape(found)
    if fmt.counter_dtype == "int" or leaf is not None:
        return step
    return scalar(fmt.counter_dtype, step)


def nested(
    fmt: Format,
    out: Flat,
    every: Sequence[Place],
    template: Any,
    arrays: str | Make | None,
    options: Mapping[str, Any],
) -> Any:
    """In the containers of the format, or of the template. `options`: of a new torch group."""
    make = ARRAYS[arrays] if isinstance(arrays, str) else arrays
    if fmt.family == "torch":
        return _state_dict(out, every, template, make or ARRAYS["torch"], options)
    if template is None:
        make = make or ARRAYS["raw"]
        return {key: make(x) if isinstance(x, Raw) else x for key, x in out.items()}
    old = flat(template)
    new = {
        key: (make(x) if make else like(x, old[key])) if isinstance(x, Raw) else x
        for key, x in out.items()
    }
    return filled(template, new)


def _state_dict(
    out: Flat, every: Sequence[Place], template: Any, make: Make, options: Mapping[str, Any]
) -> Any:
    if template is None:
        names = [place.param.path for place in every]
        group = {**options, "params": list(range(len(names))), "param_names": names}
        template = {"state": {}, "param_groups": [group]}
    groups = [dict(group) for group in template["param_groups"]]
    ids = {str(id_): id_ for group in groups for id_ in group["params"]}
    state = {id_: dict(kept) for id_, kept in template["state"].items()}
    for key, x in out.items():
        head, name, slot = key.split(".", 1)[0], *key.split(".", 1)[1].rsplit(".", 1)
        value = make(x) if isinstance(x, Raw) else x
        if head == "param_groups":
            groups[int(name)][slot] = value
        else:
            if name not in ids:
                raise StateError(
                    f"the template's groups have no parameter {name}. Pass the state_dict() of "
                    f"the optimizer that is to go on."
                )
            state.setdefault(ids[name], {})[slot] = value
    return {**template, "state": state, "param_groups": groups}
