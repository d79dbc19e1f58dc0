"""What is optimized: shapes, and the same starting numbers and gradients for every contestant."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]

LARGE: tuple[Shape, ...] = ((4096, 4096),)

# T5-small (d_model 512, 8 heads of 64, d_ff 2048): the embedding, and the six encoder layers with
# q, k, v, o, layer norm, wi, wo, layer norm. 49 tensors, 35.3 M parameters.
_LAYER: tuple[Shape, ...] = (*[(512, 512)] * 4, (512,), (2048, 512), (512, 2048), (512,))
T5: tuple[Shape, ...] = ((32128, 512), *_LAYER * 6)

# 120 tensors, 0.6 M parameters: dispatch is what costs here.
SMALL: tuple[Shape, ...] = ((128, 128), (128,), (100, 32), (100,)) * 30


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of this name; "bfloat16" comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return np.dtype(name)


@dataclass(frozen=True)
class Problem:
    """Tensors to optimize. `beta1`: momentum, where it is on."""

    shapes: tuple[Shape, ...]
    dtype: str = "float32"
    beta1: float | None = None
    max_scratch_bytes: int | None = None
    _made: dict[str, list[Array]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size(self) -> int:
        return sum(prod(s) for s in self.shapes)

    @property
    def start(self) -> list[Array]:
        """The parameters before the first step. Not to be written."""
        return self._draw("start", 0.05, 1)

    @property
    def grads(self) -> list[Array]:
        """The gradients of every step, prepared once and shared. Not to be written."""
        return self._draw("grads", 1e-3, 2)

    def params(self) -> list[Array]:
        """A contestant's own parameters."""
        return [x.copy() for x in self.start]

    def _draw(self, name: str, scale: float, seed: int) -> list[Array]:
        if name not in self._made:
            rng = np.random.default_rng(seed)
            dtype = numpy_dtype(self.dtype)
            self._made[name] = [
                (rng.standard_normal(s, np.float32) * np.float32(scale)).astype(dtype, copy=False)
                for s in self.shapes
            ]
        return self._made[name]
