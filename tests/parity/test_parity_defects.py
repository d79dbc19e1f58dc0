"""Defects of other implementations that ours leaves out on purpose (peers' known bugs).

Each is shown on the implementation itself, so that a version that mends it is noticed; ours is held
to the float64 oracle of the conformance kit on the same input.
"""

import numpy as np
import pytest
from _peer_inputs import SHAPES, error, problem
from _peers import DISTRIBUTIONS, installed, ours, theirs

import adafactor_core as af
from adafactor_core import conformance, variants

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STEPS = 10


def run(peer, call, shapes, dtype="float32"):
    """The peer's trajectory, and the input."""
    if installed(peer) is None:
        pytest.skip(f"{DISTRIBUTIONS[peer]} is not installed: nox -s parity")
    params, grads = problem({name: SHAPES[name] for name in shapes}, dtype, STEPS)
    return theirs(peer)(call, params, grads, None), params, grads


def right(config, params, grads, dtype="float32", tolerance=1e-6):
    """Our trajectory, found to be the oracle's."""
    found = ours(config, params, grads)
    wide = [{n: x.astype(np.float64) for n, x in tree.items()} for tree in (params, *grads)]
    expected = conformance.oracle(wide[0], wide[1:], variants.options(config), dtype)
    assert error(found, [dict(step) for step in expected.params]) <= tolerance
    return found


def finite(trajectory):
    return all(np.isfinite(x).all() for step in trajectory for x in step.values())


def test_keras_a_dead_row_that_crosses_a_dead_column_is_nan():
    found, params, grads = run("keras", {}, ["dead"])
    assert np.isnan(found[0]["dead"][2, 3])
    assert not finite(found)
    assert finite(right(variants.from_keras_kwargs(), params, grads))


def test_keras_relative_step_false_keeps_the_cap():
    call = {"learning_rate": 0.5, "relative_step": False}
    found, params, grads = run("keras", call, ["matrix", "vector"])
    mine = right(variants.from_keras_kwargs(**call), params, grads)
    assert error(mine, found) > 0.1
    capped = right(variants.from_keras_kwargs(learning_rate=0.5), params, grads)
    assert error(capped, found) <= 1e-6


def test_keras_keeps_a_full_second_moment_of_factored_variables():
    run("keras", {}, ["matrix"])
    import keras

    x = keras.Variable(np.ones((40, 36), np.float32))
    optimizer = keras.optimizers.Adafactor()
    optimizer.build([x])
    assert any(tuple(v.shape) == (40, 36) for v in optimizer.variables)
    moments = af.init(np.ones((40, 36), np.float32), variants.keras()).moments
    assert moments.full is None


def test_torch_an_epsilon_of_bfloat16_leaks_to_the_float32_tensor_after_it():
    run("torch", {}, ["vector"])
    import torch

    def stepped(first):
        params = [torch.nn.Parameter(torch.ones(4, dtype=d)) for d in (first, torch.float32)]
        optimizer = torch.optim.Adafactor(params, lr=0.1, foreach=False)
        for p in params:
            p.grad = torch.full_like(p, 1e-4)
        optimizer.step()
        return params[1].detach().numpy()

    alone, behind = stepped(torch.float32), stepped(torch.bfloat16)
    assert np.max(np.abs(alone - behind)) > 0.05
    x, g = np.ones(4, np.float32), np.full(4, 1e-4, np.float32)
    (mine,) = right(variants.from_torch_kwargs(lr=0.1), {"x": x}, [{"x": g}])
    np.testing.assert_allclose(mine["x"], alone, rtol=1e-6)


def test_torch_with_the_papers_epsilon_dead_rows_are_nan():
    call = {"eps": (1e-30, 1e-3)}
    found, params, grads = run("torch", {**call, "foreach": False}, ["dead"])
    assert not finite(found)
    assert finite(right(variants.from_torch_kwargs(**call), params, grads))


def test_optax_an_offset_beyond_the_count_is_nan_for_good():
    call = {"learning_rate": 1e-2, "decay_offset": 2, "min_dim_size_to_factor": 2}
    found, params, grads = run("optax", call, ["matrix", "vector"])
    assert all(np.isnan(x).all() for x in found[-1].values())
    assert finite(right(variants.from_optax_kwargs(**call), params, grads))


def test_optax_averages_with_another_number_beside_a_bfloat16_momentum():
    call = {
        "learning_rate": 1e-2, "momentum": 0.9, "dtype_momentum": "bfloat16",
        "min_dim_size_to_factor": 2,
    }  # fmt: skip
    found, params, grads = run("optax", call, ["matrix", "large"])
    same = variants.from_optax_kwargs(**call)
    assert error(ours(same, params, grads), found) <= 1e-5
    options = {"beta1": 0.9, "momentum_dtype": "bfloat16", "min_dim_size_to_factor": 2}
    better = variants.optax(1e-2, **options, momentum_arithmetic="float32")
    assert error(right(better, params, grads, tolerance=1e-4), found) > 1e-4


def test_transformers_and_torch_cast_a_loaded_state_to_bfloat16():
    run("transformers", {}, ["vector"])
    import torch
    from transformers import Adafactor as Theirs

    from adafactor_torch import Adafactor

    def loaded(make, slot):
        p = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
        p.grad = torch.full_like(p, 0.1)
        one, other = make([p]), make([p])
        one.step()
        other.load_state_dict(one.state_dict())
        return one.state[p][slot].dtype, other.state[p][slot].dtype

    ours_ = lambda params: Adafactor(params, variant="transformers")  # noqa: E731
    assert loaded(Theirs, "exp_avg_sq_row") == (torch.float32, torch.bfloat16)
    assert loaded(ours_, "row") == (torch.float32, torch.float32)


def test_timm_writes_to_the_rate_of_the_group():
    run("timm", {}, ["vector"])
    import torch
    from timm.optim import Adafactor as Theirs

    from adafactor_torch import Adafactor

    p = torch.nn.Parameter(torch.ones(4, 4))
    p.grad = torch.full_like(p, 0.1)
    theirs_, mine = Theirs([p]), Adafactor([p], variant="timm")
    theirs_.step()
    mine.step()
    assert theirs_.param_groups[0]["lr"] is not None
    assert mine.param_groups[0]["lr"] == 1.0


def test_came_divides_the_momentum_of_matrices_by_a_confidence():
    found, params, grads = run("came", {"lr": 1e-2}, ["matrix"])
    assert error(right(variants.came_vectors(1e-2), params, grads), found) > 0.1


def test_torch_caps_the_rate_and_step_size_none_does_not():
    found, params, grads = run("torch", {"lr": 0.9, "foreach": False}, ["matrix"])
    exact = right(variants.torch(0.9, step_size=None), params, grads, tolerance=1e-5)
    assert error(exact[-1:], found[-1:]) > 0.1
