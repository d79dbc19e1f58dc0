"""Decisions over shards: every rank comes to the same one, with the two reductions there are."""

import math

import numpy as np
import pytest

import adafactor_core as af
from _close import PARAMS, STATE, close, close_entries
from _mesh import Mesh
from _run import normal

SHAPES = {"w": (13, 7), "b": (7,), "experts": (4, 6, 5), "s": (), "c": (3, 8, 300)}
CUTS = {
    "w": {0: (0, [5]), 1: (1, [1, 4])},
    "b": {0: (1, [2, 2])},  # one piece is empty
    "experts": {0: (1, [1, 3])},  # whole experts on each rank
    "s": {},
    "c": {1: (0, [3]), 2: (1, [100, 210])},
}
STACK = {"rules": [("experts", {"batch_axes": 0})]}


class Placed(Mesh):
    """Knows where pieces start."""

    def __init__(self):
        super().__init__([2, 3], CUTS)

    def offset(self, path, rank):
        starts = [0] * len(SHAPES[path])
        for axis, (along, cut) in self.cuts[path].items():
            starts[axis] = [0, *cut][rank[along]]
        return tuple(starts)

    def reduce(self, rank):
        add = super().reduce(rank)

        def quietly(sums):
            with np.errstate(over="ignore", invalid="ignore"):  # as an all-reduce is
                return add(sums)

        return quietly

    def sharding(self, rank, offsets=True):
        places = {p: self.offset(p, rank) for p in SHAPES} if offsets else None
        return af.Sharding(SHAPES, self.reduce(rank), places)

    def parts(self, tree, rank):
        return {p: self.part(p, a, rank) for p, a in tree.items()}


def drawn(seed, dtype="f4", bad=None):
    tree = {p: np.asarray(normal(s, seed=seed), dtype) for p, s in SHAPES.items()}
    for path, index, value in bad or []:
        tree[path][index] = value
    return tree


def both(options, grads, start=None, dtype="f4", offsets=True):
    """(mesh, rank to (x, state) after all steps, x and state unsharded)."""
    config, mesh = af.Config(**options), Placed()
    start = start or drawn(0, dtype)

    def on(rank):
        x, sharding = mesh.parts(start, rank), mesh.sharding(rank, offsets)
        state = af.init(x, config, sharding=sharding)
        for g in grads:
            x, state = af.step(x, mesh.parts(g, rank), state, config, sharding=sharding)
        return x, state

    shards = mesh.run(on)
    x, state = start, af.init(start, config)
    for g in grads:
        x, state = af.step(x, g, state, config)
    return mesh, shards, x, state


def merged(mesh, shards, path, of):
    shape = SHAPES[path]
    return mesh.whole(path, {r: of(out, path) for r, out in shards.items()}, range(len(shape)))


def params(out, path):
    return out[0][path]


