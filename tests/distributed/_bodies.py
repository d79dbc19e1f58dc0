"""What the ranks run. Everything is drawn from seeds, so that one process can do the same alone."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import adafactor_core as af
from _torch import AsTorchOptimizer, judge
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
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "rate, momentum, decay": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1},
    "full": {"factored": False, "lr": 0.1},
    "thin matrices factored": {"factored_dims": (-2, -1), "lr": 0.1},
    "norm, skipped steps, telemetry": {
        "max_grad_norm": 1.0, "nonfinite": "skip_step", "telemetry": True, "lr": 0.1,
    },
    "skipped tensors": {"nonfinite": "skip_tensor", "beta1": 0.9, "momentum_on": "grad"},
    "no clip": {"clip_threshold": None, "scale_parameter": False, "lr": 0.01},
    "stochastic": {"lr": 0.1, "rounding": "stochastic", "seed": 5, "beta1": 0.9,
                   "momentum_dtype": "bfloat16", "momentum_rounding": "stochastic"},
    "kahan": {"lr": 0.1, "rounding": "kahan"},
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


def start(dtype: str) -> dict[str, torch.Tensor]:
    return {n: normal(s, 0).to(getattr(torch, dtype)) for n, s in SHAPES.items()}


@cache
def alone(options: str, dtype: str, steps: int) -> list[dict[str, Any]]:
    """After the second step and the last, in one process, parameters in one piece."""
    chosen = OPTIONS[options]
    params = {n: torch.nn.Parameter(x) for n, x in start(dtype).items()}
    made, after = optimizer(params, {**chosen, "compiled": False}), []
    for t in range(1, steps + 1):
        for name, g in gradients(t, chosen).items():
            params[name].grad = g.to(params[name].dtype)
        made.step()
        after.append(read(made, params))
    return [after[1], after[-1]]


def placed(x: torch.Tensor, mesh: Any, how: Any) -> torch.Tensor:
    if how is None:
        return x
    if isinstance(how, dict):
        ((dim, how),) = how.items()
        mesh = mesh[dim]
    return distribute_tensor(x, mesh, how)


def together(
    layout: str, options: str, dtype: str, steps: int, traced: bool = False
) -> tuple[list[dict[str, Any]], set[int], dict[str, Any]]:
    """(as `alone`, numbers of collectives in a step, the placements of the state)."""
    shape, how = LAYOUTS[layout]
    chosen = OPTIONS[options]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp")[: len(shape)])
    some = ("w", "b") if traced else tuple(SHAPES)  # each rank compiles, on the cores that are left
    begin = start(dtype)
    params = {n: torch.nn.Parameter(placed(begin[n], mesh, how[n])) for n in some}
    made, after, counts = optimizer(params, chosen), [], set()
    step = torch.compile(made.step, fullgraph=True, backend="aot_eager") if traced else made.step
    for t in range(1, steps + 1):
        for name, p in params.items():
            g = gradients(t, chosen)[name]
            p.grad = placed(g.to(p.dtype), mesh, how[name])
        if traced:
            step()
        else:
            with CommDebugMode() as comm:
                step()
            counts.add(comm.get_total_counts())
        if t in (2, steps):
            after.append(read(made, params))
    places = {
        f"{n}.{slot}": tuple(map(str, a.placements))
        for n, p in params.items()
        for slot, a in made.state[p].items()
        if isinstance(a, DTensor)
    }
    return after, counts, places


def judged(size: int, dtype: str) -> None:
    """The conformance kit, in parts along the first axis; vectors whole, for int8 momentum."""
    mesh = init_device_mesh("cpu", (size,))

    def place(x: torch.Tensor) -> torch.Tensor:
        return distribute_tensor(x, mesh, [S0 if x.ndim > 1 else R])

    def gathered(x: torch.Tensor) -> torch.Tensor:
        return x.full_tensor() if isinstance(x, DTensor) else x

    judge(AsTorchOptimizer("torch.optim, DTensor", place=place, whole=gathered), dtype, drawn=3)


def blocks(options: dict[str, Any], steps: int) -> tuple[Any, Any]:
    """int8 momentum of a matrix whose columns are split at whole blocks: (parts, one piece)."""
    mesh = init_device_mesh("cpu", (2,))
    one = torch.nn.Parameter(normal((6, 256), 0))
    split = torch.nn.Parameter(distribute_tensor(normal((6, 256), 0), mesh, [S1]))
    alone, made = (optimizer({"w": p}, {"compiled": False, **options}) for p in (one, split))
    for t in range(1, steps + 1):
        one.grad = normal((6, 256), t)
        split.grad = distribute_tensor(normal((6, 256), t), mesh, [S1])
        alone.step()
        made.step()
    made.load_state_dict(alone.state_dict())  # the scales are cut at blocks, too
    loaded = read(made, {"w": split})
    return loaded, read(alone, {"w": one})


def refused(what: str) -> str:
    """The message that this is refused with; the parameter has not moved."""
    mesh = init_device_mesh("cpu", (2,))
    x = normal((4, 6), 0)
    try:
        if what == "int8":
            p = torch.nn.Parameter(distribute_tensor(normal((10,), 0), mesh, [S0]))
            optimizer({"b": p}, {"beta1": 0.9, "momentum_dtype": "int8"})
        elif what == "pending sum":
            p = torch.nn.Parameter(DTensor.from_local(x, mesh, [Partial()], run_check=False))
            optimizer({"w": p}, {})
        elif what == "plain gradient":
            p = torch.nn.Parameter(distribute_tensor(x, mesh, [S0]))
            made = optimizer({"w": p}, {"lr": 0.1})
            p.grad = x.clone()
            made.step()
        elif what == "state on a mesh":
            p = torch.nn.Parameter(distribute_tensor(x, mesh, [S0]))
            made = optimizer({"w": p}, {"lr": 0.1})
            p.grad = distribute_tensor(x, mesh, [S0])
            made.step()
            other = torch.nn.Parameter(x.clone())
            optimizer({"w": other}, {"lr": 0.1}).load_state_dict(made.state_dict())
    except af.AdafactorError as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"
