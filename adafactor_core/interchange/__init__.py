"""Optimizer state that moves between frameworks: records, and the files that hold them."""

from ._bridge import load_state as load_state
from ._bridge import record as record
from ._bridge import save_state as save_state
from ._bridge import state as state
from ._file import read as read
from ._file import read_arrays as read_arrays
from ._file import write as write
from ._raw import Raw as Raw
from ._raw import of_bytes as of_bytes
from ._record import Record as Record
from ._record import TensorRecord as TensorRecord

__all__ = [
    "Raw",
    "Record",
    "TensorRecord",
    "load_state",
    "of_bytes",
    "read",
    "read_arrays",
    "record",
    "save_state",
    "state",
    "write",
]
