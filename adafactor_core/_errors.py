"""Typed exceptions. Every message names the tensor or option, what was expected and what to do."""

from __future__ import annotations


class AdafactorError(Exception):
    """Base of every error this package raises on purpose. A call that raises it changed nothing."""


class ConfigError(AdafactorError, ValueError):
    """An option has a value outside its range, or two options contradict each other."""


class TreeError(AdafactorError, ValueError):
    """Parameters, gradients or state do not have the same nesting."""


class ShapeError(AdafactorError, ValueError):
    """An array's shape is not the one its tensor needs."""


class DTypeError(AdafactorError, TypeError):
    """A leaf is no array, belongs to another library, or has a dtype that cannot be trained."""


class DeviceError(AdafactorError, ValueError):
    """A parameter and its gradient are on different devices."""


class StateError(AdafactorError, ValueError):
    """A state was made for other shapes, dtypes or options."""


class StateFileError(StateError):
    """A state file is damaged, of a later version or something else, or a record fits into none."""


class ReadOnlyError(AdafactorError, ValueError):
    """An array that has to be updated in place cannot be written."""


class NonFiniteError(AdafactorError, RuntimeError):
    """`nonfinite="raise"`: a gradient holds NaN or infinity, or its squares overflow."""


class LowPrecisionWarning(UserWarning):
    """A 16-bit parameter is rounded to nearest, so updates below half a unit of it are lost."""
