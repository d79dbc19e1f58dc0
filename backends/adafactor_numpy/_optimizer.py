"""The stateful, in-place optimizer over NumPy arrays. Holds no formula: the core has them."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from adafactor_core import ArrayPasses, Config, ConfigError, DTypeError, Passes, Work
from adafactor_core._inplace import InPlace
from adafactor_core._tree import Leaves, Tree, check_disjoint, check_grad, check_writable

from ._compile import available

_told = False


class MissingNumbaWarning(UserWarning):
    """The compiled passes are off because Numba is not installed; results are the same."""


class Adafactor(InPlace):
    """Adafactor over NumPy arrays, updated in place.

    `params`: one array or any nesting of dict, list, tuple or namedtuple of writable arrays of
    dtype float16, float32, float64 or ml_dtypes' bfloat16, none sharing memory with another.
    `config` or its options by name (`lr=1e-3, weight_decay=0.1`), as in docs/options.md, with
    `variant="transformers"` over those of a named variant (docs/variants.md).
    `compiled`: True wants the Numba passes, False the plain NumPy ones; None takes Numba where it
    is installed and says so once where it is not. Raises ConfigError, DTypeError, ReadOnlyError,
    ShapeError or TreeError, naming the tensor.
    """

    def __init__(
        self,
        params: Tree,
        config: Config | None = None,
        *,
        compiled: bool | None = None,
        **options: Any,
    ) -> None:
        self._compiled = compiled
        super().__init__(params, config, options)

    def _check_params(self, leaves: Leaves) -> None:
        _check_params(leaves)

    def _all_passes(self) -> Sequence[Passes]:
        return (*_compiled(self._compiled), ArrayPasses())

    def _take(self, work: Work, g: Any) -> tuple[Any, Hashable]:
        # NumPy's reductions return scalars, so the gradient of a 0-D parameter often is one.
        g = np.asarray(g) if isinstance(g, np.generic) else g
        if type(g) is not np.ndarray or g.shape != work.layout.shape:
            _check_grad(work, g)
        elif g.dtype != work.param.dtype:
            check_grad(work.xp, work.param, g, work.path)
        check_writable(work.param, work.path)
        return g, (g.dtype, g.flags.c_contiguous, g.flags.aligned)

    def _copy(self, array: Any, like: Any) -> Any:
        return np.array(array, order="C")


def _compiled(wanted: bool | None) -> tuple[Passes, ...]:
    global _told
    if wanted is False:
        return ()
    if available():
        from ._compiled import CompiledPasses

        return (CompiledPasses(),)
    if wanted:
        raise ConfigError(
            "compiled=True needs Numba. Install it with pip install 'adafactor-core[numba]', or "
            "leave compiled out."
        )
    if not _told:
        _told = True
        warnings.warn(
            "Numba is not installed: steps run in plain NumPy, with the same results but several "
            "times as long. pip install 'adafactor-core[numba]', or pass compiled=False.",
            MissingNumbaWarning,
            stacklevel=5,  # the line that made the optimizer
        )
    return ()


def _check_params(leaves: Leaves) -> None:
    for path, x in zip(leaves.paths, leaves.arrays, strict=True):
        if not isinstance(x, np.ndarray):
            raise DTypeError(
                f"tensor {path!r} is a {type(x).__name__}, expected a numpy.ndarray that can be "
                f"updated in place. Make one with numpy.array(...)."
            )
        check_writable(x, path)
    check_disjoint(leaves, np.lib.array_utils.byte_bounds, np.shares_memory)


def _check_grad(work: Work, g: Any) -> None:
    if g is not None and not isinstance(g, np.ndarray):
        raise DTypeError(
            f"the gradient of tensor {work.path!r} is a {type(g).__name__}, expected a "
            f"numpy.ndarray of shape {work.layout.shape}. Convert it with numpy.asarray(...)."
        )
    check_grad(work.xp, work.param, g, work.path)
