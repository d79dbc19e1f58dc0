"""Adafactor, written once against the Python array API standard. Start with docs/embedding.md."""

from . import _variants as variants
from ._config import Config as Config
from ._config import RelativeStep as RelativeStep
from ._errors import AdafactorError as AdafactorError
from ._errors import ConfigError as ConfigError
from ._errors import DeviceError as DeviceError
from ._errors import DTypeError as DTypeError
from ._errors import NotReadyError as NotReadyError
from ._errors import ReadOnlyError as ReadOnlyError
from ._errors import ShapeError as ShapeError
from ._errors import StateError as StateError
from ._errors import TreeError as TreeError
from ._passes import ArrayPasses as ArrayPasses
from ._passes import Passes as Passes
from ._report import MemoryReport as MemoryReport
from ._report import memory_report as memory_report
from ._state import Moments as Moments
from ._state import State as State
from ._step import Sharding as Sharding
from ._step import init as init
from ._step import step as step
from ._step import update as update
from ._work import Partial as Partial
from ._work import Work as Work

__version__ = "0.1.0"

__all__ = [
    "AdafactorError",
    "ArrayPasses",
    "Config",
    "ConfigError",
    "DTypeError",
    "DeviceError",
    "MemoryReport",
    "Moments",
    "NotReadyError",
    "Partial",
    "Passes",
    "ReadOnlyError",
    "RelativeStep",
    "ShapeError",
    "Sharding",
    "State",
    "StateError",
    "TreeError",
    "Work",
    "init",
    "memory_report",
    "step",
    "update",
    "variants",
]
