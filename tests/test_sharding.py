"""Tensors cut by hand into uneven shards, ranks as threads: the same trajectory as in one piece."""

import numpy as np
import pytest

import adafactor_core as af
from _close import PARAMS, STATE, close, close_entries
from _mesh import Mesh
from _run import normal
from _variety import BATCHED, VARIETY

STEPS = 3
MATRIX, STACK = {"w": (13, 7)}, {"w": (4, 9, 6)}
ROWS = {"w": {0: (0, [5, 6])}}
GRID = {"w": {0: (0, [5]), 1: (1, [1, 4])}}

# name: shapes, mesh sizes, where each tensor is cut
LAYOUTS = {
    "rows": (MATRIX, [3], ROWS),
    "columns": (MATRIX, [2], {"w": {1: (0, [3])}}),
    "both axes": (MATRIX, [2, 3], GRID),
    "an empty shard": (MATRIX, [3], {"w": {0: (0, [13, 13])}}),
    "an empty shard in a grid": (MATRIX, [3, 2], {"w": {0: (0, [4, 4]), 1: (1, [2])}}),
    "not at all": (MATRIX, [2], {"w": {}}),
    "the third axis": (STACK, [2], {"w": {2: (0, [1])}}),
    "the first axis of three": (STACK, [3], {"w": {0: (0, [1, 1])}}),
    "all three axes": (STACK, [2, 2, 2], {"w": {0: (0, [3]), 1: (1, [2]), 2: (2, [5])}}),
    "a vector": ({"w": (11,)}, [3], {"w": {0: (0, [2, 9])}}),
    "a scalar everywhere": ({"w": ()}, [2], {"w": {}}),
    "many tensors, each in its own way": (
        {"a": (13, 7), "b": (7,), "c": (4, 9, 6), "d": (), "e": (6, 5)},
        [2, 3],
        {"a": GRID["w"], "b": {0: (1, [2, 2])}, "c": {1: (0, [4]), 2: (1, [1, 5])}, "d": {},
         "e": {1: (0, [1])}},
    ),
}  # fmt: skip


def run(shapes, sizes, cuts, options, dtype="float32"):
    """(sharded, unsharded) as {path: (parameter, moments)}, and the mesh; STEPS steps."""
    config = af.Config(**options)
    x = {p: np.asarray(normal(s), dtype) for p, s in shapes.items()}
    grads = [
        {p: np.asarray(normal(s, seed=t), dtype) for p, s in shapes.items()}
        for t in range(1, STEPS + 1)
    ]
    mesh = Mesh(sizes, cuts)

    def on(rank):
        local = {p: mesh.part(p, a, rank) for p, a in x.items()}
        sharding = af.Sharding(shapes, mesh.reduce(rank))
        state = af.init(local, config, sharding=sharding)
        for g in grads:
            g = {p: mesh.part(p, a, rank) for p, a in g.items()}
            local, state = af.step(local, g, state, config, sharding=sharding)
        return local, state

    shards = mesh.run(on)
    state = af.init(x, config)
    for g in grads:
        x, state = af.step(x, g, state, config)
    return mesh, shards, x, state


def compare(mesh, shards, x, state, dtype="float32"):
    for path, want in x.items():
        every = range(want.ndim)
        got = mesh.whole(path, {rank: out[0][path] for rank, out in shards.items()}, every)
        close(got, want, PARAMS[dtype], path)
        for name, slot in state.moments[path]._asdict().items():
            pieces = {rank: getattr(out[1].moments[path], name) for rank, out in shards.items()}
            if slot is None:
                assert set(pieces.values()) == {None}
                continue
            kept = [a for a in every if slot.shape[a] == want.shape[a]]
            pieces = {rank: np.asarray(piece) for rank, piece in pieces.items()}
            check = close if name == "momentum" else close_entries
            check(mesh.whole(path, pieces, kept), slot, STATE[dtype], f"{path}.{name}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", VARIETY)
def test_sharded_along(layout, options):
    compare(*run(*LAYOUTS[layout], VARIETY[options]))


@pytest.mark.parametrize("layout", [name for name, row in LAYOUTS.items() if row[0] is STACK])
@pytest.mark.parametrize("options", BATCHED)
def test_stacks_sharded_along(layout, options):
    compare(*run(*LAYOUTS[layout], BATCHED[options]))


@pytest.mark.parametrize("options", [{}, {"lr": 0.1, "beta1": 0.9}], ids=str)
def test_float64_shards_agree_to_float64(options):
    compare(*run(*LAYOUTS["both axes"], options, dtype="float64"), dtype="float64")


def test_sharded_and_streamed_at_once():
    compare(
        *run({"w": (130, 70)}, [2], {"w": {0: (0, [50])}}, {"lr": 0.1, "max_scratch_bytes": 1024})
    )


@pytest.mark.parametrize("options", ["defaults", "full", "momentum of gradients", "clip off"])
def test_two_reductions_per_step_however_many_tensors(options):
    mesh, *_ = run(*LAYOUTS["many tensors, each in its own way"], VARIETY[options])
    assert set(mesh.calls.values()) == {2 * STEPS}
    first, second = mesh.sent[:2]
    assert "u2" not in first
    assert set(second) <= {"u2"}
    assert len(second) == (0 if options == "clip off" else 5)


def alone(shapes, seen=None):
    """A sharding with a single rank, which notes what it is asked to reduce."""

    def reduce(sums):
        if seen is not None:
            seen.extend(sums)
        return [s.value for s in sums]

    return af.Sharding(shapes, reduce)


def test_what_is_reduced_are_sums_named_by_tensor_with_the_axes_summed():
    x, seen = {"w": np.ones((6, 5))}, []
    sharding = alone({"w": (6, 5)}, seen)
    af.step(x, x, af.init(x, sharding=sharding), sharding=sharding)
    axes = {s.name: s.axes for s in seen}
    assert {s.path for s in seen} == {"w"}
    assert axes["row"] == (1,)
    assert axes["col"] == (0,)
    assert axes["x2"] == axes["u2"] == (0, 1)


def test_the_layout_is_that_of_the_whole_tensor():
    """A (1, 5) shard alone would not be factored; as a part of (3, 5) it is."""
    shard = {"w": np.ones((1, 5), np.float32)}
    assert af.init(shard).moments["w"].full is not None
    moments = af.init(shard, sharding=alone({"w": (3, 5)})).moments["w"]
    assert moments.full is None
    assert (moments.row.shape, moments.col.shape) == ((1, 1), (1, 5))


@pytest.mark.parametrize(
    ("shapes", "error", "words"),
    [
        ({"w": (4,)}, af.ShapeError, r"'w' of local shape \(4, 3\) cannot be a part of \(4,\)"),
        ({"w": (2, 3)}, af.ShapeError, r"'w' of local shape .* part of \(2, 3\)"),
        ({}, af.TreeError, "sharding.shapes.*Missing: 'w'"),
        ({"w": (4, 3), "v": (1,)}, af.TreeError, "sharding.shapes.*unknown: 'v'"),
        ({"w": 12}, af.ShapeError, "'w'.*12"),
        ({"w": None}, af.ShapeError, "'w'.*None"),
    ],
    ids=str,
)
def test_shapes_that_cannot_be(shapes, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        af.init({"w": np.ones((4, 3))}, sharding=alone(shapes))


def test_a_reduction_that_returns_too_few_sums_is_an_error():
    x = {"w": np.ones((4, 3))}
    sharding = af.Sharding({"w": (4, 3)}, lambda sums: [s.value for s in sums][1:])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        af.step(x, x, af.init(x, sharding=sharding), sharding=sharding)
