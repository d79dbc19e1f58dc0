"""State files on several ranks, as the ranks run them."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from _bodies import LAYOUTS, OPTIONS, gradients, optimizer, placed, read, start
from _wrapped import Net, built, sharded, train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import adafactor_core as af
from adafactor_core import interchange


def share() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def described(file: str) -> list[Any]:
    """What the file says, bytes included."""
    record = interchange.read(file)
    return [record.step, record.skipped] + [
        (t.path, t.shape, t.step, t.skipped, {s: bytes(r.bytes()) for s, r in t.slots.items()})
        for t in record.tensors
    ]


def fsdp_saves(folder: str, options: dict[str, Any], steps: int) -> None:
    """Parameters beside it, whole."""
    model = sharded(Net())
    made = built(model, options)
    train(model, made, range(1, steps + 1), share())
    made.save_state(f"{folder}/state")
    whole = {n: p.full_tensor().detach() for n, p in model.named_parameters()}
    if dist.get_rank() == 0:
        torch.save(whole, f"{folder}/params")
    dist.barrier()


def goes_on(
    folder: str, options: dict[str, Any], done: int, steps: int, shard: bool
) -> list[dict[str, Any]]:
    """From these files, on however many ranks."""
    model = Net()
    model.load_state_dict(torch.load(f"{folder}/params"))
    if shard:
        sharded(model)
    made = built(model, options)
    made.load_state(f"{folder}/state")
    return train(model, made, range(done + 1, done + steps + 1), share() if shard else (0, 1))


def resumed(folder: str, layout: str, options: str, dtype: str, steps: int) -> tuple[Any, Any]:
    """(a run of 2 `steps`, one that is saved and loaded in the middle), parameters and state."""
    shape, how = LAYOUTS[layout]
    chosen = OPTIONS[options]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp")[: len(shape)])
    results = []
    for stop in (False, True):
        begin = start(dtype)
        params = {n: torch.nn.Parameter(placed(x, mesh, how[n])) for n, x in begin.items()}
        made = optimizer(params, chosen)
        for t in range(1, 2 * steps + 1):
            for name, p in params.items():
                p.grad = placed(gradients(t, chosen)[name].to(p.dtype), mesh, how[name])
            made.step()
            if stop and t == steps:
                made.save_state(f"{folder}/s")
                before = {
                    (n, k): getattr(a, "placements", None)
                    for n, p in params.items()
                    for k, a in made.state[p].items()
                }
                made = optimizer(params, chosen)
                made.load_state(f"{folder}/s")
                after = {
                    (n, k): getattr(a, "placements", None)
                    for n, p in params.items()
                    for k, a in made.state[p].items()
                }
                assert after == before
        results.append(read(made, params))
    return results[0], results[1]


def a_full_disk(folder: str) -> str:
    """The first rank cannot write; what each rank raises. All of them come back."""
    model = sharded(Net())
    made = built(model, {"lr": 0.1, "beta1": 0.9})
    train(model, made, range(1, 3), share())
    made.save_state(f"{folder}/s")
    before = described(f"{folder}/s")
    train(model, made, range(3, 4), share())

    def full(done: int, total: int) -> None:
        if done > total // 2:
            raise OSError("No space left on device")

    try:
        made.save_state(f"{folder}/s", progress=full)
    except (OSError, af.StateFileError) as error:
        assert described(f"{folder}/s") == before
        assert os.listdir(folder) == ["s"]
        train(model, made, range(4, 5), share())  # the ranks are still in step
        made.save_state(f"{folder}/s")
        return f"{type(error).__name__}: {error}"
    return "not raised"


def disagreeing(folder: str) -> str:
    """Each rank has another parameter, on a mesh of all: stages of a pipeline."""
    mesh = init_device_mesh("cpu", (2,))
    x = distribute_tensor(torch.ones(4, 6), mesh, [Shard(0)])
    made = optimizer({f"stage{dist.get_rank()}": torch.nn.Parameter(x)}, {"lr": 0.1})
    try:
        made.save_state(f"{folder}/none")
    except af.StateError as error:
        return f"{type(error).__name__}: {error}"
    return "not raised"
