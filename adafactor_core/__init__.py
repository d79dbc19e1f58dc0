"""Adafactor, written once against the Python array API standard. Start with docs/embedding.md."""

from . import interchange as interchange
from . import schedules as schedules
from . import variants as variants
from ._config import Config as Config
from ._config import RelativeStep as RelativeStep
from ._convert import convert_state as convert_state
from ._errors import AdafactorError as AdafactorError
from ._errors import ConfigError as ConfigError
from ._errors import DeviceError as DeviceError
from ._errors import DTypeError as DTypeError
from ._errors import LowPrecisionWarning as LowPrecisionWarning
from ._errors import NonFiniteError as NonFiniteError
from ._errors import ReadOnlyError as ReadOnlyError
from ._errors import ShapeError as ShapeError
from ._errors import StateError as StateError
from ._errors import StateFileError as StateFileError
from ._errors import TreeError as TreeError
from ._metrics import Metrics as Metrics
from ._metrics import flat as flat_metrics
from ._metrics import read as metrics
from ._passes import ArrayPasses as ArrayPasses
from ._passes import Passes as Passes
from ._prepare import Sharding as Sharding
from ._report import MemoryReport as MemoryReport
from ._report import memory_report as memory_report
from ._rounding import stochastic_round as stochastic_round
from ._state import Moments as Moments
from ._state import State as State
from ._step import init as init
from ._step import step as step
from ._step import update as update
from ._work import Partial as Partial
from ._work import Work as Work
from .interchange import load_state as load_state
from .interchange import save_state as save_state

__version__ = "0.1.0"

__all__ = [
    "AdafactorError",
    "ArrayPasses",
    "Config",
    "ConfigError",
    "DTypeError",
    "DeviceError",
    "LowPrecisionWarning",
    "MemoryReport",
    "Metrics",
    "Moments",
    "NonFiniteError",
    "Partial",
    "Passes",
    "ReadOnlyError",
    "RelativeStep",
    "ShapeError",
    "Sharding",
    "State",
    "StateError",
    "StateFileError",
    "TreeError",
    "Work",
    "convert_state",
    "flat_metrics",
    "init",
    "interchange",
    "load_state",
    "memory_report",
    "metrics",
    "save_state",
    "schedules",
    "step",
    "stochastic_round",
    "update",
    "variants",
]
