"""Arrays of any library as Raw, read when asked for, and Raw as arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .._errors import DTypeError
from .._numerics import Shape, dtype_name
from ..interchange import Raw, of_bytes
from ..interchange._raw import WIDTHS

DTYPES = {*WIDTHS, "int16", "uint16", "uint32", "uint64"}


def numpy() -> Any:
    """NumPy, which only what computes or makes arrays of it needs. Raises DTypeError without."""
    try:
        import numpy as np
    except ImportError:
        raise DTypeError("converting arrays needs NumPy: pip install numpy.") from None
    return np


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
    library = type(x).__module__.partition(".")[0]
    part = {"torch": _torch_part, "mlx": _mlx_part}.get(library, _numpy_part)
    width = WIDTHS[name]

    def read(start: int, stop: int) -> memoryview:
        first, last = start // width, -(-stop // width)
        data = part(x, first, last)
        return memoryview(data).cast("B")[start - first * width : stop - first * width]

    return Raw(name, shape, read)


def unboxed(x: Any) -> Any:
    """The array in a Keras or flax variable."""
    module = type(x).__module__
    if module.startswith(("keras.", "flax.")) and hasattr(x, "value"):
        inside = x.value
        return inside() if callable(inside) else inside
    return x


def _torch_part(x: Any, first: int, last: int) -> Any:
    import torch  # it is there: `x` is one of its tensors

    cut = x.detach().reshape(-1)[first:last].contiguous().cpu()
    # NumPy has no bfloat16, and the bytes are all that is asked for.
    return cut.view(torch.uint8).numpy() if cut.numel() else b""


def _mlx_part(x: Any, first: int, last: int) -> Any:
    import mlx.core as mx  # it is there: `x` is one of its arrays

    cut = x.reshape(-1)[first:last]
    return numpy().asarray(cut.view(mx.uint8)) if cut.size else b""


def _numpy_part(x: Any, first: int, last: int) -> Any:
    np = numpy()
    try:
        host = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        to_host = getattr(x, "get", None)  # CuPy copies only when told to
        if to_host is None:
            reason = str(error).split("\n")[0][:150]
            raise DTypeError(
                f"a {type(x).__name__} cannot be copied to the host: {reason}"
            ) from None
        host = to_host()
    if host.dtype.byteorder == ">" or (host.dtype.byteorder == "=" and sys.byteorder == "big"):
        host = host.byteswap()
    cut = np.ascontiguousarray(host.reshape(-1)[first:last])
    return cut.view(np.uint8) if cut.size else b""


def to_numpy(raw: Raw) -> Any:
    """An array of NumPy. bfloat16 needs ml_dtypes: raises DTypeError without."""
    np = numpy()
    name: Any = raw.dtype
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise DTypeError("bfloat16 in NumPy needs ml_dtypes: pip install ml_dtypes.") from None
        name = ml_dtypes.bfloat16
    out = np.empty(raw.shape, dtype=name)
    _copy(raw, out.reshape(-1).view(np.uint8) if out.size else out)
    return out


def to_torch(raw: Raw) -> Any:
    """A tensor of torch, on the host."""
    import torch

    out = torch.empty(raw.shape, dtype=getattr(torch, raw.dtype))
    if out.numel():
        _copy(raw, out.view(-1).view(torch.uint8).numpy())
    return out


def to_jax(raw: Raw) -> Any:
    """An array of JAX, on its default device. Raises DTypeError where JAX would cut it."""
    import jax

    settings: Any = jax.config

    if raw.dtype in ("float64", "int64") and not settings.jax_enable_x64:
        raise DTypeError(
            f"JAX has no {raw.dtype} as it is set up. Call jax.config.update('jax_enable_x64', "
            f"True) first."
        )
    return jax.numpy.asarray(to_numpy(raw))


def to_mlx(raw: Raw) -> Any:
    """An array of MLX."""
    import mlx.core as mx

    if raw.dtype == "bfloat16":
        return mx.array(to_numpy(replace(raw, dtype="int16"))).view(mx.bfloat16)
    return mx.array(to_numpy(raw))


def like(raw: Raw, array: Any) -> Any:
    """`raw` as an array of the library, and on the device, of `array`."""
    array = unboxed(array)
    library = type(array).__module__.partition(".")[0]
    makers: dict[str, Callable[[Raw], Any]] = {
        "torch": lambda r: to_torch(r).to(array.device),
        "jax": to_jax,
        "jaxlib": to_jax,
        "mlx": to_mlx,
        "numpy": to_numpy,
    }
    if isinstance(array, Raw):
        return raw
    if library in makers:
        return makers[library](raw)
    raise DTypeError(
        f"cannot make a {type(array).__name__} of bytes. Pass a template of NumPy, torch, JAX or "
        f"MLX arrays."
    )


def _copy(raw: Raw, out: Any) -> None:
    at = 0
    for chunk in raw.chunks():
        part = numpy().frombuffer(chunk, dtype="uint8")
        out[at : at + part.size] = part
        at += part.size


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
    "numpy": to_numpy,
    "torch": to_torch,
    "jax": to_jax,
    "mlx": to_mlx,
}
"""What exporters can give, by name."""


def shape_of(x: Any) -> Shape:
    """() for a Python number."""
    return tuple(int(n) for n in getattr(unboxed(x), "shape", ()))
