"""A tensor's step as a function of its own, which a trace calls for every tensor of that kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax import lax
from jax.experimental import xla_metadata

from adafactor_core import ArrayPasses, Passes, Work
from adafactor_core._order import run
from adafactor_core._work import Partial

set_xla_metadata: Any = xla_metadata.set_xla_metadata  # untyped in JAX


class CalledPasses(ArrayPasses):
    """All of `inner`'s passes in one function, where no tensor waits for the others.

    Traced once per kind of tensor. On a CPU the compiler may not take it apart: it would begin
    all tensors before it ended one, with a temporary of each tensor's size, three times as slow.
    Made anew for every trace, whose values it may keep.
    """

    def __init__(self, inner: Passes, wanted: Callable[[Work], bool]) -> None:
        super().__init__(stream=False)
        self._inner, self._wanted = inner, wanted
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
        kind = (id(w.options), w.layout, w.draws, w.width, spec, numbers)
        if kind not in self._functions:
            self._functions[kind] = jax.jit(self._function(w, spec, numbers))
        called = self._functions[kind]

        def in_one_piece(*arrays: Any) -> Any:
            with set_xla_metadata(inlineable="false"):
                return called(*arrays)

        # For a GPU it would copy: a program may be compiled on a CPU for another device.
        w.new, w.result, w.fine, sums = lax.platform_dependent(
            *arrays, cpu=in_one_piece, default=called
        )
        # Of the names and axes of sums only the former are asked for where nothing is sharded.
        w.partials = {name: Partial(w.path, name, value, ()) for name, value in sums.items()}

    def _function(self, w: Work, spec: Any, numbers: tuple[Any, ...]) -> Callable[..., Any]:
        def function(*arrays: Any) -> Any:
            given = iter(arrays)
            held = [next(given) if a is None else a for a in numbers]
            x, g, moments, rates, key, unscale, gain = jax.tree.unflatten(spec, held)
            whole = replace(w.whole, unscale=unscale, gain=gain)
            here = replace(
                w, param=x, grad=g, moments=moments, rates=rates, key=key, whole=whole, partials={}
            )
            run([(self._inner, [here])], None)
            sums = {name: s.value for name, s in here.partials.items()}
            return here.new, here.result, here.fine, sums

        return function

    def advance(self, works: Sequence[Work]) -> None: ...
    def measure(self, works: Sequence[Work]) -> None: ...
    def scale(self, works: Sequence[Work]) -> None: ...
    def apply(self, works: Sequence[Work]) -> None: ...
