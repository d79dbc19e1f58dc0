"""What the adapter needs of CuPy beyond the array API: all of its CuPy-only calls are here.

Tests put another library of the same methods in its place, since nothing of CuPy runs without a
GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from adafactor_core import AdafactorError, Passes

Array = Any


class MissingCuPyError(AdafactorError, ImportError):
    """CuPy is not installed."""


class Library(Protocol):
    """An array library whose work is queued on devices."""

    name: str  # of its array type, for messages

    def is_array(self, x: Any) -> bool: ...

    def on(self, x: Array) -> AbstractContextManager[Any]:
        """Within it, arrays are made and work is queued on the device of `x`."""
        ...

    def wait(self, x: Array, y: Array) -> None:
        """What is queued from now on for the device of `x` runs after what `y`'s has to do."""
        ...

    def is_on_host(self, x: Any) -> bool:
        """Whether something with `__dlpack__` lies in CPU memory."""
        ...

    def from_dlpack(self, x: Any) -> Array:
        """The same memory as an array of this library."""
        ...

    def copy(self, x: Any) -> Array:
        """A copy in C order on the current device; `x` may be a NumPy array."""
        ...

    def address(self, x: Array) -> int:
        """Of the first element."""
        ...

    def share_memory(self, x: Array, y: Array) -> bool: ...

    def passes(self) -> Sequence[Passes]:
        """Kernels to ask before the array-API passes."""
        ...


_CPU = 1  # DLPack's device types; all others that CuPy can take are memory a GPU can reach


class CuPy:
    """CuPy itself. Importing it needs no GPU; making an array does."""

    name = "cupy.ndarray"

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise MissingCuPyError(
                "adafactor_cupy needs CuPy. Install the wheel that names your CUDA version, for "
                "example pip install cupy-cuda12x."
            ) from error
        self._cupy = cupy

    def is_array(self, x: Any) -> bool:
        return isinstance(x, self._cupy.ndarray)

    def on(self, x: Array) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = x.device
        return device

    def wait(self, x: Array, y: Array) -> None:
        cuda = self._cupy.cuda
        with y.device:
            event = cuda.Event(block=False, disable_timing=True)
            event.record()
        with x.device:
            cuda.get_current_stream().wait_event(event)

    def is_on_host(self, x: Any) -> bool:
        return bool(int(x.__dlpack_device__()[0]) == _CPU)

    def from_dlpack(self, x: Any) -> Array:
        return self._cupy.from_dlpack(x)

    def copy(self, x: Any) -> Array:
        return self._cupy.array(x, order="C")

    def address(self, x: Array) -> int:
        return int(x.data.ptr)

    def share_memory(self, x: Array, y: Array) -> bool:
        return bool(self._cupy.shares_memory(x, y))

    def passes(self) -> Sequence[Passes]:
        from ._kernels import CuPyKernels
        from ._passes import KernelPasses

        return (KernelPasses(CuPyKernels(self._cupy)),)
