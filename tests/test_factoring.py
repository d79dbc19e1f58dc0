"""Which axes are factored, by every rule, and that this is what the state then costs. No steps."""

from itertools import combinations
from math import prod

import numpy as np
import pytest

import adafactor_core as af
from adafactor_core import Config

FULL = None  # in the tables: not factored


class Shape:
    """All that memory_report needs of a leaf."""

    def __init__(self, *shape, dtype="float32"):
        self.shape, self.dtype = shape, dtype


def axes(shape, **options):
    """(row axis, column axis), or None."""
    tensor = af.memory_report(Shape(*shape), Config(**options)).tensors[0]
    if not tensor.row_axes:
        assert not tensor.col_axes
        return FULL
    return tuple(a[0] if len(a) == 1 else a for a in (tensor.row_axes, tensor.col_axes))


TABLE = [
    # shape, min_dim_size_to_factor, {rule: axes}
    ((128, 256), 1, {"auto": (0, 1), "last": (0, 1), "largest": (0, 1), "largest_first": (0, 1),
                     "conv": (0, 1)}),
    ((256, 128), 1, {"auto": (0, 1), "last": (0, 1), "largest": (1, 0), "largest_first": (1, 0),
                     "conv": (0, 1)}),
    ((128, 128), 1, {"auto": (0, 1), "largest": (0, 1), "largest_first": (1, 0), "last": (0, 1)}),
    ((256, 256, 3, 3), 1, {"auto": (0, 1), "last": (2, 3), "largest": (0, 1),
                           "largest_first": (1, 0), "conv": (0, 1)}),
    ((256, 256, 1, 1), 1, {"auto": (0, 1), "last": (2, 3), "largest": (0, 1), "conv": (0, 1)}),
    ((3, 3, 64, 128), 1, {"auto": (2, 3), "last": (2, 3), "largest": (2, 3), "conv": (0, 1)}),
    ((3, 3, 64, 128), 17, {"auto": (2, 3), "largest": (2, 3), "conv": (2, 3)}),  # timm's 17
    ((128, 64, 3, 3), 17, {"auto": (0, 1), "largest": (1, 0), "last": FULL, "conv": (0, 1)}),
    ((8, 512, 512), 1, {"auto": (1, 2), "last": (1, 2), "largest": (1, 2),
                        "largest_first": (2, 1), "conv": (0, 1)}),
    ((64, 16, 128), 1, {"auto": (0, 2), "last": (1, 2), "largest": (0, 2)}),
    ((128, 16, 64), 1, {"auto": (0, 2), "largest": (2, 0), "largest_first": (2, 0)}),
    ((5, 5, 5), 1, {"auto": (1, 2), "largest": (1, 2), "largest_first": (1, 0), "last": (1, 2)}),
    ((7, 2, 7, 7), 1, {"auto": (2, 3), "largest": (2, 3), "largest_first": (2, 0)}),
    ((5, 9, 5), 1, {"auto": (1, 2), "largest": (2, 1), "largest_first": (0, 1)}),
    ((1, 4096), 1, {"auto": FULL, "last": (0, 1), "largest": (0, 1), "conv": (0, 1)}),
    ((4096, 1), 1, {"auto": FULL, "last": (0, 1), "largest": (1, 0), "conv": (0, 1)}),
    ((1, 4096), 2, {"auto": FULL, "last": FULL, "largest": FULL, "conv": FULL}),
    ((2, 2), 1, {"auto": (0, 1)}),  # 4 statistics instead of 4: not more, so factored
    ((2, 1), 1, {"auto": FULL}),
    ((1, 1), 1, {"auto": FULL}),
    ((32128, 512), 128, {"auto": (0, 1), "largest": (1, 0), "largest_first": (1, 0)}),
    ((127, 512), 128, {"auto": FULL, "last": FULL, "largest": FULL, "largest_first": FULL}),
    ((128, 128), 128, {"auto": (0, 1), "last": (0, 1), "largest": (0, 1)}),  # >=, not >
    ((4, 300, 200), 100, {"auto": (1, 2), "last": (1, 2), "largest": (2, 1), "conv": (1, 2)}),
    ((300, 200, 4), 100, {"auto": (0, 1), "last": FULL, "largest": (1, 0), "conv": (0, 1)}),
    ((), 1, {"auto": FULL, "last": FULL, "largest": FULL, "conv": FULL}),
    ((7,), 1, {"auto": FULL, "last": FULL, "largest": FULL, "conv": FULL}),
    ((0, 5), 1, {"auto": FULL}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "minimum", "rule", "expected"),
    [
        pytest.param(shape, least, rule, want, id=f"{rule} of {shape} from size {least}: {want}")
        for shape, least, rules in TABLE
        for rule, want in rules.items()
    ],
)
def test_axes(shape, minimum, rule, expected):
    assert axes(shape, factored_dims=rule, min_dim_size_to_factor=minimum) == expected


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((8, 512, 256), {"batch_axes": 0}, (1, 2)),
        ((8, 512, 256), {"batch_axes": -1}, (0, 1)),
        ((8, 512, 256), {"batch_axes": (0, 1)}, FULL),
        ((8, 512, 256), {"batch_axes": (0,), "factored_dims": "largest"}, (2, 1)),
        ((512, 256, 8), {"batch_axes": -1, "factored_dims": "last"}, (0, 1)),
        ((8, 64, 64, 3, 3), {"batch_axes": 0, "factored_dims": "conv"}, (1, 2)),
        ((3, 4, 5), {"batch_axes": (0, 1, 2)}, FULL),
        ((3, 4), {"factored_dims": (1, 0)}, (1, 0)),
        ((3, 4), {"factored_dims": (-1, -2), "min_dim_size_to_factor": 99}, (1, 0)),
        ((3, 4, 5), {"factored_dims": ((0, 1), 2)}, ((0, 1), 2)),
        ((3, 4, 5), {"factored_dims": (2, (-2, 0))}, (2, (0, 1))),
        ((3, 4, 5), {"factored_dims": (1, 2), "batch_axes": 0}, (1, 2)),
        ((1, 4096), {"factored_dims": (0, 1)}, (0, 1)),
        ((7,), {"factored_dims": (0, 1)}, FULL),
        ((), {"factored_dims": (0, 1)}, FULL),
        ((64, 64), {"factored": False}, FULL),
        ((64, 64), {"factored": False, "factored_dims": (0, 1)}, FULL),
    ],
    ids=str,
)
def test_batch_and_explicit_axes(shape, options, expected):
    assert axes(shape, **options) == expected


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((3, 4), {"factored_dims": (0, 2)}, "factored_dims names axis 2, but the tensor has 2"),
        ((3, 4), {"factored_dims": (-3, 0)}, "factored_dims names axis -3.*with a rule"),
        ((3, 4), {"batch_axes": 2}, "batch_axes names axis 2, .*with a rule"),
        ((), {"batch_axes": 0}, "batch_axes names axis 0, but the tensor has 0"),
        ((3, 4), {"factored_dims": (0, -2)}, "share an axis"),
        ((3, 4, 5), {"factored_dims": ((0, 0), 1)}, "names an axis twice"),
        ((3, 4, 5), {"batch_axes": (0, -3)}, "names an axis twice"),
        ((3, 4, 5), {"factored_dims": (0, 1), "batch_axes": 0}, "share an axis"),
    ],
    ids=str,
)
def test_axes_that_cannot_be_name_the_tensor_and_the_remedy(shape, options, words):
    with pytest.raises(af.ShapeError, match=rf"(?s)tensor 'w' of shape .*{words}"):
        af.init({"w": np.ones(shape)}, Config(**options))


