"""State files of adafactor_jax: trees of JAX's own, meshes, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adafactor_core as af

pytestmark = pytest.mark.backends("jax")


def test_on_meshes(backend):
    program = Path(__file__).with_name("_jax_state_file.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 6
    failed = [f"{name}\n{report}" for name, report in found.items() if report]
    assert not failed, "\n".join(failed)


def made(tmp_path, **options):
    import jax.numpy as jnp

    from adafactor_jax import adafactor, save_state

    params = {"a": [jnp.ones((4, 6)), jnp.ones(3)], "b": (jnp.ones(()),)}
    state = adafactor(**options).init(params)
    save_state(tmp_path / "s", params, state, **options)
    return params, state, tmp_path / "s"


def test_paths_and_options(backend, tmp_path):
    lr = af.schedules.cosine(0.1, total=10)
    params, state, file = made(tmp_path, lr=lr, weight_decay=backend.lib.numpy.float32(0.5))
    record = af.interchange.read(file)
    assert [t.path for t in record.tensors] == ["a.0", "a.1", "b.0"]
    assert record.options["lr"] == {"schedule": repr(lr)}
    assert "schedule" in record.options["weight_decay"]
    assert type(state.step) is type(params["b"][0])


def test_the_state_goes_on_in_the_core(backend, tmp_path):
    _, _, file = made(tmp_path, beta1=0.9)
    x = {
        "a": [np.ones((4, 6), np.float32), np.ones(3, np.float32)],
        "b": (np.ones((), np.float32),),
    }
    loaded = af.load_state(file, x, af.Config(beta1=0.9))
    af.step(x, x, loaded, af.Config(beta1=0.9))


def test_a_chain_has_its_own_element(backend, tmp_path):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    from adafactor_jax import adafactor, load_state, save_state

    params = {"w": backend.lib.numpy.ones((4, 6))}
    tx = optax.chain(optax.clip(1.0), adafactor(0.1))
    state = tx.init(params)
    with pytest.raises(af.StateError, match="state must be a State"):
        save_state(tmp_path / "s", params, state, lr=0.1)
    save_state(tmp_path / "s", params, state[1], lr=0.1)
    state = (state[0], load_state(tmp_path / "s", params, lr=0.1))
    tx.update(params, state, params)


def test_what_does_not_fit(backend, tmp_path):
    from adafactor_jax import load_state

    params, _, file = made(tmp_path)
    with pytest.raises(af.StateError, match=r"tensor 'a.0'.* has momentum absent"):
        load_state(file, params, beta1=0.9)
    with pytest.raises(af.ConfigError, match="unknown option"):
        load_state(file, params, beta_1=0.9)
    with pytest.raises(af.StateError, match=r"Missing in it: 'c'; unknown to params: 'a\.0'"):
        load_state(file, {"c": params["a"][0]})


def test_float64_needs_x64(backend, tmp_path):
    x = {"w": np.ones((4, 6))}
    af.save_state(tmp_path / "s", x, af.init(x))
    from adafactor_jax import load_state

    with pytest.raises(af.StateError, match="has row in float64"):
        load_state(tmp_path / "s", {"w": backend.lib.numpy.ones((4, 6))})
    with backend.scope("float64"):
        loaded = load_state(tmp_path / "s", {"w": backend.lib.numpy.ones((4, 6), dtype="float64")})
        assert loaded.moments["w"].row.dtype == np.float64


def test_flax_nnx_modules(backend, tmp_path):
    pytest.importorskip("flax.nnx", reason="flax is not installed")
    from flax import nnx

    from adafactor_jax import adafactor, load_state, save_state

    params = nnx.state(nnx.Linear(4, 6, rngs=nnx.Rngs(0)), nnx.Param)
    state = adafactor(0.1).init(params)
    save_state(tmp_path / "s", params, state, lr=0.1)
    assert [t.path for t in af.interchange.read(tmp_path / "s").tensors] == ["bias", "kernel"]
    loaded = load_state(tmp_path / "s", params, lr=0.1)
    assert backend.lib.tree.structure(loaded) == backend.lib.tree.structure(state)
