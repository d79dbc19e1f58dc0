"""Splits work over threads that release the GIL. No OpenMP, TBB or Numba threading layer.

Numba's workqueue layer aborts the process when two Python threads enter it, GNU OpenMP does when a
child of fork does, and TBB has no wheels beyond x86. Plain threads over `nogil` kernels survive
both, and the split of a sum does not depend on their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

PARTS = 4  # per thread
_pool: ThreadPoolExecutor | None = None


def count() -> int:
    """ADAFACTOR_NUM_THREADS, or the cores this process may run on."""
    asked = os.environ.get("ADAFACTOR_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


_COUNT = count()


def spread(
    work: Callable[[int, int], None],
    items: int,
    threads: int | None = None,
    *,
    backwards: bool = False,
) -> None:
    """Calls `work(start, stop)` over `range(items)` in contiguous parts, on several threads.

    Whoever is free takes the next part, the caller included, so that a core which is busy with
    something else delays its current part and not half of the work.
    """
    threads = min(items, threads or _COUNT)
    if threads <= 1:
        work(0, items)
        return
    parts = min(items, threads * PARTS)
    cuts = [(items * k // parts, items * (k + 1) // parts) for k in range(parts)]
    queue = iter(cuts[::-1] if backwards else cuts)

    def drain() -> None:
        for start, stop in queue:  # next() of a list's iterator is atomic
            work(start, stop)

    futures: list[Future[None]] = []
    try:
        for _ in range(threads - 1):
            futures.append(_workers().submit(drain))
    except RuntimeError:  # the interpreter is shutting down: no new threads
        pass
    try:
        drain()
    finally:
        for future in futures:
            # A part that no thread has begun is done already: do not wait for one to notice.
            if not future.cancel():
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
