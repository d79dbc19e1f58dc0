"""Ranks as threads on a grid, tensors cut into uneven pieces along its axes, and the reduction."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Barrier
from typing import Any

import numpy as np

import adafactor_core as af

Cut = list[int]  # where an axis is split: [2, 2] gives pieces [0:2], [2:2] (empty) and [2:]


class Mesh:
    """`cuts[path][tensor axis] = (mesh axis, cut)`; replicated along the other mesh axes."""

    def __init__(self, sizes: Sequence[int], cuts: dict[str, dict[int, tuple[int, Cut]]]) -> None:
        self.ranks = list(product(*map(range, sizes)))
        self.cuts = cuts
        self.barrier = Barrier(len(self.ranks), timeout=30)
        self.board: dict[tuple[int, ...], Sequence[af.Partial]] = {}
        self.calls = dict.fromkeys(self.ranks, 0)
        self.sent: list[list[str]] = []  # names of the partial sums of each call of rank 0

    def part(self, path: str, x: np.ndarray, rank: tuple[int, ...]) -> np.ndarray:
        """The piece of `x` on a rank."""
        for axis, (along, cut) in self.cuts[path].items():
            x = np.split(x, cut, axis)[rank[along]]
        return x.copy()

    def whole(
        self, path: str, parts: dict[tuple[int, ...], np.ndarray], axes: Sequence[int]
    ) -> Any:
        """The pieces put together along `axes`; pieces that should be replicas have to be equal."""
        placed = {a: along for a, (along, _) in self.cuts[path].items() if a in axes}
        for rank, piece in parts.items():
            first = tuple(i if m in placed.values() else 0 for m, i in enumerate(rank))
            np.testing.assert_array_equal(piece, parts[first])
        merged = parts
        for axis, along in placed.items():
            merged = {
                rank: np.concatenate(
                    [p for r, p in sorted(merged.items()) if self.same(r, rank, but=[along])], axis
                )
                for rank in merged
            }
        return merged[self.ranks[0]]

    def same(self, a: tuple[int, ...], b: tuple[int, ...], but: Sequence[int]) -> bool:
        """Whether two ranks differ along the mesh axes `but` alone."""
        return all(i == j for m, (i, j) in enumerate(zip(a, b, strict=True)) if m not in but)

    def reduce(self, rank: tuple[int, ...]) -> Callable[[Sequence[af.Partial]], list[Any]]:
        """What `Sharding` wants: each partial sum added up over the ranks that split its axes."""

        def reduce(partials: Sequence[af.Partial]) -> list[Any]:
            self.calls[rank] += 1
            if rank == self.ranks[0]:
                self.sent.append([p.name for p in partials])
            self.board[rank] = partials
            self.barrier.wait()
            sums = []
            for at, p in enumerate(partials):
                along = [m for a, (m, _) in self.cuts[p.path].items() if a in p.axes]
                group = [r for r in self.ranks if self.same(r, rank, but=along)]
                sums.append(sum(self.board[r][at].value for r in group))
            self.barrier.wait()
            return sums

        return reduce

    def run(self, body: Callable[[tuple[int, ...]], Any]) -> dict[tuple[int, ...], Any]:
        """`body` on every rank at once; the first error of a rank is raised."""

        def guarded(rank: tuple[int, ...]) -> Any:
            try:
                return body(rank)
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(len(self.ranks)) as pool:
            futures = {rank: pool.submit(guarded, rank) for rank in self.ranks}
        errors = [f.exception() for f in futures.values() if f.exception()]
        if errors:
            raise next((e for e in errors if "Barrier" not in type(e).__name__), errors[0])
        return {rank: future.result() for rank, future in futures.items()}
