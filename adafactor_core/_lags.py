"""Counters of skipped steps on a device, side by side: the rates they decide are made at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ._numerics import Array, device, namespace
from ._schedules import Clock, Rates
from ._state import Moments
from ._work import Work


class Lags:
    """The `skipped` counters of some tensors, each a view of one array per device.

    Under "skip_tensor" a tensor's decay goes by its own steps. Tensor by tensor that is a dozen
    launches each; over the array of all counters it is a dozen for all of them. `moments` are those
    given with such views as `skipped`; `on(x)`: the context in which arrays are made where `x` is.
    """

    def __init__(
        self,
        arrays: Sequence[Array],
        moments: Sequence[Moments],
        on: Callable[[Array], AbstractContextManager[Any]],
    ) -> None:
        self._on = on
        self._places = [str(device(x)) for x in arrays]
        self._numbers: list[int] = [0] * len(arrays)  # of each tensor in the array of its device
        self._all: dict[str, Array] = {}
        self.moments = list(moments)
        for place in set(self._places):
            here = [k for k, other in enumerate(self._places) if other == place]
            with on(arrays[here[0]]):
                xp = namespace(moments[here[0]].skipped)
                every = xp.concat([xp.reshape(moments[k].skipped, (1,)) for k in here])
                for number, k in enumerate(here):
                    own = xp.reshape(every[number : number + 1], ())
                    self.moments[k] = moments[k]._replace(skipped=own)
                    self._numbers[k] = number
            self._all[place] = every

    def rates(self, clock: Clock, works: Sequence[Work]) -> list[Rates]:
        """Those of each tensor, whose `b` may be part of an array of all."""
        known: dict[tuple[Any, ...], Rates] = {}
        found = []
        for w, place, number in zip(works, self._places, self._numbers, strict=True):
            every = self._all[place]
            key = id(w.options), w.width, place
            if key not in known:
                with self._on(w.param):
                    known[key] = clock.rates(w.options, w.param, w.width, every)
            at = known[key]
            if getattr(at.b, "shape", None) == every.shape:
                with self._on(w.param):
                    at = at._replace(b=w.xp.reshape(at.b[number : number + 1], ()))
            found.append(at)
        return found
