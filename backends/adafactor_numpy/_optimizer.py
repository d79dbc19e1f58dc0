"""The stateful, in-place optimizer over NumPy arrays. Holds no formula: the core has them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from adafactor_core import (
    ArrayPasses,
    Config,
    ConfigError,
    DTypeError,
    MemoryReport,
    NonFiniteError,
    Passes,
    State,
    StateError,
    TreeError,
    Work,
    init,
    memory_report,
)
from adafactor_core._config import as_config
from adafactor_core._decisions import unscaling
from adafactor_core._factoring import small_unit
from adafactor_core._metrics import no_metrics
from adafactor_core._numerics import wide_dtype
from adafactor_core._order import Group, arrange, run
from adafactor_core._prepare import check_counters, given_up, make_work, own_rates, planned
from adafactor_core._schedules import Clock
from adafactor_core._state import NO_MOMENTS, check, counts, draws_bits, slots
from adafactor_core._tree import Leaves, Tree, check_grad, check_writable, flatten, matching
from adafactor_core._tree import unflatten as nested
from adafactor_core._work import Whole

from ._compile import available

_told = False


class MissingNumbaWarning(UserWarning):
    """The compiled passes are off because Numba is not installed; results are the same."""


class Adafactor:
    """Adafactor over NumPy arrays, updated in place.

    `params`: one array or any nesting of dict, list, tuple or namedtuple of writable arrays of
    dtype float16, float32, float64 or ml_dtypes' bfloat16, none sharing memory with another.
    `config` or its options by name (`lr=1e-3, weight_decay=0.1`), as in docs/options.md.
    `compiled`: True wants the Numba passes, False the plain NumPy ones; None takes Numba where it
    is installed and says so once where it is not. Raises ConfigError, DTypeError, ReadOnlyError,
    ShapeError or TreeError, naming the tensor.
    """

    def __init__(
        self,
        params: Tree,
        config: Config | None = None,
        *,
        compiled: bool | None = None,
        **options: Any,
    ) -> None:
        if config is not None and options:
            raise ConfigError(
                f"both config and options ({', '.join(options)}) were given. Use "
                f"Adafactor(params, config) or Adafactor(params, {', '.join(options)}=...)."
            )
        self._config = as_config(config) if config is not None else Config(**options)
        self._params = params
        self._leaves = flatten(params)
        _check_params(self._leaves)
        self._passes: tuple[Passes, ...] = (*_compiled(compiled), ArrayPasses())
        state = init(params, self._config)
        self._step, self._skipped = 0, 0
        self._moments = matching(self._leaves, state.moments, "state")
        self._works: list[Work] = []
        self._arranged: dict[Any, Sequence[Sequence[Group]]] = {}
        self._last: Sequence[Sequence[Group]] = ()
        self._kept: Tree = None  # metrics from before a step that was refused
        self._unit = small_unit(sum(x.size for x in self._leaves.arrays))
        self._plan(self._config)

    def _plan(self, config: Config) -> None:
        self._plans = planned(self._leaves, config, None)
        rows = zip(self._plans, self._leaves.arrays, strict=True)
        self._draws = any(draws_bits(o, x) for (o, _), x in rows)

    @property
    def params(self) -> Tree:
        """The tree given at the start; its arrays are the current parameters."""
        return self._params

    @property
    def config(self) -> Config:
        """The options. Assign a new Config to change them; the state must still fit it."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        config = as_config(config)
        plans = planned(self._leaves, config, None)
        self._check_moments(self._moments, plans)
        self._config = config
        self._plan(config)
        self._works, self._arranged, self._last, self._kept = [], {}, (), None

    @property
    def state(self) -> State:
        """Completed steps and the current moments: the optimizer's own arrays, not copies.

        Assign a State, for example a saved one, to continue from it; it is copied. Raises
        StateError or TreeError if it does not fit, and then nothing has changed.
        """
        o = self._config
        return State(
            self._step,
            nested(self._leaves, self._moments),
            self._skipped if counts(o) else None,
            self.metrics if o.telemetry else None,
        )

    @state.setter
    def state(self, state: State) -> None:
        if not isinstance(state, State):
            raise StateError(f"state must be a State, got {type(state).__name__}.")
        moments = matching(self._leaves, state.moments, "state.moments")
        check_counters(state, self._config)
        self._check_moments(moments, self._plans)
        copies = [m._replace(**_copied(m._asdict())) for m in moments]
        self._step, self._moments = int(state.step), copies
        self._skipped = int(state.skipped or 0)
        self._works, self._arranged, self._last, self._kept = [], {}, (), None

    def memory_report(self) -> MemoryReport:
        """State bytes per tensor, factored axes and why, beside Adam's."""
        return memory_report(self._params, self._config)

    @property
    def metrics(self) -> Tree:
        """Params' tree of Metrics of the last step, zeros before it; needs `telemetry`."""
        if not self._config.telemetry:
            raise StateError("there are no metrics without telemetry. Use telemetry=True.")
        if self._kept is not None:
            return self._kept
        if not self._last:
            arrays = self._leaves.arrays
            return nested(
                self._leaves, [no_metrics(_namespace(), x, wide_dtype(np, x)) for x in arrays]
            )
        groups = [group for together in self._last for group in together]
        told = {w.path: m for p, ws in groups for w, m in zip(ws, p.metrics(ws), strict=True)}
        return nested(self._leaves, [told[path] for path in self._leaves.paths])

    def step(self, grads: Tree, *, grad_scale: float | None = None) -> None:
        """One step, in place. `grads`: nested like params, of the same shapes, any float dtype.

        `grad_scale`: what the loss was multiplied by; gradients are divided by it. Raises
        TreeError, ShapeError, DTypeError, ReadOnlyError, ConfigError or NonFiniteError before
        anything has changed. Gradients must not overlap parameters, except for being the same
        array.
        """
        found = matching(self._leaves, grads, "grads")
        # NumPy's reductions return scalars, so the gradient of a 0-D parameter often is one.
        found = [np.asarray(g) if isinstance(g, np.generic) else g for g in found]
        clock, unscale = Clock(self._step), unscaling(grad_scale)
        whole = Whole(self._config, unscale=unscale, unit=self._unit, gain=unscale)
        works = self._works or self._start(found, clock, whole)
        kinds = []
        for work, g in zip(works, found, strict=True):
            if type(g) is not np.ndarray or g.shape != work.layout.shape:
                _check_grad(work, g)
            elif g.dtype != work.param.dtype:
                check_grad(work.xp, work.param, g, work.path)
            check_writable(work.param, work.path)
            kinds.append((g.dtype, g.flags.c_contiguous, g.flags.aligned))
        lags = self._moments if self._skipped else [NO_MOMENTS] * len(works)
        known = [
            own_rates(clock, whole, w.options, w.param, w.width, m)
            for w, m in zip(works, lags, strict=True)
        ]
        key = clock.key(whole.options.seed, None) if self._draws else None
        # The sums of a refused step overwrite those that the metrics are made of when asked for.
        refusable = self._config.nonfinite == "raise" and self._config.telemetry
        before = self.metrics if refusable else None
        for work, g, r in zip(works, found, known, strict=True):
            work.again(g, r, whole, key)
        arranged = self._arrangement(works, tuple(kinds))
        self._works = works
        try:
            odd = sum(run(together, None) for together in arranged)
        except NonFiniteError:
            self._kept = before
            raise
        finally:
            for work in works:
                work.grad = None  # keeps no gradient alive
        if odd and counts(self._config):
            self._skipped += 1
            for work in works:
                if work.fine is False:
                    work.moments.skipped[...] += 1  # type: ignore[index]
        self._last, self._kept = arranged, None
        self._step += whole.fine is not False

    def _start(self, grads: list[Any], clock: Clock, whole: Whole) -> list[Work]:
        works = []
        rows = zip(
            self._leaves.paths, self._leaves.arrays, grads, self._moments, self._plans, strict=True
        )
        for path, x, g, moments, (options, plan) in rows:
            xp, origin = _namespace(), (0,) * x.ndim
            work = make_work(path, options, plan, xp, x, g, moments, clock, "param", whole, origin)
            work.into = given_up(work) | {"result": x}
            works.append(work)
        return works

    def _arrangement(self, works: list[Work], kinds: Any) -> Sequence[Sequence[Group]]:
        """Kept while gradients come with the same dtypes and memory layout."""
        found = self._arranged.get(kinds)
        if found is None:
            found = arrange(works, self._passes)
            self._arranged = {kinds: found}
        return found

    def _check_moments(self, moments: Sequence[Any], plans: Sequence[Any]) -> None:
        rows = zip(self._leaves.paths, self._leaves.arrays, moments, plans, strict=True)
        for path, x, m, (options, plan) in rows:
            check(m, slots(_namespace(), x, plan, options), path)


