"""The tensors that every implementation is run on: shapes of known trouble, and drawn ones."""

from collections.abc import Iterator

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]

SHAPES = {
    "matrix": (7, 5),
    "stack": (3, 4, 5),
    "vector": (5,),
    "scalar": (),
    "dead": (6, 5),  # a row and a column never see a gradient
    "dead_vector": (5,),
    "thin": (6, 2, 7),
    "cube": (5, 5, 5),
    "large": (40, 36),
    "large_stack": (3, 40, 36),
    "kernel": (40, 36, 3, 3),
}
ALIVE = tuple(name for name in SHAPES if not name.startswith("dead"))
VECTORS = tuple(name for name, shape in SHAPES.items() if len(shape) < 2)
MATRICES = tuple(name for name, shape in SHAPES.items() if len(shape) == 2)
SPIKE = 7  # the step at which everything is 100 times larger


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


def drawn_shapes(seed: int) -> dict[str, tuple[int, ...]]:
    """Six shapes of ranks 0 to 4, sizes 1 to 24, some of them equal."""
    rng = np.random.default_rng([seed, 1])
    sizes = [1, 2, 3, 5, 8, 17, 24]
    ranks = [0, 1, 2, 2, 3, 4]
    return {
        f"drawn{k}": tuple(int(n) for n in rng.choice(sizes, rank)) for k, rank in enumerate(ranks)
    }


def problem(
    shapes: dict[str, tuple[int, ...]], dtype: str, steps: int, seed: int = 0
) -> tuple[Arrays, list[Arrays]]:
    """Parameters and a gradient per step, exact in `dtype`, as arrays of it.

    Gradients have heavy tails and sizes from 1 to 1e-4 by tensor, so that every epsilon matters
    somewhere.
    """
    rng = np.random.default_rng([seed, 2])
    kind = dtype_of(dtype)
    params = {}
    for name, shape in shapes.items():
        x = rng.normal(size=shape) * 0.5
        params[name] = np.asarray(x + np.copysign(0.2, x)).astype(kind)  # no scalar near 0
    sizes = {name: 10.0 ** -(k % 5) for k, name in enumerate(shapes)}
    return params, list(_gradients(rng, shapes, sizes, kind, steps))


def _gradients(
    rng: np.random.Generator,
    shapes: dict[str, tuple[int, ...]],
    sizes: dict[str, float],
    kind: np.dtype,
    steps: int,
) -> Iterator[Arrays]:
    for t in range(1, steps + 1):
        spike = 100.0 if t == SPIKE else 1.0
        found = {}
        for name, shape in shapes.items():
            g = np.asarray(sizes[name] * spike * rng.standard_t(3, size=shape))
            if name == "dead":
                g[2], g[:, 3] = 0.0, 0.0
            elif name == "dead_vector":
                g[[1, 3]] = 0.0
            found[name] = g.astype(kind)
        yield found


def error(found: list[Arrays], expected: list[Arrays]) -> float:
    """max over steps and tensors of max|a - b| / max|b|; NaN where only one has NaN."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in b:
            x, y = a[name].astype(np.float64), b[name].astype(np.float64)
            assert x.shape == y.shape
            if x.size:
                worst = np.maximum(worst, np.max(np.abs(x - y)) / np.max(np.abs(y)))
    return float(worst)