SIZES = [1, 2, 3, 5, 8]
GRID = [()] + [
    shape
    for rank in (1, 2, 3, 4)
    for shape in np.array(np.meshgrid(*[SIZES] * rank)).reshape(rank, -1).T.tolist()
]


@pytest.mark.parametrize("batch", [(), (0,)], ids=["no batch axes", "batch axis 0"])
@pytest.mark.parametrize("minimum", [1, 3])
def test_auto_costs_no_more_than_the_full_slot_nor_than_any_pair(batch, minimum):
    for shape in map(tuple, GRID):
        if len(shape) < len(batch):
            continue
        option = {"batch_axes": batch, "min_dim_size_to_factor": minimum}
        report = af.memory_report(Shape(*shape), Config(**option))
        n = prod(shape)
        eligible = [a for a in range(len(shape)) if a not in batch and shape[a] >= minimum]
        pairs = [n // shape[a] + n // shape[b] for a, b in combinations(eligible, 2)]
        assert report.state_bytes == 4 * min([n, *pairs]), shape


LEAVES = {
    "t5": {"wi": (32, 128), "wo": (128, 32), "norm": (32,), "embed": (100, 32)},
    "conv": [(16, 16, 3, 3), (16, 16, 1, 1), (16,)],
    "odd": {
        "scalar": (),
        "empty": (0, 4),
        "row": (1, 40),
        "stack": (3, 8, 8),
        "deep": (2, 3, 4, 5, 2),
    },
}


def tree(make):
    return {
        "t5": {k: make(s) for k, s in LEAVES["t5"].items()},
        "conv": [make(s) for s in LEAVES["conv"]],
        "odd": {k: make(s) for k, s in LEAVES["odd"].items()},
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factored": False},
        {"factored_dims": "last"},
        {"factored_dims": "largest", "min_dim_size_to_factor": 16},
        {"beta1": 0.9},
        {"beta1": 0.9, "momentum_dtype": "float16"},
        {
            "rules": [
                ("*.stack", {"batch_axes": 0}),
                ("conv.*", {"factored_dims": "conv", "beta1": 0.5}),
            ]
        },
        {"rules": [("odd.deep", {"factored_dims": ((0, 1), (2, 4))})]},
    ],
    ids=str,
)
def test_the_report_is_what_the_state_measures(options, dtype):
    params = tree(lambda shape: np.zeros(shape, dtype))
    config = Config(**options)
    report = af.memory_report(params, config)
    flat = [
        m
        for part in af.init(params, config).moments.values()
        for m in (part.values() if isinstance(part, dict) else part)
    ]
    measured = [sum(slot.nbytes for slot in m if slot is not None) for m in flat]
    assert sorted(t.state_bytes for t in report.tensors) == sorted(measured)
    assert report.state_bytes == sum(measured)
    assert report.param_bytes == sum(
        np.dtype(dtype).itemsize * prod(t.shape) for t in report.tensors
    )
    assert report.adam_bytes == sum(
        2 * max(4, np.dtype(dtype).itemsize) * prod(t.shape) for t in report.tensors
    )


