"""How far work on a large file has come: a line on a terminal, nothing in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SMALL = 1 << 26  # bytes that need no line


def on_terminal(label: str) -> Callable[[int, int], None] | None:
    """A callback `(done, total)`, in bytes, for stderr; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None
    begun = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now, ended = time.monotonic(), done >= total
        if total < SMALL or (now - last < 0.1 and not ended):
            return
        last = now
        rate = done / max(now - begun, 1e-9) / 1e6
        text = f"\r{label}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate:,.0f} MB/s"
        print(text, end="\n" if ended else "", file=sys.stderr, flush=True)

    return show
