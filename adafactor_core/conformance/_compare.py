"""Comparison helpers. They raise on what is not a matter of rounding: shapes, NaN, a wrong zero."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ._rounding import spacing
from ._tolerances import WIDE

Array = npt.NDArray[np.float64]
Tensors = Mapping[str, Array]


class MismatchError(AssertionError):
    """Two results differ in a way that no tolerance covers."""


def require_alike(actual: Array, expected: Array) -> None:
    """Raise MismatchError unless shapes agree, and NaN and infinity are where they should be."""
    if actual.shape != expected.shape:
        raise MismatchError(f"shape {actual.shape}, expected {expected.shape}")
    there = np.isfinite(expected)
    same = np.isfinite(actual) == there
    same &= there | (np.isnan(actual) & np.isnan(expected)) | (actual == expected)
    if broken := np.argwhere(~same).tolist():
        where = tuple(broken[0])
        raise MismatchError(f"{actual[where]} at {where}, expected {expected[where]}")


def require_same(actual: Array, expected: Array) -> None:
    """Raise MismatchError unless both are the same numbers, NaN being equal to NaN."""
    if actual.shape != expected.shape:
        raise MismatchError(f"shape {actual.shape}, expected {expected.shape}")
    if not np.array_equal(actual, expected, equal_nan=True):
        count = int(np.sum(actual != expected))
        raise MismatchError(f"{count} of {actual.size} entries differ, none may")


def scaled_error(actual: Array, expected: Array, so_far: Array | None = None) -> float:
    """`max|a - b| / max|b|`; entrywise relative errors of parameters mean nothing near 0.

    `so_far`: see `largest_so_far`. Where all is 0, `actual` has to be so too.
    """
    require_alike(actual, expected)
    there = np.isfinite(expected)
    scale = largest(expected[there] if so_far is None else so_far)
    difference = largest(actual[there] - expected[there])
    if difference and not scale:
        raise MismatchError(f"up to {difference:.3g}, expected exactly 0")
    return difference / scale if scale else 0.0


def largest_so_far(start: Tensors, steps: Sequence[Tensors]) -> Iterator[dict[str, Array]]:
    """After each step, path to the largest `|x|` that each entry has had, `start` included.

    Errors are measured in it, because an entry that shrank keeps the rounding of what it was.
    """
    so_far = {path: _finite_size(x) for path, x in start.items()}
    for step in steps:
        sizes = {path: _finite_size(x) for path, x in step.items()}
        so_far = {path: np.maximum(so_far.get(path, 0.0), size) for path, size in sizes.items()}
        yield so_far


def _finite_size(x: Array) -> Array:
    return np.where(np.isfinite(x), np.abs(x), 0.0)


def relative_error(actual: Array, expected: Array, floor: float = 0.0) -> float:
    """`max(|a - b| / max(|b|, floor))` for means of squares, which do not cancel; 0 has to be 0."""
    require_alike(actual, expected)
    zero = expected == 0
    if actual[zero].any():
        raise MismatchError(f"up to {largest(actual[zero]):.3g} where 0 is expected")
    rest = np.isfinite(expected) & ~zero
    difference, size = actual[rest] - expected[rest], np.abs(expected[rest])
    return largest(difference / np.maximum(size, floor))


def ulps(actual: Array, expected: Array, dtype: str, so_far: Array) -> Array:
    """Distance of each entry in units in the last place of `dtype` at its `so_far`.

    No unit is smaller than the float32 tolerance of the tensor: an entry that nearly cancelled
    carries the wide rounding of its operands, which is many of its own units.
    """
    require_alike(actual, expected)
    unit = np.maximum(spacing(so_far, dtype), WIDE * largest(so_far))
    difference = np.zeros(expected.shape)
    np.subtract(actual, expected, out=difference, where=np.isfinite(expected))
    return np.asarray(np.abs(difference) / unit)


def largest(x: Array) -> float:
    """`max|x|`, 0 for an empty array."""
    return float(np.max(np.abs(x), initial=0.0))


@dataclass
class Tally:
    """The worst of many comparisons within one check, and whatever failed.

    `worst` is in the unit of `tolerance`; `where` names it. `flipped` counts entries of 16-bit
    results which fell on the other side of a rounding boundary, out of `entries`.
    """

    tolerance: float
    unit: str = "scaled"
    worst: float = 0.0
    where: str = ""
    compared: int = 0
    entries: int = 0
    flipped: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, where: str, error: float) -> None:
        """Record one comparison; NaN never passes."""
        self.compared += 1
        if error > self.worst or not self.where:
            self.worst, self.where = error, where
        if not error <= self.tolerance:
            self.fail(where, f"{error:.3g} {self.unit}, tolerance {self.tolerance:.3g}")

    def note_ulps(self, where: str, distance: Array, last: bool) -> None:
        """Record a 16-bit comparison. A flip stays, so they are counted after the last step."""
        self.entries += distance.size * last
        self.flipped += int(np.sum(distance > 0)) * last
        self.note(where, largest(distance))

    def fail(self, where: str, why: str) -> None:
        """Record what no number expresses."""
        self.failures.append(f"{where}: {why}")

    def too_many_flips(self, share: float) -> bool:
        """Whether more than `share` of all 16-bit entries (and more than one) were flipped."""
        return self.flipped > max(1.0, share * self.entries)
