"""An optimizer that updates its arrays in place: what adapters of such libraries have in common.

Knows no array library. An adapter derives from `InPlace` and says which arrays it takes, how one is
copied, and whose passes come first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ._config import Config, as_config
from ._decisions import advanced, counted, gathered, unscaling
from ._errors import ConfigError, NonFiniteError, StateError
from ._factoring import small_unit
from ._lags import Lags
from ._metrics import no_metrics
from ._numerics import Array, assign, namespace, on_host, wide_dtype
from ._order import Group, arrange, run
from ._passes import ArrayPasses, Passes
from ._prepare import check_counters, given_up, make_work, own_rates, planned
from ._report import MemoryReport, memory_report
from ._schedules import Clock, Rates
from ._state import NO_MOMENTS, State, check, counts, slots
from ._step import init
from ._tree import Leaves, Tree, flatten, matching, unflatten
from ._work import Whole, Work
from .interchange import Raw, read, save_state
from .interchange import state as bridged
from .interchange._arrays import numpy_array
from .variants import Variant
from .variants import config as chosen
from .variants import record as named

_HERE: AbstractContextManager[Any] = nullcontext()


def _stored(old: Array | int, new: Array | int) -> Array | int:
    """A counter after a step; on a device in the old memory, where a captured step finds it."""
    if isinstance(old, int):
        return new
    assign(old, (), new)
    return old


class InPlace:
    """Adafactor over arrays that are updated in place. Adapters replace the methods at the end."""

    def __init__(self, params: Tree, config: Config | None, options: dict[str, Any]) -> None:
        options = {n: value for n, value in options.items() if n != "variant" or value is not None}
        if config is not None and options:
            raise ConfigError(
                f"both config and options ({', '.join(options)}) were given. Use "
                f"Adafactor(params, config) or Adafactor(params, {', '.join(options)}=...)."
            )
        variant = options.pop("variant", None)
        self._config = as_config(config) if config is not None else chosen(variant, options)
        self._variant = "" if variant is None else named(variant).name  # for state files
        self._params = params
        self._leaves = flatten(params)
        self._check_params(self._leaves)
        self._passes = self._all_passes()
        with self._on_first():
            state = init(params, self._config)
        self._step: Array | int = 0
        self._skipped: Array | int = 0
        self._moments = matching(self._leaves, state.moments, "state")
        self._unit = small_unit(sum(x.size for x in self._leaves.arrays))
        self._begin()

    def _begin(self) -> None:
        """After anything but a step: nothing that was looked up holds any more."""
        self._plans = planned(self._leaves, self._config, None)
        self._works: list[Work] = []
        self._arranged: dict[Any, Sequence[Sequence[Group]]] = {}
        self._last: Sequence[Sequence[Group]] = ()
        self._kept: Tree = None  # metrics from before a step that was refused
        # A counter that depends on a decision is where the decision is, from the first step on: a
        # run that goes on and one that resumes then take their rates from the same arithmetic.
        self._step = self._counter(self._step, self._config.nonfinite == "skip_step")
        self._skipped = self._counter(self._skipped, counts(self._config))
        self._lags: Lags | None = None
        own = self._config.nonfinite == "skip_tensor" and bool(self._moments)
        if own and not on_host(self._moments[0].skipped):
            self._lags = Lags(self._leaves.arrays, self._moments, self._on)
            self._moments = self._lags.moments

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
        self._check_moments(self._moments, planned(self._leaves, config, None))
        self._config, self._variant = config, ""
        self._begin()

    @property
    def state(self) -> State:
        """Completed steps and the current moments: the optimizer's own arrays, not copies.

        The next step changes them, counters that are on a device included. Assign a State, for
        example a saved one, to continue from it; it is copied. Raises StateError or TreeError if it
        does not fit, and then nothing has changed.
        """
        o = self._config
        return State(
            self._step,
            unflatten(self._leaves, self._moments),
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
        step, skipped = int(state.step), int(state.skipped or 0)
        copies = []
        for x, m in zip(self._leaves.arrays, moments, strict=True):
            held = {name: a for name, a in m._asdict().items() if a is not None}
            copies.append(m._replace(**{name: self._copy(a, x) for name, a in held.items()}))
        self._step, self._skipped, self._moments = step, skipped, copies
        self._begin()

    def save_state(
        self,
        file: str | os.PathLike[str],
        *,
        variant: str | Variant | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Writes the state, and not the parameters, to a file that every framework can read.

        As `adafactor_core.save_state`, which says more. `variant`: default the one it was made
        with. Raises OSError.
        """
        name = self._variant if variant is None else variant
        save_state(file, self._params, self.state, self._config, variant=name, progress=progress)

    def load_state(self, file: str | os.PathLike[str]) -> None:
        """Goes on from the state in this file, whatever framework wrote it; matched by path.

        Raises StateFileError, StateError or FileNotFoundError, and then nothing has changed.
        """
        found = read(file)
        made = bridged(found, self._params, self._config, put=self._put)
        self._moments = matching(self._leaves, made.moments, "state.moments")
        self._step, self._skipped = found.step, found.skipped or 0
        self._begin()

    def _put(self, raw: Raw, x: Array) -> Array:
        with self._on(x):
            return self._copy(numpy_array(raw), x)

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
            arrays = [(namespace(x), x) for x in self._leaves.arrays]
            found = [no_metrics(xp, x, wide_dtype(xp, x)) for xp, x in arrays]
            return unflatten(self._leaves, found)
        groups = [group for together in self._last for group in together]
        told = {w.path: m for p, ws in groups for w, m in zip(ws, p.metrics(ws), strict=True)}
        return unflatten(self._leaves, [told[path] for path in self._leaves.paths])

    def step(self, grads: Tree, *, grad_scale: Any = None) -> None:
        """One step, in place. `grads`: nested like params, of the same shapes, any float dtype.

        `grad_scale`: what the loss was multiplied by; gradients are divided by it. Raises
        TreeError, ShapeError, DTypeError, DeviceError, ReadOnlyError, ConfigError or
        NonFiniteError before anything has changed. Gradients must not overlap parameters, except
        for being the same array.
        """
        found = matching(self._leaves, grads, "grads")
        with self._on_first():
            self._advance(found, unscaling(grad_scale))

    def _advance(self, found: list[Any], unscale: Any) -> None:
        clock = Clock(self._step)
        whole = Whole(self._config, unscale=unscale, unit=self._unit, gain=unscale)
        works = self._works or self._start(clock, whole)
        taken = [self._take(w, g) for w, g in zip(works, found, strict=True)]
        scalars = self._scalars(works, clock, whole)
        # The sums of a refused step overwrite those that the metrics are made of when asked for.
        refusable = self._config.nonfinite == "raise" and self._config.telemetry
        before = self.metrics if refusable else None
        for w, (g, _), (at, key) in zip(works, taken, scalars, strict=True):
            w.again(g, at, whole, key)
        kinds = tuple([kind for _, kind in taken])
        arranged = self._arranged.get(kinds)
        if arranged is None:  # kept while gradients come with the same dtypes and memory layout
            arranged = arrange(works, self._passes)
            self._arranged = {kinds: arranged}
        self._works = works
        try:
            odd = gathered([run(together, None) for together in arranged])
        except NonFiniteError:
            self._kept = before
            raise
        finally:
            for w in works:
                w.grad = None  # keeps no gradient alive
        self._count(works, odd, whole.fine)
        self._last, self._kept = arranged, None

    def _scalars(self, works: list[Work], clock: Clock, whole: Whole) -> list[tuple[Rates, Any]]:
        """The rates of each tensor, and the key of its random bits."""
        # While nothing was skipped, no tensor lags behind the common counter.
        lags = not isinstance(self._skipped, int) or self._skipped > 0

        def of(w: Work, at: Rates | None) -> tuple[Rates, Any]:
            held = w.moments if lags else NO_MOMENTS
            at = at or own_rates(clock, whole, w.options, w.param, w.width, held)
            return at, clock.key(whole.options.seed, w.param) if w.draws else None

        if isinstance(self._step, int) and not lags:  # then they are numbers, made nowhere
            return [of(w, None) for w in works]
        known = self._lags.rates(clock, works) if self._lags else [None] * len(works)
        found = []
        for w, at in zip(works, known, strict=True):
            with self._on(w.param):
                found.append(of(w, at))
        return found

    def _count(self, works: list[Work], odd: Any, fine: Any) -> None:
        known = isinstance(odd, float)
        if counts(self._config) and not (known and odd == 0):
            skips = counted(self._skipped, False if known else odd == 0)
            self._skipped = _stored(self._skipped, skips)
            for w in works:
                if w.fine is not None and w.fine is not True and not w.counted:
                    with self._on(w.param):
                        w.put("skipped", counted(w.moments.skipped, w.fine))
        after = self._step + 1 if fine is None else advanced(self._step, fine)
        self._step = _stored(self._step, after)

    def _start(self, clock: Clock, whole: Whole) -> list[Work]:
        works = []
        rows = zip(self._leaves.paths, self._leaves.arrays, self._moments, self._plans, strict=True)
        for path, x, moments, (options, plan) in rows:
            xp, origin = namespace(x), (0,) * x.ndim
            with self._on(x):
                work = make_work(
                    path, options, plan, xp, x, None, moments, clock, "param", whole, origin
                )
            work.into = given_up(work) | {"result": x}
            works.append(work)
        return works

    def _check_moments(self, moments: Sequence[Any], plans: Sequence[Any]) -> None:
        rows = zip(self._leaves.paths, self._leaves.arrays, moments, plans, strict=True)
        for path, x, m, (options, plan) in rows:
            check(m, slots(namespace(x), x, plan, options), path)

    def _on_first(self) -> AbstractContextManager[Any]:
        return self._on(self._leaves.arrays[0]) if self._leaves.arrays else _HERE

    # What an adapter replaces.

    def _check_params(self, leaves: Leaves) -> None:
        """Raises for arrays that cannot be updated in place."""
        raise NotImplementedError

    def _take(self, work: Work, g: Any) -> tuple[Array, Hashable]:
        """The gradient as the passes take it, and what of it decides which passes those are.

        Raises TreeError, ShapeError, DTypeError or DeviceError for one that does not fit, and
        ReadOnlyError for a parameter that cannot be written any more.
        """
        raise NotImplementedError

    def _copy(self, array: Array, like: Array) -> Array:
        """A copy in C order, where `like` is."""
        raise NotImplementedError

    def _all_passes(self) -> Sequence[Passes]:
        """Those to ask for each tensor, in this order; the last must serve everything."""
        return (ArrayPasses(),)

    def _on(self, x: Array) -> AbstractContextManager[Any]:
        """Within it, arrays are made and work is queued where `x` is."""
        return _HERE

    def _counter(self, value: Array | int, decided: bool) -> Array | int:
        """The counter of steps or skips; `decided`: by a verdict, which may be on a device."""
        return int(value)
