"""The array-API passes as torch.compile should see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adafactor_core import ArrayPasses, Work


class TracedPasses(ArrayPasses):
    """Whole tensors: the compiler fuses and blocks by itself. What is small is computed once.

    Inductor would put the scalars' formulas and the roots of row and column averages into the loop
    over the elements, powers and square roots included, and compute them anew for each: on a CPU
    that takes twice the time of the memory traffic.
    """

    def __init__(self) -> None:
        super().__init__(stream=False)

    def observe(self, works: Sequence[Work]) -> None:
        for w in works:
            w.rates = w.rates._replace(**{n: _settled(v) for n, v in w.rates._asdict().items()})
        super().observe(works)

    def advance(self, works: Sequence[Work]) -> None:
        super().advance(works)
        for w in works:
            w.p, w.q = _settled(w.p), _settled(w.q)

    def scale(self, works: Sequence[Work]) -> None:
        super().scale(works)
        for w in works:
            w.before, w.after, w.decay = map(_settled, (w.before, w.after, w.decay))


def _settled(x: Any) -> Any:
    """`x` to the bit, as the result of a reduction, which Inductor stores before it goes on."""
    if not isinstance(x, torch.Tensor) or x.device.type != "cpu":
        return x  # a GPU has arithmetic to spare, but not launches
    # Shorter reductions than 8 are unrolled into whatever uses them.
    return torch.amax(x.expand(8, *x.shape), 0)
