"""Ours beside every implementation that is installed: the same calls, the same trajectory.

`max|a - b| / max|b|` over tensors and steps. What it was on one machine is in docs/variants.md.
"""

import importlib.util

import numpy as np
import pytest
from _peer_drawn import DRAWN, drawn
from _peer_inputs import SHAPES, drawn_shapes, dtype_of, error, problem
from _peer_table import CASES, Case
from _peers import DISTRIBUTIONS, installed, ours, theirs

from adafactor_core import variants

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# After 10 steps the records' own bounds; after 100, where rounding has added up, twice to three
# times what is measured.
AFTER_100 = {"float32": 5e-6, "float64": 2e-14}
NARROW_RATES = {"optax": 1e-7, "keras": 5e-7}  # float32 under float64
RECORDS = {peer: variants.get({"came": "came_vectors"}.get(peer, peer)) for peer in DISTRIBUTIONS}
FLIPS = 5e-3  # share of entries that a flipped rounding of 16-bit momentum has moved
FLIPPED = {"float32": 1e-3, "float64": 1e-10}


def needed(peer):
    if installed(peer) is None:
        pytest.skip(f"{DISTRIBUTIONS[peer]} is not installed: nox -s parity")


def compare(case: Case, dtype, shapes, measured, seed=0):
    needed(case.peer)
    params, grads = problem(shapes, dtype, case.steps, seed)
    expected = theirs(case.peer)(dict(case.call), params, grads, case.rate)
    found = ours(case.config, params, grads)
    short, long = error(found[:10], expected[:10]), error(found, expected)
    measured.append({
        "distribution": DISTRIBUTIONS[case.peer], "version": installed(case.peer),
        "peer": case.peer, "call": case.label, "dtype": dtype, "after_10": short,
        f"after_{case.steps}": long,
    })  # fmt: skip
    if case.flips:
        share = moved(found[-1], expected[-1])
        measured[-1]["moved"] = share
        assert share <= FLIPS
        assert long <= FLIPPED[dtype]
        return
    exact = dtype == "float32" or case.peer not in NARROW_RATES
    assert short <= RECORDS[case.peer].accuracy[dtype]
    assert long <= (AFTER_100[dtype] if exact else NARROW_RATES[case.peer])


def moved(found, expected):
    """The share of entries that differ by more than rounding."""
    pairs = [(found[n].astype(np.float64), expected[n].astype(np.float64)) for n in expected]
    apart = [np.abs(a - b) > 1e-6 * np.max(np.abs(b)) for a, b in pairs]
    return sum(int(a.sum()) for a in apart) / sum(a.size for a in apart)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(c, d, id=f"{c}-{d}") for c in CASES for d in c.dtypes],
)
def test_the_same_trajectory(case, dtype, measured):
    shapes = {name: shape for name, shape in SHAPES.items() if name in case.only}
    compare(case, dtype, shapes, measured)


@pytest.mark.parametrize(("peer", "seed"), DRAWN, ids=[f"{p}-{s}" for p, s in DRAWN])
def test_drawn_calls_on_drawn_shapes(peer, seed, measured):
    dtype = ("float32", "float64")[seed % 2]
    compare(drawn(peer, seed), dtype, drawn_shapes(seed), measured, seed=seed + 1)


WIDE_INSIDE = [c for c in CASES if c.peer in ("transformers", "timm")]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", WIDE_INSIDE, ids=str)
def test_16_bit_parameters_where_the_peer_computes_wide(case, dtype, measured):
    """The same bits after every step, apart from flips of the rounding."""
    needed(case.peer)
    shapes = {name: shape for name, shape in SHAPES.items() if name in case.only}
    params, grads = problem(shapes, dtype, 10)
    expected = theirs(case.peer)(dict(case.call), params, grads, case.rate)
    found = ours(case.config, params, grads)
    pairs = [(found[-1][n], expected[-1][n]) for n in shapes]
    assert all(a.dtype == b.dtype == dtype_of(dtype) for a, b in pairs)
    flipped = sum(int(np.sum(a != b)) for a, b in pairs) / sum(a.size for a, _ in pairs)
    measured.append({
        "distribution": DISTRIBUTIONS[case.peer], "version": installed(case.peer),
        "peer": case.peer, "call": case.label, "dtype": dtype, "flipped": flipped,
    })  # fmt: skip
    assert flipped <= 2e-3


def test_every_peer_that_can_be_installed_is_compared():
    assert {case.peer for case in CASES} == set(DISTRIBUTIONS)
    assert importlib.util.find_spec("adafactor_core") is not None
