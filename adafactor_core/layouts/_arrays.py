"""Arrays of any library as Raw, read when asked for, and Raw as arrays."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from .._errors import DTypeError
from .._numerics import WIDTHS, Shape, dtype_name
from ..interchange import Raw, of_bytes
from ..interchange._arrays import array_of, lazily, numpy, numpy_array


def is_array(x: Any) -> bool:
    return isinstance(x, Raw) or (hasattr(x, "shape") and hasattr(x, "dtype"))


def raw(x: Any, key: str) -> Raw:
    """`x` as its bytes, none of which is read now. Raises DTypeError, naming the key."""
    if isinstance(x, Raw):
        return x
    x = unboxed(x)
    name = dtype_name(x) if is_array(x) else type(x).__name__
    if name not in WIDTHS:
        raise DTypeError(
            f"{key!r} is {name}, which is no array of a dtype that a state can have. Expected one "
            f"of {', '.join(WIDTHS)}."
        )
    shape = tuple(int(n) for n in x.shape)
    if hasattr(x, "full_tensor"):  # torch's DTensor: all ranks have to read together
        return lazily(name, shape, lambda: x.full_tensor())
    if _library(x) == "mlx":
        return lazily(name, shape, lambda: _mlx_bytes(x))
    return lazily(name, shape, lambda: x)


def unboxed(x: Any) -> Any:
    """The array in a Keras or flax variable."""
    library = _library(x)
    if library == "keras" and hasattr(x, "value"):
        return x.value
    if library == "flax" and hasattr(x, "get_value"):
        return x.get_value()
    return x


def _library(x: Any) -> str:
    return type(x).__module__.partition(".")[0]


def _mlx_bytes(x: Any) -> Any:
    import mlx.core as mx  # it is there: `x` is one of its arrays

    # Not through NumPy's dtypes, of which none is bfloat16; a 0-D array has no view.
    return numpy().asarray(x.reshape(-1).view(mx.uint8)) if x.size else numpy().empty(0, "u1")


def to_mlx(raw: Raw) -> Any:
    """An array of MLX."""
    mx = _wanted("mlx.core")
    words = numpy_array(Raw("uint8", (raw.nbytes,), raw.read))
    flat = mx.array(words).view(getattr(mx, raw.dtype)) if raw.size else mx.zeros((0,))
    return flat.reshape(raw.shape)


def to_torch(raw: Raw) -> Any:
    """A tensor of torch, on the host."""
    return array_of(raw, _wanted("torch").empty(()))


def to_jax(raw: Raw) -> Any:
    """An array of JAX, on its default device."""
    return array_of(raw, _wanted("jax.numpy").zeros(()))


def _wanted(module: str) -> Any:
    """Raises DTypeError where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise DTypeError(
            f"arrays of {name} are wanted, and {name} is not installed. Install it with pip "
            f"install {name}, or pass arrays='numpy' or arrays='raw'."
        ) from None


def like(raw: Raw, array: Any) -> Any:
    """`raw` as an array of the library, and on the device, of `array`."""
    array = unboxed(array)
    if isinstance(array, Raw):
        return raw
    if _library(array) == "mlx":
        return to_mlx(raw)
    sharding = getattr(array, "sharding", None) if _library(array) in ("jax", "jaxlib") else None
    if sharding is None:
        return array_of(raw, array)
    import jax  # it is there: `array` is one of its arrays

    made = jax.device_put(numpy_array(raw), sharding)
    if dtype_name(made) != raw.dtype:
        raise DTypeError(
            f"an array of {raw.dtype} became one of {dtype_name(made)} in JAX. Use "
            f"jax.config.update('jax_enable_x64', True)."
        )
    return made


def scalar(dtype: str, value: int) -> Raw:
    """A 0-D array of one whole number."""
    np = numpy()
    return of_bytes(dtype, (), np.asarray(value, dtype=dtype).tobytes())


def number(x: Any, key: str) -> int:
    """The whole number in a Python value or an array of one element. Raises DTypeError."""
    x = unboxed(x)
    if isinstance(x, Raw):
        np = numpy()
        found = np.frombuffer(x.bytes(), dtype=x.dtype) if x.size == 1 else [None]
        value = found[0]
    elif is_array(x):
        one = all(n == 1 for n in x.shape)
        value = x.item() if one and hasattr(x, "item") else x if one else None
    else:
        value = x
    try:
        whole = None if isinstance(value, bool | str) else int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or whole != value or not 0 <= whole < 2**31 - 1:
        raise DTypeError(
            f"{key!r} should be the number of completed steps, a whole number >= 0, but is "
            f"{str(x)[:60]!r}."
        )
    return whole


Make = Callable[[Raw], Any]
ARRAYS: dict[str, Make] = {
    "raw": lambda raw: raw,
    "numpy": numpy_array,
    "torch": to_torch,
    "jax": to_jax,
    "mlx": to_mlx,
}
"""What exporters can give, by name."""


def shape_of(x: Any) -> Shape:
    """() for a Python number."""
    return tuple(int(n) for n in getattr(unboxed(x), "shape", ()))
