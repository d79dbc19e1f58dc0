"""Parameters and gradients for cases, and the kinds of trouble a gradient can be in."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ._trees import Tree, leaves, map_leaves

Array = npt.NDArray[np.float64]
Rng = np.random.Generator
# (step, path, flat index, value); None for the step: a parameter.
Fault = tuple[int | None, str, int, float]


def short(rng: Rng, shape: tuple[int, ...]) -> Array:
    """Up to +-2 in steps of 1/64, never 0: exact in every dtype, and short in a JSON file."""
    size = rng.integers(1, 129, shape)
    return np.asarray(size * rng.choice([-1, 1], shape) / 64.0)


def uneven(rng: Rng, shape: tuple[int, ...]) -> Array:
    """Powers of two from 1/8 to 1, by row, by column and by entry: V is no outer product."""
    exponents = np.zeros(shape)
    for axis in range(len(shape)):
        along = tuple(size if a == axis else 1 for a, size in enumerate(shape))
        exponents = exponents + rng.integers(0, 2, along)
    return np.asarray(2.0 ** -np.minimum(exponents + rng.integers(0, 2, shape), 3))


def dead(g: Array, step: int) -> Array:
    """One index of each axis never sees a gradient; the last entry sees one late."""
    g = g.copy()
    for axis, size in enumerate(g.shape):
        if size > 2:
            np.moveaxis(g, axis, 0)[1] = 0.0
    if step < 2 and g.ndim:
        g[(-1,) * g.ndim] = 0.0
    return g


def spike(g: Array, step: int) -> Array:
    """Heavy tails, up to 64 times, and everything 256 times larger at the fourth step."""
    return np.asarray(g * 2.0 ** np.round(3 * np.abs(g)) * (256.0 if step == 3 else 1.0))


def sparse(g: Array, step: int) -> Array:
    """Rows take turns, as in an embedding: each sees a gradient every third step."""
    g = g.copy()
    if g.ndim:
        g[np.arange(len(g)) % 3 != step % 3] = 0.0
    return g


def silent(g: Array, step: int) -> Array:
    """No gradient at all at the first step (nothing to divide by) and at the fourth."""
    return g * (step not in (0, 3))


KINDS: dict[str, Callable[[Array, int], Array]] = {
    "plain": lambda g, step: g,
    "zero-params": lambda g, step: g,
    "small": lambda g, step: g * 2.0**-12,  # squares around the machine epsilon of float32
    "dead": dead,
    "dead-large": lambda g, step: dead(g, step) * 2.0**16,  # an fp16 loss scale left in
    "dead-huge": lambda g, step: dead(g, step) * 2.0**60,
    "silent": silent,
    "sparse": sparse,
    "falling": lambda g, step: g * 2.0 ** (-3 * step),
    "huge": lambda g, step: g * 2.0**60,  # squares within a factor 16 of float32's largest value
    "tiny": lambda g, step: g * 2.0**-60,  # squares far below eps1
    "spike": spike,
}


def fill(rng: Rng, zeros: Tree, kind: str, steps: int) -> tuple[Tree, tuple[Tree, ...]]:
    """Parameters and gradients in the shapes of `zeros`, exact in all dtypes with their range."""
    change = KINDS[kind]
    params = map_leaves(lambda x: short(rng, x.shape) * (kind != "zero-params"), zeros)
    profile = map_leaves(lambda x: uneven(rng, x.shape), zeros)

    def gradient(step: int) -> Tree:
        return map_leaves(lambda p: change(short(rng, p.shape) * p, step), profile)

    return params, tuple(gradient(step) for step in range(steps))


def spoil(
    filled: tuple[Tree, tuple[Tree, ...]], faults: Sequence[Fault]
) -> tuple[Tree, tuple[Tree, ...]]:
    """Parameters and gradients with one entry replaced per fault."""
    trees = map_leaves(np.array, [filled[0], *filled[1]])
    for step, path, index, value in faults:
        leaves(trees[0 if step is None else step + 1])[path].flat[index] = value
    return trees[0], tuple(trees[1:])
