"""A tensor's step as a function of its own, which a trace calls for every tensor of that kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
from jax import lax
from jax.experimental import xla_metadata

from adafactor_core import ArrayPasses, Passes, Work
from adafactor_core._order import run
from adafactor_core._work import Partial

set_xla_metadata: Any = xla_metadata.set_xla_metadata  # untyped in JAX


LARGE = 1 << 10  # elements from which on a call costs less than what it saves


class CalledPasses(ArrayPasses):
    """All passes of a tensor in one function, where no tensor waits for the others.

    Traced once per kind of tensor. On a CPU the compiler may not take a large one's apart: it would
    begin all tensors before it ended one, with temporaries of their sizes, three times as slow.
    A program may be compiled on a CPU for another device, though: there `elsewhere` has the passes,
    and a call in one piece would copy every tensor.
    Made anew for every trace, whose values it may keep.
    """

    def __init__(self, here: Passes, elsewhere: Passes, wanted: Callable[[Work], bool]) -> None:
        super().__init__(stream=False)
        self._passes, self._wanted = (here, elsewhere), wanted
        self._functions: dict[Hashable, Callable[..., Any]] = {}

    def serves(self, work: Work) -> str:
        if work.whole.joint:
            return "a decision over all tensors stands between its passes"
        # Elsewhere, as under an eager vmap, every step would compile the function again.
        under_jit = type(work.param).__name__ == "DynamicJaxprTracer"
        return "" if under_jit and self._wanted(work) else "not traced for one CPU device"

    def batches(self, works: Sequence[Work]) -> Sequence[Sequence[Work]]:
        return [[w] for w in works]

    def observe(self, works: Sequence[Work]) -> None:
        for w in works:
            self._take(w)

    def _take(self, w: Work) -> None:
        """Sets on `w` what all passes together find out and make of it."""
        held, spec = jax.tree.flatten(
            (w.param, w.grad, w.moments, w.rates, w.key, w.whole.unscale, w.whole.gain)
        )
        arrays = [a for a in held if isinstance(a, jax.Array)]
        numbers = tuple(None if isinstance(a, jax.Array) else a for a in held)
        # Of one type each: jax.jit would trace the function again, but for the first tensor of it.
        types = tuple(jax.typeof(a) for a in arrays)
        kind = (id(w.options), w.layout, w.draws, w.width, spec, numbers, types)
        if kind not in self._functions:
            here, elsewhere = (_function(w, spec, numbers, p) for p in self._passes)
            large = prod(w.layout.shape) >= LARGE
            self._functions[kind] = _called(here, elsewhere, large)
        w.new, w.result, w.fine, sums = self._functions[kind](*arrays)
        # Of the names and axes of sums only the former are asked for where nothing is sharded.
        w.partials = {name: Partial(w.path, name, value, ()) for name, value in sums.items()}

    def advance(self, works: Sequence[Work]) -> None: ...
    def measure(self, works: Sequence[Work]) -> None: ...
    def scale(self, works: Sequence[Work]) -> None: ...
    def apply(self, works: Sequence[Work]) -> None: ...


def _function(w: Work, spec: Any, numbers: tuple[Any, ...], passes: Passes) -> Callable[..., Any]:
    """Of the arrays that tensors like this one bring along, to what a step makes of them."""
    w = replace(w)  # as it is now: the step's results will be set on it

    def tensor_step(*arrays: Any) -> Any:
        given = iter(arrays)
        held = [next(given) if a is None else a for a in numbers]
        x, g, moments, rates, key, unscale, gain = jax.tree.unflatten(spec, held)
        whole = replace(w.whole, unscale=unscale, gain=gain)
        here = replace(
            w, param=x, grad=g, moments=moments, rates=rates, key=key, whole=whole, partials={}
        )
        run([(passes, [here])], None)
        sums = {name: s.value for name, s in here.partials.items()}
        return here.new, here.result, here.fine, sums

    return tensor_step


def _called(
    here: Callable[..., Any], elsewhere: Callable[..., Any], large: bool
) -> Callable[..., Any]:
    """One of the two, as a function that is traced once: by the platform of the program."""
    piece = jax.jit(here)

    def in_one_piece(*arrays: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return piece(*arrays)

    def by_platform(*arrays: Any) -> Any:
        on_cpu = in_one_piece if large else here
        return lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)

    return jax.jit(by_platform)
