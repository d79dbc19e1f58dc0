"""Optimizer state that moves between frameworks."""

from ._raw import Raw as Raw
from ._raw import of_bytes as of_bytes
from ._record import Record as Record
from ._record import TensorRecord as TensorRecord

__all__ = ["Raw", "Record", "TensorRecord", "of_bytes"]
