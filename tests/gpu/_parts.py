"""Runs the parts of check.py in processes of their own, and keeps what each says, as it says it.

A kernel that reads where it must not leaves its process without a GPU, and one that never ends
leaves it waiting: neither may cost the other parts their turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Timer
from typing import Any

MARK = "@ "  # of a line that is for the parent: an entry of the part's result, as JSON
TAIL = 12  # lines of a part that died
LEAST = 15  # seconds: importing torch and waking a GPU take about as many

Result = dict[str, Any]


def tell(entry: Result) -> None:
    """From within a part: {"row": ...} is added to its rows, the rest to its result."""
    print(MARK + json.dumps(entry), flush=True)


class Book:
    """The JSON file, whole after every entry."""

    def __init__(self, path: Path, head: Result) -> None:
        self._path, self._lock = path, Lock()
        self.found: Result = {**head, "parts": {}}

    def enter(self, part: str, entry: Result) -> None:
        with self._lock:
            into = self.found["parts"].setdefault(part, {})
            if "row" in entry:
                into.setdefault("rows", []).append(entry["row"])
            else:
                into |= entry
            written = self._path.with_name(f".{self._path.name}.part")
            written.write_text(json.dumps(self.found, indent=1) + "\n")
            written.replace(self._path)

    @property
    def sound(self) -> bool:
        return all(part.get("verdict") == "ok" for part in self.found["parts"].values())


def run(
    book: Book,
    names: Sequence[str],
    command: Callable[[str], Sequence[str]],
    jobs: int,
    limit: float,
    until: float,
) -> None:
    """The parts `names`, `jobs` at a time, each for `limit` seconds at most; none after `until`."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda name: _one(book, name, command(name), limit, until), names))


def _one(book: Book, name: str, words: Sequence[str], limit: float, until: float) -> None:
    limit = min(limit, until - time.monotonic())
    if limit < LEAST:
        book.enter(name, {"verdict": "not run", "said": "no time was left"})
        return
    start, late, tail = time.monotonic(), [], []
    book.enter(name, {"verdict": "running"})
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        timer = Timer(limit, lambda: (late.append(name), child.kill()))
        timer.start()
        for line in child.stdout or ():
            if line.startswith(MARK):
                book.enter(name, json.loads(line.removeprefix(MARK)))
            else:
                tail = [*tail, line][-TAIL:]
                print(f"{name}: {line}", end="", flush=True)
        code = child.wait()
        timer.cancel()
    if book.found["parts"][name]["verdict"] == "running":
        why = f"stopped after {limit:.0f} s" if late else f"died with exit code {code}"
        book.enter(name, {"verdict": "failed", "said": f"{why}: {''.join(tail)}"[:2000]})
    book.enter(name, {"seconds": round(time.monotonic() - start, 1)})
    part = book.found["parts"][name]
    print(f"{name}: {part['verdict']}, {part['seconds']} s: {part.get('said', '')}", flush=True)


def python(script: Path, name: str) -> list[str]:
    return [sys.executable, "-u", str(script), "--part", name]
