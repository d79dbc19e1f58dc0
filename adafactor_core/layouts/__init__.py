"""Checkpoints of other implementations: read as a Record, and written from one."""

from ._arrays import ARRAYS as ARRAYS
from ._arrays import raw as raw
from ._flat import filled as filled
from ._flat import flat as flat
from ._format import Format as Format
from ._names import LINEAR as LINEAR
from ._names import inverse as inverse
from ._names import renamed as renamed
from ._names import to_channels_last as to_channels_last
from ._params import Param as Param
from ._params import described as described
from ._read import read as read
from ._reshape import reshaped as reshaped
from ._table import FORMATS as FORMATS
from ._table import meaning as meaning
from ._torch import load_torch as load_torch
from ._torch import torch_order as torch_order
from ._torch_flax import torch_to_flax as torch_to_flax
from ._write import losses as losses
from ._write import write as write

__all__ = [
    "ARRAYS",
    "FORMATS",
    "LINEAR",
    "Format",
    "Param",
    "described",
    "filled",
    "flat",
    "inverse",
    "load_torch",
    "losses",
    "meaning",
    "raw",
    "read",
    "renamed",
    "reshaped",
    "to_channels_last",
    "torch_order",
    "torch_to_flax",
    "write",
]
