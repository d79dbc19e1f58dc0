"""Schedules by name, for reports; plain arithmetic, so that they take a traced `t`."""

from typing import Any


def falling(t: Any) -> Any:
    return 0.47 * t**-0.5


def decaying(t: Any) -> Any:
    return 0.47 * 0.77**t


def rising(t: Any) -> Any:
    return 0.5 + 0.03125 * t


def broken(t: Any) -> Any:
    """What no schedule may return."""
    return float("nan")
