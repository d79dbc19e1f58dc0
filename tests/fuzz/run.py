"""The campaign: python tests/fuzz/run.py --cases 100000 --seed 0 --workers 2 --out docs/fuzz.json

One case again, with what it is: python tests/fuzz/run.py --seed N --cases 1 -v
Cases are done in chunks of seeds; --out is written after each, and a second call with the same
--out, --seed and code goes on with the chunks that are missing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS.parent / "backends")]
os.environ.setdefault("ADAFACTOR_NUM_THREADS", "1")

CHUNK = 250


def chunk(start: int, stop: int) -> dict[str, Any]:
    """What the seeds of one chunk gave; runs in a worker."""
    from fuzz.campaign import judge
    from fuzz.tally import Tally

    tally, began, parent = Tally(), time.monotonic(), os.getppid()
    for seed in range(start, stop):
        if os.getppid() != parent:  # killed: nobody wants the result any more
            os._exit(1)
        judge(seed, tally)
    return {"range": [start, stop], "seconds": time.monotonic() - began, **tally.plain()}


def _single_threaded() -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def chunks(seed: int, cases: int, done: list[list[int]]) -> Iterator[tuple[int, int]]:
    """The ranges of seeds that are still to be judged."""
    finished = {tuple(r) for r in done}
    for start in range(seed, seed + cases, CHUNK):
        stop = min(start + CHUNK, seed + cases)
        if (start, stop) not in finished:
            yield start, stop


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON; the table goes beside it, as .md")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell what each case is")
    args = parser.parse_args()
    if args.verbose:
        return tell(range(args.seed, args.seed + args.cases))
    from adafactor_core.conformance._tolerances import FLIPPED
    from fuzz import campaign, report  # campaign: so that workers fork with the code of now
    from fuzz.against_oracle import ENTRIES, FLIPS
    from fuzz.tally import Tally

    assert campaign

    record = report.begin(args.out, args.seed)
    tally, began = Tally(), time.monotonic()
    tally.add(record)
    todo = list(chunks(args.seed, args.cases, record["ranges"]))
    with ProcessPoolExecutor(args.workers, initializer=_single_threaded) as pool:
        futures = [pool.submit(chunk, *r) for r in todo]
        for future in as_completed(futures):
            if future.cancelled():
                continue
            found = future.result()
            tally.add(found)
            record["ranges"].append(found["range"])
            record["seconds"] += found["seconds"]
            record |= tally.plain()
            passed = time.monotonic() - began
            report.write(args.out, record, passed)
            done = sum(b - a for a, b in record["ranges"])
            rate = 1e3 * record["seconds"] / done
            print(f"{done} of {args.cases} cases, {rate:.0f} ms each, {passed:.0f} s, "
                  f"{len(tally.failures)} failures", flush=True)  # fmt: skip
            if passed > 60 * args.minutes:
                [f.cancel() for f in futures]
                break
    entries, flips = (tally.noted[name] for name in (ENTRIES, FLIPS))
    if entries > 100_000 and flips > FLIPPED * entries:
        tally.failures.append((args.seed, "flips", f"{flips} of {entries} 16-bit entries differ"))
    for seed, check, what in tally.failures[:50]:
        print(f"FAILED {check}: {what}\n    python tests/fuzz/run.py --seed {seed} --cases 1 -v")
    return bool(tally.failures)


def tell(seeds: range) -> int:
    """Case by case, in words."""
    from fuzz.campaign import judge
    from fuzz.draw import draw
    from fuzz.tally import Tally

    failed = 0
    for seed in seeds:
        tally = Tally()
        judge(seed, tally)
        print(f"{seed}: {draw(seed).words()}")
        for name, times in {**tally.applied, **tally.excused}.items():
            print(f"    {times:3d} {name}" + (" (excused)" if name in tally.excused else ""))
        for _, check, what in tally.failures:
            print(f"    FAILED {check}: {what}")
        failed += len(tally.failures)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
