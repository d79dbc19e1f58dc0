"""Passes over tensors of several devices, each of which takes its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from adafactor_core import Metrics, Passes, Work
from adafactor_core._numerics import device

On = Callable[[Any], AbstractContextManager[Any]]


class PlacedPasses:
    """The passes `inner`, in batches that lie on one device each and run there.

    `on(x)`: the context in which work is queued where `x` is. `home(x)`: a number or array of one
    element, brought to the device where decisions over all tensors are made.
    """

    def __init__(self, inner: Passes, on: On, home: Callable[[Any], Any]) -> None:
        self._inner, self._on_device, self._home = inner, on, home

    def serves(self, work: Work) -> str:
        return self._inner.serves(work)

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        placed: dict[Any, list[Work]] = {}
        for w in works:
            placed.setdefault(str(device(w.param)), []).append(w)
        found: list[Sequence[Work]] = []
        for group in placed.values():
            with self._on(group):
                found += self._inner.batches(group)
        return found

    def observe(self, works: Sequence[Work]) -> None:
        with self._on(works):
            self._inner.observe(works)

    def advance(self, works: Sequence[Work]) -> None:
        with self._on(works):
            self._inner.advance(works)

    def measure(self, works: Sequence[Work]) -> None:
        with self._on(works):
            self._inner.measure(works)

    def scale(self, works: Sequence[Work]) -> None:
        with self._on(works):
            self._inner.scale(works)

    def apply(self, works: Sequence[Work]) -> None:
        with self._on(works):
            self._inner.apply(works)

    def squares(self, works: Sequence[Work]) -> Any:
        with self._on(works):
            found = self._inner.squares(works)
        return self._home(found)

    def judge(self, works: Sequence[Work]) -> Any:
        with self._on(works):
            found = self._inner.judge(works)
        return self._home(found)

    def metrics(self, works: Sequence[Work]) -> Sequence[Metrics]:
        with self._on(works):
            return self._inner.metrics(works)

    def _on(self, works: Sequence[Work]) -> AbstractContextManager[Any]:
        return self._on_device(works[0].param)
