"""Compiles kernels on first use, cached on disk where that is possible."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any


def available() -> bool:
    """Whether Numba can be imported, without importing it."""
    return find_spec("numba") is not None


@lru_cache(maxsize=64)
def kernel(name: str) -> Any:
    """The dispatcher of this function of `_kernels`; it compiles per set of dtypes, when called.

    The cache lies beside the module, or in the user's cache folder where that is read-only
    (NUMBA_CACHE_DIR overrides). Where neither can be written, kernels are compiled per process.
    """
    import numba

    from . import _kernels

    njit: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy", "fastmath": False}
    function = getattr(_kernels, name)
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # "no locator available": no folder can be written
        return njit(function, **options)
