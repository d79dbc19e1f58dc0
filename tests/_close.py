"""Comparisons that raise: scaled errors for wide dtypes, units in the last place for narrow ones.

Entrywise relative errors of parameters mean nothing near 0, hence `max|a - b| / max|b|`.
"""

import numpy as np

PARAMS = {"float32": 1e-6, "float64": 1e-14}  # scaled, up to 20 steps (practice.md 2.9)
UPDATE = {"float32": 2e-6, "float64": 1e-14}  # scaled, one step, axes up to 1024
STATE = {"float32": 1e-5, "float64": 1e-13}  # entrywise relative: sums of squares do not cancel
DIGITS = {"bfloat16": (8, -133), "float16": (11, -24)}  # significand bits, least exponent


def close(
    actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str = "", scale: float = 0.0
) -> float:
    """The scaled error. Raises AssertionError above `tolerance`, or for what is no rounding.

    `scale`: the size of what cancelled in `expected`, if it may all have cancelled.
    """
    actual, expected = alike(actual, expected, what)
    scale = max(scale, np.max(np.abs(expected), initial=0.0))
    error = float(np.max(np.abs(actual - expected), initial=0.0) / (scale or 1.0))
    assert error <= tolerance, f"{what}: scaled error {error:.3g} > {tolerance:.3g}"
    return error


def close_entries(
    actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str = ""
) -> float:
    """The same entry by entry, `|a - b| / |b|`, for sums of squares; 0 has to be 0."""
    actual, expected = alike(actual, expected, what)
    error = np.abs(actual - expected)
    assert not np.any(error[expected == 0]), f"{what}: not 0 where 0 is expected"
    worst = float(np.max(error / np.where(expected == 0, 1.0, np.abs(expected)), initial=0.0))
    assert worst <= tolerance, f"{what}: relative error {worst:.3g} > {tolerance:.3g}"
    return worst


FLIPS = 1e-3  # share of 16-bit entries that may fall on the other side of a rounding boundary


def close_narrow(
    actual: np.ndarray,
    expected: np.ndarray,
    dtype: str,
    what: str = "",
    reached: np.ndarray | float = 0.0,
    share: float = FLIPS,
) -> int:
    """For 16-bit arrays: each entry within 2 units in the last place, and `share` of them flipped
    at most (or one entry). Returns how many were.

    `reached`: the largest value that each entry has had, of which a flip may be left over. Entries
    that cancelled to almost 0 carry the wide rounding of their operands, so no unit counts as
    smaller than the scaled error that wide parameters may have.
    """
    actual, expected = alike(actual, expected, what)
    size = np.maximum(np.abs(expected), reached)
    floor = PARAMS["float32"] * np.max(size, initial=0.0)
    distance = np.abs(actual - expected) / np.maximum(spacing(size, dtype), floor)
    worst, flipped = float(np.max(distance, initial=0.0)), int(np.sum(distance > 0))
    assert worst <= 2.0, f"{what}: {worst:.3g} ulp of {dtype}"
    assert flipped <= max(1.0, share * actual.size), f"{what}: {flipped} of {actual.size} differ"
    return flipped


def alike(actual: np.ndarray, expected: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, what is not finite set to 0 after checking that it is the same in both."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    odd = ~np.isfinite(expected) | ~np.isfinite(actual)
    same = np.array_equal(actual[odd], expected[odd], equal_nan=True)
    assert same, f"{what}: {actual[odd][:3]} where {expected[odd][:3]} is expected"
    return np.where(odd, 0.0, actual), np.where(odd, 0.0, expected)


def spacing(x: np.ndarray, dtype: str) -> np.ndarray:
    """The unit in the last place of a 16-bit dtype at each entry."""
    bits, least = DIGITS[dtype]
    return np.ldexp(1.0, np.maximum(np.frexp(x)[1] - bits, least))


def dtype_of(array: object) -> str:
    """'bfloat16' for every library's bfloat16."""
    return str(array.dtype).rsplit(".", 1)[-1]  # type: ignore[attr-defined]
