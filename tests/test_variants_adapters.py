"""`variant=` in every adapter, against the core with the same Config."""

import functools
import importlib

import numpy as np
import pytest

import adafactor_core as af
from _run import normal
from adafactor_core import variants
from adafactor_core.interchange._options import options_of

each = pytest.mark.parametrize("name", variants.names())
SHAPES = {"w": (6, 5), "b": (5,), "large": (130, 140), "stack": (3, 20, 18)}


def tensors(seed=0):
    return {name: normal(shape, seed).astype(np.float32) for name, shape in SHAPES.items()}


def trajectory(config, steps=3):
    """What the core makes of it; the adapters are held to this."""
    x, state = tensors(), None
    state = af.init(x, config)
    for t in range(1, steps + 1):
        x, state = af.step(x, tensors(t), state, config)
    return x


def same(found, config, rounded=1e-6):
    expected = trajectory(config)
    for name, want in expected.items():
        got = np.asarray(found[name])
        # 16-bit momentum flips where sums were taken in another order.
        bound = rounded if config.momentum_dtype == "float32" else 2e-3
        assert np.max(np.abs(got - want)) <= bound * np.max(np.abs(want)), name


@each
@pytest.mark.filterwarnings("ignore:Numba is not installed")
def test_numpy_takes_a_variant_by_name(name):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    from adafactor_numpy import Adafactor

    options = {"lr": 0.05, "weight_decay": 0.1}
    params, config = tensors(), variants.get(name)(**options)
    optimizer = Adafactor(params, variant=name, **options)
    assert optimizer.config == config
    assert Adafactor(tensors(), variant=variants.get(name), **options).config == config
    for t in range(1, 4):
        optimizer.step(tensors(t))
    same(params, config)


@pytest.mark.filterwarnings("ignore:Numba is not installed")
def test_numpy_refuses_a_variant_beside_a_config():
    from adafactor_numpy import Adafactor

    with pytest.raises(af.ConfigError, match="variant"):
        Adafactor(tensors(), af.Config(), variant="torch")
    with pytest.raises(af.ConfigError, match="Did you mean 'torch'"):
        Adafactor(tensors(), variant="torhc")
    assert Adafactor(tensors(), af.Config(0.5), variant=None).config == af.Config(0.5)


@each
@pytest.mark.backends("torch")
def test_torch_takes_a_variant_by_name(backend, name):
    import torch

    from adafactor_torch import Adafactor

    options = {"lr": 0.05, "weight_decay": 0.1}
    params = {n: torch.nn.Parameter(torch.tensor(x)) for n, x in tensors().items()}
    optimizer = Adafactor(params.items(), variant=name, **options)
    for t in range(1, 4):
        for n, g in tensors(t).items():
            params[n].grad = torch.tensor(g)
        optimizer.step()
    config = variants.get(name)(**options)
    if config.max_grad_norm is None:
        same({n: p.detach() for n, p in params.items()}, config)
    (group,) = optimizer.param_groups
    assert group["variant"] == name
    assert group["factored_dims"] == config.factored_dims


@each
@pytest.mark.backends("jax")
def test_jax_takes_a_variant_by_name(backend, name):
    import jax
    import jax.numpy as jnp

    from adafactor_jax import adafactor, make_step, scale_by_adafactor

    options = {"lr": 0.05, "weight_decay": 0.1}
    init, step = make_step(variant=name, **options)
    params = jax.tree.map(jnp.asarray, tensors())
    state = init(params)
    for t in range(1, 4):
        params, state = step(params, jax.tree.map(jnp.asarray, tensors(t)), state)
    same(params, variants.get(name)(**options))
    x = {"w": jnp.asarray(tensors()["w"])}
    for make in (
        lambda: adafactor(variant=name, **options),
        lambda: scale_by_adafactor(variant=name),
    ):
        made = make()
        updates, _ = made.update(x, made.init(x), x)
        assert np.isfinite(updates["w"]).all()


@pytest.mark.backends("jax")
def test_jax_the_direction_of_a_variant_is_where_it_goes(backend):
    import jax.numpy as jnp

    from adafactor_jax import scale_by_adafactor

    x = {"w": jnp.asarray(tensors()["stack"])}
    g = {"w": jnp.asarray(tensors(1)["stack"])}
    found = {}
    for name in ("timm_bigvision", "optax", "transformers"):
        made = scale_by_adafactor(variant=name)
        found[name] = np.asarray(made.update(g, made.init(x), x)[0]["w"])
        options = {**variants.get(name).options, "lr": 1.0, "scale_parameter": False}
        config = af.Config(**options)
        d, _ = af.update(tensors(1)["stack"], af.init(tensors()["stack"], config),
                         tensors()["stack"], config)  # fmt: skip
        np.testing.assert_allclose(found[name], -d, rtol=1e-4, atol=1e-6)
    assert np.max(np.abs(found["optax"] - found["transformers"])) > 0.1
    with pytest.raises(af.ConfigError, match="takes no weight_decay"):
        scale_by_adafactor(variant="optax", weight_decay=0.1)
    with pytest.raises(af.ConfigError, match="Did you mean 'optax'"):
        scale_by_adafactor(variant="optaks")


