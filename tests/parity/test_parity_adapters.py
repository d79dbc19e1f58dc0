"""Our adapters with `variant=` in the place of the real optimizer, on modules of its framework."""

import numpy as np
import pytest
from _peer_inputs import SHAPES, error, problem
from _peers import installed, ours, theirs

import adafactor_core as af
from adafactor_core import variants

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STEPS = 10


def needed(peer):
    if installed(peer) is None:
        pytest.skip(f"{peer} is not installed: nox -s parity")


def trained(make):
    """Parameters after each step of a convolutional network on fixed inputs."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 20, 3), nn.Flatten(), nn.LayerNorm(320),
        nn.Linear(320, 40), nn.Tanh(), nn.Linear(40, 1),
    )  # fmt: skip
    inputs, optimizer, after = torch.randn(8, 3, 8, 8), make(model), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        after.append({name: p.detach().numpy().copy() for name, p in model.named_parameters()})
    return after


@pytest.mark.parametrize("peer", ["torch", "transformers", "timm", "adafactor8bit"])
def test_torch_modules_train_alike(peer):
    needed(peer)
    from _peer_torch import MAKERS

    from adafactor_torch import Adafactor

    expected = trained(lambda model: MAKERS[peer](list(model.parameters())))
    found = trained(lambda model: Adafactor(model.named_parameters(), variant=peer))
    # The gradients follow the parameters, so that rounding feeds on itself.
    assert error(found, expected) <= 5e-6


def test_flax_modules_train_alike():
    needed("optax")
    linen = pytest.importorskip("flax.linen")
    import jax
    import jax.numpy as jnp
    import optax

    from adafactor_jax import adafactor

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(24, (3, 3))(x))
            return linen.Dense(1)(linen.LayerNorm()(linen.Dense(40)(x.reshape(len(x), -1))))

    x = jax.random.normal(jax.random.key(0), (8, 6, 6, 3))
    start = Network().init(jax.random.key(1), x)

    def train(transformation):
        @jax.jit
        def step(params, state):
            grads = jax.grad(lambda p: jnp.mean(Network().apply(p, x) ** 2))(params)
            updates, state = transformation.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params, state, after = start, transformation.init(start), []
        for _ in range(STEPS):
            params, state = step(params, state)
            leaves = jax.tree_util.tree_leaves_with_path(params)
            after.append({jax.tree_util.keystr(k): np.asarray(a) for k, a in leaves})
        return after

    call = {"learning_rate": optax.cosine_decay_schedule(1e-2, 20), "min_dim_size_to_factor": 16}
    config = variants.from_optax_kwargs(**call)
    ours = adafactor(variant="optax", lr=config.lr, min_dim_size_to_factor=16)
    assert error(train(ours), train(optax.adafactor(**call))) <= 5e-6
    assert ours.init(start).moments["params"]["Dense_1"]["kernel"].full is None


def test_schedules_of_keras_count_from_0():
    needed("keras")
    import _peer_others

    import keras  # isort: skip

    rate = keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)
    params, grads = problem({"matrix": SHAPES["matrix"]}, "float32", STEPS)
    expected = _peer_others.keras({"learning_rate": rate}, params, grads)
    found = ours(variants.from_keras_kwargs(learning_rate=rate), params, grads)
    assert error(found, expected) <= 1e-6


@pytest.mark.parametrize(
    ("peer", "call", "least"),
    [
        ("timm", {}, 17),  # its 16 is exclusive
        ("timm_bigvision", {"lr": 1e-2, "momentum": None}, 16),
        ("optax", {"learning_rate": 1e-2}, 128),
    ],
)
def test_the_least_size_that_is_factored(peer, call, least):
    needed(peer)
    config = {
        "timm": variants.timm(),
        "timm_bigvision": variants.timm_bigvision(1e-2, beta1=None),
        "optax": variants.optax(1e-2),
    }[peer]
    shapes = {str(size): (size, least + 1) for size in (least - 1, least)}
    params, grads = problem(shapes, "float32", STEPS)
    expected = theirs(peer)(call, params, grads, None)
    found = ours(config, params, grads)
    assert error(found, expected) <= 1e-6
    slots = af.init(params, config).moments
    assert slots[str(least)].full is None
    assert slots[str(least - 1)].row is None
