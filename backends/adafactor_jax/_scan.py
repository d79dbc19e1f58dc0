"""Sums over a tensor as XLA on a CPU does them well: block by block, or one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from adafactor_core._streaming import HERE, Block, Blocks, Out

Shape = tuple[int, ...]
Taken = Callable[[Sequence[Any], tuple[Any, ...]], list[Any]]
barrier: Any = lax.optimization_barrier  # untyped in JAX


class Sums(Blocks):
    """Sweeps that store nothing: `outs` is empty."""

    def sweep(
        self,
        xp: Any,
        dtype: Any,
        block: Block,
        ins: Sequence[Any],
        sums: Sequence[Shape],
        outs: Sequence[Out],
    ) -> tuple[list[Any], list[Any]]:
        def taken(arrays: Sequence[Any], at: tuple[Any, ...]) -> list[Any]:
            """The sums of a block that starts `at`, given its parts of the arrays among `ins`."""
            given = iter(arrays)
            parts = (next(given) if isinstance(a, jax.Array) else a for a in ins)
            return list(block(*(at if a is HERE else a for a in parts))[0])

        arrays = [a for a in ins if isinstance(a, jax.Array)]
        return self._added_up(taken, arrays, [jnp.zeros(thin, dtype) for thin in sums]), []

    def _added_up(self, taken: Taken, arrays: list[Any], totals: list[Any]) -> list[Any]:
        raise NotImplementedError


class Scan(Sums):
    """Blocks that a compiled loop takes, one after another."""

    def _added_up(self, taken: Taken, arrays: list[Any], totals: list[Any]) -> list[Any]:
        size, shape = self.shape[self.axis], self.shape

        def whole(*held: Any) -> list[Any]:
            return taken(held, (0,) * len(shape))

        def loop(
            totals: list[Any], held: Sequence[Any], first: int, run: int, count: int
        ) -> list[Any]:
            """Over `count` runs from `first` on along the cut axis, for every index before it."""
            heads, tail = shape[: self.axis], shape[self.axis + 1 :]
            sizes = (*(1 for _ in heads), run, *tail)

            def turn(k: Any, totals: list[Any]) -> list[Any]:
                head = jnp.unravel_index(k // count, heads) if heads else ()
                at = [jnp.asarray(i, jnp.int32) for i in (*head, first + k % count * run)]
                at += [jnp.int32(0)] * len(tail)
                shares = taken([_part(a, at, sizes) for a in held], tuple(at))
                return [_added(t, s, at) for t, s in zip(totals, shares, strict=True)]

            found: list[Any] = lax.fori_loop(0, prod(heads) * count, turn, totals)
            return found

        def scanned(*held: Any) -> list[Any]:
            found = loop(totals, held, 0, self.run, size // self.run)
            rest = size % self.run
            return loop(found, held, size - rest, rest, 1) if rest else found

        found: list[Any] = lax.platform_dependent(*arrays, cpu=scanned, default=whole)
        return found


class OneByOne(Sums):
    """The whole tensor, a sweep for every sum."""

    def _added_up(self, taken: Taken, arrays: list[Any], totals: list[Any]) -> list[Any]:
        found: list[Any] = []
        for k in range(len(totals)):
            found.append(taken(arrays, (0,) * len(self.shape))[k])
            arrays, found = barrier((arrays, found))
        return found


def _start(thin: Shape, at: Sequence[Any]) -> list[Any]:
    """The block's place in an array that has size 1 where it broadcasts."""
    return [jnp.int32(0) if n == 1 else i for n, i in zip(thin, at, strict=True)]


def _part(a: Any, at: Sequence[Any], sizes: Shape) -> Any:
    thin = tuple(min(n, size) for n, size in zip(a.shape, sizes, strict=True))
    return lax.dynamic_slice(a, _start(a.shape, at), thin)


def _added(total: Any, share: Any, at: Sequence[Any]) -> Any:
    place = _start(total.shape, at)
    old = lax.dynamic_slice(total, place, share.shape)
    return lax.dynamic_update_slice(total, old + share, place)
