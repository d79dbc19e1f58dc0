"""Ranks that stay: processes in a gloo group that run one function after another."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from queue import Empty
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = 90  # seconds for one function


def _serve(rank: int, size: int, store: str, inbox: Any, outbox: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)  # more ranks than cores
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size,
        timeout=timedelta(seconds=PATIENCE - 30),
    )  # fmt: skip
    while (job := inbox.get()) is not None:
        function, args = job
        try:
            torch.manual_seed(0)
            outbox.put((rank, function(*args), ""))
        except BaseException:
            outbox.put((rank, None, traceback.format_exc()))
    with suppress(Exception):
        dist.destroy_process_group()


class Ranks:
    """`size` processes; `run` has them all run a module-level function."""

    def __init__(self, size: int) -> None:
        spawn = mp.get_context("spawn")
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        self._inboxes = [spawn.Queue() for _ in range(size)]
        self._outbox = spawn.Queue()
        store = os.path.join(self._folder.name, "store")
        self._processes = [
            spawn.Process(target=_serve, args=(rank, size, store, inbox, self._outbox), daemon=True)
            for rank, inbox in enumerate(self._inboxes)
        ]
        for process in self._processes:
            process.start()

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What it returned on each rank. The first rank's error is raised with its traceback."""
        for inbox in self._inboxes:
            inbox.put((function, args))
        found: dict[int, Any] = {}
        for _ in range(self.size):
            try:
                rank, result, error = self._outbox.get(timeout=PATIENCE)
            except Empty:
                self.close()
                late = sorted(set(range(self.size)) - found.keys())
                raise TimeoutError(f"ranks {late} did not answer in {PATIENCE} s") from None
            if error:
                self.close()  # the others may wait for this one for good
                raise RuntimeError(f"rank {rank} of {self.size}:\n{error}")
            found[rank] = result
        return [found[rank] for rank in range(self.size)]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


class Pools:
    """A pool per number of ranks, started when it is first asked for."""

    def __init__(self) -> None:
        self._pools: dict[int, Ranks] = {}

    def __call__(self, size: int) -> Ranks:
        pool = self._pools.get(size)
        if pool is None or not pool.alive:
            pool = self._pools[size] = Ranks(size)
        return pool

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
