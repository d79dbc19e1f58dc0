"""How the Triton passes cut tensors into tiles, and what they refuse. Ints only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from adafactor_core import Config, Work
from adafactor_core._box import Box, box, last, refusal
from adafactor_core._schedules import alike

from ._sharded import PLAIN

FAST, GENERAL, UNFACTORED = range(3)
WIDE, SLIM = 512, 256  # columns of a tile; SLIM where the kind is GENERAL
BEHIND = 64  # a row has so many sums at most, each of which is a reduction of its own
LEAST, TILES = 32, 256  # rows of a tile; tiles that keep a GPU busy
ROW_BLOCK, COL_BLOCK = 1024, 128  # entries of R and of C per program of advance
UNIT = 128  # of the starts of parts
SHARE = 0.0085  # of the parameters' bytes that partial sums take at most
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def why_not(work: Work, devices: Sequence[str]) -> str:
    """Why the kernels cannot take this tensor with its options; empty if they can."""
    arrays = [work.param, work.grad, *(m for m in work.moments if m is not None)]
    if not all(type(a) in PLAIN and a.device.type in devices for a in arrays):
        return f"not a plain tensor on {' or '.join(devices)}"
    reason = refusal(work)
    if reason:
        return reason
    if not {work.param.dtype, work.grad.dtype} <= {*FLOATS}:
        return "float64"
    # Nor a negated view: its signs are not in memory.
    if not all(a.is_contiguous() and not a.is_neg() for a in arrays):
        return "not contiguous in C order"
    if work.layout.factored:
        found = box(work)
        if found.d > BEHIND:
            return f"more than {BEHIND} elements behind the factored axes"
        if found.c * found.d >= 1 << 31:  # places in a row are 32-bit numbers, others are not
            return "2**31 elements in a row"
    return ""


class Cut(NamedTuple):
    """One tensor as rows and columns of tiles."""

    kind: int
    box: Box
    size: int
    tile_rows: int
    row_tiles: int
    col_tiles: int

    @property
    def slices(self) -> int:
        return self.box.a * self.box.b

    @property
    def tiles(self) -> int:
        return self.slices * self.row_tiles * self.col_tiles

    @property
    def partials(self) -> int:
        """Numbers that its tiles add up: of rows, of columns, and four per tile."""
        if self.kind == UNFACTORED:
            return 4 * self.tiles
        sums = self.box.rows * self.col_tiles + self.box.cols * self.row_tiles
        return sums + (2 + 2 * self.box.d) * self.tiles


def cut(work: Work, rows: int, aligned: bool) -> Cut:
    """`rows` per tile of full width, more where there are fewer columns."""
    found, size = box(work), math.prod(work.layout.shape)
    if not work.layout.factored:
        found = Box(1, -(-size // WIDE), 1, WIDE, 1, False)
        return Cut(UNFACTORED, found, size, rows, -(-found.r // rows), 1)
    width = found.c * found.d
    # Random bits go by the last axis: behind the columns there may be one of size 1.
    fast = aligned and found.d == 1 and found.c % 8 == 0 and found.c == last(work)
    columns = WIDE if fast else SLIM
    rows *= WIDE // min(WIDE, 1 << (width - 1).bit_length())
    tiles = -(-found.r // rows), -(-width // columns)
    return Cut(FAST if fast else GENERAL, found, size, rows, *tiles)


def cuts(works: Sequence[Work], aligned: Sequence[bool]) -> list[Cut]:
    """All of a batch: enough tiles for a GPU, but no more partial sums than allowed."""
    sizes = [math.prod(w.layout.shape) for w in works]
    elements = sum(sizes)
    limit = works[0].options.max_scratch_bytes
    budget = SHARE * elements * works[0].param.element_size()
    rows = max(LEAST, 1 << max(0, (elements // (WIDE * TILES)) - 1).bit_length())
    rows = min(rows, 1024)
    while True:
        found = [cut(w, rows, a) for w, a in zip(works, aligned, strict=True)]
        used = 4 * sum(c.partials for c in found)
        # Below some size a share of the parameters is nothing to save.
        if rows >= 1024 or (used <= max(budget, 1 << 20) and (limit is None or used <= limit)):
            return found
        rows *= 2


def items(t: int, c: Cut) -> list[tuple[int, int, int, int]]:
    """(tensor, slice, row tile, column tile) per tile; those of a slice lie together."""
    return [
        (t, ab, rt, ct)
        for ab in range(c.slices)
        for rt in range(c.row_tiles)
        for ct in range(c.col_tiles)
    ]


def parts(t: int, c: Cut) -> list[tuple[int, int, int]]:
    """(tensor, slice, start) per program of advance; slice -1: entries of C."""
    if c.kind == UNFACTORED:
        return []
    rows = range(0, c.box.r * c.box.d, ROW_BLOCK)
    found = [(t, ab, k // UNIT) for ab in range(c.slices) for k in rows]
    return found + [(t, -1, k // UNIT) for k in range(0, c.box.cols, COL_BLOCK)]


def scopes(t: int, c: Cut, work: Work, first: int) -> list[tuple[int, int, int, int, int]]:
    """(tensor, first and last tile of X*X, of U*U) per RMS scope; `first`: the tensor's tile."""
    o = work.options
    count = c.box.a if o.batch_axes else 1
    per = c.tiles // count

    def span(k: int, of: str) -> tuple[int, int]:
        whole = of == "tensor"
        return (first, first + c.tiles) if whole else (first + k * per, first + (k + 1) * per)

    return [(t, *span(k, o.scale_scope), *span(k, o.clip_scope)) for k in range(count)]


def batches(works: Sequence[Work]) -> list[list[Work]]:
    """Tensors of one kind together, however many: what differs is compiled into the kernels."""
    first: dict[int, Config] = {}  # by the identity of options: those of the first that are alike
    found: dict[Any, list[Work]] = {}
    for w in works:
        o, m = w.options, w.moments.momentum
        if id(o) not in first:
            first[id(o)] = next((other for other in first.values() if alike(o, other)), o)
        kinds = (w.param.dtype, w.grad.dtype, None if m is None else m.dtype)
        found.setdefault((id(first[id(o)]), w.param.device, kinds), []).append(w)
    return list(found.values())
