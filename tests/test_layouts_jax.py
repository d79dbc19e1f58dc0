"""Formats of the JAX family, with optax and flax themselves."""

import numpy as np
import pytest

import adafactor_core as af
from _layout_states import same
from adafactor_core import interchange, layouts

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax", reason="optax is not installed")
jnp = jax.numpy
pytestmark = pytest.mark.backends("jax")


@pytest.fixture(autouse=True)
def usual(backend):
    """With JAX's own promotion, which optax and flax count on."""
    with backend.lib.numpy_dtype_promotion("standard"), backend.lib.numpy_rank_promotion("allow"):
        yield


SHAPES = {"tall": (7, 5), "wide": (5, 7), "square": (6, 6), "thin": (6, 2, 7), "b": (5,), "s": ()}
CALL = {"learning_rate": 0.01, "min_dim_size_to_factor": 2}
OPTIONS = {"min_dim_size_to_factor": 2}


def problem(shapes=SHAPES, dtype="float32"):
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s) + 1, dtype) for n, s in shapes.items()}
    grads = [{n: jnp.asarray(rng.standard_t(3, size=s), dtype) for n, s in shapes.items()}
             for _ in range(10)]  # fmt: skip
    return params, grads


def train(tx, params, state, grads):
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def error(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y))) for x, y in pairs)


def ours(**more):
    from adafactor_jax import adafactor

    config = af.variants.optax(lr=0.01, min_dim_size_to_factor=2, **more)
    return adafactor(**af.variants.options(config)), config


def test_optax_into_ours_and_on():
    params, grads = problem()
    tx, (mine, config) = optax.adafactor(**CALL), ours()
    middle, state = train(tx, params, tx.init(params), grads[:5])
    record = layouts.read(state, "optax", middle, options=OPTIONS)
    there = layouts.write(record, "adafactor_core", mine.init(middle), options=config)
    assert jax.tree.structure(there) == jax.tree.structure(mine.init(middle))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(there))
    a, _ = train(mine, middle, there, grads[5:])
    b, _ = train(tx, middle, state, grads[5:])
    assert error(a, b) < 1e-6


def test_ours_into_optax_and_on():
    params, grads = problem()
    mine, config = ours(beta1=0.9)
    tx = optax.adafactor(**CALL, momentum=0.9)
    middle, state = train(mine, params, mine.init(params), grads[:5])
    record = layouts.read(state, "adafactor_core", middle, options=config)
    there = layouts.write(record, "optax", tx.init(middle))
    assert jax.tree.structure(there) == jax.tree.structure(tx.init(middle))
    a, _ = train(tx, middle, there, grads[5:])
    b, _ = train(mine, middle, state, grads[5:])
    assert error(a, b) < 1e-6


def test_flat_keys_are_those_of_the_whole_optimizer(tmp_path):
    from adafactor_core.layouts._main import main

    params, grads = problem()
    mine, config = ours(beta1=0.9)
    middle, state = train(mine, params, mine.init(params), grads[:5])
    record = layouts.read(state, "adafactor_core", middle, options=config)
    source, target = str(tmp_path / "in.npz"), str(tmp_path / "out.npz")
    interchange.write(source, record)
    small = ["--to-options", '{"min_dim_size_to_factor": 2}']
    assert main([source, target, "--to", "optax", *small]) == 0
    tx = optax.adafactor(**CALL, momentum=0.9)
    leaves = {
        key: np.frombuffer(raw.bytes(), raw.dtype).reshape(raw.shape)
        for key, raw in interchange.read_arrays(target)[0].items()
    }
    there = layouts.filled(tx.init(params), leaves)
    assert layouts.flat(there).keys() == leaves.keys()
    a, _ = train(tx, middle, there, grads[5:])
    b, _ = train(mine, middle, state, grads[5:])
    assert error(a, b) < 1e-6


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "hyperparameters": lambda tx: optax.inject_hyperparams(
        lambda learning_rate: optax.chain(tx, optax.scale(learning_rate))
    )(learning_rate=1.0),
    "finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, dict.fromkeys(SHAPES, True)),
    "partition": lambda tx: optax.partition(
        {"a": tx, "b": tx}, {n: "ab"[k % 2] for k, n in enumerate(SHAPES)}
    ),
    "schedule": lambda _: optax.adafactor(
        optax.constant_schedule(0.01), min_dim_size_to_factor=2, momentum=0.9
    ),
}


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_wrappers_make_no_difference(name):
    params, grads = problem()
    tx = WRAPPERS[name](optax.adafactor(**CALL, momentum=0.9))
    _, state = train(tx, params, tx.init(params), grads[:3])
    record = layouts.read(state, "optax", params, options=OPTIONS)
    assert record.step == 3
    assert all("momentum" in t.slots for t in record.tensors)
    back = layouts.write(record, "optax", tx.init(params))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    one, two = layouts.flat(state), layouts.flat(back)
    for key, x in one.items():
        if "hyperparams" not in key and "finite" not in key:
            assert (x.dtype, x.shape) == (two[key].dtype, two[key].shape), key
            assert np.array_equal(x, two[key]), key


