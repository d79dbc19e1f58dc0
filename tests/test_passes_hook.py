"""The hook by which a backend replaces passes: who is asked, who is called, with what, in order."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _mesh import Mesh
from _run import flat, normal

SHAPES = {"a": (5, 4), "b": (4,), "c": (3, 6), "d": (), "e": (2, 3, 4)}
PASSES = ["observe", "advance", "measure", "scale", "apply"]


class Recorded(af.ArrayPasses):
    """Serves what `takes` says, in batches of `size`, and keeps a record of its calls."""

    def __init__(self, takes, size=1):
        super().__init__(stream=False)
        self.takes, self.size, self.calls, self.asked = takes, size, [], []

    def serves(self, work):
        self.asked.append(work.path)
        return "" if self.takes(work) else "not this one"

    def batches(self, works):
        return [works[i : i + self.size] for i in range(0, len(works), self.size)]


def recording(name):
    def method(self, works):
        self.calls.append((name, [w.path for w in works]))
        getattr(super(Recorded, self), name)(works)

    return method


for _name in PASSES:
    setattr(Recorded, _name, recording(_name))


def matrices(work):
    return len(work.param.shape) == 2


def everything(work):
    return True


def tensors(seed):
    return {path: normal(shape, seed=seed) for path, shape in SHAPES.items()}


def step(passes, config=None, **more):
    x = tensors(0)
    return af.step(x, tensors(1), af.init(x, config), config, passes=passes, **more)


def test_passes_are_called_for_what_they_serve_and_the_result_is_the_same():
    mine = Recorded(matrices)
    x, state = step([mine])
    want, want_state = step([])
    assert mine.asked == list(SHAPES)
    assert {path for _, paths in mine.calls for path in paths} == {"a", "c"}
    for path in SHAPES:
        close(x[path], want[path], 1e-15, path)
    assert int(state.step) == int(want_state.step) == 1


def test_one_tensor_goes_through_all_passes_before_the_next():
    mine = Recorded(matrices)
    step([mine])
    assert mine.calls == [(name, [path]) for path in "ac" for name in PASSES]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_batch_goes_through_all_passes_together(size):
    mine = Recorded(everything, size)
    step([mine])
    paths = list(SHAPES)
    batches = [paths[i : i + size] for i in range(0, len(paths), size)]
    assert mine.calls == [(name, batch) for batch in batches for name in PASSES]


def test_the_first_that_serves_a_tensor_takes_it():
    first, second = Recorded(matrices), Recorded(everything)
    step([first, second])
    assert {path for _, paths in first.calls for path in paths} == {"a", "c"}
    assert {path for _, paths in second.calls for path in paths} == {"b", "d", "e"}
    assert second.asked == ["b", "d", "e"]


@pytest.mark.parametrize("function", [af.step, af.update], ids=["step", "update"])
def test_both_functions_take_passes(function):
    mine, x, g = Recorded(everything), tensors(0), tensors(1)
    given = (x, g, af.init(x)) if function is af.step else (g, af.init(x), x)
    function(*given, passes=[mine])
    assert [name for name, _ in mine.calls[:5]] == PASSES


def test_sharded_all_tensors_observe_before_any_measures():
    mesh = Mesh([2], {p: {0: (0, [1])} if s else {} for p, s in SHAPES.items()})
    records = {rank: Recorded(matrices) for rank in mesh.ranks}
    x, g = tensors(0), tensors(1)

    def on(rank):
        local, grads = ({p: mesh.part(p, a, rank) for p, a in tree.items()} for tree in (x, g))
        sharding = af.Sharding(SHAPES, mesh.reduce(rank))
        state = af.init(local, sharding=sharding)
        return af.step(local, grads, state, passes=[records[rank]], sharding=sharding)

    shards = mesh.run(on)
    want, _ = af.step(x, g, af.init(x))
    for path in SHAPES:
        pieces = {rank: out[0][path] for rank, out in shards.items()}
        close(mesh.whole(path, pieces, range(len(SHAPES[path]))), want[path], 1e-14, path)
    assert set(mesh.calls.values()) == {2}
    for record in records.values():
        order = [name for name, _ in record.calls]
        assert sorted(order) == sorted(2 * PASSES)
        assert set(order[:2]) == {"observe"}
        assert set(order[2:6]) == {"advance", "measure"}


def test_nothing_is_advanced_before_the_reduction():
    """A decision over all tensors may stand there: clipping by a global norm, skipping a step."""
    x, g, config = tensors(0), tensors(1), af.Config(0.1, beta1=0.9, momentum_on="grad")
    state = af.init(x, config)
    arrays = [*x.values(), *flat(state.moments).values()]
    before, calls = [a.tobytes() for a in arrays], []

    def reduce(sums):
        calls.append(1)
        if len(calls) == 1:
            assert [a.tobytes() for a in arrays] == before
        return [s.value for s in sums]

    sharding = af.Sharding(SHAPES, reduce)
    af.step(x, g, state, config, sharding=sharding, donate=True)
    assert len(calls) == 2
    assert [a.tobytes() for a in arrays] != before


def test_what_a_pass_is_given_and_what_it_leaves():
    seen = {}

    class Looking(af.ArrayPasses):
        def apply(self, works):
            super().apply(works)
            for w in works:
                seen[w.path] = w

    x, state = step([Looking()], af.Config(0.1, beta1=0.9))
    for path, w in seen.items():
        assert w.result is x[path]
        assert w.new is state.moments[path]
        assert w.new.momentum.shape == SHAPES[path]
        assert w.layout.shape == SHAPES[path]
        assert w.options.lr == 0.1
        assert w.rates.b == 1.0
        assert w.width == "float64"
        assert w.emit == "param"
        assert w.alone


def test_unstreamed_passes_give_the_same_bits_for_small_tensors():
    whole, _ = step([af.ArrayPasses(stream=False)])
    streamed, _ = step([])
    for path in SHAPES:
        np.testing.assert_array_equal(whole[path], streamed[path])


def test_a_kernel_that_gets_it_wrong_is_seen():
    """The hook is really used: what a pass leaves is what comes back."""

    class Wrong(af.ArrayPasses):
        def apply(self, works):
            super().apply(works)
            for w in works:
                w.result = w.result + 1.0

    x, _ = step([Wrong()])
    want, _ = step([])
    for path in SHAPES:
        close(x[path], want[path] + 1.0, 1e-15, path)
