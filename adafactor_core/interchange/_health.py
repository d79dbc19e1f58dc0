"""What the numbers of a state look like: read chunk by chunk, each once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ._arrays import decoded, numpy
from ._raw import Raw
from ._record import Record, TensorRecord


@dataclass
class Health:
    """Of one slot: how many entries are NaN, infinite, negative or 0; the range of the others."""

    nan: int = 0
    infinite: int = 0
    zero: int = 0
    negative: int = 0
    low: float = math.inf
    high: float = -math.inf

    def wrong(self, slot: str) -> str:
        """What cannot be in this slot, in words; "" where all is well."""
        found = {"NaN": self.nan, "infinite": self.infinite}
        if slot in ("row", "col", "full", "momentum_scale"):  # means of squares, and sizes
            found["negative"] = self.negative
        return ", ".join(f"{count} {word}" for word, count in found.items() if count)


def health(record: Record, done: Callable[[int], None]) -> dict[tuple[str, str], Health]:
    """By path and slot; `done` is called with the bytes of every chunk."""
    return {(t.path, slot): _of(raw, done) for t in record.tensors for slot, raw in t.slots.items()}


def _of(raw: Raw, done: Callable[[int], None]) -> Health:
    np, found = numpy(), Health()
    for chunk in raw.chunks():
        x = decoded(chunk, raw.dtype)
        x = x.astype("float32") if x.dtype.itemsize < 4 else x
        nan, finite = np.isnan(x), np.isfinite(x)
        found.nan += int(nan.sum())
        found.infinite += int(x.size - nan.sum() - finite.sum())
        found.zero += int((x == 0).sum())
        found.negative += int((x < 0).sum())
        found.low = min(found.low, float(np.min(x, where=finite, initial=math.inf)))
        found.high = max(found.high, float(np.max(x, where=finite, initial=-math.inf)))
        done(len(chunk))
    return found


def summary(t: TensorRecord, found: dict[tuple[str, str], Health]) -> list[str]:
    """A line per slot that has something to tell, and the ranges of all."""
    lines = []
    for slot in t.slots:
        h = found[t.path, slot]
        reach = f"{h.low:.3g} to {h.high:.3g}" if h.low <= h.high else "nothing finite"
        words = [f"{slot} {reach}" if t.slots[slot].size else f"{slot} empty"]
        words += [f"{h.zero} of {t.slots[slot].size} are 0"] if h.zero else []
        words += [f"{wrong}: WRONG"] if (wrong := h.wrong(slot)) else []
        lines.append(", ".join(words))
    return lines
