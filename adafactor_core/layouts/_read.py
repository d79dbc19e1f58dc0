"""From the checkpoint of an implementation to a Record: one function for all formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._config import Config, resolve
from .._errors import StateError
from .._factoring import without
from .._numerics import NARROW, wide_name
from .._tree import some
from ..interchange import Raw, Record, TensorRecord
from ..interchange._options import options_of
from ._arrays import number, raw
from ._find import Keys, Place, by_tensor, places, torch_dict
from ._flat import Flat, flat
from ._format import Format
from ._inferred import inferred
from ._names import NameMap, renamed
from ._options import chosen_options
from ._params import Param, described
from ._retarget import Losses, cast
from ._sight import Sight, has_momentum, seen
from ._table import format_of
from ._untouched import begun


def read(
    state: Any,
    format: str,
    params: Any = None,
    *,
    options: Mapping[str, Any] | Config | None = None,
    step: int | None = None,
    approximate: bool = False,
    name_map: NameMap | None = None,
) -> Record:
    """The state of an implementation as a Record. Arrays are read when the Record's are.

    `state`: what the optimizer has (a torch state dict, or a checkpoint with one in it; the state
    of optax, flax, MLX or trax; Keras' `variables`; an `adafactor_core.State`), or that flattened.
    `format`: a name in FORMATS. `params`: the parameters it belongs to, as a tree of arrays, a
    torch module, pairs (path, array) in the optimizer's order, or {path: (shape, dtype)}; for a
    torch state without names the order counts; None where a torch state has names and its slots
    show the shapes. `options`: where the format's differ, above all `min_dim_size_to_factor`; of
    this package's own states all of them. `step`: where the state holds none.

    Statistics become float32 (float64 of float64 parameters), which loses nothing. A parameter
    that torch keeps no state of, because no gradient has reached it, is at step 0 with zeros; in
    other states it is left out, and so it is without `params`. `name_map`: names and axes that the
    Record is to have, as `renamed` takes them; `params` have the old ones. Raises ConfigError,
    StateError, TreeError, ShapeError or DTypeError, naming the tensor. `approximate`: what cannot
    be had exactly (tensors with different numbers of steps) is listed in `notes` instead.
    """
    fmt = format_of(format)
    if fmt.family == "torch":
        _, state = torch_dict(state)
    leaves = flat(state)
    known = inferred(format, leaves) if params is None else described(params, fmt.tree_order)
    where = places(fmt, known, leaves)
    chosen = chosen_options(format, options, leaves, where)
    lose = Losses(approximate)
    assumed = ("dtypes of parameters are taken for float32: the state does not tell them",)
    told = params is not None or fmt.statistics == "param"
    unsure = not told and any(p.dtype == "float32" for p in known)
    tensors, ages, used = _tensors(fmt, where, leaves, chosen, lose)
    if fmt.family == "torch" and params is not None:
        tensors = _whole(fmt, where, chosen, tensors)
    done = _steps(fmt, leaves, ages, used, step, lose)
    if step is None:
        own = {path: n for path, n in ages.items() if n != done}
        tensors = [replace(t, step=own.get(t.path, t.step)) for t in tensors]
    skipped = leaves.get((fmt.skipped or ("", ""))[1].removeprefix("{at}"))
    shown = options_of(chosen)
    if not any("momentum" in t.slots for t in tensors):
        shown = {k: v for k, v in shown.items() if not k.startswith("momentum")}
    elif fmt.unfactored_options:
        vectors = [t.path for t in tensors if not t.row_axes]
        shown |= {"rules": [[path, dict(fmt.unfactored_options)] for path in vectors]}
    record = Record(
        done,
        tuple(tensors),
        skipped=None if skipped is None else number(skipped, "skipped"),
        variant="" if fmt.ours else format,
        options=shown,
        notes=lose.notes() + (assumed if unsure else ()),
    )
    return record if name_map is None else renamed(record, name_map)


def sights(
    fmt: Format, where: Sequence[Place], state: Flat, options: Config, keys: Keys
) -> list[Sight | None]:
    """By what is in the state."""
    configs = resolve(options, [place.param.path for place in where])
    buffers = any(has_momentum(fmt, place, keys, state) for place in where)
    return [
        seen(fmt, place, keys, state, o, buffers) for place, o in zip(where, configs, strict=True)
    ]


def _tensors(
    fmt: Format, where: Sequence[Place], leaves: Flat, options: Config, lose: Losses
) -> tuple[list[TensorRecord], dict[str, int], set[str]]:
    """Also the number of steps by tensor, and the keys that are slots."""
    keys = Keys(fmt, leaves)
    tensors: list[TensorRecord] = []
    ages: dict[str, int] = {}
    used: set[str] = set()
    for place, sight in zip(where, sights(fmt, where, leaves, options, keys), strict=True):
        _refuse(fmt, place, leaves)
        if sight is None:
            continue
        used |= {*sight.keys.values(), *sight.idle.values(), *sight.derived.values()}
        skips = keys.of(fmt.skipped[0], place) if fmt.skipped else None
        slots = {
            slot: _slot(slot, raw(leaves[key], key), key, place.param, sight, lose)
            for slot, key in sight.keys.items()
        }
        tensors.append(
            TensorRecord(
                *place.param,
                sight.row_axes,
                sight.col_axes,
                slots,
                None if skips is None else number(leaves[skips], skips),
            )
        )
        for template in fmt.counters:
            key = keys.of(template, place) if by_tensor(template) else None
            if key is not None:
                ages[place.param.path] = number(leaves[key], key)
    if not tensors:
        raise StateError(
            f"the state has nothing for any of {some({p.param.path for p in where})}: it is of "
            f"other parameters, of another format, or has taken no step."
        )
    return tensors, ages, used


def _whole(
    fmt: Format, where: Sequence[Place], options: Config, found: Sequence[TensorRecord]
) -> list[TensorRecord]:
    """With those that have no state yet, in the order of the parameters."""
    have = {t.path: t for t in found}
    configs = resolve(options, [place.param.path for place in where])
    return [
        have.get(place.param.path) or begun(fmt, place.param, o, found)
        for place, o in zip(where, configs, strict=True)
    ]


def _slot(slot: str, found: Raw, key: str, param: Param, sight: Sight, lose: Losses) -> Raw:
    """With dims kept, in a dtype that a Record has."""
    if slot in ("momentum_scale", "compensation"):
        return found
    if slot == "momentum" and found.dtype == "int8" and "momentum_scale" in sight.keys:
        return found
    if not found.dtype.startswith(("float", "bfloat")):
        raise StateError(
            f"tensor {param.path!r}: {key!r} is {found.dtype}, quantised with scales of its own. "
            f"Have the optimizer that made it turn it back into floats first."
        )
    gone = {"row": sight.col_axes, "col": sight.row_axes}.get(slot, ())
    found = found.reshape(without(param.shape, gone))
    if slot == "momentum" and found.dtype in NARROW:
        return found
    return cast(found, wide_name(param.dtype), param.path, slot, lose)


def _refuse(fmt: Format, place: Place, leaves: Flat) -> None:
    """Raises StateError for slots that no other implementation has."""
    for name, why in fmt.refused.items():
        key = f"state.{place.fields.get('id', '')}.{name}"
        if key in leaves:
            raise StateError(
                f"tensor {place.param.path!r} of shape {place.param.shape} has {name!r}: {why}."
            )


def _steps(
    fmt: Format,
    leaves: Flat,
    ages: Mapping[str, int],
    used: set[str],
    step: int | None,
    lose: Losses,
) -> int:
    """The number of completed steps: the largest, where tensors have their own."""
    if step is not None:
        return number(step, "step")
    found = {key: number(leaves[key], key) for key in Keys(fmt, leaves).counters(used)}
    if not found and not ages:
        raise StateError("the number of completed steps is not in the state. Pass step.")
    last = max([*found.values(), *ages.values()])
    for key, n in found.items():
        if n != last:
            lose(
                key,
                f"it has counted {n} steps, and others {last}",
                "Pass step to say how many there were.",
            )
    return last
