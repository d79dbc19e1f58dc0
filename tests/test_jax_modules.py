"""adafactor_jax with the modules of equinox and flax, as their users write it."""

import importlib
import importlib.util
from itertools import pairwise

import numpy as np
import pytest

import adafactor_core as af
from _run import normal

pytestmark = pytest.mark.backends("jax")
STEPS = 4


@pytest.fixture
def jax(backend):
    """With JAX's own promotion, which these libraries count on."""
    needed("optax")
    with backend.lib.numpy_dtype_promotion("standard"), backend.lib.numpy_rank_promotion("allow"):
        yield backend.lib


@pytest.fixture
def lib(jax):
    import adafactor_jax

    return adafactor_jax


def needed(name):
    if importlib.util.find_spec(name.split(".")[0]) is None:
        pytest.skip(f"{name} is not installed")
    return importlib.import_module(name)


def data(jax):
    return jax.numpy.asarray(normal((16, 4)), np.float32)


def falls(losses):
    assert all(later < loss for loss, later in pairwise(losses)), losses


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_equinox(jax, lib):
    eqx = needed("equinox")
    model, x = eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(0)), data(jax)
    tx = lib.adafactor(1e-2, rules=[("layers.*.bias", {"lr": 0.0})])
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    before = model.layers[0].bias

    @eqx.filter_jit
    def step(model, state):
        loss, g = eqx.filter_value_and_grad(lambda m: (jax.vmap(m)(x) ** 2).mean())(model)
        d, state = tx.update(g, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, d), state, loss

    losses = []
    for _ in range(STEPS):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    falls(losses)
    assert np.array_equal(model.layers[0].bias, before)
    assert isinstance(state.moments.layers[0].weight, af.Moments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nnx(jax, lib):
    nnx, x = needed("flax.nnx"), data(jax)
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    tx = lib.adafactor(1e-2, beta1=0.9, telemetry=True)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, g = nnx.value_and_grad(lambda m: (m(x) ** 2).mean())(model)
        optimizer.update(model, g)
        return loss

    falls([float(step(model, optimizer)) for _ in range(STEPS)])
    assert int(optimizer.opt_state.step[...]) == STEPS


def wrapped(name, tx):
    optax = needed("optax")
    if name == "MultiSteps":
        return optax.MultiSteps(tx, 2).gradient_transformation()
    return optax.apply_if_finite(tx, 3) if name == "apply_if_finite" else tx


class Training:
    """A layer with its nnx.Optimizer, as a script builds both anew for every run."""

    def __init__(self, jax, lib, name):
        nnx = needed("flax.nnx")
        tx = lib.adafactor(1e-2, beta1=0.9, telemetry=True, nonfinite="skip_tensor")
        self.model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        self.optimizer = nnx.Optimizer(self.model, wrapped(name, tx), wrt=nnx.Param)
        self.traces, x = 0, data(jax)

        def step(model, optimizer):
            self.traces += 1
            loss, g = nnx.value_and_grad(lambda m: (m(x) ** 2).mean())(model)
            optimizer.update(model, g)
            return loss

        self._step = nnx.jit(step)

    def run(self, n):
        return [float(self._step(self.model, self.optimizer)) for _ in range(n)]

    def arrays(self):
        nnx = needed("flax.nnx")
        return nnx.state(self.model), nnx.state(self.optimizer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["bare", "MultiSteps", "apply_if_finite"])
def test_nnx_under_wrappers_that_branch(jax, lib, name):
    """A lax.cond in them refuses an update that changes the containers of the state."""
    training = Training(jax, lib, name)
    losses = training.run(6)
    falls(losses[1::2])
    assert training.traces == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["bare", "MultiSteps", "apply_if_finite"])
def test_nnx_goes_on_from_a_checkpoint(jax, lib, name, tmp_path):
    checkpoints, nnx = needed("orbax.checkpoint").StandardCheckpointer(), needed("flax.nnx")
    first, second = (Training(jax, lib, name) for _ in range(2))
    first.run(3)
    checkpoints.save(tmp_path / "3", first.arrays())
    checkpoints.wait_until_finished()
    first.run(3)
    model, optimizer = checkpoints.restore(tmp_path / "3", second.arrays())
    nnx.update(second.model, model)
    nnx.update(second.optimizer, optimizer)
    second.run(3)
    checkpoints.close()
    assert jax.tree.structure(second.arrays()) == jax.tree.structure(first.arrays())
    for a, b in zip(*(jax.tree.leaves(run.arrays()) for run in (first, second)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_linen(jax, lib):
    linen, training = needed("flax.linen"), needed("flax.training.train_state")
    model, x = linen.Dense(2), data(jax)
    params = model.init(jax.random.key(0), x)["params"]
    state = training.TrainState.create(apply_fn=model.apply, params=params, tx=lib.adafactor(1e-2))

    @jax.jit
    def step(state):
        def loss(params):
            return (state.apply_fn({"params": params}, x) ** 2).mean()

        value, g = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=g), value

    losses = []
    for _ in range(STEPS):
        state, loss = step(state)
        losses.append(float(loss))
    falls(losses)
    assert int(state.opt_state.step) == STEPS
