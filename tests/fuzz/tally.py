"""What a campaign counts: how often each check applied, excuses by name, failures by seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """`applied`, `excused` and `noted` by name; `failures`: (seed, check, what differs)."""

    applied: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    seed: int = -1

    def check(self, name: str, fine: bool, what: str = "") -> bool:
        """Counts one application, and a failure unless it is `fine`."""
        self.applied[name] += 1
        if not fine:
            self.failures.append((self.seed, name, what))
        return fine

    def excuse(self, name: str, why: str) -> None:
        """Counts a difference that the number format explains."""
        self.excused[f"{name}: {why}"] += 1

    def note(self, name: str, by: int = 1) -> None:
        self.noted[name] += by

    def add(self, other: dict[str, Any]) -> None:
        """Takes the counts of another process in."""
        self.applied.update(other["applied"])
        self.excused.update(other["excused"])
        self.noted.update(other["noted"])
        self.failures.extend(tuple(f) for f in other["failures"])

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "applied": dict(sorted(self.applied.items())),
            "excused": dict(sorted(self.excused.items())),
            "noted": dict(sorted(self.noted.items())),
            "failures": [list(f) for f in self.failures],
        }
