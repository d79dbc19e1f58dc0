"""States in the forms of implementations that are not here, made by hand from averages."""

from collections import namedtuple

import numpy as np

import adafactor_core as af
from adafactor_core import interchange

Factored = namedtuple("Factored", "count v_row v_col v")
Ema = namedtuple("Ema", "count ema")
Empty = namedtuple("Empty", "")

SHAPES = {
    "tall": (7, 5),
    "wide": (5, 7),
    "square": (6, 6),
    "stack": (3, 4, 5),
    "thin": (6, 2, 7),
    "cube": (5, 5, 5),
    "kernel": (8, 6, 3, 3),
    "vector": (5,),
    "scalar": (),
    "one": (1,),
    "ones": (1, 1),
    "flat": (1, 7),
}


def squares(shape, seed=0):
    """A second moment of every element, with a row and a column that never saw a gradient."""
    rng = np.random.default_rng([seed, *shape])
    v = np.asarray(rng.standard_t(3, size=shape) ** 2, dtype="float32")
    if len(shape) == 2 and min(shape) > 3:
        v[1], v[:, 2] = 0.0, 0.0
    return v


def mean(v, axis):
    return v.mean(axis=axis, dtype="float64").astype("float32")


def trained(config, shapes=SHAPES, steps=3, dtype="float32", seed=0):
    """Parameters, State and Record of ours after some steps."""
    rng = np.random.default_rng(seed)
    params = {n: np.asarray(rng.normal(size=s), dtype) for n, s in shapes.items()}
    state = af.init(params, config)
    for _ in range(steps):
        grads = {n: np.asarray(rng.standard_t(3, size=s), dtype) for n, s in shapes.items()}
        params, state = af.step(params, grads, state, config)
    return params, state, interchange.record(params, state, config)


def same(a, b):
    """Whether two records hold the same bits under the same names."""
    one, two = ({t.path: t for t in r.tensors} for r in (a, b))
    assert one.keys() == two.keys()
    assert a.step == b.step
    for x, y in ((one[path], two[path]) for path in one):
        assert (x.shape, x.row_axes, x.col_axes) == (y.shape, y.row_axes, y.col_axes), x.path
        assert x.slots.keys() == y.slots.keys(), x.path
        for name, raw in x.slots.items():
            other = y.slots[name]
            assert (raw.dtype, raw.shape) == (other.dtype, other.shape), (x.path, name)
            assert bytes(raw.bytes()) == bytes(other.bytes()), (x.path, name)
