"""Adafactor over CuPy arrays: stateful, in place, without a host sync in a step."""

from ._device import MissingCuPyError as MissingCuPyError
from ._optimizer import Adafactor as Adafactor

__all__ = ["Adafactor", "MissingCuPyError"]
