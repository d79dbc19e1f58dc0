"""Checkpoints of other implementations: read as a Record, and written from one."""

from ._arrays import ARRAYS as ARRAYS
from ._arrays import raw as raw
from ._flat import filled as filled
from ._flat import flat as flat
from ._format import Format as Format
from ._params import Param as Param
from ._params import described as described
from ._read import read as read
from ._reshape import reshaped as reshaped
from ._table import FORMATS as FORMATS
from ._write import losses as losses
from ._write import write as write

__all__ = [
    "ARRAYS",
    "FORMATS",
    "Format",
    "Param",
    "described",
    "filled",
    "flat",
    "losses",
    "raw",
    "read",
    "reshaped",
    "write",
]
