"""Where the figures come from: processor, memory, versions, load."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "adafactor-core",
    "array-api-compat",
    "numpy",
    "numba",
    "ml_dtypes",
    "torch",
    "transformers",
    "jax",
    "jaxlib",
    "optax",
)
_THREADS = ("ADAFACTOR_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS")


def describe() -> dict[str, Any]:
    """The machine, as JSON."""
    usable = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu(),
        "cores": len(usable(0)) if usable else os.cpu_count(),
        "memory_gib": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "huge_pages": _huge_pages(),
        "environment": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "commit": _commit(),
        "load_before": load(),
    }


def load() -> list[float] | None:
    """Load averages over 1, 5 and 15 minutes: a busy machine makes figures that mean little."""
    try:
        return [round(x, 2) for x in os.getloadavg()]
    except (AttributeError, OSError):
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _huge_pages() -> str | None:
    """Linux: "madvise" gives them to NumPy's large arrays, which ask, and not to torch's."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists():
        return None
    return setting.read_text().partition("[")[2].partition("]")[0]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    import json

    json.dump(describe(), sys.stdout, indent=2)
