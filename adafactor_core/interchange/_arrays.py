"""Between arrays of any library and their bytes. NumPy, through which they go, is imported late."""

from __future__ import annotations

import sys
from typing import Any

import array_api_compat as compat

from .._errors import DTypeError
from .._numerics import WIDTHS, Array, Shape, device, dtype_called, dtype_name, namespace
from ._raw import Raw, computed


def raw_of(x: Array) -> Raw:
    """An array as a Raw. Read from its device at the first chunk, and let go after the last."""
    return lazily(dtype_name(x), tuple(x.shape), lambda: x)


def lazily(dtype: str, shape: Shape, array: Any) -> Raw:
    """The Raw of what `array()` returns, which is called when the first byte is asked for."""
    return computed(dtype, shape, lambda: host_bytes(array()))


def zeros(dtype: str, shape: Shape) -> Raw:
    """Zeros that take no memory."""
    return Raw(dtype, shape, lambda start, stop: bytes(stop - start))


def host_bytes(x: Array) -> Any:
    """The bits of an array, little-endian and in C order: a flat NumPy array of uint8.

    By views of bits and never through another dtype, which would make one NaN of all.
    """
    np = numpy()
    if compat.is_torch_array(x):
        import torch  # it is there: `x` is one of its tensors

        flat = x.detach().cpu().contiguous().reshape(-1)
        return from_little(flat.view(torch.uint8).numpy(), WIDTHS[dtype_name(x)])
    if compat.is_cupy_array(x):
        x = x.get()
    elif compat.is_array_api_strict_namespace(xp := namespace(x)):
        x = compat.to_device(x, xp.Device("CPU_DEVICE"))
    a = np.asarray(x)
    # ascontiguousarray would give a 0-D array an axis, which reshape is about to do.
    flat = np.asarray(a, order="C").reshape(-1).view(np.uint8)
    return from_little(flat, WIDTHS[dtype_name(a)])


def array_of(raw: Raw, like: Array) -> Array:
    """An array in the library and on the device of `like`. Raises DTypeError where it lacks one."""
    if compat.is_torch_array(like):
        import torch  # it is there: `like` is one of its tensors

        out = torch.empty(raw.shape, dtype=getattr(torch, raw.dtype))
        if raw.nbytes:  # of empty arrays torch has no bytes to show
            _fill(out.reshape(-1).view(torch.uint8).numpy(), raw)
        return out.to(like.device)
    xp = namespace(like)
    made = numpy_array(raw)
    found = made if compat.is_numpy_array(like) else xp.asarray(made, device=device(like))
    if dtype_name(found) != raw.dtype:
        raise DTypeError(
            f"an array of {raw.dtype} became one of {dtype_name(found)} in {xp.__name__}. "
            f"Enable {raw.dtype} there (in JAX float64 needs jax_enable_x64)."
        )
    return found


def numpy_array(raw: Raw) -> Any:
    """A new NumPy array; bfloat16 needs ml_dtypes (DTypeError)."""
    flat = numpy().empty(raw.nbytes, dtype="uint8")
    _fill(flat, raw)
    return flat.view(dtype_called(namespace(flat), raw.dtype, flat)).reshape(raw.shape)


def decoded(data: Any, dtype: str) -> Any:
    """The flat values of these bytes; bfloat16, which NumPy alone does not know, as float32."""
    np = numpy()
    if dtype != "bfloat16":
        return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))
    return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")


def numpy() -> Any:
    """Raises DTypeError where it is not installed."""
    try:
        import numpy as np
    except ImportError:
        raise DTypeError("arrays go to and from files through NumPy: pip install numpy.") from None
    return np


def _fill(flat: Any, raw: Raw) -> None:
    """Puts the bytes of `raw` into a flat NumPy array of uint8, chunk by chunk."""
    at = 0
    for chunk in raw.chunks():
        flat[at : at + len(chunk)] = numpy().frombuffer(chunk, dtype=flat.dtype)
        at += len(chunk)
    if sys.byteorder != "little":
        flat[:] = from_little(flat, WIDTHS[raw.dtype])


def from_little(flat: Any, width: int) -> Any:
    """From the order of files to that of this machine, or back: the same exchange of bytes."""
    if sys.byteorder == "little" or width == 1:
        return flat
    return flat.view(f"u{width}").byteswap().view(flat.dtype)
