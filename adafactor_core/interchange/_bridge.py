"""Between a State of any array library and a Record, tensor by tensor, by path."""

from __future__ import annotations

from collections.abc import Callable

from .._config import Config, as_config
from .._errors import StateError
from .._metrics import no_metrics
from .._numerics import Array, dtype_name, wide_dtype
from .._prepare import check_counters, planned
from .._state import Moments, State, check, counts, slots
from .._tree import Tree, check_param, flatten, matching, unflatten
from ..variants import Variant
from . import _file as files
from ._arrays import array_of, raw_of
from ._fit import by_path, check_skips, fit
from ._options import label, options_of
from ._raw import Raw, of_bytes
from ._record import Record, TensorRecord

Put = Callable[[Raw, Array], Array]
"""Makes an array of a Raw for the tensor that it belongs to: in its library, on its device."""


def record(
    params: Tree,
    state: State,
    config: Config | None = None,
    *,
    variant: str | Variant | None = None,
) -> Record:
    """The state of these parameters as a Record. Its arrays are read when somebody asks for them.

    `config` has to be the one that the state was made with; `variant` names it. Counters are read
    at once. Metrics are not part of it. Raises StateError, TreeError, ShapeError or DTypeError,
    naming the tensor.
    """
    config = as_config(config)
    if not isinstance(state, State):
        raise StateError(f"state must be a State from init() or step(), got {type(state).__name__}")
    check_counters(state, config)
    leaves = flatten(params)
    moments = matching(leaves, state.moments, "state.moments")
    rows = zip(leaves.paths, leaves.arrays, moments, planned(leaves, config, None), strict=True)
    tensors = []
    for path, x, m, (options, plan) in rows:
        xp = check_param(x, path)
        check(m, slots(xp, x, plan, options), path)
        held = {name: raw_of(a) for name, a in m._asdict().items() if a is not None}
        held.pop("skipped", None)
        skipped = None if m.skipped is None else int(m.skipped)
        axes = plan.row_axes, plan.col_axes
        tensors.append(TensorRecord(path, plan.shape, dtype_name(x), *axes, held, skipped))
    skipped = None if state.skipped is None else int(state.skipped)
    return Record(int(state.step), tuple(tensors), skipped, label(variant), options_of(config))


def state(
    record: Record, params: Tree, config: Config | None = None, *, put: Put = array_of
) -> State:
    """The State of these parameters that a Record holds, in their library and on their devices.

    Tensors are matched by path. `put(raw, x)` makes the arrays. Raises StateError, naming the
    tensor, what the record has and what the config needs, before the first array is made; and
    TreeError, ShapeError, DTypeError. Metrics start anew.
    """
    config = as_config(config)
    leaves = flatten(params)
    namespaces = [check_param(x, p) for p, x in zip(leaves.paths, leaves.arrays, strict=True)]
    plans = planned(leaves, config, None)
    found = by_path(record, leaves.paths)
    check_skips(record, config)
    rows = list(zip(namespaces, leaves.arrays, plans, found, strict=True))
    for xp, x, (options, plan), t in rows:
        fit(t, plan, slots(xp, x, plan, options))
        if t.step not in (None, record.step):
            raise StateError(
                f"the state of tensor {t.path!r} has made {t.step} steps, others {record.step}: "
                f"it comes from a framework that counts per parameter, and this one has a single "
                f"counter. Go on where it was saved."
            )
    moments, metrics = [], []
    for xp, x, _, t in rows:
        made = {name: put(raw, x) for name, raw in t.slots.items()}
        if t.skipped is not None and counts(config):
            made["skipped"] = put(counter(t.skipped), x)
        moments.append(Moments(*(made.get(name) for name in Moments._fields)))
        metrics.append(no_metrics(xp, x, wide_dtype(xp, x)) if config.telemetry else None)
    step, skipped = (
        n if n is None or not rows else put(counter(n), leaves.arrays[0])
        for n in (record.step, record.skipped)
    )
    return State(
        step,
        unflatten(leaves, moments),
        skipped if counts(config) else None,
        unflatten(leaves, metrics) if config.telemetry else None,
    )


def counter(n: int) -> Raw:
    """A number of steps as the 0-D int32 array that counts them."""
    return of_bytes("int32", (), n.to_bytes(4, "little"))


def save_state(
    file: files.Path_,
    params: Tree,
    state: State,
    config: Config | None = None,
    *,
    variant: str | Variant | None = None,
    progress: files.Progress | None = None,
) -> None:
    """Writes the state of these parameters to a file that every framework can read.

    safetensors, or npz where the name ends in ".npz" (docs/interchange.md). The parameters
    themselves are not in it. The file is replaced as a whole or not at all. `config` is the one
    that the state was made with, `variant` its name (or the record, for the name), and
    `progress(done, total)` is called with bytes. Raises StateError, TreeError, ShapeError or
    DTypeError, naming the tensor, and OSError.
    """
    made = record(params, state, config, variant=variant)
    files.write(file, made, progress=progress)


def load_state(file: files.Path_, params: Tree, config: Config | None = None) -> State:
    """The state in this file for these parameters, by path, bit for bit as it was saved.

    In the library of the parameters and on their devices. Raises StateFileError for a file that is
    damaged or no state; StateError, naming the tensor, where it is of other tensors or options;
    FileNotFoundError.
    """
    return state(files.read(file), params, config)