def _namespace() -> Any:
    from array_api_compat import numpy

    return numpy


def _compiled(wanted: bool | None) -> tuple[Passes, ...]:
    global _told
    if wanted is False:
        return ()
    if available():
        from ._compiled import CompiledPasses

        return (CompiledPasses(),)
    if wanted:
        raise ConfigError(
            "compiled=True needs Numba. Install it with pip install 'adafactor-core[numba]', or "
            "leave compiled out."
        )
    if not _told:
        _told = True
        warnings.warn(
            "Numba is not installed: steps run in plain NumPy, with the same results but several "
            "times as long. pip install 'adafactor-core[numba]', or pass compiled=False.",
            MissingNumbaWarning,
            stacklevel=4,
        )
    return ()


def _check_params(leaves: Leaves) -> None:
    spans = []
    for path, x in zip(leaves.paths, leaves.arrays, strict=True):
        if not isinstance(x, np.ndarray):
            raise DTypeError(
                f"tensor {path!r} is a {type(x).__name__}, expected a numpy.ndarray that can be "
                f"updated in place. Make one with numpy.array(...)."
            )
        check_writable(x, path)
        if x.size:
            spans.append((*np.lib.array_utils.byte_bounds(x), path, x))
    spans.sort(key=lambda span: span[:2])
    for (_, end, path, x), (start, _, other, y) in pairwise(spans):
        if start < end and np.shares_memory(x, y):
            raise TreeError(
                f"tensors {path!r} and {other!r} share memory, so one step would change them "
                f"twice. Pass shared parameters once, with the sum of their gradients."
            )


def _check_grad(work: Work, g: Any) -> None:
    if g is not None and not isinstance(g, np.ndarray):
        raise DTypeError(
            f"the gradient of tensor {work.path!r} is a {type(g).__name__}, expected a "
            f"numpy.ndarray of shape {work.layout.shape}. Convert it with numpy.asarray(...)."
        )
    check_grad(work.xp, work.param, g, work.path)


def _copied(moments: dict[str, Any]) -> dict[str, Any]:
    return {name: None if a is None else np.array(a, order="C") for name, a in moments.items()}
