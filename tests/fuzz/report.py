"""docs/fuzz.json, and the table in docs/fuzz.md that is made from it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "ml_dtypes", "torch", "array-api-strict", "array-api-compat")
MARK = "<!-- the rest is written by tests/fuzz/run.py -->"


def begin(out: Path | None, seed: int) -> dict[str, Any]:
    """The record to go on with: what `out` holds if it is of this seed and code, else a new one."""
    now = code()
    if out is not None and out.exists():
        found: dict[str, Any] = json.loads(out.read_text())
        if found["seed"] == seed and found["code"] == now:
            return found
    return {
        "code": now,
        "seed": seed, "commit": commit(), "date": f"{datetime.date.today()}",
        "machine": machine(), "versions": versions(), "ranges": [], "seconds": 0.0, "wall": 0.0,
        "applied": {}, "excused": {}, "noted": {}, "failures": [],
    }  # fmt: skip


def write(out: Path | None, record: dict[str, Any], wall: float) -> None:
    if out is None:
        return
    record = record | {"wall": record["wall"] + wall, "ranges": joined(record["ranges"])}
    out.write_text(json.dumps(record, indent=1) + "\n")
    page = out.with_suffix(".md")
    if page.exists():
        words = page.read_text().split(MARK)[0]
        page.write_text(words + MARK + "\n\n" + table(record))


def joined(ranges: list[list[int]]) -> list[list[int]]:
    """Sorted; kept apart by chunk, which is what a second call looks up."""
    return sorted(ranges)


def table(r: dict[str, Any]) -> str:
    cases = sum(b - a for a, b in r["ranges"])
    each = 1e3 * r["seconds"] / max(1, cases)
    lines = [
        f"**{cases:,} cases** from seed {r['seed']}, {len(r['failures'])} failures, "
        f"{r['date']}, commit {r['commit'][:7]} (code {r['code']}); {each:.0f} ms a case, "
        f"{r['wall'] / 60:.0f} minutes on {r['machine']}. "
        + ", ".join(f"{name} {v}" for name, v in r["versions"].items())
        + ".",
        "",
    ]
    lines += _rows("check", "applied", _folded(r["applied"]))
    lines += _rows("difference that the number format explains", "times", r["excused"])
    lines += _rows("noted", "times", r["noted"])
    if r["failures"]:
        lines += ["Failures (the first of each check):", ""]
        seen = set()
        for seed, check, what in r["failures"]:
            if check not in seen:
                seen.add(check)
                lines.append(f"* seed {seed}, {check}: {what}".replace("\n", " "))
    return "\n".join(lines).rstrip() + "\n"


def _folded(applied: dict[str, int]) -> dict[str, int]:
    """The kinds of refused calls in one row per interface."""
    found: dict[str, int] = {}
    for name, times in applied.items():
        short = name.split(":")[0] if name.startswith("refused, ") else name
        found[short] = found.get(short, 0) + times
    return found


def _rows(what: str, count: str, of: dict[str, int]) -> list[str]:
    if not of:
        return []
    rows = [f"| {name} | {times:,} |" for name, times in sorted(of.items())]
    return [f"| {what} | {count} |", "| --- | ---: |", *rows, ""]


def code() -> str:
    """A hash of all that a result depends on in this repository."""
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for folder in ("adafactor_core", "backends/adafactor_numpy", "tests/fuzz"):
        for path in sorted((root / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores of {model}"
