"""The table of array libraries: how each takes and gives NumPy numbers, compiles, names dtypes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ._trees import leaves, map_leaves, rebuild, walk

DTYPES = ("float64", "float32", "bfloat16", "float16")
Function = Callable[..., Any]


class UnavailableError(Exception):
    """This library, or this machine, does not have what was asked for; the text says what."""


class Namespace:
    """Any array-API namespace, named by its module; libraries with habits of their own derive."""

    modes: tuple[str, ...] = ("eager",)  # what runs unless asked; `compile` may offer more
    quick = True  # eager calls are cheap enough to put every case to every check

    def __init__(self, name: str, device: str | None = None) -> None:
        """Import the library. Raises UnavailableError if it, or the device, is missing."""
        self.name = name
        try:
            self.module = import_module(self.module_name())
            self.xp = self.namespace()
            self.device = self.find_device(device)
            self.asarray(np.zeros(1), "float32")
        except Exception as error:  # a missing driver is a RuntimeError of the library's own
            raise UnavailableError(f"{name}: {type(error).__name__}: {error}") from error

    def module_name(self) -> str:
        """The module to import."""
        return self.name

    def namespace(self) -> Any:
        """The array-API namespace, through array_api_compat where it knows the library."""
        from array_api_compat import array_namespace

        try:
            return array_namespace(self.module.asarray([0.0]))
        except TypeError:
            return self.module  # no `__array_namespace__` on its arrays, but maybe all functions

    def find_device(self, device: str | None) -> Any:
        """The device object for a name; None is the library's default."""
        return device

    def device_name(self) -> str:
        """Where its arrays lie, for the report."""
        from array_api_compat import device

        return str(device(self.asarray(np.zeros(1), "float32")))

    def dtype(self, name: str) -> Any:
        """The library's dtype. Raises UnavailableError."""
        if not hasattr(self.xp, name):
            raise UnavailableError(f"{self.name} has no {name}")
        return getattr(self.xp, name)

    def asarray(self, values: npt.NDArray[np.float64], dtype: str) -> Any:
        """Float64 NumPy to an array; through a list, which is all that the standard promises."""
        kind = self.dtype(dtype)
        flat = self.xp.asarray(values.ravel().tolist(), dtype=kind, device=self.device)
        return self.xp.reshape(flat, values.shape)

    def to_numpy(self, array: Any) -> npt.NDArray[np.float64]:
        """An array as float64 NumPy, a copy."""
        return np.array(np.asarray(array), dtype=np.float64)

    def compile(self, function: Function) -> Function:
        """The function under the library's compiler. Raises UnavailableError."""
        raise UnavailableError(f"{self.name} has no compiler")

    def scope(self, dtype: str) -> AbstractContextManager[Any]:
        """What has to be switched on around everything done in this dtype."""
        return nullcontext()

    def settle(self, tree: Any) -> Any:
        """Between steps: a lazy library computes here, or its graph grows with each step."""
        return tree

    def thaw(self, tree: Any) -> Any:
        """What may be overwritten, where arrays are otherwise read-only."""
        return tree


class OnCpu(Namespace):
    """A library that knows no other device."""

    def find_device(self, device: str | None) -> Any:
        if device not in (None, "cpu"):
            raise UnavailableError(f"there is no device {device!r}")
        return None


class NumPy(OnCpu):
    """NumPy, whose bfloat16 comes from ml_dtypes. Every array that goes in is read-only."""

    def dtype(self, name: str) -> Any:
        if name != "bfloat16":
            return np.dtype(name)
        try:
            return np.dtype(import_module("ml_dtypes").bfloat16)
        except ImportError:
            raise UnavailableError("numpy has bfloat16 only with ml_dtypes installed") from None

    def asarray(self, values: npt.NDArray[np.float64], dtype: str) -> Any:
        return self.settle(values.astype(self.dtype(dtype)))

    def settle(self, tree: Any) -> Any:
        for _, leaf in walk(tree):
            if isinstance(leaf, np.ndarray):  # a 0-D result may be a scalar, which is immutable
                leaf.flags.writeable = False
        return tree

    def thaw(self, tree: Any) -> Any:
        return map_leaves(np.array, tree)


class Strict(Namespace):
    """array-api-strict, with `--device device1` to catch arrays made on the wrong device."""

    def find_device(self, device: str | None) -> Any:
        return device and self.module.Device(device)

    def to_numpy(self, array: Any) -> npt.NDArray[np.float64]:
        return np.array(array.to_device(self.module.Device("CPU_DEVICE")), dtype=np.float64)


class Torch(Namespace):
    """PyTorch; torch.compile only when `--mode jit` asks for it, since it takes seconds a case."""

    def to_numpy(self, array: Any) -> npt.NDArray[np.float64]:
        return np.array(array.detach().to(self.module.float64).cpu().numpy())

    def compile(self, function: Function) -> Function:
        return self.module.compile(function, fullgraph=True)  # type: ignore[no-any-return]


class Jax(Namespace):
    """JAX, by way of jax.numpy, eager and jitted; float64 inside its own context."""

    modes = ("eager", "jit")
    quick = False  # eager, each operation is compiled anew for each shape

    def module_name(self) -> str:
        return "jax"

    def namespace(self) -> Any:
        return self.module.numpy

    def find_device(self, device: str | None) -> Any:
        return device and self.module.devices(device)[0]

    def compile(self, function: Function) -> Function:
        return self.module.jit(function)  # type: ignore[no-any-return]

    def scope(self, dtype: str) -> AbstractContextManager[Any]:
        return self.module.enable_x64(dtype == "float64")  # type: ignore[no-any-return]


class Dask(OnCpu):
    """Dask arrays, two chunks along each axis; its scheduler takes most of the time."""

    quick = False

    def module_name(self) -> str:
        return "dask.array"

    def asarray(self, values: npt.NDArray[np.float64], dtype: str) -> Any:
        chunks = tuple(size - size // 2 for size in values.shape)
        return self.module.from_array(values.astype(self.dtype(dtype)), chunks=chunks)

    def scope(self, dtype: str) -> AbstractContextManager[Any]:
        config = import_module("dask").config
        return config.set(scheduler="synchronous")  # type: ignore[no-any-return]

    def settle(self, tree: Any) -> Any:
        paths = leaves(tree)
        computed = import_module("dask").persist(*paths.values())
        return rebuild(tree, dict(zip(paths, computed, strict=True)))


class CuPy(Namespace):
    """CuPy; its arrays refuse an implicit copy to NumPy."""

    def to_numpy(self, array: Any) -> npt.NDArray[np.float64]:
        return np.array(self.module.asnumpy(array), dtype=np.float64)


ROWS: dict[str, type[Namespace]] = {
    "numpy": NumPy,
    "array_api_strict": Strict,
    "torch": Torch,
    "jax": Jax,
    "dask": Dask,
    "cupy": CuPy,
}
ALIASES = {"jax.numpy": "jax", "dask.array": "dask"}


def load(name: str, device: str | None = None) -> Namespace:
    """The row of this name, or any dotted module taken as an array-API namespace.

    Raises UnavailableError if the library, or the device on it, is missing.
    """
    name = ALIASES.get(name, name)
    return ROWS.get(name, Namespace)(name, device)
