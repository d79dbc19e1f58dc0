"""Trains a flax nnx transformer on eight virtual devices, and moves it to another mesh midway.

    python docs/jax_mesh/train.py [--steps 60] [--out DIR]

Saves parameters and optimizer state with orbax after half of the steps, restores them onto a mesh
of another shape, and goes on: the same trajectory as without that, and as on one device.
Writes train.json. Needs jax, flax and orbax-checkpoint.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

sys.path.insert(0, str(Path(__file__).parents[1] / "_shared"))

from _record import write_json
from _texts import encoded, read_pages

from adafactor_core import schedules
from adafactor_jax import make_step, state_sharding

LAYERS, WIDTH, INNER, HEADS = 2, 64, 128, 4
LENGTH, BATCH, CHARACTERS = 64, 16, 104  # of the latter 103 occur; 104 can be cut into 4 and 8
Tree = Any


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.before, self.between = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(HEADS, WIDTH, use_bias=False, decode=False, rngs=rngs)
        self.widen = nnx.Linear(WIDTH, INNER, rngs=rngs)
        self.narrow = nnx.Linear(INNER, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attend(self.before(x), mask=mask)
        return x + self.narrow(nnx.gelu(self.widen(self.between(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(CHARACTERS, WIDTH, rngs=rngs)
        self.position = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List(Block(rngs) for _ in range(LAYERS))
        self.last = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, text: jax.Array) -> jax.Array:
        """(batch, length) characters to (batch, length, CHARACTERS) logits of the next ones."""
        x = self.embed(text) + self.position(jnp.arange(LENGTH))
        for block in self.blocks:
            x = block(x, nnx.make_causal_mask(text))
        return self.embed.attend(self.last(x))


class Run:
    """Training on one mesh."""

    def __init__(self, data: int, model: int, options: dict[str, Any]) -> None:
        kinds = (AxisType.Auto, AxisType.Auto)
        mesh = jax.make_mesh((data, model), ("data", "model"), axis_types=kinds)
        graph, self.shapes = nnx.split(nnx.eval_shape(lambda: Transformer(nnx.Rngs(0))))
        # The first axis is cut over "data", the second over "model".
        self.places = jax.tree.map(
            lambda x: NamedSharding(mesh, P(*("data", "model")[: x.ndim])), self.shapes
        )
        self.rows, self.options = NamedSharding(mesh, P("data")), options
        self.init, self.step = make_step(**options)

        def loss(params: Tree, rows: jax.Array) -> jax.Array:
            logits = nnx.log_softmax(nnx.merge(graph, params)(rows[:, :-1]))
            return -jnp.mean(jnp.take_along_axis(logits, rows[:, 1:, None], axis=-1))

        outs = NamedSharding(mesh, P()), self.places
        self.gradients = jax.jit(jax.value_and_grad(loss), out_shardings=outs)

    def start(self, values: Tree) -> tuple[Tree, Tree]:
        params = jax.device_put(values, self.places)
        return params, self.init(params)

    def train(self, params: Tree, state: Tree, batches: np.ndarray) -> tuple[Tree, Tree, list]:
        """(steps, batch, length + 1) characters; parameters, state and losses after them."""
        losses = []
        for rows in batches:
            loss, grads = self.gradients(params, jax.device_put(rows, self.rows))
            params, state = self.step(params, grads, state)
            losses.append(float(loss))
        return params, state, losses

    def restored(self, folder: Path) -> tuple[Tree, Tree]:
        """What a run on any mesh has saved, for this one."""
        shapes = self.shapes, jax.eval_shape(self.init, self.shapes)
        places = self.places, state_sharding(self.places, self.shapes, **self.options)
        with ocp.StandardCheckpointer() as checkpoints:
            params, state = checkpoints.restore(folder, jax.tree.map(target, shapes, places))
        return params, state


def target(x: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def differences(got: Tree, want: Tree) -> list[float]:
    """max|a - b| / max|b| of every tensor."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    arrays = ((np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs)
    return [float(np.abs(a - b).max() / (np.abs(b).max() or 1.0)) for a, b in arrays]


def measured(steps: int) -> dict[str, Any]:
    """Every run from the same values, over the same batches."""
    text = encoded(read_pages("topics")[0])
    places = np.random.default_rng(0).integers(len(text) - LENGTH, size=(steps, BATCH, 1))
    batches = text[places + np.arange(LENGTH + 1)].astype(np.int32)
    # The rate depends on the step, which is in the state.
    lr = schedules.cosine(3e-2, total=steps, warmup=max(1, steps // 10))
    options = {"lr": lr, "beta1": 0.9, "weight_decay": 1e-3}
    values = jax.tree.map(np.asarray, nnx.state(Transformer(nnx.Rngs(0))))
    # One unit in the last place: how far rounding alone leads.
    nudged = jax.tree.map(lambda x: np.nextafter(x, np.float32(np.inf)), values)
    wide, tall, one = (Run(*shape, options) for shape in ((4, 2), (2, 4), (1, 1)))

    half = steps // 2
    alone = one.train(*one.start(values), batches)
    whole = wide.train(*wide.start(values), batches)
    params, state, losses = wide.train(*wide.start(values), batches[:half])
    with tempfile.TemporaryDirectory() as folder:
        with ocp.StandardCheckpointer() as checkpoints:
            checkpoints.save(Path(folder) / "half", (params, state))
        resumed, same = (
            run.train(*run.restored(Path(folder) / "half"), batches[half:]) for run in (tall, wide)
        )
    compared = {
        "resumed on 2x4, to 4x2 uninterrupted": (resumed, whole),
        "resumed on 4x2, to 4x2 uninterrupted": (same, whole),
        "resumed on 2x4, to one device": (resumed, alone),
        "4x2 uninterrupted, to one device": (whole, alone),
        "one device, nudged, to one device": (one.train(*one.start(nudged), batches), alone),
    }
    return {
        "steps": steps,
        "parameters": sum(x.size for x in jax.tree.leaves(values)),
        "losses": {"4x2": whole[2], "4x2, then 2x4": losses + resumed[2], "one device": alone[2]},
        "least_moved": min(differences(values, alone[0])),
        "differences": {
            name: {
                "parameters": max(differences(a[0], b[0])),
                "moments": max(differences(a[1].moments, b[1].moments)),
            }
            for name, (a, b) in compared.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, prints the differences, writes the file."""
    parser = argparse.ArgumentParser(description="A transformer moved from one mesh to another.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    # Or programs overlap on few cores, and their all-reduces wait for each other's threads.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    record = measured(options.steps)
    for name, row in record["differences"].items():
        print(f"{name:37}" + "".join(f"  {what} {d:.1e}" for what, d in row.items()))
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "train.json", record, "flax", "orbax-checkpoint")
    print(f"written: {options.out / 'train.json'}")


if __name__ == "__main__":
    main()
