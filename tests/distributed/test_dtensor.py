"""DTensors in many layouts: the trajectory of one process, in two collectives per step."""

import re

import pytest

pytest.importorskip("torch.distributed.tensor")

import numpy as np
from _bodies import LAYOUTS, OPTIONS, SIZES, alone, blocks, judged, refused, together

from _close import close

STEPS = 5
WIDE = [name for name in OPTIONS if name not in ("stochastic", "kahan")]
# Meshes of which none is a slice of another: each has its own reductions.
MESHES = {"replicas": 0, "slices alone": 2}


def compare(got, want, tolerance):
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys()
        for name, x in theirs.items():
            close(mine[name], x, tolerance, name)


@pytest.mark.parametrize("options", WIDE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_trajectory_of_one_process(ranks, layout, options):
    want = alone(options, "float32", STEPS)
    for after, counts, _ in ranks(SIZES[layout]).run(together, layout, options, "float32", STEPS):
        compare(after, want, 1e-6)
        assert counts == {MESHES.get(layout, 1) * (1 if options == "no clip" else 2)}


@pytest.mark.parametrize("layout", ["rows of three", "grid", "one axis twice"])
def test_float64(ranks, layout):
    options = "rate, momentum, decay"
    want = alone(options, "float64", STEPS)
    for after, *_ in ranks(SIZES[layout]).run(together, layout, options, "float64", STEPS):
        compare(after, want, 1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("options", ["stochastic", "kahan"])
@pytest.mark.parametrize("layout", ["rows of three", "columns", "grid", "one axis twice"])
def test_the_same_draws_on_any_number_of_ranks(ranks, layout, options, dtype):
    """One entry in a thousand may lie on the other side of a step of the grid: its wide value
    differs in the last bits, as sums over ranks do."""
    want = alone(options, dtype, 2)[0]
    for after, *_ in ranks(SIZES[layout]).run(together, layout, options, dtype, 2):
        got = {n: x for n, x in after[0].items() if n in want and "." not in n}
        odd = sum(np.count_nonzero(x != want[n]) for n, x in got.items())
        assert odd <= sum(x.size for x in got.values()) / 1000


def test_placements_of_the_state(ranks):
    ((_, _, places), *_) = ranks(4).run(together, "grid", "rate, momentum, decay", "float32", 2)
    assert places["w.row"] == ("S(0)", "R")
    assert places["w.col"] == ("R", "S(1)")
    assert places["w.momentum"] == ("S(0)", "S(1)")
    assert places["b.full"] == ("S(0)", "R")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_the_conformance_kit(ranks, dtype):
    ranks(2).run(judged, 2, dtype)


@pytest.mark.parametrize("options", ["defaults", "skipped tensors"])
def test_compiled(ranks, options):
    """Of tensors that do not meet in a norm, so that two of them are the trajectory of all."""
    (second, last) = alone(options, "float32", STEPS)
    for after, *_ in ranks(2).run(together, "rows", options, "float32", STEPS, True):
        compare(after, [{n: x[n] for n in after[0]} for x in (second, last)], 1e-6)


def test_int8_momentum_split_at_whole_blocks(ranks):
    options = {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8"}
    for got, want in ranks(2).run(blocks, options, 3):
        assert got["w.momentum_scale"].shape == (6, 2)
        compare([got], [want], 1e-6)


REFUSED = {
    "int8": r"ShapeError: parameter 'b' of shape \(10,\) is split .* into parts of 5",
    "pending sum": "ShapeError: parameter 'w' has placements .* Redistribute it",
    "plain gradient": "ShapeError: the gradient of parameter 'w' is not distributed",
    "state on a mesh": "StateError: the state of parameter 'w' lies on .*full_state_dict=True",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_on_every_rank(ranks, what):
    for words in ranks(2).run(refused, what):
        assert re.search(f"(?s){REFUSED[what]}", words), words
