"""init, update, step: the order of things, for any nesting of arrays of any namespace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import le
from typing import Literal, NamedTuple

import array_api_compat as compat

from ._config import Config, as_config, resolve
from ._errors import ShapeError, StateError
from ._factoring import Layout, layout
from ._numerics import (
    Array,
    Namespace,
    Shape,
    can_write_blocks,
    device,
    dtype_name,
    namespace,
    wide_dtype,
)
from ._passes import ArrayPasses, Passes
from ._schedules import Clock
from ._state import Moments, State, check, eps1, slots, zeros
from ._tree import Leaves, Tree, check_grad, check_param, flatten, matching, unflatten
from ._work import Partial, Work

Reduce = Callable[[Sequence[Partial]], Sequence[Array]]


class Sharding(NamedTuple):
    """Tells init, step and update that the arrays are local parts of larger tensors.

    `shapes`: params' tree with each tensor's whole shape (a tuple of ints) as its leaf.
    `reduce`: called twice per step, with the partial sums of *all* tensors; returns their values
    added up over the shards that split any of `Partial.axes`. May be one bucketed all-reduce.
    """

    shapes: Tree
    reduce: Reduce


def init(params: Tree, config: Config | None = None, *, sharding: Sharding | None = None) -> State:
    """The state before the first step.

    `params`: one array or any optree nesting of arrays, float16, bfloat16, float32 or float64.
    Row, column and full slots are float32 (float64 for float64 tensors) zeros on the parameter's
    device. Raises ConfigError, ShapeError or DTypeError, naming the tensor.
    """
    leaves = flatten(params)
    namespaces = [check_param(x, p) for p, x in zip(leaves.paths, leaves.arrays, strict=True)]
    plans = planned(leaves, as_config(config), sharding)
    moments = [
        zeros(xp, x, plan, o)
        for xp, x, (o, plan) in zip(namespaces, leaves.arrays, plans, strict=True)
    ]
    step: Array | int = 0
    if leaves.arrays:
        xp, first = namespaces[0], leaves.arrays[0]
        step = xp.zeros((), dtype=xp.int32, device=device(first))
    return State(step, unflatten(leaves, moments))


def step(
    params: Tree,
    grads: Tree,
    state: State,
    config: Config | None = None,
    *,
    donate: bool = False,
    passes: Sequence[Passes] = (),
    sharding: Sharding | None = None,
) -> tuple[Tree, State]:
    """One step: (new params, new state), of the same shapes, dtypes and devices.

    Pure; with `donate=True` the arrays of `params` and `state` may be overwritten and must not be
    used again. `passes` are a backend's replacements, asked in order; the rest run in array API.
    Raises before anything is computed: TreeError, ShapeError, DTypeError, StateError, ConfigError.
    """
    return _run(params, grads, state, config, "param", donate, passes, sharding)


def update(
    grads: Tree,
    state: State,
    params: Tree,
    config: Config | None = None,
    *,
    passes: Sequence[Passes] = (),
    sharding: Sharding | None = None,
) -> tuple[Tree, State]:
    """The update D with `params + D` the new parameters, and the new state; optax's order.

    D is not rounded: float32 (float64 for float64 tensors) whatever the tensor's dtype, so that
    adding it and rounding once gives the bits of `step`. Raises as `step` does.
    """
    return _run(params, grads, state, config, "update", False, passes, sharding)


def _run(
    params: Tree,
    grads: Tree,
    state: State,
    config: Config | None,
    emit: Literal["param", "update"],
    donate: bool,
    passes: Sequence[Passes],
    sharding: Sharding | None,
) -> tuple[Tree, State]:
    leaves = flatten(params)
    works = prepare(leaves, params, grads, state, as_config(config), emit, donate, sharding)
    execute(works, (*passes, ArrayPasses()), sharding.reduce if sharding else None)
    results = unflatten(leaves, [w.result for w in works])
    return results, State(_next(state.step), unflatten(leaves, [w.new for w in works]))


def prepare(
    leaves: Leaves,
    params: Tree,
    grads: Tree,
    state: State,
    config: Config,
    emit: Literal["param", "update"],
    donate: bool,
    sharding: Sharding | None,
) -> list[Work]:
    """Everything checked and looked up, nothing computed."""
    if not isinstance(state, State):
        raise StateError(f"state must be a State from init() or step(), got {type(state).__name__}")
    works = []
    clock = Clock(state.step)
    columns = (
        leaves.paths,
        leaves.arrays,
        [check_param(x, path) for path, x in zip(leaves.paths, leaves.arrays, strict=True)],
        matching(leaves, grads, "grads"),
        matching(leaves, state.moments, "state.moments"),
        planned(leaves, config, sharding),
    )
    for path, x, xp, g, moments, (options, plan) in zip(*columns, strict=True):
        check_grad(xp, x, g, path)
        check(moments, slots(xp, x, plan, options), path)
        work = make_work(path, options, plan, xp, x, g, moments, clock, emit, sharding is None)
        if donate and work.writable:
            work.into = given_up(work)
        works.append(work)
    return works


def make_work(
    path: str,
    options: Config,
    plan: Layout,
    xp: Namespace,
    x: Array,
    g: Array,
    moments: Moments,
    clock: Clock,
    emit: Literal["param", "update"],
    alone: bool,
) -> Work:
    """The record of one tensor at the start of a step."""
    dtype = wide_dtype(xp, x)
    width = "float64" if dtype_name(x) == "float64" else "float32"
    at = clock.rates(options, x, width)
    epsilon = eps1(x, options)
    writable = can_write_blocks(x)
    return Work(
        path, options, plan, xp, dtype, width, x, g, moments, at, epsilon, emit, alone, writable,
        into={}, prescale=plan.prescale(),
    )  # fmt: skip


def given_up(work: Work) -> dict[str, Array]:
    """The arrays that a donated tensor's results may overwrite; read-only ones are left alone."""
    slots_ = {n: a for n, a in work.moments._asdict().items() if a is not None}
    if work.emit == "param":
        slots_["result"] = work.param
    return {n: a for n, a in slots_.items() if compat.is_writeable_array(a)}


