"""Bad input: a typed error that names the tensor, what is wrong and what to do; nothing changes."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optree
import pytest

import adafactor_core as af
from _backends import UnavailableError, load
from _run import normal

CONFIG = af.Config(0.1, beta1=0.9)
REMEDY = re.compile(
    r"\b(Pass|Cast|Convert|Correct|Give|Use|Rename|use|start over|must|expected|Every leaf)\b"
)


def w(seed=0):
    return normal((4, 3), seed=seed).astype(np.float32)


def b(seed=0):
    return normal((3,), seed=seed).astype(np.float32)


@dataclass
class Call:
    """Arguments of a step that would work; each case breaks one of them."""

    params: Any = field(default_factory=lambda: {"enc": {"w": w(), "b": b()}})
    grads: Any = field(default_factory=lambda: {"enc": {"w": w(1), "b": b(1)}})
    state: Any = None
    config: Any = CONFIG

    def __post_init__(self):
        self.state = af.init(self.params, CONFIG)


def grad(value):
    def change(call):
        call.grads["enc"]["w"] = value() if callable(value) else value

    return change


def param(value):
    def change(call):
        call.params["enc"]["w"] = value() if callable(value) else value

    return change


def moments(**slots):
    def change(call):
        old = call.state.moments["enc"]["w"]
        call.state.moments["enc"]["w"] = old._replace(**slots)

    return change


def state(value):
    def change(call):
        call.state = value(call.state)

    return change


def config(value):
    def change(call):
        call.config = value

    return change


def of(params, options=CONFIG):
    """The state of other parameters or options."""
    return lambda old: af.init(params, options)


def other(name):
    """A (4, 3) array of another library."""

    def make():
        try:
            return load(name).asarray(w())
        except UnavailableError as error:
            pytest.skip(str(error))

    return make


def drop(tree, key):
    def change(call):
        del getattr(call, tree)["enc"][key]

    return change


def add(tree, key):
    def change(call):
        getattr(call, tree)["enc"][key] = w()

    return change


CASES = {
    # what is wrong: (how to break it, error, words that have to be in it)
    "gradient of another shape": (
        grad(lambda: w()[:3]), af.ShapeError, ["enc.w", "(3, 3)", "(4, 3)"],
    ),
    "gradient transposed": (grad(lambda: w().T), af.ShapeError, ["enc.w", "(3, 4)", "(4, 3)"]),
    "gradient that would broadcast": (grad(lambda: w()[:1]), af.ShapeError, ["enc.w", "(1, 3)"]),
    "gradient of ints": (grad(lambda: w().astype(int)), af.DTypeError, ["enc.w", "int64"]),
    "gradient of complex numbers": (grad(lambda: w() * 1j), af.DTypeError, ["enc.w", "complex64"]),
    "gradient of bools": (grad(lambda: w() > 0), af.DTypeError, ["enc.w", "bool"]),
    "gradient None": (grad(None), af.TreeError, ["enc.w", "None"]),
    "gradient a float": (grad(0.5), af.DTypeError, ["gradient", "enc.w", "float"]),
    "gradient a list": (grad([1.0]), (af.DTypeError, af.TreeError), ["enc.w"]),
    "gradient a string": (grad("g"), af.DTypeError, ["enc.w", "str"]),
    "gradient of torch": (grad(other("torch")), af.DTypeError, ["enc.w", "Tensor", "ndarray"]),
    "gradient of JAX": (grad(other("jax")), af.DTypeError, ["enc.w", "ndarray"]),
    "gradient of array-api-strict": (grad(other("strict")), af.DTypeError, ["enc.w", "ndarray"]),
    "gradient missing": (drop("grads", "w"), af.TreeError, ["grads", "Missing: 'enc.w'"]),
    "gradient too many": (add("grads", "v"), af.TreeError, ["grads", "unknown: 'enc.v'"]),
    "gradients in another container": (
        lambda call: setattr(call, "grads", [w(), b()]), af.TreeError, ["grads", "nested like"],
    ),
    "gradients None": (lambda call: setattr(call, "grads", None), af.TreeError, ["grads", "enc.w"]),
    "parameter of ints": (
        param(lambda: w().astype(int)), af.DTypeError, ["enc.w", "int64", "float32"],
    ),
    "parameter of complex numbers": (
        param(lambda: w() * 1j), af.DTypeError, ["enc.w", "complex64"],
    ),
    "parameter of bools": (param(lambda: w() > 0), af.DTypeError, ["enc.w", "bool"]),
    "parameter of long doubles": (
        param(lambda: w().astype(np.longdouble)), af.DTypeError, ["enc.w", "longdouble|float128"],
    ),
    "parameter of objects": (param(lambda: w().astype(object)), af.DTypeError, ["enc.w", "object"]),
    "parameter a float": (param(1.0), af.DTypeError, ["enc.w", "float"]),
    "parameter a string": (param("w"), af.DTypeError, ["enc.w", "str"]),
    "parameter of another shape than the state": (
        param(lambda: w()[:2]), (af.StateError, af.ShapeError), ["enc.w", "(2, 3)"],
    ),
    "parameter added": (add("params", "v"), af.TreeError, ["enc.v"]),
    "state None": (state(lambda s: None), af.StateError, ["NoneType", "init"]),
    "state a tuple": (state(tuple), af.StateError, ["tuple", "init"]),
    "state of other shapes": (
        state(of({"enc": {"w": w().T.copy(), "b": b()}})), af.StateError,
        ["enc.w", "row", "(4, 1)", "(3, 1)"],
    ),
    "state of other options": (
        state(of({"enc": {"w": w(), "b": b()}}, af.Config(0.1))), af.StateError,
        ["enc.b|enc.w", "momentum", "absent"],
    ),
    "state of other dtypes": (
        state(of({"enc": {"w": w().astype(np.float64), "b": b()}})), af.StateError,
        ["enc.w", "float32", "float64"],
    ),
    "state of other tensors": (
        state(of({"dec": w()})), af.TreeError, ["state.moments", "enc.w", "dec"],
    ),
    "state without a tensor": (
        state(of({"enc": {"w": w()}})), af.TreeError, ["state.moments", "Missing: 'enc.b'"],
    ),
    "state of a library": (
        state(lambda s: af.State(s.step, {"enc": {"w": {"v": w()}, "b": {"v": b()}}})),
        (af.StateError, af.TreeError), ["enc.b|enc.w"],
    ),
    "slot missing": (moments(row=None), af.StateError, ["enc.w", "row", "absent"]),
    "slot too many": (moments(full=w()), af.StateError, ["enc.w", "full", "absent"]),
    "slot squeezed": (
        moments(row=np.zeros(4, np.float32)), af.StateError, ["enc.w", "row", "(4,)"],
    ),
    "slot rounded by a checkpoint": (
        moments(row=np.zeros((4, 1), np.float16)), af.StateError, ["enc.w", "row", "float16"],
    ),
    "slot a float": (moments(row=0.0), af.StateError, ["enc.w", "row", "float"]),
    "counter None": (state(lambda s: s._replace(step=None)), af.StateError, ["step", "NoneType"]),
    "counter a string": (state(lambda s: s._replace(step="3")), af.StateError, ["step", "str"]),
    "counter a float": (state(lambda s: s._replace(step=1.5)), af.StateError, ["step", "float"]),
    "counter negative": (state(lambda s: s._replace(step=-5)), af.StateError, ["step", "-5"]),
    "counter a vector": (
        state(lambda s: s._replace(step=np.zeros(2, np.int32))), af.StateError, ["step", "(2,)"],
    ),
    "config a number": (config(0.1), af.ConfigError, ["Config", "float"]),
    "config a dict": (config({"lr": 0.1}), af.ConfigError, ["Config", "dict"]),
    "momentum switched off in the middle": (
        config(af.Config(0.1)), af.StateError, ["momentum", "absent", "start over"],
    ),
    "factoring switched off in the middle": (
        config(af.Config(0.1, beta1=0.9, factored=False)), af.StateError,
        ["enc.w", "row", "absent"],
    ),
    "a rule for no tensor": (
        config(af.Config(0.1, beta1=0.9, rules=[("dec.*", {})])), af.ConfigError, ["dec.*", "enc."],
    ),
    "axes that a tensor does not have": (
        config(af.Config(0.1, beta1=0.9, batch_axes=1)), af.ShapeError,
        ["enc.b", "(3,)", "batch_axes"],
    ),
    "a schedule that returns NaN": (
        config(af.Config(lambda t: float("nan"), beta1=0.9)), af.ConfigError, ["lr", "nan", "t=1"],
    ),
}  # fmt: skip
BASES = {
    af.ShapeError: ValueError, af.TreeError: ValueError, af.StateError: ValueError,
    af.ConfigError: ValueError, af.DTypeError: TypeError, af.ReadOnlyError: ValueError,
    af.NonFiniteError: RuntimeError, af.DeviceError: ValueError,
}  # fmt: skip


def snapshot(call):
    leaves = optree.tree_leaves((call.params, call.grads, call.state))
    return [(type(x), x.tobytes() if isinstance(x, np.ndarray) else x) for x in leaves]


def raises(call, run, error, words):
    before = snapshot(call)
    with pytest.raises(error) as caught:
        run(call)
    message = str(caught.value)
    assert isinstance(caught.value, af.AdafactorError)
    assert isinstance(caught.value, BASES[type(caught.value)])
    for alternatives in words:
        assert any(word in message for word in alternatives.split("|")), message
    assert REMEDY.search(message), message
    assert len(message) < 600, "an error prints no arrays"
    after = snapshot(call)
    assert len(before) == len(after)
    for (kind, old), (same, new) in zip(before, after, strict=True):
        assert kind is same
        assert old is new or old == new


@pytest.mark.parametrize("donate", [False, True], ids=["pure", "donated"])
@pytest.mark.parametrize(("change", "error", "words"), CASES.values(), ids=CASES)
def test_step_refuses(change, error, words, donate):
    call = Call()
    change(call)
    raises(
        call,
        lambda c: af.step(c.params, c.grads, c.state, c.config, donate=donate),
        error,
        words,
    )


@pytest.mark.parametrize(("change", "error", "words"), CASES.values(), ids=CASES)
def test_update_refuses(change, error, words):
    call = Call()
    change(call)
    raises(call, lambda c: af.update(c.grads, c.state, c.params, c.config), error, words)


@pytest.mark.parametrize("function", [af.init, af.memory_report], ids=["init", "memory_report"])
@pytest.mark.parametrize(
    "name", [n for n, row in CASES.items() if n.startswith("parameter") and row[1] is af.DTypeError]
)
def test_parameters_are_checked_before_there_is_a_state(function, name):
    change, error, words = CASES[name]
    call = Call()
    change(call)
    raises(call, lambda c: function(c.params, c.config), error, words)


@pytest.mark.parametrize("function", [af.init, af.memory_report], ids=["init", "memory_report"])
@pytest.mark.parametrize(
    "name",
    [
        "config a number",
        "config a dict",
        "a rule for no tensor",
        "axes that a tensor does not have",
    ],
)
def test_configs_are_checked_before_there_is_a_state(function, name):
    change, error, words = CASES[name]
    call = Call()
    change(call)
    raises(call, lambda c: function(c.params, c.config), error, words)


@pytest.mark.parametrize("at", range(3))
def test_one_bad_tensor_of_many_leaves_all_the_others_as_they_were(at):
    """Everything is checked before anything is computed, also with donated arrays."""
    x, g = (
        [normal((5, 4), seed=i) for i in range(3)],
        [normal((5, 4), seed=i + 3) for i in range(3)],
    )
    state = af.init(x)
    before = [a.tobytes() for a in optree.tree_leaves((x, state))]
    g[at] = g[at][:, :2]
    with pytest.raises(af.ShapeError, match=f"'{at}'"):
        af.step(x, g, state, donate=True)
    assert [a.tobytes() for a in optree.tree_leaves((x, state))] == before


@pytest.mark.backends("torch", "jax", "strict", "dask")
def test_dtypes_are_named_on_every_library(backend):
    ints = backend.lib.asarray([1, 2, 3]) if backend.name != "jax" else backend.lib.numpy.arange(3)
    with pytest.raises(af.DTypeError, match=r"'b' of shape \(3,\) has dtype .*int.*Cast it"):
        af.init({"b": ints})


@pytest.mark.backends("strict")
def test_tensors_of_two_devices_are_refused_by_name(backend):
    x = backend.asarray(w())
    g = backend.lib.asarray(w())
    with pytest.raises(af.AdafactorError, match=r"(?s)'enc\.w'.*device"):
        af.step({"enc": {"w": x}}, {"enc": {"w": g}}, af.init({"enc": {"w": x}}))


def test_the_table_holds_what_it_says():
    """Without its change, each call works."""
    call = Call()
    new, _ = af.step(call.params, call.grads, call.state, call.config)
    assert np.all(np.isfinite(new["enc"]["w"]))
    assert len(CASES) > 45


def test_every_error_is_exported_and_derives_from_a_builtin():
    for error, base in BASES.items():
        assert issubclass(error, (af.AdafactorError, base))
        assert issubclass(error, base)
        assert getattr(af, error.__name__) is error
