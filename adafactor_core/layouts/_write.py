"""From a Record to the checkpoint of an implementation: one function for all formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._config import Config, resolve
from .._errors import StateError
from .._numerics import NARROW, wide_name
from .._state import counts
from .._tree import some
from ..interchange import Record, TensorRecord
from ._arrays import is_array, raw, scalar
from ._find import BARE_GROUP, Keys, Place, by_tensor, has_names, places, torch_dict
from ._flat import Flat, flat
from ._format import Format
from ._groups import known_group
from ._names import NameMap, renamed
from ._nest import Make, count, nested, put
from ._options import chosen_options
from ._params import Param, described
from ._read import sights
from ._reshape import still
from ._retarget import Losses, Target, retargeted
from ._sight import Sight, expected
from ._table import format_of
from ._untouched import untouched


def write(
    record: Record,
    format: str,
    template: Any = None,
    *,
    params: Any = None,
    options: Mapping[str, Any] | Config | None = None,
    arrays: str | Make | None = None,
    momentum: bool = True,
    approximate: bool = False,
    name_map: NameMap | None = None,
) -> Any:
    """A Record as an implementation keeps its state.

    `template`: a state that the user's own optimizer has just made (`tx.init(params)`,
    `optimizer.state_dict()`); it comes back filled, with the same containers, dtypes, devices and
    order, and says what is factored and whether there is momentum. Without one: a torch state dict,
    or the flattened form, {key: array}. The groups of such a state dict hold options only where
    `options` is a Config, or says the rate, and the format is "torch", "transformers", "timm" or
    "adafactor_torch"; otherwise `load_torch` loads it, and `load_state_dict` alone does not.
    `params`: the optimizer's parameters, where their order counts and is not the Record's.
    `options`: where the format's differ; with `beta1` among them there is momentum. `arrays`: of
    which library ("raw", "numpy", "torch", "jax", "mlx", or a function of a Raw); default the
    template's, else torch's in a state dict, and Raw. `momentum=False` leaves it behind.
    `name_map`: names and axes of the target, as `renamed` takes them; `template` and `params` have
    the new ones.

    Raises StateError for what cannot be converted exactly, naming the tensor and the way out;
    `approximate=True` converts it nevertheless: `losses` tells beforehand what that would be.
    """
    record = record if name_map is None else renamed(record, name_map)
    return _written(
        record, format, template, params, options, arrays, momentum, Losses(approximate)
    )


def losses(
    record: Record,
    format: str,
    template: Any = None,
    *,
    params: Any = None,
    options: Mapping[str, Any] | Config | None = None,
    momentum: bool = True,
    name_map: NameMap | None = None,
) -> tuple[str, ...]:
    """What `write` with `approximate=True` would change, in words; () for nothing."""
    record = record if name_map is None else renamed(record, name_map)
    lose = Losses(True)
    _written(record, format, template, params, options, "raw", momentum, lose)
    return lose.notes()


def _written(
    record: Record,
    format: str,
    template: Any,
    params: Any,
    options: Mapping[str, Any] | Config | None,
    arrays: str | Make | None,
    momentum: bool,
    lose: Losses,
) -> Any:
    fmt = format_of(format)
    inner = torch_dict(template)[1] if fmt.family == "torch" and template is not None else template
    state = {} if inner is None else flat(inner)
    if params is None and _by_position(fmt) and not has_names(state):
        raise StateError(
            f"{format!r} knows parameters by their position alone. Pass params, in the order of "
            f"the optimizer that is to go on (torch_order gives it)."
        )
    known = described(record if params is None else params, fmt.tree_order)
    named = {p.path for p in known}
    tensors = {
        t.path: t if momentum else still(t)
        for t in record.tensors
        if t.path in named or not untouched(t, record)  # which are zeros, and may be masked there
    }
    _check_fit(fmt, known, tensors)
    # torch gives a parameter its state with its first gradient: without one it has its place only.
    every = places(fmt, known, state)
    where = [place for place in every if place.param.path in tensors]
    chosen = chosen_options(format, options, state, where)
    bare = not any(is_array(x) for key, x in state.items() if not key.startswith("param_groups"))
    keys = Keys(fmt, None if bare else state)
    found = _sights(
        fmt, where, {} if bare else state, chosen, keys, record, options, momentum, state
    )
    out: Flat = {}
    used: set[str] = set()
    counted: dict[str, int] = {}
    configs = resolve(chosen, [place.param.path for place in where])
    for place, sight, o in zip(where, found, configs, strict=True):
        if sight is None:
            continue
        t = tensors[place.param.path]
        to = _target(fmt, place.param.dtype, sight, o, {} if bare else state, momentum)
        put(fmt, retargeted(t, record, to, lose), t, place, sight, state, out)
        if fmt.skipped and to.counts:
            key = keys.of(fmt.skipped[0], place)
            if key is not None:
                out[key] = scalar("int32", t.skipped or 0)
        used |= {*sight.keys.values(), *sight.idle.values(), *sight.derived.values()}
        for counter in fmt.counters:
            if by_tensor(counter):
                key = counter.format(**place.fields)
                n = record.step if t.step is None else t.step
                if counted.setdefault(key, n) != n:
                    lose(t.path, "its group has one number of steps, and others in it another one")
                counted[key] = max(n, counted[key])
                out[key] = count(fmt, counted[key], state.get(key))
        if t.step not in (None, record.step) and not any(map(by_tensor, fmt.counters)):
            lose(
                t.path,
                f"it has taken {t.step} steps, others {record.step}, and the target has one number",
                "Go on where it was saved.",
            )
    for key in keys.counters(used):
        if not by_tensor(key):
            out[key] = count(fmt, record.step, state.get(key))
    if fmt.skipped and fmt.skipped[1].removeprefix("{at}") in state:
        key = fmt.skipped[1].removeprefix("{at}")
        out[key] = count(fmt, record.skipped or 0, state[key])
    buffers = any(sight is not None and "momentum" in sight.keys for sight in found)
    group = {} if inner is not None else known_group(format, options, chosen, buffers)
    return nested(fmt, out, every, inner, arrays, group)


def _by_position(fmt: Format) -> bool:
    return fmt.family == "torch" or "{first}" in fmt.factored.get("row", "")


def _check_fit(fmt: Format, params: Sequence[Param], tensors: Mapping[str, TensorRecord]) -> None:
    """Raises StateError unless the record is of these parameters."""
    wanted = {p.path for p in params}
    missing = set() if fmt.family == "torch" else wanted - tensors.keys()
    if missing or tensors.keys() - wanted:
        raise StateError(
            f"the record is of other parameters. Missing: {some(missing)}; unknown: "
            f"{some(tensors.keys() - wanted)}. Rename one side (see renamed)."
        )
    for p in params:
        if p.path in tensors and tensors[p.path].shape != p.shape:
            raise StateError(
                f"tensor {p.path!r} has shape {p.shape}, in the record {tensors[p.path].shape}. "
                f"Where the axes are in another order, use renamed()."
            )


def _sights(
    fmt: Format,
    where: Sequence[Place],
    state: Flat,
    options: Config,
    keys: Keys,
    record: Record,
    given: Mapping[str, Any] | Config | None,
    momentum: bool,
    groups: Flat,
) -> list[Sight | None]:
    """By the template where there is one, else by rule; None for what is not to be there."""
    new = {t.path for t in record.tensors if untouched(t, record)}
    if state:
        found = sights(fmt, where, state, options, keys)
        absent = {place.param.path for place, s in zip(where, found, strict=True) if s is None}
        absent -= new
        if absent:
            raise StateError(
                f"the template has nothing for {some(absent)}. Make it with the optimizer, and for "
                f"the parameters, that are to go on."
            )
        return found
    configs = resolve(options, [place.param.path for place in where])
    known = fmt.ours or isinstance(given, Config) or (given is not None and "beta1" in given)
    has = {t.path for t in record.tensors if "momentum" in t.slots and momentum}
    out: list[Sight | None] = []
    for place, o in zip(where, configs, strict=True):
        path = place.param.path
        if fmt.family == "torch" and path in new:
            out.append(None)
            continue
        told = o.beta1 is not None if known else _averages(fmt, place, groups)
        wanted = path in has if told is None else told
        out.append(expected(fmt, place, keys, o, wanted and "momentum" in fmt.factored))
    return out


def _averages(fmt: Format, place: Place, groups: Flat) -> bool | None:
    """Whether the optimizer of a fresh state dict keeps momentum; None where nobody says."""
    group = f"param_groups.{place.fields.get('group')}."
    options = {key.removeprefix(group).split(".")[0] for key in groups if key.startswith(group)}
    return group + fmt.averages in groups if fmt.averages and options - BARE_GROUP else None


def _target(
    fmt: Format, dtype: str, sight: Sight, o: Config, state: Flat, momentum: bool
) -> Target:
    def kept(slot: str, otherwise: str) -> str:
        key = sight.keys.get(slot, "")
        return raw(state[key], key).dtype if key in state else otherwise

    means = {"wide": wide_name(dtype), "float32": "float32", "param": dtype}[fmt.statistics]
    first = "row" if sight.row_axes else "full"
    buffer: str | None = None
    if "momentum" in sight.keys:
        if fmt.momentum_dtype == "param":
            buffer = dtype
        else:
            buffer = wide_name(dtype) if o.momentum_dtype == "float32" else o.momentum_dtype
        buffer = kept("momentum", buffer)
    of = o.momentum_on
    if not sight.row_axes:
        of = fmt.unfactored_options.get("momentum_on", of)
    return Target(
        sight.row_axes,
        sight.col_axes,
        kept(first, means),
        buffer,
        of,
        compensation=fmt.ours and o.rounding == "kahan" and dtype in NARROW,
        counts=fmt.ours and counts(o),
        afresh=not momentum,
    )