def test_accumulation_has_two_counters_of_its_own():
    params, grads = problem()
    tx = optax.MultiSteps(optax.adafactor(**CALL), 2)
    _, state = train(tx, params, tx.init(params), grads[:4])
    record = layouts.read(state, "optax", params, options=OPTIONS)
    assert record.step == 2
    back = layouts.write(record, "optax", state)
    assert int(back.gradient_step) == 2
    assert int(back.inner_opt_state[0].count) == 2


def test_masked_parameters_are_no_part_of_it():
    params, grads = problem()
    mask = {n: n != "b" for n in params}
    tx = optax.masked(optax.adafactor(**CALL), mask)
    _, state = train(tx, params, tx.init(params), grads[:2])
    record = layouts.read(state, "optax", params, options=OPTIONS)
    assert {t.path for t in record.tensors} == params.keys() - {"b"}


def test_bfloat16_statistics_come_back_to_the_bit():
    params, grads = problem(dtype="bfloat16")
    tx = optax.adafactor(**CALL, momentum=0.9, dtype_momentum=jnp.bfloat16)
    _, state = train(tx, params, tx.init(params), grads[:3])
    record = layouts.read(state, "optax", params, options=OPTIONS)
    assert record.tensors[0].slots["row"].dtype == "float32"
    assert record.tensors[0].slots["momentum"].dtype == "bfloat16"
    back = layouts.write(record, "optax", tx.init(params))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_arrays_lie_where_the_template_has_them():
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    params, grads = problem({"w": (6, 4)})
    tx = optax.adafactor(**CALL, momentum=0.9)
    _, state = train(tx, params, tx.init(params), grads[:1])
    mesh = Mesh(np.array(jax.devices()[:1]), ("x",))
    place = NamedSharding(mesh, PartitionSpec())
    template = jax.device_put(tx.init(params), place)
    made = layouts.write(layouts.read(state, "optax", params, options=OPTIONS), "optax", template)
    assert all(x.sharding == place for x in jax.tree.leaves(made))


def test_a_state_under_a_trace_is_refused_by_name():
    params, _ = problem({"w": (5,)})
    state = optax.adafactor(**CALL).init(params)

    def look(state):
        record = layouts.read(state, "optax", params, options=OPTIONS, step=1)
        return record.tensors[0].slots["full"].bytes()

    with pytest.raises(Exception, match=r"[Tt]rac"):
        jax.jit(look)(state)


# ---- flax --------------------------------------------------------------------------------------


def linen():
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, tokens):
            x = nn.Conv(5, (2, 2), name="conv")(x)
            x = nn.LayerNorm(name="norm")(x.reshape(x.shape[0], -1))
            x = nn.Dense(4, name="fc")(x)
            return nn.Dense(4, name="out")(x) + nn.Embed(11, 4, name="embed")(tokens)

    x, tokens = jnp.ones((2, 6, 6, 3)), jnp.zeros((2,), "int32")
    return Net().init(jax.random.key(0), x, tokens)


