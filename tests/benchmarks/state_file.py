"""Writes, reads and rewrites a state of 1 GB: seconds, and the process's memory. Not timed by CI.

python tests/benchmarks/state_file.py [--megabytes 1000] [--suffix .safetensors] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from adafactor_core.interchange import Raw, Record, TensorRecord, read, write

PARTS = 40  # tensors
NOISE = os.urandom(1 << 24)


def peak() -> float:
    """Megabytes, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def made(megabytes: int) -> Record:
    """Full second moments of float32, of bytes that are nowhere as a whole."""
    rows = megabytes * 1_000_000 // PARTS // 4 // 1000

    def noise(start: int, stop: int) -> memoryview:
        at = start % (len(NOISE) // 2)
        return memoryview(NOISE)[at : at + stop - start]

    raw = Raw("float32", (rows, 1000), noise)
    names = [f"layers.{k}.weight" for k in range(PARTS)]
    return Record(
        1, tuple(TensorRecord(n, raw.shape, "float32", (), (), {"full": raw}) for n in names)
    )


def plain_copy(source: Path, target: Path) -> None:
    """What a disk can do: the same bytes, copied and synced."""
    with open(source, "rb") as a, open(target, "wb") as b:
        shutil.copyfileobj(a, b, 1 << 23)
        b.flush()
        os.fsync(b.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--suffix", default=".safetensors")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    record, before = made(given.megabytes), peak()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        a, b, c = (Path(folder) / f"{n}{given.suffix}" for n in "abc")

        def look() -> None:
            for t in read(a).tensors:
                for _ in t.slots["full"].chunks():
                    pass

        jobs = {
            "write": lambda: write(a, record),
            "read": look,
            "rewrite": lambda: write(b, read(a)),
            "plain copy": lambda: plain_copy(a, c),
        }
        for name, job in jobs.items():
            begun = time.perf_counter()
            job()
            took = time.perf_counter() - begun
            size = a.stat().st_size / 1e6
            print(f"{name:10} {took:6.2f} s, {size / took:7.0f} MB/s, peak {peak():.0f} MB")
    print(f"peak before: {before:.0f} MB")


if __name__ == "__main__":
    main()
