"""The oracle's second moment and momentum of one tensor."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ._oracle_axes import factored_axes
from ._oracle_rounding import Draws, quantised, rounded, scales, spread
from ._rounding import round_to

Array = npt.NDArray[np.float64]
Options = Mapping[str, Any]

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class SecondMoment:
    """`V` of one tensor, as a stack of matrices (k, n, m); what is not factored stays one array."""

    def __init__(self, shape: tuple[int, ...], o: Options, dtype: str) -> None:
        self.shape, self.axes = shape, factored_axes(shape, o)
        self.mode = o["eps1_mode"]
        self.eps = EPSILON[dtype] if o["eps1"] == "finfo" else o["eps1"]
        if self.axes is None:
            self.full = np.zeros(shape)
            return
        rows, cols = self.axes
        apart = [axis for axis in range(len(shape)) if axis not in rows + cols]
        self.order = [*apart, *rows, *cols]
        self.n, self.m = (prod(shape[axis] for axis in axes) for axes in self.axes)
        k = prod(shape[axis] for axis in apart)
        self.row, self.col = np.zeros((k, self.n)), np.zeros((k, self.m))

    def advance(self, g: Array, b: float) -> None:
        """Move the sums (or `V` itself) by `b` towards those of `g * g`, and eps1 if inside."""
        squares = g * g + (self.eps if self.mode == "grad_sq" else 0.0)
        if self.axes is None:
            self.full = (1 - b) * self.full + b * squares
            return
        stack = squares.transpose(self.order).reshape(len(self.row), self.n, self.m)
        self.row = (1 - b) * self.row + b * stack.sum(axis=2)  # Algorithm 4: (G^2 + eps1) 1_m
        self.col = (1 - b) * self.col + b * stack.sum(axis=1)  # 1_n^T (G^2 + eps1)

    def normalise(self, g: Array) -> Array:
        """`g / sqrt(V)`; 0 where `g` is 0, which is the limit where `V` is 0 or infinite too."""
        root = np.sqrt(self._estimate())
        return np.divide(g, root, out=np.zeros(self.shape), where=g != 0)

    def _estimate(self) -> Array:
        if self.axes is None:
            v = self.full + (self.eps if self.mode == "stats" else 0.0)
        else:
            matrices = [self._matrix(r, c) for r, c in zip(self.row, self.col, strict=True)]
            v = self._unstacked(np.array(matrices), self.shape)
        return np.maximum(v, self.eps**2) if self.mode == "clamp" else v

    def _matrix(self, r: Array, c: Array) -> Array:
        """`V = R C / sum(R)` of one matrix, from sums: r (n,), c (m,) -> (n, m)."""
        total = r.sum()
        if self.mode == "stats":
            r, c = r + self.m * self.eps, c + self.n * self.eps
        if self.mode == "clamp":
            total = max(total, self.n * self.m * self.eps)
        with np.errstate(divide="ignore", invalid="ignore"):  # a matrix without any gradient
            return np.asarray(np.outer(r, c) / total)

    def means(self) -> dict[str, Array]:
        """The statistics as every implementation stores them: means, reduced axes kept."""
        if self.axes is None:
            return {"full": self.full}
        row_axes, col_axes = self.axes
        sizes = list(enumerate(self.shape))
        without_cols = [1 if axis in col_axes else size for axis, size in sizes]
        without_rows = [1 if axis in row_axes else size for axis, size in sizes]
        return {
            "row": self._unstacked(self.row / self.m, without_cols),
            "col": self._unstacked(self.col / self.n, without_rows),
        }

    def _unstacked(self, stack: Array, shape: Sequence[int]) -> Array:
        """From axes in the order (apart, rows, columns) back to the tensor's own order."""
        back = [self.order.index(axis) for axis in range(len(shape))]
        return stack.reshape([shape[axis] for axis in self.order]).transpose(back)


class Momentum:
    """The average of one tensor. `m` is its value; of int8, `q` and `scale` are what is stored.

    `close` counts entries that came within `noise`, relative to what was added up, of the boundary
    between two stored values: arithmetic in float32 may put these on the other side.
    """

    def __init__(self, shape: tuple[int, ...], o: Options, noise: float) -> None:
        self.m = np.zeros(shape)
        self.scale, self.q = scales(self.m), self.m
        self.arithmetic, self.noise, self.close = o["momentum_arithmetic"], noise, 0
        wide = o["momentum_dtype"] == "float32"
        self.dtype = "float64" if wide else o["momentum_dtype"]
        self.drawn = o["momentum_rounding"] == "stochastic" and not wide

    def average(self, z: Array, beta1: float, draw: Callable[[], Draws]) -> Array:
        """Move it towards `z`; returns what the step uses."""
        own = self.dtype if self.dtype != "int8" else "float64"  # int8 has no type for numbers
        held = beta1 * self.m
        if self.arithmetic == "weak":  # optax: the decay is a number of the buffer's own type
            # Never close: float32 holds the product of two 16-bit numbers exactly, ties included.
            held = round_to(float(round_to(np.asarray(beta1), own)) * self.m, own)
        if self.arithmetic == "buffer" and own != "float64":
            z = self._counted(lambda z: round_to(z, own), z, self.noise * np.abs(z))
        m = held + (1 - beta1) * z
        self._store(m, np.abs(held) + np.abs((1 - beta1) * z), draw() if self.drawn else None)
        return self.m if self.arithmetic == "buffer" else m

    def slots(self) -> dict[str, Array]:
        """What is stored."""
        if self.dtype != "int8":
            return {"momentum": self.m}
        return {"momentum": self.q, "momentum_scale": self.scale}

    def _store(self, m: Array, size: Array, e: Draws | None) -> None:
        noise = self.noise * size
        if self.dtype == "int8":
            self.scale = scales(m)
            self.q = self._counted(lambda m: quantised(m, self.scale, e), m, noise)
            self.m = self.q * spread(self.scale, m.shape)
        else:
            self.m = self._counted(lambda m: rounded(m, self.dtype, e), m, noise)

    def _counted(self, function: Callable[[Array], Array], x: Array, noise: Array) -> Array:
        if self.dtype != "float64":
            apart = function(x - noise) != function(x + noise)
            self.close += int(np.sum(apart & np.isfinite(x)))
        return function(x)
