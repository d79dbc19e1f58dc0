"""How tensors are cut into the items that blocks of threads take. Ints only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from adafactor_core._box import Box

TILE = 1024  # columns of an item at most, as in _numbers.cuh
SPAN = 256  # threads of a block
BLOCKS = 1024  # items that a batch is cut into where its size allows: some per multiprocessor
SCRATCH = 0.008  # bytes of partial sums per byte of parameters
FLOOR = 1 << 18  # bytes of partial sums that any batch may have
RUN = 1 << 12  # elements of an unfactored tensor, or of a box with axes between, per item

Item = tuple[int, ...]  # tensor, slice, r0, r1, j0, j1, lane, tile, slot: see _observe.cu


class Cut(NamedTuple):
    """Lanes of rows and tiles of columns whose partial sums are kept, and rows per chunk of R."""

    lanes: int
    tiles: int
    chunk: int


def cuts(
    boxes: Sequence[Box],
    factored: Sequence[bool],
    itemsize: int,
    limit: int | None,
    waits: bool = False,
) -> list[Cut]:
    """Each tensor gets its share of the scratch, and of the blocks, by its size.

    `waits`: new averages are kept beside the old ones for a while, in the same scratch.
    """
    total = sum(b.a * b.r * b.length for b in boxes)
    room = max(FLOOR, int(SCRATCH * itemsize * total))
    room = room if limit is None else min(room, limit)
    if waits:
        room -= 4 * sum(b.rows + b.cols for b, f in zip(boxes, factored, strict=True) if f)
    found = []
    for b, f in zip(boxes, factored, strict=True):
        share = b.a * b.r * b.length / total
        found.append(_cut(b, int(room * share), BLOCKS * share) if f else Cut(1, 1, 1))
    return found


def _cut(b: Box, room: int, blocks: float) -> Cut:
    if b.b * b.d > 1:
        left = room - 4 * b.rows
        most = min(left // (4 * b.cols), b.r * b.length // RUN, b.r, int(blocks / b.a))
        return Cut(max(1, most), 1, b.r)
    least = -(-b.length // TILE)
    best = Cut(1, least, max(SPAN, -(-b.r // TILE)))
    tiles = least
    while tiles == least or b.length // tiles >= 128:
        left = room - 4 * tiles * b.rows
        lanes = min(left // (4 * b.cols), -(-b.r // 32), int(blocks / (b.a * tiles)))
        if lanes * tiles > best.lanes * best.tiles:
            best = best._replace(lanes=lanes, tiles=tiles)
        tiles *= 2
    return best


def parts(length: int, count: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """About `count` equal runs of `length`, which start at multiples; none is empty."""
    run = -(-length // count)
    run = -(-run // multiple) * multiple
    for start in range(0, length, run):
        yield start, min(start + run, length)


def coarse(t: int, b: Box, how: Cut, factored: bool) -> list[Item]:
    """The items of observe; a tensor's are numbered by slot."""
    if not factored:
        runs = parts(b.c, -(-b.c // _run(b.c)), 8)
        return [(t, 0, 0, 1, j0, j1, 0, 0) for j0, j1 in runs]
    return [
        (t, a, r0, r1, j0, j1, lane, tile)
        for a in range(b.a)
        for lane, (r0, r1) in enumerate(parts(b.r, how.lanes))
        for tile, (j0, j1) in enumerate(parts(b.length, how.tiles, 8))
    ]


def fine(t: int, b: Box, share: float, factored: bool) -> list[Item]:
    """The items of measure and apply, which keep no partial sums of rows and columns."""
    if not factored:
        return coarse(t, b, Cut(1, 1, 1), False)
    if b.b * b.d > 1:
        rows, tiles = max(1, RUN // b.length), 1
    else:
        tiles = -(-b.length // TILE)
        # A row more per warp reads the column statistic less often, which costs no more than 1/8.
        rows = min(128, max(8, int(b.a * b.r * tiles / max(1.0, 2 * BLOCKS * share))))
    return [
        (t, a, r0, min(r0 + rows, b.r), j0, j1, 0, 0)
        for a in range(b.a)
        for r0 in range(0, b.r, rows)
        for j0, j1 in parts(b.length, tiles, 8)
    ]


def statistics(t: int, b: Box, how: Cut) -> list[Item]:
    """The items of advance: chunks of the outer statistic, runs of the inner one (lane 1)."""
    outer: list[Item] = [
        (t, a, r0, min(r0 + how.chunk, b.r), 0, 0, 0, r0 // how.chunk, 0)
        for a in range(b.a)
        for r0 in range(0, b.r, how.chunk)
    ]
    inner: list[Item] = [
        (t, 0, 0, 0, j, min(j + 4 * SPAN, b.cols), 1, 0, 0) for j in range(0, b.cols, 4 * SPAN)
    ]
    return outer + inner


def scopes(
    t: int, b: Box, sliced: tuple[bool, bool], coarse: tuple[int, int], fine: tuple[int, int]
) -> list[Item]:
    """(tensor, start and number of the sums of X*X, of U*U) per RMS scope.

    `coarse`, `fine`: start and number of the tensor's items, those of a slice together. `sliced`:
    whether X, and U, are measured slice by slice.
    """
    count = b.a if any(sliced) else 1

    def run(k: int, by_slice: bool, start: int, items: int) -> tuple[int, int]:
        each = items // b.a
        return (start + k * each, each) if by_slice else (start, items)

    return [(t, *run(k, sliced[0], *coarse), *run(k, sliced[1], *fine)) for k in range(count)]


def _run(size: int) -> int:
    return min(max(RUN, size // BLOCKS), 1 << 16)