POLICIES = ["skip_tensor", "skip_step"]
BAD = {
    "nan in one piece": [("w", (0, 0), np.nan)],
    "infinity in the last piece": [("w", (12, 6), -np.inf)],
    "an expert": [("experts", (3, 2, 1), np.nan)],
    "a vector, beside an empty piece": [("b", 6, np.inf)],
    "a replicated scalar": [("s", (), np.nan)],
    "two tensors on different ranks": [("w", (0, 0), np.nan), ("c", (2, 7, 299), 1e25)],
}
KINDS = {
    "factored": {"lr": 0.1},
    "full": {"lr": 0.1, "factored": False},
    "clip off": {"lr": 0.1, "clip_threshold": None},
    "momentum": {"lr": 0.1, "beta1": 0.9, "momentum_on": "grad"},
    "norm, telemetry": {"lr": 0.1, "max_grad_norm": 1.0, "telemetry": True},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_rank_skips_the_same(policy, options, bad):
    grads = [drawn(1), drawn(2, bad=bad), drawn(3)]
    mesh, shards, want, state = both({**options, **STACK, "nonfinite": policy}, grads)
    hurt = {path for path, *_ in bad}
    for x, mine in shards.values():
        assert (int(mine.step), int(mine.skipped)) == (int(state.step), 1)
        counts = {p: int(m.skipped) for p, m in mine.moments.items()}
        assert counts == {p: int(p in hurt) for p in SHAPES}
        assert all(np.isfinite(a).all() for a in x.values())
    assert int(state.step) == (3 if policy == "skip_tensor" else 2)
    for path in SHAPES:
        close(merged(mesh, shards, path, params), want[path], PARAMS["float32"], path)
    # A step that is refused as a whole changes no bit on any rank.
    _, after, *_ = both({**options, **STACK, "nonfinite": policy}, grads[:2])
    _, before, *_ = both({**options, **STACK, "nonfinite": policy}, grads[:1])
    for rank, (x, _) in after.items():
        for path in hurt if policy == "skip_tensor" else SHAPES:
            np.testing.assert_array_equal(x[path], before[rank][0][path])


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_every_rank_raises(bad):
    """None of them is left waiting for the others."""
    config, mesh = af.Config(0.1, nonfinite="raise", **STACK), Placed()
    start, g = drawn(0), drawn(1, bad=bad)

    def on(rank):
        x, sharding = mesh.parts(start, rank), mesh.sharding(rank)
        state = af.init(x, config, sharding=sharding)
        with pytest.raises(af.NonFiniteError) as caught:
            af.step(x, mesh.parts(g, rank), state, config, sharding=sharding)
        return str(caught.value)

    told = mesh.run(on)
    for path, *_ in bad:
        assert all(f"{path!r} of shape {SHAPES[path]}" in text for text in told.values())
    assert len(set(told.values())) == 1


@pytest.mark.parametrize(
    ("where", "size", "odd"),
    [("gradient", 5e18, 0), ("gradient", 2e19, 1), ("parameter", 8e17, 1)],
    ids=str,
)
def test_what_overflows_when_shards_are_added_up(where, size, odd):
    """Pieces have finite sums where the whole's is infinite, or the other way round."""
    start, g = drawn(0), drawn(1)
    {"gradient": g, "parameter": start}[where]["w"][...] = size
    options = {"lr": 0.1, "nonfinite": "skip_tensor", **STACK}
    with np.errstate(all="ignore"):
        _, shards, _, state = both(options, [g], start)
    counts = [int(mine.moments["w"].skipped) for _, mine in shards.values()]
    assert counts == [odd] * 6
    assert int(state.skipped) == odd
    assert all(np.isfinite(a).all() for x, _ in shards.values() for a in x.values())


@pytest.mark.parametrize("most", [0.5, 100.0, 1e6], ids=["active", "at times", "inactive"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_norm_is_that_of_the_whole(options, most):
    grads = [drawn(1), drawn(2)]
    grads[1]["c"] *= 10.0
    told = {"max_grad_norm": most, "telemetry": True, **STACK}
    mesh, shards, want, state = both({**options, **told}, grads)
    assert math.sqrt(sum(np.sum(g**2.0) for g in grads[0].values())) < 100.0 or most != 100.0
    for path in SHAPES:
        close(merged(mesh, shards, path, params), want[path], PARAMS["float32"], path)
        for rank, (_, mine) in shards.items():
            got, norm = mine.metrics[path], state.metrics[path]
            close(got.grad_norm, norm.grad_norm, 1e-6, path)
            if path != "experts":
                for name in af.Metrics._fields:
                    close(getattr(got, name), getattr(norm, name), 2e-6, f"{path} {name} {rank}")
    assert set(mesh.calls.values()) == {2 * len(grads)}


@pytest.mark.parametrize("hurt", ["c", "experts"])
def test_every_rank_leaves_the_same_out_of_the_norm(hurt):
    """One square overflows in one piece, while the norm's sum does not; or an expert is NaN."""
    options = {"lr": 0.1, "factored": False, "max_grad_norm": 1.0, "nonfinite": "skip_tensor"}
    start = drawn(0, bad=[("experts", (3, 2, 1), np.nan)] if hurt == "experts" else [])
    grads = [drawn(1, bad=[("c", (2, 7, 299), 2e19)] if hurt == "c" else [])]
    mesh, shards, _, state = both({**options, **STACK}, grads, start)
    assert int(state.moments[hurt].skipped) == 1
    for path in ("w", "b"):
        got = merged(mesh, shards, path, lambda out, p: out[1].moments[p].full)
        close_entries(got, state.moments[path].full, STATE["float32"], path)


@pytest.mark.parametrize(
    "options",
    [{"nonfinite": "skip_step"}, {"nonfinite": "skip_tensor", "max_grad_norm": 1.0},
     {"telemetry": True}, {"telemetry": True, "clip_threshold": None, "max_grad_norm": 1.0},
     {"nonfinite": "raise", "clip_threshold": None}],
    ids=str,
)  # fmt: skip
def test_two_reductions_per_step(options):
    mesh, *_ = both({**options, "factored": False}, [drawn(1), drawn(2)])
    assert set(mesh.calls.values()) == {4}
    first, second = mesh.sent[:2]
    assert set(second) <= {"u2", "odd"}
    assert ("g2" in first) == ("max_grad_norm" in options or "telemetry" in options)
    assert ("odd" in second) == ("nonfinite" in options)


NARROW = ["float16", "bfloat16"]
ELEMENTWISE = {"factored": False, "clip_threshold": None, "scale_parameter": False, "seed": 2**35}


def narrow(name):
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.float16


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("rounding", ["stochastic", "kahan", "nearest"])
def test_pieces_have_the_bits_of_the_whole(rounding, dtype):
    """All is elementwise here, so that every piece has the whole's wide values."""
    options = {
        "lr": 0.01, "rounding": rounding, "beta1": 0.9, "momentum_dtype": dtype,
        "momentum_rounding": "stochastic", "weight_decay": 0.1, **ELEMENTWISE,
    }  # fmt: skip
    dtype = narrow(dtype)
    mesh, shards, want, state = both(options, [drawn(t, dtype) for t in (1, 2)], dtype=dtype)
    for path in SHAPES:
        np.testing.assert_array_equal(merged(mesh, shards, path, params), want[path], path)
        for slot in ("momentum", "compensation"):
            if getattr(state.moments[path], slot) is not None:
                got = merged(mesh, shards, path, lambda o, p, s=slot: getattr(o[1].moments[p], s))
                np.testing.assert_array_equal(got, getattr(state.moments[path], slot), path)


@pytest.mark.parametrize("dtype", NARROW)
def test_pieces_of_factored_tensors_round_alike_but_for_sums(dtype):
    options, kind = {"lr": 0.01, "rounding": "stochastic", **STACK}, narrow(dtype)
    mesh, shards, want, _ = both(options, [drawn(1, kind)], dtype=kind)
    differ = total = 0
    for path in SHAPES:
        got = merged(mesh, shards, path, params)
        differ, total = differ + np.sum(got != want[path]), total + got.size
    assert differ <= 0.002 * total


def test_int8_momentum_of_pieces_stays_within_the_scales():
    """Blocks of 128 start with each piece, so scales differ; draws go by the whole's positions."""
    options = {"lr": 0.01, "beta1": 0.9, "momentum_dtype": "int8", **ELEMENTWISE}
    mesh, shards, _, state = both(options, [drawn(1), drawn(2)])
    m = state.moments["c"]
    exact = m.momentum * np.repeat(m.momentum_scale, 128, axis=-1)[..., :300]

    def dequantised(out, path):
        m = out[1].moments[path]
        scale = np.repeat(m.momentum_scale, 128, axis=-1)[..., : m.momentum.shape[-1]]
        return m.momentum * scale

    got = merged(mesh, shards, "c", dequantised)
    close(got, exact, 2.1 / 127)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({"rounding": "stochastic"}, "f2"),
     ({"beta1": 0.9, "momentum_dtype": "int8", "momentum_rounding": "stochastic"}, "f4"),
     ({"beta1": 0.9, "momentum_dtype": "float16", "momentum_rounding": "stochastic"}, "f4")],
    ids=str,
)  # fmt: skip
def test_draws_by_position_need_offsets(options, dtype):
    with pytest.raises(af.ShapeError, match=r"'\w+' is rounded at random.*Sharding\.offsets"):
        both(options, [drawn(1, dtype)], dtype=dtype, offsets=False)


def test_offsets_are_not_asked_for_without_draws():
    for options in ({"rounding": "kahan"}, {"beta1": 0.9, "momentum_dtype": "int8"}):
        both(options, [drawn(1, "f2")], dtype="f2", offsets=False)
    both({"rounding": "stochastic"}, [drawn(1)], offsets=False)  # wide tensors are not rounded


@pytest.mark.parametrize("at", [(10, 0), (-1, 0), (0,), 3], ids=str)
def test_offsets_that_cannot_be(at):
    x, config = {"w": np.ones((4, 3), np.float16)}, af.Config(rounding="stochastic")
    sharding = af.Sharding({"w": (8, 3)}, lambda sums: [s.value for s in sums], {"w": at})
    with pytest.raises((af.ShapeError, af.TreeError), match=r"'w'|offsets"):
        af.step(x, x, af.init(x, config, sharding=sharding), config, sharding=sharding)


def test_telemetry_of_a_rank_without_experts():
    config, x = af.Config(telemetry=True, batch_axes=0), {"e": np.zeros((0, 6, 5), np.float32)}
    sharding = af.Sharding({"e": (4, 6, 5)}, lambda sums: [s.value for s in sums])
    state = af.init(x, config, sharding=sharding)
    _, state = af.step(x, x, state, config, sharding=sharding)
    assert all(a.shape == () for a in state.metrics["e"])
    assert af.flat_metrics(state)["step"] == 1
