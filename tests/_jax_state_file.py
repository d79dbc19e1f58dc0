"""A program: state files of adafactor_jax on eight virtual devices; prints what was found."""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from adafactor_core import interchange
from adafactor_jax import load_state, make_step, save_state

jax.config.update("jax_cpu_enable_async_dispatch", False)  # see _jax_mesh.py
OPTIONS = {
    "plain": {"lr": 0.1},
    "all": {"lr": 0.1, "beta1": 0.9, "nonfinite": "skip_step", "telemetry": True},
    "int8": {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8"},
}
SPECS = {"w": P("x", "y"), "h": {"k": P("y", None, "x"), "b": P("y")}, "s": P()}
SHAPES = {"w": (16, 1024), "h": {"k": (4, 6, 1024), "b": (1024,)}, "s": ()}


def placed(sizes, kind, seed):
    mesh = jax.make_mesh(sizes, ("x", "y"), axis_types=(kind, kind))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda spec, shape: jax.device_put(
            rng.normal(size=shape).astype(np.float32), NamedSharding(mesh, spec)
        ),
        SPECS,
        SHAPES,
        is_leaf=lambda x: isinstance(x, P | tuple),
    )


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def places(tree):
    return [x.sharding for x in jax.tree.leaves(tree)]


def check(options, sizes, kind, folder):
    """Saved after 2 of 4 steps; loaded onto the same mesh, and onto another."""
    init, step = make_step(**options)
    params = placed(sizes, kind, 0)
    state = init(params)
    fresh = places(state)
    for t in (1, 2):
        params, state = step(params, placed(sizes, kind, t), state)
    file = Path(folder) / "state"
    save_state(file, params, state, **options)
    record = interchange.read(file)
    assert record.step == 2
    assert record.tensors[0].path == "h.b"
    loaded = load_state(file, params, **options)
    without = state._replace(metrics=None), loaded._replace(metrics=None)
    assert bits(without[0]) == bits(without[1])
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert places(loaded) == fresh, "not where init puts it"
    other = jax.tree.map(
        lambda x, y: jax.device_put(np.asarray(x), y.sharding), params, placed(sizes[::-1], kind, 0)
    )
    moved = load_state(file, other, **options)
    assert bits(moved._replace(metrics=None)) == bits(without[0])
    for t in (3, 4):
        params, loaded = step(params, placed(sizes, kind, t), loaded)
        other, moved = step(other, placed(sizes[::-1], kind, t), moved)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= 1e-6 * np.abs(a).max()


found = {}
for name, options in OPTIONS.items():
    for kind in (AxisType.Auto, AxisType.Explicit):
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(options, (4, 2), kind, folder)
                found[f"{name}, {kind.name}"] = ""
            except Exception:
                found[f"{name}, {kind.name}"] = traceback.format_exc()
json.dump(found, sys.stdout)
