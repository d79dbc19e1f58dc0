"""From a Record to the checkpoint of an implementation: one function for all formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._config import Config, resolve
from .._errors import StateError
from .._numerics import Shape, dtype_name
from .._tree import some
from ..interchange import Raw, Record, TensorRecord
from ..interchange._arrays import zeros
from ._arrays import ARRAYS, is_array, like, raw, scalar, shape_of, unboxed
from ._find import Keys, Place, by_tensor, has_names, places, torch_dict
from ._flat import Flat, filled, flat
from ._format import Format
from ._numbers import computed, encoded, rebuilt, values
from ._params import described
from ._read import chosen_options, sights
from ._reshape import still
from ._retarget import Losses, Target, retargeted, wide
from ._sight import Sight, expected, stored_shape
from ._table import format_of

Make = Callable[[Raw], Any]


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
) -> Any:
    """A Record as an implementation keeps its state.

    `template`: a state that the user's own optimizer has just made (`tx.init(params)`,
    `optimizer.state_dict()`); it comes back filled, with the same containers, dtypes, devices and
    order, and says what is factored and whether there is momentum. Without one: a torch state dict
    with what the format needs, or the flattened form, {key: array}. `params`: the optimizer's
    parameters, where their order counts and is not the Record's. `options`: where the format's
    differ; with `beta1` among them there is momentum. `arrays`: of which library ("raw", "numpy",
    "torch", "jax", "mlx", or a function of a Raw); default the template's, else torch's in a state
    dict, and Raw.
    `momentum=False` leaves it behind.

    Raises StateError for what cannot be converted exactly, naming the tensor and the way out;
    `approximate=True` converts it nevertheless: `losses` tells beforehand what that would be.
    """
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
) -> tuple[str, ...]:
    """What `write` with `approximate=True` would change, in words; () for nothing."""
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
    tensors = {t.path: t if momentum else still(t) for t in record.tensors}
    _check_paths({p.path for p in known}, set(tensors))
    where = places(fmt, known, state)
    chosen = chosen_options(format, options, state)
    bare = not any(is_array(x) for key, x in state.items() if not key.startswith("param_groups"))
    keys = Keys(fmt, {} if bare else state)
    found = _sights(fmt, where, {} if bare else state, chosen, keys, record, options, momentum)
    out: Flat = {}
    used: set[str] = set()
    configs = resolve(chosen, [p.path for p in known])
    for place, sight, o in zip(where, found, configs, strict=True):
        t = tensors[place.param.path]
        to = _target(fmt, t, sight, o, {} if bare else state, momentum)
        _put(fmt, retargeted(t, record, to, lose), t, place, sight, state, out)
        if fmt.skipped and to.counts:
            key = keys.of(fmt.skipped[0], place)
            if key is not None:
                out[key] = scalar("int32", t.skipped or 0)
        used |= {*sight.keys.values(), *sight.idle.values(), *sight.derived.values()}
        for counter in fmt.counters:
            if by_tensor(counter):
                key = counter.format(**place.fields)
                n = record.step if t.step is None else t.step
                before = out.get(key)
                out[key] = _count(fmt, n, state.get(key))
                if before is not None and "{group}" in counter and before != out[key]:
                    lose(t.path, "its group has one number of steps, and others in it another one")
                    out[key] = max(before, out[key])
        if t.step not in (None, record.step) and not any(map(by_tensor, fmt.counters)):
            lose(
                t.path,
                f"it has taken {t.step} steps, others {record.step}, and the target has one number",
                "Go on where it was saved.",
            )
    for key in keys.counters(used):
        if not by_tensor(key):
            out[key] = _count(fmt, record.step, state.get(key))
    if fmt.skipped and fmt.skipped[1].removeprefix("{at}") in state:
        key = fmt.skipped[1].removeprefix("{at}")
        out[key] = _count(fmt, record.skipped or 0, state[key])
    return _nested(fmt, out, where, inner, arrays)


def _by_position(fmt: Format) -> bool:
    return fmt.family == "torch" or "{first}" in fmt.factored.get("row", "")


def _check_paths(wanted: set[str], has: set[str]) -> None:
    if wanted != has:
        raise StateError(
            f"the record is of other parameters. Missing: {some(wanted - has)}; unknown: "
            f"{some(has - wanted)}. Rename one side (see name_map)."
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
) -> list[Sight]:
    """By the template where there is one, else by rule."""
    if state:
        found = sights(fmt, where, state, options, keys)
        absent = {place.param.path for place, s in zip(where, found, strict=True) if s is None}
        if absent:
            raise StateError(
                f"the template has nothing for {some(absent)}. Make it with the optimizer, and for "
                f"the parameters, that are to go on."
            )
        return [sight for sight in found if sight is not None]
    configs = resolve(options, [place.param.path for place in where])
    has = {t.path for t in record.tensors if "momentum" in t.slots}
    if fmt.ours or isinstance(given, Config) or (given is not None and "beta1" in given):
        has = {p.param.path for p, o in zip(where, configs, strict=True) if o.beta1 is not None}
    if not momentum or "momentum" not in fmt.factored:
        has = set()
    return [
        expected(fmt, place, keys, o, place.param.path in has)
        for place, o in zip(where, configs, strict=True)
    ]


def _target(
    fmt: Format,
    t: TensorRecord,
    sight: Sight,
    o: Config,
    state: Flat,
    momentum: bool,
) -> Target:
    def kept(slot: str, otherwise: str) -> str:
        key = sight.keys.get(slot, "")
        return raw(state[key], key).dtype if key in state else otherwise

    means = {"wide": wide(t.dtype), "float32": "float32", "param": t.dtype}[fmt.statistics]
    first = "row" if sight.row_axes else "full"
    buffer: str | None = None
    if "momentum" in sight.keys:
        if fmt.momentum_dtype == "param":
            buffer = t.dtype
        else:
            buffer = wide(t.dtype) if o.momentum_dtype == "float32" else o.momentum_dtype
        buffer = kept("momentum", buffer)
    of = o.momentum_on
    if not sight.row_axes:
        of = fmt.unfactored_options.get("momentum_on", of)
    narrow = t.dtype in ("float16", "bfloat16")
    return Target(
        sight.row_axes,
        sight.col_axes,
        kept(first, means),
        buffer,
        of,
        compensation=fmt.ours and o.rounding == "kahan" and narrow,
        counts=fmt.ours and o.nonfinite in ("skip_tensor", "skip_step"),
        afresh=not momentum,
    )


def _put(
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


def _count(fmt: Format, step: int, leaf: Any) -> Any:
    """The number of steps, as in `leaf` where there is one."""
    if is_array(leaf):
        found = shape_of(leaf)
        return scalar(dtype_name(unboxed(leaf)), step).reshape(found)
    if fmt.counter_dtype == "int" or leaf is not None:
        return step
    return scalar(fmt.counter_dtype, step)


def _nested(
    fmt: Format,
    out: Flat,
    where: Sequence[Place],
    template: Any,
    arrays: str | Make | None,
) -> Any:
    """In the containers of the format, or of the template."""
    make = ARRAYS[arrays] if isinstance(arrays, str) else arrays
    if fmt.family == "torch":
        return _state_dict(out, where, template, make or ARRAYS["torch"])
    if template is None:
        make = make or ARRAYS["raw"]
        return {key: make(x) if isinstance(x, Raw) else x for key, x in out.items()}
    old = flat(template)
    new = {
        key: (make(x) if make else like(x, old[key])) if isinstance(x, Raw) else x
        for key, x in out.items()
    }
    return filled(template, new)


def _state_dict(out: Flat, where: Sequence[Place], template: Any, make: Make) -> Any:
    if template is None:
        names = [place.param.path for place in where]
        group = {"params": list(range(len(names))), "param_names": names}
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
            state.setdefault(ids[name], {})[slot] = value
    return {**template, "state": state, "param_groups": groups}
