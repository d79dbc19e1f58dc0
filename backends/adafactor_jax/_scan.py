"""Sums over a tensor as XLA on a CPU does them well: block by block, or one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from adafactor_core._streaming import HERE, Block, Blocks, Out

Shape = tuple[int, ...]
barrier: Any = lax.optimization_barrier  # untyped in JAX


@dataclass(frozen=True)
class Scan(Blocks):
    """Blocks that a compiled loop takes, one after another. Sums alone: `outs` is empty."""

    def sweep(
        self,
        xp: Any,
        dtype: Any,
        block: Block,
        ins: Sequence[Any],
        sums: Sequence[Shape],
        outs: Sequence[Out],
    ) -> tuple[list[Any], list[Any]]:
        size, shape = self.shape[self.axis], self.shape

        def whole(*held: Any) -> list[Any]:
            return list(block(*_filled(ins, held, (0,) * len(shape)))[0])

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
                parts = [_part(a, at, sizes) for a in held]
                sums = block(*_filled(ins, parts, tuple(at)))[0]
                return [_added(t, s, at) for t, s in zip(totals, sums, strict=True)]

            found: list[Any] = lax.fori_loop(0, prod(heads) * count, turn, totals)
            return found

        def scanned(*held: Any) -> list[Any]:
            totals = [jnp.zeros(thin, dtype) for thin in sums]
            totals = loop(totals, held, 0, self.run, size // self.run)
            rest = size % self.run
            return loop(totals, held, size - rest, rest, 1) if rest else totals

        arrays = [a for a in ins if isinstance(a, jax.Array)]
        found: list[Any] = lax.platform_dependent(*arrays, cpu=scanned, default=whole)
        return found, []


class OneByOne(Blocks):
    """The whole tensor, a sweep for every sum. Sums alone: `outs` is empty."""

    def sweep(
        self,
        xp: Any,
        dtype: Any,
        block: Block,
        ins: Sequence[Any],
        sums: Sequence[Shape],
        outs: Sequence[Out],
    ) -> tuple[list[Any], list[Any]]:
        found: list[Any] = []
        held = [a for a in ins if isinstance(a, jax.Array)]
        for k in range(len(sums)):
            found.append(block(*_filled(ins, held, (0,) * len(self.shape)))[0][k])
            held, found = barrier((held, found))
        return found, []


def _filled(ins: Sequence[Any], arrays: Sequence[Any], at: tuple[Any, ...]) -> list[Any]:
    """`ins` with these arrays in the places of its own, and with the start of the block."""
    given = iter(arrays)
    return [at if a is HERE else next(given) if isinstance(a, jax.Array) else a for a in ins]


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