Group = tuple[Passes, Sequence[Work]]


def execute(works: Sequence[Work], passes: Sequence[Passes], reduce: Reduce | None) -> None:
    """All tensors through all passes. `passes`: the last one must serve everything."""
    for together in arrange(works, passes, joint=reduce is not None):
        run(together, reduce)


def arrange(
    works: Sequence[Work], passes: Sequence[Passes], *, joint: bool
) -> Sequence[Sequence[Group]]:
    """Who takes which tensors, in the order to `run` them; `joint`: all tensors pass by pass.

    An in-place adapter may keep the arrangement while its arrays stay the same.
    """
    groups: list[tuple[Passes, list[Work]]] = [(p, []) for p in passes]
    for w in works:
        next(group for p, group in groups if not p.serves(w)).append(w)
    batches: list[Group] = [(p, batch) for p, group in groups for batch in p.batches(group)]
    return [batches] if joint else [[batch] for batch in batches]


def run(groups: Sequence[Group], reduce: Reduce | None) -> None:
    """One reduction after observe and one after measure, however many tensors there are."""
    for p, works in groups:
        p.observe(works)
    _reduce(groups, reduce, first=True)
    for p, works in groups:
        p.advance(works)
        p.measure(works)
    _reduce(groups, reduce, first=False)
    for p, works in groups:
        p.scale(works)
        p.apply(works)


def _reduce(groups: Sequence[Group], reduce: Reduce | None, first: bool) -> None:
    if reduce is None:
        return
    works = [w for _, group in groups for w in group]
    sums = [(w, s) for w in works for n, s in w.partials.items() if first == (n != "u2")]
    for (w, s), value in zip(sums, reduce([s for _, s in sums]), strict=True):
        w.partials[s.name] = s._replace(value=value)


def _next(step: Array | int) -> Array | int:
    if isinstance(step, int):
        return step + 1
    xp = namespace(step)
    return xp.asarray(step + 1, dtype=step.dtype)


def planned(
    leaves: Leaves, config: Config, sharding: Sharding | None
) -> list[tuple[Config, Layout]]:
    """Options and layout per tensor; the layout is that of the whole tensor."""
    options = resolve(config, leaves.paths)
    shapes: Sequence[Shape] = [tuple(x.shape) for x in leaves.arrays]
    if sharding is not None:
        wholes = matching(leaves, sharding.shapes, "sharding.shapes")
        for path, local, whole in zip(leaves.paths, shapes, wholes, strict=True):
            ints = isinstance(whole, tuple | list) and all(isinstance(n, int) for n in whole)
            fits = ints and len(local) == len(whole) and all(map(le, local, whole))
            if not fits:
                raise ShapeError(
                    f"tensor {path!r} of local shape {local} cannot be a part of {whole!r}. "
                    f"Give the whole tensor's shape, a tuple of ints, in Sharding.shapes."
                )
        shapes = [tuple(whole) for whole in wholes]
    return [
        (o, layout(s, o, path)) for o, s, path in zip(options, shapes, leaves.paths, strict=True)
    ]
