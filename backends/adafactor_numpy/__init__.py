"""Adafactor over NumPy arrays: stateful, in place, compiled where Numba is installed."""

from ._optimizer import Adafactor as Adafactor
from ._optimizer import MissingNumbaWarning as MissingNumbaWarning

__all__ = ["Adafactor", "MissingNumbaWarning"]
