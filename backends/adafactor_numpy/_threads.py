"""Splits work over threads that release the GIL. No OpenMP, TBB or Numba threading layer.

Numba's workqueue layer aborts the process when two Python threads enter it, GNU OpenMP does when a
child of fork does, and TBB has no wheels beyond x86. Plain threads over `nogil` kernels survive
both, and the split of a sum does not depend on their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

_pool: ThreadPoolExecutor | None = None


def count() -> int:
    """ADAFACTOR_NUM_THREADS, or the cores this process may run on."""
    asked = os.environ.get("ADAFACTOR_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


_COUNT = count()


def spread(work: Callable[[int, int], None], items: int, threads: int | None = None) -> None:
    """Calls `work(start, stop)` over `range(items)` in contiguous parts, the first one here."""
    parts = min(items, threads or _COUNT)
    if parts <= 1:
        work(0, items)
        return
    cuts = [items * k // parts for k in range(parts + 1)]
    futures: list[Future[None]] = []
    for start, stop in pairwise(cuts[1:]):
        try:
            futures.append(_workers().submit(work, start, stop))
        except RuntimeError:  # the interpreter is shutting down: no new threads
            work(start, stop)
    try:
        work(cuts[0], cuts[1])
    finally:
        for future in futures:
            future.result()


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, _COUNT - 1), thread_name_prefix="adafactor")
    return _pool


def _forget() -> None:
    global _pool
    _pool = None  # its threads did not come along into the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