def test_the_report_is_the_same_from_shapes_alone():
    real = af.memory_report(tree(lambda shape: np.zeros(shape, np.float32)))
    assert af.memory_report(tree(lambda shape: Shape(*shape))) == real


def test_the_report_as_a_table_names_each_tensor_its_axes_and_the_reason():
    lines = str(af.memory_report(tree(lambda shape: Shape(*shape)))).splitlines()
    assert len(lines) == 1 + 12 + 1
    (conv,) = [line for line in lines if line.startswith("conv.1 ")]
    assert "(16, 16, 1, 1)" in conv
    assert "0 x 1" in conv
    assert "factored_dims='auto'" in conv
    (row,) = [line for line in lines if line.startswith("odd.row ")]
    assert " no " in row
    assert "41 " not in row
    assert "1 + 40 statistics would exceed 40" in row
    assert lines[-1].startswith("total")


def test_the_report_refuses_what_init_refuses():
    for leaf in (np.zeros(3, int), np.zeros(3, complex), 1.0, "w"):
        with pytest.raises(af.DTypeError, match="'w'"):
            af.memory_report({"w": leaf})


@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
def test_slots_have_kept_dims_and_the_wide_dtype_on_every_library(backend):
    for dtype in backend.dtypes:
        with backend.scope(dtype):
            x = backend.asarray(np.ones((2, 5, 3)), dtype)
            moments = af.init(x, Config(factored_dims=(1, 2), beta1=0.9)).moments
            shapes = [None if slot is None else tuple(slot.shape) for slot in moments]
            assert shapes == [(2, 5, 1), (2, 1, 3), None, (2, 5, 3), None, None, None]
            names = {str(slot.dtype).rpartition(".")[2] for slot in moments if slot is not None}
            assert names == {"float64" if dtype == "float64" else "float32"}