@pytest.mark.backends("jax")
def test_jax_none_is_the_variants_own(backend):
    from adafactor_jax import _options

    given = {"variant": "trax", "lr": None, "weight_decay": None, "beta1": None, "decay_rate": None}
    assert _options.config(given) == variants.trax()


@pytest.mark.backends("jax")
@pytest.mark.parametrize("name", ["palm", "big_vision", "pytorch_optimizer", "mindspore"])
def test_jax_momentum_is_switched_off_with_zero(backend, name):
    import jax
    import jax.numpy as jnp

    from adafactor_jax import make_step

    assert variants.get(name)(0.05).beta1 is not None
    init, step = make_step(0.05, variant=name, beta1=0.0, momentum_dtype="float32")
    params = jax.tree.map(jnp.asarray, tensors())
    state = init(params)
    for t in range(1, 4):
        params, state = step(params, jax.tree.map(jnp.asarray, tensors(t)), state)
    same(params, variants.get(name)(0.05, beta1=None, momentum_dtype="float32"))


@pytest.mark.backends("jax")
def test_jax_a_rate_may_be_traced(backend):
    import jax
    import jax.numpy as jnp

    from adafactor_jax import adafactor

    x = {"w": jnp.asarray(tensors()["w"])}

    @jax.jit
    def update(lr):
        made = adafactor(lr, variant="mesh_tensorflow", scale_parameter=False)
        return made.update(x, made.init(x), x)[0]["w"]

    options = {"lr": 0.25, "scale_parameter": False}
    want = adafactor(variant="mesh_tensorflow", **options)
    np.testing.assert_allclose(
        update(jnp.float32(0.25)), want.update(x, want.init(x), x)[0]["w"], rtol=1e-6
    )


@pytest.mark.backends("numpy", "torch")
@pytest.mark.parametrize("options", [{}, {"variant": "torch"}, {"variant": "timm"}], ids=str)
def test_a_state_file_tells_the_variant(backend, options, tmp_path):
    if backend.name == "torch":
        from adafactor_torch import Adafactor

        optimizer = Adafactor([("w", backend.lib.nn.Parameter(backend.lib.ones(3)))], **options)
    else:
        from adafactor_numpy import Adafactor

        optimizer = Adafactor({"w": np.ones(3, np.float32)}, compiled=False, **options)
    optimizer.save_state(tmp_path / "own.npz")
    optimizer.save_state(tmp_path / "given.npz", variant="mine")
    assert af.interchange.read(tmp_path / "own.npz").variant == options.get("variant", "")
    assert af.interchange.read(tmp_path / "given.npz").variant == "mine"
    optimizer.save_state(tmp_path / "given.npz", variant=variants.optax)
    assert af.interchange.read(tmp_path / "given.npz").variant == "optax"


def test_the_core_writes_the_name_of_a_record(tmp_path):
    x = {"w": np.ones((4, 6), np.float32)}
    af.save_state(tmp_path / "s.npz", x, af.init(x), variant=variants.optax)
    assert af.interchange.read(tmp_path / "s.npz").variant == "optax"
    assert af.interchange.record(x, af.init(x), variant=variants.timm).variant == "timm"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("weight_deacy", "Did you mean 'weight_decay'"),
        ("learning_rate", r"optax\.adafactor.*from_optax_kwargs"),
        ("relative_step", r"transformers\.Adafactor.*from_transformers_kwargs"),
        ("zzz", "Options: lr, "),
    ],
)
@pytest.mark.backends("numpy", "torch", "jax")
def test_words_that_are_no_options_are_told_alike(backend, word, hint):
    if backend.name == "jax":
        from adafactor_jax import adafactor as make
    else:
        module = importlib.import_module(f"adafactor_{backend.name}")
        make = functools.partial(module.Adafactor, [])
    with pytest.raises(af.ConfigError, match=f"unknown option '{word}'. .*{hint}"):
        make(**{word: 1})


@each
@pytest.mark.backends("jax")
def test_jax_a_state_file_is_of_the_variant_that_it_names(backend, name, tmp_path):
    import jax
    import jax.numpy as jnp

    from adafactor_jax import adafactor, load_state, save_state

    options = {"lr": 0.05, "variant": name, "beta1": 0.5}
    params = {"w": jnp.ones((40, 36)), "b": jnp.ones(36)}
    made = adafactor(**options)
    _, state = made.update(params, made.init(params), params)
    for variant in (name, variants.get(name)):
        save_state(tmp_path / "s", params, state, **{**options, "variant": variant})
        record = af.interchange.read(tmp_path / "s")
        assert record.variant == name
        assert record.options == options_of(variants.get(name)(0.05, beta1=0.5))
        loaded = load_state(tmp_path / "s", params, **{**options, "variant": variant})
        assert jax.tree.structure(loaded) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.backends("jax")
def test_jax_a_label_that_is_no_variant_is_refused(backend, tmp_path):
    from adafactor_jax import adafactor, save_state

    params = {"w": backend.lib.numpy.ones((4, 6))}
    with pytest.raises(af.ConfigError, match="Did you mean 'optax'"):
        save_state(tmp_path / "s", params, adafactor().init(params), variant="optaks")
    assert not (tmp_path / "s").exists()
