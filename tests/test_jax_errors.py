"""What adafactor_jax refuses: typed errors, at trace time, that name the tensor and the remedy."""

import numpy as np
import pytest

import adafactor_core as af

pytestmark = pytest.mark.backends("jax")


@pytest.fixture
def lib(backend):
    import adafactor_jax

    return adafactor_jax


@pytest.fixture(params=["eager", "jit"])
def update(request, backend, lib):
    """`update(grads, state, params)` of the transformation with these options."""

    def of(**options):
        found = lib.adafactor(**options).update
        return backend.lib.jit(found) if request.param == "jit" else found

    return of


@pytest.fixture
def x(backend):
    return {"w": backend.asarray(np.ones((4, 3))), "b": backend.asarray(np.ones(3))}


def test_no_params(lib, update, x):
    state = lib.adafactor().init(x)
    with pytest.raises(af.TreeError, match=r"update\(grads, state, params\)"):
        update()(x, state)
    with pytest.raises(af.TreeError, match=r"update\(grads, state, params\)"):
        lib.scale_by_adafactor().update(x, lib.scale_by_adafactor().init(x))


def test_gradients_of_another_tree(lib, update, x):
    state = lib.adafactor().init(x)
    with pytest.raises(af.TreeError, match="Missing: 'b'; unknown: 'c'"):
        update()({"w": x["w"], "c": x["b"]}, state, x)
    with pytest.raises(af.TreeError, match="Missing: 'b'"):
        update()({"w": x["w"], "b": None}, state, x)
    with pytest.raises(af.ShapeError, match=r"'w' has shape \(3,\)"):
        update()({"w": x["b"], "b": x["b"]}, state, x)


def test_integers_and_what_is_no_array(backend, lib, update, x):
    ints = {**x, "n": backend.lib.numpy.arange(3)}
    with pytest.raises(af.DTypeError, match=r"'n' of shape \(3,\) has dtype int32"):
        lib.adafactor().init(ints)
    with pytest.raises(af.DTypeError, match="'n' of shape"):
        update()(ints, lib.adafactor().init(x), ints)
    for leaf, kind in ((test_no_params, "function"), (1.0, "float")):
        with pytest.raises(af.DTypeError, match=f"'f' is a {kind}, not an array"):
            lib.adafactor().init({**x, "f": leaf})


@pytest.mark.parametrize(
    ("made", "used", "word"),
    [
        ({}, {"beta1": 0.9}, "'b' does not fit: momentum should be .*float32"),
        ({"factored": False}, {}, "'w' does not fit: row should be .*float32"),
        ({}, {"nonfinite": "skip_step"}, "counter of skipped steps"),
    ],
)
def test_a_state_from_another_config(lib, update, x, made, used, word):
    state = lib.adafactor(**made).init(x)
    with pytest.raises(af.StateError, match=word):
        update(**used)(x, state, x)


def test_what_is_no_state(lib, update, x):
    with pytest.raises(af.StateError, match="must be a State"):
        update()(x, (), x)
    other = lib.adafactor().init({"w": x["w"]})
    with pytest.raises(
        af.TreeError, match=r"state.moments must be nested like params. Missing: 'b'"
    ):
        update()(x, other, x)


def test_two_tensors_with_one_path(lib, x):
    with pytest.raises(af.TreeError, match=r"two tensors have the path 'a.b'"):
        lib.adafactor().init({"a.b": x["w"], "a": {"b": x["w"]}})


def test_options(backend, lib):
    with pytest.raises(af.ConfigError, match="unknown option 'learning_rate'"):
        lib.adafactor(learning_rate=0.1)
    with pytest.raises(af.ConfigError, match="Did you mean 'weight_decay'"):
        lib.make_step(weight_decy=0.1)
    with pytest.raises(af.ConfigError, match="only lr, weight_decay, beta1, decay_rate may change"):
        lib.adafactor(clip_threshold=backend.asarray(1.0))
    with pytest.raises(af.ConfigError, match=r"lr must be .* 0-D, got an array of shape \(1,\)"):
        lib.adafactor(backend.asarray([0.1]))


@pytest.mark.parametrize(
    "options", [{"lr": 0.1}, {"weight_decay": 0.1}, {"rules": [("w", {"eps2": 0.1})]}]
)
def test_a_direction_has_no_length(lib, options):
    name = next(reversed(options["rules"][0][1])) if "rules" in options else next(iter(options))
    with pytest.raises(af.ConfigError, match=f"takes no {name}"):
        lib.scale_by_adafactor(**options)
    with pytest.raises(af.ConfigError, match="unknown option 'scope'"):
        lib.scale_by_adafactor(scope=1)


def test_shardings_of_another_tree(backend, lib, x):
    spec = backend.lib.sharding.PartitionSpec()
    with pytest.raises(af.TreeError, match=r"param_shardings must be nested like params.*'b'"):
        lib.state_sharding({"w": spec}, x)


def test_a_16_bit_parameter_rounded_to_nearest_is_warned_of(backend, lib):
    narrow = {"w": backend.asarray(np.ones((4, 3)), "bfloat16")}
    with pytest.warns(af.LowPrecisionWarning, match="'w'"):
        lib.adafactor().init(narrow)