TORCH = {
    "conv.weight": (5, 3, 2, 2),
    "conv.bias": (5,),
    "norm.weight": (180,),
    "norm.bias": (180,),
    "fc.weight": (4, 180),
    "fc.bias": (4,),
    "out.weight": (4, 4),
    "out.bias": (4,),
    "embed.weight": (11, 4),
}
WANTED = {
    "conv.weight": ("conv.kernel", (2, 3, 1, 0)),
    "conv.bias": "conv.bias",
    "norm.weight": "norm.scale",
    "norm.bias": "norm.bias",
    "fc.weight": ("fc.kernel", (1, 0)),
    "fc.bias": "fc.bias",
    "out.weight": ("out.kernel", (1, 0)),
    "out.bias": "out.bias",
    "embed.weight": "embed.embedding",
}


def test_names_of_linen():
    variables = linen()
    names = layouts.torch_to_flax({n: (s, "float32") for n, s in TORCH.items()}, variables)
    assert names == {
        n: f"params.{new}" if isinstance(new, str) else (f"params.{new[0]}", new[1])
        for n, new in WANTED.items()
    }


def nnx_net():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 5, (2, 2), rngs=rngs)
            self.norm = nnx.LayerNorm(180, rngs=rngs)
            self.fc = nnx.Linear(180, 4, rngs=rngs)
            self.out = nnx.Linear(4, 4, rngs=rngs)
            self.embed = nnx.Embed(11, 4, rngs=rngs)

        def __call__(self, x, tokens):
            x = self.norm(self.conv(x).reshape(x.shape[0], -1))
            return self.out(self.fc(x)) + self.embed(tokens)

    return nnx, Net(nnx.Rngs(0))


def test_names_and_states_of_nnx():
    nnx, net = nnx_net()
    params = nnx.state(net, nnx.Param)
    names = layouts.torch_to_flax({n: (s, "float32") for n, s in TORCH.items()}, params)
    assert names == WANTED
    optimizer = nnx.Optimizer(net, optax.adafactor(**CALL), wrt=nnx.Param)
    x, tokens = jnp.ones((2, 6, 6, 3)), jnp.zeros((2,), "int32")
    grads = nnx.grad(lambda m: jnp.square(m(x, tokens) - 1).mean())(net)
    optimizer.update(net, grads)
    boxed = optimizer.opt_state  # its leaves are Variables
    state = getattr(nnx, "as_pure", nnx.pure)(boxed)
    record = layouts.read(state, "optax", params, options=OPTIONS)
    same(record, layouts.read(boxed, "optax", params, options=OPTIONS))
    assert record.step == 1
    assert {t.path for t in record.tensors} == {
        new if isinstance(new, str) else new[0] for new in WANTED.values()
    }
    back = layouts.write(record, "optax", state)
    one, two = layouts.flat(state), layouts.flat(back)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_torch_modules_and_flax_together():
    torch = pytest.importorskip("torch")
    net = torch.nn.Module()
    net.conv, net.norm = torch.nn.Conv2d(3, 5, (2, 2)), torch.nn.LayerNorm(180)
    net.fc, net.out = torch.nn.Linear(180, 4), torch.nn.Linear(4, 4)
    net.embed = torch.nn.Embedding(11, 4)
    _, flax = nnx_net()
    nnx = pytest.importorskip("flax.nnx")
    there = nnx.state(flax, nnx.Param)
    names = layouts.torch_to_flax(net, there)
    assert names == WANTED
    # A torch run's state, taken over: what was indexed by outputs is indexed by outputs.
    from adafactor_torch import Adafactor

    optimizer = Adafactor(net.named_parameters(), beta1=0.9)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    record = layouts.read(optimizer.state_dict(), "adafactor_torch", net)
    moved = layouts.reshaped(layouts.renamed(record, names), af.Config(beta1=0.9))
    params = layouts.flat(there)
    state = interchange.state(moved, params, af.Config(beta1=0.9))
    for name, new in WANTED.items():
        path, axes = new if isinstance(new, tuple) else (new, None)
        m = optimizer.state[net.get_parameter(name)]["momentum"].numpy()
        m = m if axes is None else m.transpose(axes)
        np.testing.assert_array_equal(state.moments[path].momentum, m)
    back = layouts.renamed(moved, layouts.inverse(names))
    same(layouts.reshaped(back, af.Config(beta1=0.9)), record)
