"""The array libraries, one row each: numbers in and out, dtypes, compiler. Imported when asked for.

Every row is as hostile as its library can be: NumPy inputs are read-only, array-api-strict has its
strictest flags and another device, JAX refuses to promote dtypes or ranks.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import optree
import pytest

WIDE = ("float32", "float64")
ALL = ("float32", "float64", "bfloat16", "float16")


class UnavailableError(Exception):
    """The library, or its device, is not on this machine."""


class Backend:
    """A library whose namespace is its module, and which shares memory with nobody."""

    name = module = ""
    dtypes: tuple[str, ...] = ALL
    modes: tuple[str, ...] = ("eager",)

    def __init__(self) -> None:
        try:
            self.lib = import_module(self.module)
            self.prepare()
            self.asarray(np.zeros(1))
        except Exception as error:  # a missing driver is the library's own RuntimeError
            raise UnavailableError(f"{self.name}: {type(error).__name__}: {error}") from error

    def __repr__(self) -> str:
        return self.name

    def prepare(self) -> None:
        """Settings of the library for this process."""

    def dtype(self, name: str) -> Any:
        return getattr(self.lib, name)

    def asarray(self, x: Any, dtype: str = "float32") -> Any:
        """A new array of this library; `x` is anything NumPy takes."""
        return self.lib.asarray(np.array(x, dtype=np.float64), dtype=self.dtype(dtype))

    def numpy(self, array: Any) -> np.ndarray:
        """A copy as float64 NumPy."""
        return np.array(array, dtype=np.float64)

    def bits(self, array: Any) -> bytes:
        """What is stored, to see whether it was touched."""
        return self.numpy(array).tobytes()

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError(self.name)

    def scope(self, dtype: str) -> AbstractContextManager[Any]:
        """What has to be switched on around everything in this dtype."""
        return nullcontext()

    def tree(self, tree: Any, dtype: str = "float32") -> Any:
        """A nesting of NumPy arrays as one of this library's; tuples are containers."""
        return optree.tree_map(lambda x: self.asarray(x, dtype), tree)


class NumPy(Backend):
    name = module = "numpy"

    def prepare(self) -> None:
        try:
            self.narrow = np.dtype(import_module("ml_dtypes").bfloat16)
        except ImportError:
            self.dtypes = ("float32", "float64", "float16")

    def dtype(self, name: str) -> Any:
        return self.narrow if name == "bfloat16" else np.dtype(name)

    def asarray(self, x: Any, dtype: str = "float32") -> Any:
        array = np.array(x).astype(self.dtype(dtype))
        array.flags.writeable = False
        return array


class Strict(Backend):
    name, module, dtypes = "strict", "array_api_strict", WIDE

    def prepare(self) -> None:
        self.lib.set_array_api_strict_flags(
            api_version="2024.12",
            boolean_indexing=False,
            data_dependent_shapes=False,
            enabled_extensions=(),
        )
        self.device = self.lib.Device("device1")

    def asarray(self, x: Any, dtype: str = "float32") -> Any:
        x = np.array(x, dtype=dtype)
        return self.lib.asarray(x, dtype=self.dtype(dtype), device=self.device)

    def numpy(self, array: Any) -> np.ndarray:
        assert array.device == self.device, f"an array was made on {array.device}"
        return np.array(array.to_device(self.lib.Device("CPU_DEVICE")), dtype=np.float64)


class Torch(Backend):
    name = module = "torch"

    def prepare(self) -> None:
        self.lib.set_num_threads(1)  # the tests run in parallel themselves

    def asarray(self, x: Any, dtype: str = "float32") -> Any:
        return self.lib.tensor(np.array(x, dtype=np.float64)).to(self.dtype(dtype))

    def numpy(self, array: Any) -> np.ndarray:
        return array.detach().to(self.lib.float64).cpu().numpy().copy()


class Jax(Backend):
    name, module, modes = "jax", "jax", ("eager", "jit")

    def prepare(self) -> None:
        self.lib.config.update("jax_numpy_dtype_promotion", "strict")
        self.lib.config.update("jax_numpy_rank_promotion", "raise")

    def dtype(self, name: str) -> Any:
        return getattr(self.lib.numpy, name)

    def asarray(self, x: Any, dtype: str = "float32") -> Any:
        # Narrowed by NumPy: without x64, JAX goes through float32 and rounds twice.
        return self.lib.numpy.asarray(np.array(x).astype(self.dtype(dtype)))

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.lib.jit(function)

    def scope(self, dtype: str) -> AbstractContextManager[Any]:
        return self.lib.enable_x64(dtype == "float64")


class Dask(Backend):
    name, module, dtypes = "dask", "dask.array", WIDE

    def prepare(self) -> None:
        import_module("dask").config.set(scheduler="synchronous")

    def asarray(self, x: Any, dtype: str = "float32") -> Any:
        return self.lib.from_array(np.array(x, dtype=dtype), chunks=3)


class CuPy(Backend):
    name = module = "cupy"

    def dtype(self, name: str) -> Any:
        return np.dtype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)

    def numpy(self, array: Any) -> np.ndarray:
        return np.array(self.lib.asnumpy(array), dtype=np.float64)


ROWS: dict[str, type[Backend]] = {row.name: row for row in (NumPy, Strict, Torch, Jax, Dask, CuPy)}


def need(backend: Backend, *dtypes: str) -> None:
    """Skips a test of a dtype that the library does not have here."""
    for dtype in dtypes:
        if dtype not in backend.dtypes:
            pytest.skip(f"{backend} has no {dtype} here")


@cache
def load(name: str) -> Backend:
    """The row of this name, ready. Raises UnavailableError."""
    return ROWS[name]()
