"""What the ranks run. Everything is drawn from seeds, so that one process can do the same alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import adafactor_core as af
from adafactor_torch import Adafactor

S0, S1, S2, R = Shard(0), Shard(1), Shard(2), Replicate()
SHAPES = {"w": (13, 7), "b": (7,), "c": (4, 9, 6), "s": (), "thin": (1, 5), "long": (66, 130)}

# name: mesh shape, the placements of each tensor ("dp" and "tp": on a slice of the mesh alone)
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "rows": ((2,), dict.fromkeys(SHAPES, (S0,)) | {"s": (R,)}),
    "rows of three": ((3,), dict.fromkeys(SHAPES, (S0,)) | {"s": (R,)}),
    "columns": (
        (2,),
        {"w": (S1,), "b": (S0,), "c": (S2,), "s": (R,), "thin": (S1,), "long": (S1,)},
    ),
    "replicas": ((2,), dict.fromkeys(SHAPES, (R,))),
    "rows, empty parts": ((4,), dict.fromkeys(SHAPES, (S0,)) | {"s": (R,)}),
    "grid": (
        (2, 2),
        {"w": (S0, S1), "b": (S0, R), "c": (S2, S1), "s": (R, R), "thin": (S1, S0),
         "long": (S1, S0)},
    ),
    "one axis twice": (
        (2, 2),
        {"w": (S0, S0), "b": (S0, S0), "c": (S1, S1), "s": (R, R), "thin": (R, S1),
         "long": (S0, S0)},
    ),
    "replicas of rows": ((2, 2), dict.fromkeys(SHAPES, (R, S0)) | {"s": (R, R)}),
    "a mesh and its slices": (
        (2, 2),
        {"w": (S0, S1), "b": {"dp": (S0,)}, "c": (R, S0), "s": {"tp": (R,)}, "thin": {"tp": (S1,)},
         "long": {"dp": (S0,)}},
    ),
    "slices alone": (
        (2, 2),
        {"w": {"dp": (S0,)}, "b": {"dp": (S0,)}, "c": {"dp": (S1,)}, "s": {"dp": (R,)},
         "thin": {"tp": (S1,)}, "long": {"tp": (S0,)}},
    ),
    "beside tensors of one process": (
        (2,),
        {"w": (S0,), "b": None, "c": (S1,), "s": None, "thin": None, "long": (S0,)},
    ),
}  # fmt: skip
SIZES = {name: int(np.prod(mesh)) for name, (mesh, _) in LAYOUTS.items()}


def normal(shape: Any, seed: int) -> torch.Tensor:
    x = np.random.default_rng([seed, len(shape), *shape]).normal(size=shape)
    return torch.tensor(x, dtype=torch.float32)


def optimizer(params: dict[str, torch.Tensor], options: dict[str, Any]) -> Adafactor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", af.LowPrecisionWarning)
        return Adafactor(params.items(), **options)


def whole(x: Any) -> Any:
    """As float64 NumPy, from all ranks if need be."""
    x = x.full_tensor() if isinstance(x, DTensor) else x
    return x.detach().to(torch.float64).numpy().copy()


def read(made: Adafactor, params: dict[str, torch.Tensor]) -> dict[str, Any]:
    found = {name: whole(p) for name, p in params.items()}
    for name, p in params.items():
        found |= {f"{name}.{slot}": whole(a) for slot, a in made.state[p].items()}
    return found


def gradients(t: int, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    grads = {name: normal(shape, t) for name, shape in SHAPES.items()}
    if t == 2 and options.get("nonfinite", "propagate") != "propagate":
        grads["w"][5, 3] = torch.nan
    return grads


def alone(options: dict[str, Any], dtype: str, steps: int) -> list[dict[str, Any]]:
    """The same in one process, parameters in one piece; an entry per step."""
    params = {n: torch.nn.Parameter(normal(s, 0).to(getattr(torch, dtype)))
              for n, s in SHAPES.items()}  # fmt: skip
    made, after = optimizer(params, {**options, "compiled": False}), []
    for t in range(1, steps + 1):
        for name, g in gradients(t, options).items():
            params[name].grad = g.to(params[name].dtype)
        made.step()
        after.append(read(made, params))
    return after


def placed(name: str, x: torch.Tensor, mesh: Any, how: Any) -> torch.Tensor:
    if how is None:
        return x
    if isinstance(how, dict):
        ((dim, how),) = how.items()
        mesh = mesh[dim]
    return distribute_tensor(x, mesh, how)


def together(
    layout: str, options: dict[str, Any], dtype: str, steps: int
) -> tuple[list[dict[str, Any]], list[int], dict[str, Any]]:
    """(as `alone`, collectives per step, the placements of the state)."""
    shape, how = LAYOUTS[layout]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp")[: len(shape)])
    params = {
        n: torch.nn.Parameter(placed(n, normal(s, 0).to(getattr(torch, dtype)), mesh, how[n]))
        for n, s in SHAPES.items()
    }
    made, after, counts = optimizer(params, options), [], []
    for t in range(1, steps + 1):
        for name, g in gradients(t, options).items():
            params[name].grad = placed(name, g.to(params[name].dtype), mesh, how[name])
        with CommDebugMode() as comm:
            made.step()
        counts.append(comm.get_total_counts())
        after.append(read(made, params))
    places = {
        f"{n}.{slot}": tuple(map(str, a.placements))
        for n, p in params.items()
        for slot, a in made.state[p].items()
        if isinstance(a, DTensor)
    }
    return after, counts, places
