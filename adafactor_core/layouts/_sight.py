"""What a state holds for one tensor, seen by the shapes in it; or what it will have to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .._config import Config
from .._errors import StateError
from .._factoring import layout, without
from .._numerics import Shape
from .._rounding import scale_shape
from ._arrays import is_array, shape_of
from ._find import Keys, Place
from ._flat import Flat
from ._format import Format


@dataclass(frozen=True)
class Sight:
    """Axes, and the key of each slot: of ours; of what follows from them; of placeholders."""

    row_axes: Shape
    col_axes: Shape
    keys: Mapping[str, str]
    derived: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)


def stored_shape(fmt: Format, slot: str, shape: Shape, row_axes: Shape, col_axes: Shape) -> Shape:
    """Of one slot in this format."""
    if slot == "momentum_scale":
        return scale_shape(shape)
    gone = {"row": col_axes, "col": row_axes}.get(slot, ())
    if fmt.keepdims:
        return without(shape, gone)
    return tuple(n for a, n in enumerate(shape) if a not in gone)


def expected(fmt: Format, place: Place, keys: Keys, options: Config, momentum: bool) -> Sight:
    """By the rule of the format."""
    plan = layout(place.param.shape, options, place.param.path)
    return _sight(fmt, place, keys, (plan.row_axes, plan.col_axes), momentum)


def seen(
    fmt: Format, place: Place, keys: Keys, state: Flat, options: Config, buffers: bool
) -> Sight | None:
    """By what is there; None where nothing is. `buffers`: whether others have momentum.

    Raises StateError where that fits no rule.
    """
    found: dict[str, str] = {}
    for kind in (fmt.factored, fmt.unfactored):
        for slot, template in kind.items():
            key = keys.of(template, place)
            if key is not None and is_array(state[key]):
                found.setdefault(slot, key)
    if not found:
        return None
    axes = _axes(fmt, place, state, options, found)
    momentum = _has_momentum(fmt, place, keys, state, axes, buffers)
    return _sight(fmt, place, keys, axes, momentum)


def has_momentum(fmt: Format, place: Place, keys: Keys, state: Flat) -> bool:
    """Whether a tensor surely has it: one whose shape is no placeholder's."""
    if fmt.placed_momentum and place.param.shape == fmt.placeholder:
        return False
    return any(
        _momentum_fits(fmt, place, keys, state, kind.get("momentum", ""))
        for kind in (fmt.factored, fmt.unfactored)
    )


def _axes(
    fmt: Format, place: Place, state: Flat, options: Config, found: Mapping[str, str]
) -> tuple[Shape, Shape]:
    shape, path = place.param.shape, place.param.path
    full = "full" in found and shape_of(state[found["full"]]) == shape
    # Both: only where (1,) is a placeholder and could be a statistic; the full one has no double.
    if full and fmt.placeholder is not None and not fmt.derived:
        return (), ()
    if "row" in found and "col" in found:
        smallest = replace(options, min_dim_size_to_factor=1)
        for o in (options, smallest):
            plan = layout(shape, o, path)
            want = {
                slot: stored_shape(fmt, slot, shape, plan.row_axes, plan.col_axes)
                for slot in ("row", "col")
            }
            got = {slot: shape_of(state[found[slot]]) for slot in want}
            if plan.factored and got == want:
                return plan.row_axes, plan.col_axes
    if full:
        return (), ()
    got_words = ", ".join(f"{key!r} of shape {shape_of(state[key])}" for key in found.values())
    plan = layout(shape, options, path)
    if plan.factored:
        rows, cols = (
            stored_shape(fmt, slot, shape, plan.row_axes, plan.col_axes) for slot in ("row", "col")
        )
        want_words = f"rows of shape {rows} and columns of shape {cols}"
    else:
        want_words = f"a full second moment of shape {shape} ({plan.reason})"
    raise StateError(
        f"tensor {path!r} of shape {shape}: expected {want_words}, but the state has {got_words}. "
        f"It is of other parameters, or of the same in another order, or of other options: pass "
        f"options={{'factored_dims': ..., 'min_dim_size_to_factor': ...}}."
    )


def _has_momentum(
    fmt: Format,
    place: Place,
    keys: Keys,
    state: Flat,
    axes: tuple[Shape, Shape],
    buffers: bool,
) -> bool:
    kind = fmt.factored if axes[0] else fmt.unfactored
    fits = _momentum_fits(fmt, place, keys, state, kind.get("momentum", ""))
    ambiguous = fmt.placed_momentum and place.param.shape == fmt.placeholder
    return fits and (buffers or not ambiguous)


def _momentum_fits(fmt: Format, place: Place, keys: Keys, state: Flat, template: str) -> bool:
    key = keys.of(template, place)
    if key is None or not is_array(state[key]):
        return False
    shape = shape_of(state[key])
    if shape == place.param.shape:
        return True
    if shape == fmt.placeholder or fmt.tree_order:  # trax: the same number may be a column's
        return False
    raise StateError(
        f"tensor {place.param.path!r} of shape {place.param.shape}: its momentum, {key!r}, has "
        f"shape {shape}. The state is of other parameters, or of the same in another order."
    )


def _sight(
    fmt: Format, place: Place, keys: Keys, axes: tuple[Shape, Shape], momentum: bool
) -> Sight:
    kind, other = fmt.factored, fmt.unfactored
    if not axes[0]:
        kind, other = other, kind
    resolved = {slot: keys.of(template, place) for slot, template in kind.items()}
    unused = {slot for slot in resolved if slot == "momentum" and not momentum}
    idle = (
        {}
        if fmt.placeholder is None
        else {s: keys.of(t, place) for s, t in other.items() if s != "momentum"}
    )
    if fmt.placed_momentum:
        idle |= {slot: resolved[slot] for slot in unused}
    derived = {s: keys.of(t, place) for s, t in fmt.derived.items()} if axes[0] else {}
    taken = {key for slot, key in resolved.items() if slot not in unused} | set(derived.values())
    return Sight(
        *axes,
        {s: key for s, key in resolved.items() if key is not None and s not in unused},
        {s: key for s, key in derived.items() if key is not None},
        {s: key for s, key in idle.items() if key is not None and key not in taken},
    )
