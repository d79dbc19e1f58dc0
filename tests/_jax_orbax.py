"""A program like _jax_mesh.py: states saved with orbax and restored onto other meshes."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import _jax_mesh as mesh  # gives eight devices
from adafactor_jax import make_step, state_sharding

SPECS = {
    "w": P("x", "y"),
    "t": P(None, ("x", "y")),
    "h": {"k": P("y", "x"), "b": P("x")},
    "s": P(),
}
# On 4x2 and on 2x4 every device has whole blocks of w's int8 momentum.
SHAPES = {"w": (16, 512), "t": (6, 24), "h": {"k": (4, 8, 6), "b": (8,)}, "s": ()}
OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {"telemetry": True, "nonfinite": "skip_step", "max_grad_norm": 1.0},
    "bfloat16": {"momentum_dtype": "bfloat16", "nonfinite": "skip_tensor"},
    "int8": {"momentum_dtype": "int8", "telemetry": True},
    "kahan": {"rounding": "kahan"},
}
MESHES = {"4x2": (4, 2), "2x4": (2, 4), "one": (1, 1)}
FOLDER = tempfile.TemporaryDirectory()


@cache
def options_of(name: str) -> dict[str, Any]:
    return {"lr": lambda t: 0.1 * t**-0.5, "beta1": 0.9, **OPTIONS[name]}


@cache
def made(name: str) -> Any:
    return make_step(**options_of(name))


def tree(name: str, t: int) -> Any:
    rng = np.random.default_rng(t)
    dtype = jax.numpy.dtype("bfloat16" if name == "kahan" else "float32")
    found = jax.tree.map(lambda s: rng.normal(size=s).astype(dtype), SHAPES, is_leaf=mesh.is_leaf)
    if t == 2 and "nonfinite" in OPTIONS[name]:
        found["w"][0, 0] = np.inf
    return found


def places(mode: str, shape: str) -> Any:
    where = mesh.mesh(mode, MESHES[shape])
    return jax.tree.map(lambda p: NamedSharding(where, p), SPECS, is_leaf=mesh.is_leaf)


def state_places(name: str, at: Any) -> Any:
    return state_sharding(at, tree(name, 0), **options_of(name))


def train(name: str, at: Any, x: Any, state: Any, steps: tuple[int, ...]) -> Any:
    for t in steps:
        x, state = made(name).step(x, jax.device_put(tree(name, t), at), state)
    return x, state


def start(name: str, at: Any) -> Any:
    x = jax.device_put(tree(name, 0), at)
    return x, made(name).init(x)


def copied(arrays: Any) -> Any:
    return jax.tree.map(np.array, arrays)


def same_bits(got: Any, want: Any) -> None:
    rows = jax.tree_util.tree_flatten_with_path(got)[0]
    for (path, a), b in zip(rows, jax.tree.leaves(want), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


@cache
def saved(mode: str, name: str) -> tuple[Path, Any]:
    """After three steps on 4x2, and the same in memory."""
    at = places(mode, "4x2")
    arrays = train(name, at, *start(name, at), (1, 2, 3))
    folder = Path(FOLDER.name) / f"{mode}-{name}"
    with ocp.StandardCheckpointer() as checkpoints:
        checkpoints.save(folder, arrays)
    return folder, copied(arrays)


@cache
def uninterrupted(mode: str, name: str) -> Any:
    at = places(mode, "4x2")
    return copied(train(name, at, *start(name, at), (1, 2, 3, 4, 5)))


def restored(mode: str, name: str, at: Any) -> Any:
    x = tree(name, 0)
    shapes = jax.eval_shape(lambda x: (x, made(name).init(x)), x)
    wanted = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
        shapes,
        (at, state_places(name, at)),
    )
    with ocp.StandardCheckpointer() as checkpoints:
        return checkpoints.restore(saved(mode, name)[0], wanted)


@mesh.check
def restored_bits(mode: str, name: str, shape: str) -> None:
    """Those that were saved, where state_sharding has them."""
    at = places(mode, shape)
    x, state = restored(mode, name, at)
    same_bits((x, state), saved(mode, name)[1])
    mesh.lies((x, state), (at, state_places(name, at)))
    if "nonfinite" in OPTIONS[name]:
        assert int(state.skipped) == 1  # or it would be no better than a fresh counter


@mesh.check
def resumed(mode: str, name: str, shape: str) -> None:
    """As parameters and state that were moved without saving, and as those never moved."""
    at = places(mode, shape)
    x, state = train(name, at, *restored(mode, name, at), (4, 5))
    moved = jax.device_put(saved(mode, name)[1], (at, state_places(name, at)))
    same_bits((x, state), train(name, at, *moved, (4, 5)))
    want = uninterrupted(mode, name)
    if shape == "4x2":
        same_bits((x, state), want)
    else:  # a sum that is added up in another order may flip a rounding
        assert apart(x, want[0]) <= (0 if name == "float32" else 10)


def apart(got: Any, want: Any) -> int:
    """How many of the 8537 entries differ by more than 1e-6 of their tensor's largest."""

    def count(a: Any, b: Any) -> int:
        a, b = np.float64(a), np.float64(b)
        return int(np.sum(np.abs(a - b) > 1e-6 * np.abs(b).max()))

    return sum(jax.tree.leaves(jax.tree.map(count, got, want)))


def cases() -> list[tuple[str, ...]]:
    return [
        (check, mode, name, shape)
        for check in ("restored_bits", "resumed")
        for mode in ("auto", "explicit")
        for name in OPTIONS
        for shape in MESHES
        if (mode, shape) != ("explicit", "one")
    ]


if __name__ == "__main__":
    with FOLDER:
        mesh.main(cases())
