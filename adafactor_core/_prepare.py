"""Before a step: everything checked and looked up, nothing computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import le
from typing import Any, Literal, NamedTuple

import array_api_compat as compat

from ._config import Config, resolve
from ._errors import ShapeError, StateError
from ._factoring import Layout, layout, small_unit
from ._numerics import (
    Array,
    Namespace,
    Shape,
    can_write_blocks,
    dtype_name,
    wide_dtype,
    wide_name,
)
from ._order import Reduce
from ._rounding import Draws
from ._schedules import Clock, Rates
from ._state import Moments, State, check, counts, draws_bits, eps1, slots
from ._tree import Leaves, Tree, check_grad, check_param, matching
from ._work import Whole, Work


class Sharding(NamedTuple):
    """Tells init, step and update that the arrays are local parts of larger tensors.

    `shapes`: params' tree with each tensor's whole shape (a tuple of ints) as its leaf.
    `reduce`: called twice per step, with the partial sums of *all* tensors; returns their values
    added up over the shards that split any of `Partial.axes`. May be one bucketed all-reduce.
    `offsets`: params' tree with the index in the whole tensor at which the local part starts (a
    tuple of ints) as its leaf. Stochastic rounding draws by position, so it needs them.
    """

    shapes: Tree
    reduce: Reduce
    offsets: Tree = None


def prepare(
    leaves: Leaves,
    grads: Tree,
    state: State,
    emit: Literal["param", "update"],
    donate: bool,
    whole: Whole,
    sharding: Sharding | None,
) -> list[Work]:
    """Everything checked and looked up, nothing computed."""
    config = whole.options
    if not isinstance(state, State):
        raise StateError(f"state must be a State from init() or step(), got {type(state).__name__}")
    check_counters(state, config)
    works = []
    clock = Clock(state.step)
    columns = (
        leaves.paths,
        leaves.arrays,
        [check_param(x, path) for path, x in zip(leaves.paths, leaves.arrays, strict=True)],
        matching(leaves, grads, "grads"),
        matching(leaves, state.moments, "state.moments"),
        planned(leaves, config, sharding),
        origins(leaves, config, sharding),
    )
    for path, x, xp, g, moments, (options, plan), origin in zip(*columns, strict=True):
        check_grad(xp, x, g, path)
        check(moments, slots(xp, x, plan, options), path)
        work = make_work(path, options, plan, xp, x, g, moments, clock, emit, whole, origin)
        if donate and work.writable:
            work.into = given_up(work)
        works.append(work)
    whole.unit = small_unit(sum(math.prod(w.layout.shape) for w in works))
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
    whole: Whole,
    origin: Shape,
) -> Work:
    """The record of one tensor at the start of a step."""
    dtype = wide_dtype(xp, x)
    width = wide_name(dtype_name(x))
    at = own_rates(clock, whole, options, x, width, moments)
    draws = Draws(path, origin, plan.shape) if draws_bits(options, x) else None
    key = clock.key(whole.options.seed, x) if draws else None
    epsilon = eps1(x, options)
    writable = can_write_blocks(x)
    return Work(
        path, options, plan, xp, dtype, width, x, g, moments, at, epsilon, emit, whole, writable,
        into={}, draws=draws, key=key, prescale=plan.prescale(),
    )  # fmt: skip


def own_rates(
    clock: Clock, whole: Whole, options: Config, x: Array, width: str, moments: Moments
) -> Rates:
    """The scalars of this step; under "skip_tensor" a tensor's decay goes by its own steps."""
    own = moments.skipped if whole.options.nonfinite == "skip_tensor" else None
    return clock.rates(options, x, width, own)


def given_up(work: Work) -> dict[str, Array]:
    """The arrays that a donated tensor's results may overwrite; read-only ones are left alone."""
    slots_ = {n: a for n, a in work.moments._asdict().items() if a is not None}
    if work.emit == "param":
        slots_["result"] = work.param
    return {n: a for n, a in slots_.items() if compat.is_writeable_array(a)}


def claimed(w: Work) -> Moments:
    """The slots that kernels work on, in place: what was not given up is copied first."""
    for name, array in {**w.moments._asdict(), "result": w.param}.items():
        if array is not None and name not in w.into:
            w.into[name] = w.xp.asarray(array, copy=True)
    return Moments(*(None if m is None else w.into[n] for n, m in w.moments._asdict().items()))


def check_counters(state: State, config: Config) -> None:
    """Raises StateError unless the state counts skips if and only if the options want it."""
    if counts(config) != (state.skipped is not None):
        wanted, got = ("a", "none") if counts(config) else ("no", "one")
        raise StateError(
            f"nonfinite={config.nonfinite!r} needs {wanted} counter of skipped steps, the state "
            f"has {got}. Use convert_state(params, state, config), or the config it was made with."
        )


def origins(leaves: Leaves, config: Config, sharding: Sharding | None) -> Sequence[Shape]:
    """Where each local part starts in its tensor. Raises ShapeError where it has to be known."""
    start: Sequence[Shape] = [(0,) * len(x.shape) for x in leaves.arrays]
    if sharding is None:
        return start
    if sharding.offsets is not None:
        offsets = matching(leaves, sharding.offsets, "sharding.offsets")
        shapes = matching(leaves, sharding.shapes, "sharding.shapes")
        for path, x, at, shape in zip(leaves.paths, leaves.arrays, offsets, shapes, strict=True):
            _check_offset(path, tuple(x.shape), at, tuple(shape))
        return [tuple(at) for at in offsets]
    options = resolve(config, leaves.paths)
    for path, x, o in zip(leaves.paths, leaves.arrays, options, strict=True):
        if draws_bits(o, x):
            raise ShapeError(
                f"tensor {path!r} is rounded at random, by position in the whole tensor, but "
                f"Sharding.offsets is missing. Give the index at which each local part starts, "
                f"a tuple of ints per tensor."
            )
    return start


def _check_offset(path: str, local: Shape, at: Any, whole: Shape) -> None:
    ints = isinstance(at, tuple | list) and all(isinstance(n, int) for n in at)
    fits = ints and len(at) == len(local)
    if not fits or any(o < 0 or o + n > m for o, n, m in zip(at, local, whole, strict=True)):
        raise ShapeError(
            f"tensor {path!r}: the local part of shape {local} cannot start at {at!r} in the whole "
            f"of shape {whole}. Give the index of its first element, a tuple of ints, in "
            f"Sharding.offsets."
        )


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
