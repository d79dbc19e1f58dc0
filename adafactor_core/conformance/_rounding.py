"""Round float64 NumPy to a narrower format, to nearest and ties to even, without ml_dtypes."""

import numpy as np
import numpy.typing as npt

# significand bits, exponent of the smallest subnormal, largest finite value
FORMATS = {
    "float64": (53, -1074, float(np.finfo(np.float64).max)),
    "float32": (24, -149, (2 - 2.0**-23) * 2.0**127),
    "float16": (11, -24, 65504.0),
    "bfloat16": (8, -133, (2 - 2.0**-7) * 2.0**127),
}


def round_to(x: npt.NDArray[np.float64], dtype: str) -> npt.NDArray[np.float64]:
    """`x` as the nearest values of `dtype`, in float64; beyond the largest one it is infinite.

    Straight from float64: ml_dtypes and torch go by way of float32 and round twice, which puts
    1 + 2^-8 + 2^-40 on the wrong side in bfloat16.
    """
    if dtype == "float64":
        return x
    _, _, largest = FORMATS[dtype]
    unit = spacing(x, dtype)
    rounded = np.rint(x / unit) * unit
    return np.where(np.abs(rounded) > largest, np.copysign(np.inf, x), rounded)


def spacing(x: npt.NDArray[np.float64], dtype: str) -> npt.NDArray[np.float64]:
    """The unit in the last place of `dtype` at each value of `x`."""
    bits, smallest, _ = FORMATS[dtype]
    _, exponent = np.frexp(x)  # x = f * 2**exponent with 0.5 <= |f| < 1
    return np.asarray(np.ldexp(1.0, np.maximum(exponent - bits, smallest)))


def wide(dtype: str) -> str:
    """The dtype that tensors of `dtype` are computed in, and their statistics kept in."""
    return "float64" if dtype == "float64" else "float32"
