"""Nestings of parameters: what goes in comes out, by the same paths, in every container."""

from collections import OrderedDict, defaultdict
from typing import NamedTuple

import numpy as np
import optree
import pytest

import adafactor_core as af
from _run import normal


class Layer(NamedTuple):
    w: object
    b: object


class Two(NamedTuple):
    first: object
    second: object


def a(seed=0):
    return normal((3, 4), seed=seed)


def b(seed=0):
    return normal((4,), seed=seed)


TREES = {
    "one array": (lambda: a(), [""]),
    "a dict": (lambda: {"w": a(), "b": b()}, ["b", "w"]),
    "an ordered dict": (lambda: OrderedDict(w=a(), b=b()), ["w", "b"]),
    "a default dict": (lambda: defaultdict(list, w=a()), ["w"]),
    "a list": (lambda: [a(), b()], ["0", "1"]),
    "a tuple": (lambda: (a(), b()), ["0", "1"]),
    "a namedtuple": (lambda: Layer(a(), b()), ["w", "b"]),
    "nested": (
        lambda: {"layers": [Layer(a(), b()), (a(), {"x": b()})], "head": a()},
        ["head", "layers.0.w", "layers.0.b", "layers.1.0", "layers.1.1.x"],
    ),
    "with None and empty containers": (lambda: {"w": a(), "none": None, "no": [], "b": {}}, ["w"]),
    "keys that are ints": (lambda: {0: a(), 1: b()}, ["0", "1"]),
    "keys with dots": (lambda: {"enc.w": a(), "enc.b": b()}, ["enc.b", "enc.w"]),
    "nothing": (dict, []),
}
trees = pytest.mark.parametrize(("make", "paths"), TREES.values(), ids=TREES)


def zip_leaves(*trees):
    """The leaves of several trees side by side; Moments are leaves."""
    columns = [optree.tree_leaves(t, is_leaf=lambda x: type(x) is af.Moments) for t in trees]
    return zip(*columns, strict=True)


@trees
def test_paths(make, paths):
    assert [t.path for t in af.memory_report(make()).tensors] == paths


@trees
def test_every_leaf_steps_as_it_would_alone(make, paths):
    config = af.Config(0.1, beta1=0.9, weight_decay=0.1)
    x, g = make(), optree.tree_map(lambda leaf: leaf * 2 - 1, make())
    new, state = af.step(x, g, af.init(x, config), config)
    d, update_state = af.update(g, af.init(x, config), x, config)
    assert optree.tree_structure(new) == optree.tree_structure(d) == optree.tree_structure(x)
    assert type(new) is type(x)
    moments, others = state.moments, update_state.moments
    for leaf, grad, got, step, m, other in zip_leaves(x, g, new, d, moments, others):
        alone, alone_state = af.step(leaf, grad, af.init(leaf, config), config)
        np.testing.assert_array_equal(got, alone)
        np.testing.assert_array_equal(leaf + step, alone)
        for slot, want, same in zip(m, alone_state.moments, other, strict=True):
            assert (slot is None) == (want is None) == (same is None)
            if slot is not None:
                np.testing.assert_array_equal(slot, want)
                np.testing.assert_array_equal(same, want)


@trees
def test_the_state_is_a_tree_of_moments_nested_like_the_parameters(make, paths):
    state = af.init(make())
    assert isinstance(state, af.State)
    found = optree.tree_leaves(state.moments, is_leaf=lambda x: isinstance(x, af.Moments))
    assert len(found) == len(paths)
    assert all(isinstance(m, af.Moments) for m in found)
    assert int(state.step) == 0


def test_the_state_survives_flattening_by_any_tree_library():
    x = {"w": a(), "b": b()}
    leaves, spec = optree.tree_flatten(af.init(x))
    new, _ = af.step(x, x, optree.tree_unflatten(spec, leaves))
    want, _ = af.step(x, x, af.init(x))
    np.testing.assert_array_equal(new["w"], want["w"])


def test_dict_order_of_gradients_does_not_matter():
    x, g = {"w": a(), "b": b()}, {"w": a(1), "b": b(1)}
    new, _ = af.step(x, g, af.init(x))
    other, _ = af.step(x, dict(reversed(g.items())), af.init(x))
    for path in x:
        np.testing.assert_array_equal(new[path], other[path])


def test_tied_arrays_are_two_tensors():
    shared = a()
    new, _ = af.step([shared, shared], [a(1), a(2)], af.init([shared, shared]))
    for i in (0, 1):
        alone, _ = af.step(shared, a(i + 1), af.init(shared))
        np.testing.assert_array_equal(new[i], alone)


@pytest.mark.parametrize(
    "tree",
    [{"a.b": 1, "a": {"b": 1}}, {"a": {"b.c": 1}, "a.b": {"c": 1}}, {1: 1, "1": 1}],
    ids=str,
)
def test_two_tensors_with_one_path_are_refused(tree):
    x = optree.tree_map(lambda _: a(), tree)
    for call in (af.init, af.memory_report):
        with pytest.raises(af.TreeError, match=r"two tensors have the path '.*'\. Rename"):
            call(x)
