"""Models under fully_shard, tensor parallelism, DDP and ZeRO, on the ranks and alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from _bodies import normal, whole
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import adafactor_core as af
from adafactor_torch import Adafactor, attach_backward_hooks

BATCH = 12  # divides by 1, 2, 3 and 4 ranks


class Net(nn.Module):
    """Rows of 13 and 7 do not divide by 2, 3 or 4; biases and gains of few entries leave ranks
    empty."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up = nn.Linear(6, 13)
        self.norm = nn.LayerNorm(13)
        self.down = nn.Linear(13, 7)
        self.out = nn.Linear(7, 2)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.down(torch.tanh(self.norm(self.up(x)))).tanh()) * self.gain


class Block(nn.Module):
    """For tensor parallelism: sizes that divide by 2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(6, 16)
        self.second = nn.Linear(16, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(torch.tanh(self.first(x))))


def built(model: nn.Module, options: dict[str, Any]) -> Adafactor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", af.LowPrecisionWarning)
        return Adafactor(model.named_parameters(), **options)


def backward(model: nn.Module, t: int, share: tuple[int, int] = (0, 1)) -> None:
    """On this rank's share of the batch of step t; gradients are averaged over ranks."""
    index, of = share
    part = BATCH // of
    x = normal((BATCH, 6), t)[index * part : (index + 1) * part]
    dtype = next(model.parameters()).dtype
    model(x.to(dtype)).float().square().mean().backward()


def train(
    model: nn.Module, made: Any, steps: Any, share: tuple[int, int] = (0, 1)
) -> list[dict[str, Any]]:
    after = []
    for t in steps:
        made.zero_grad()
        backward(model, t, share)
        made.step()
        after.append({n.removeprefix("module."): whole(p) for n, p in model.named_parameters()})
    return after


def alone(net: str, options: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    model = {"Net": Net, "Block": Block}[net]()
    return train(model, built(model, {**options, "compiled": False}), range(1, steps + 1))


def sharded(model: nn.Module, mesh: Any = None) -> nn.Module:
    for child in model.children():
        fully_shard(child, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp(options: dict[str, Any], steps: int) -> tuple[list[dict[str, Any]], Any, list[int]]:
    """(parameters per step, placements and local sizes of the state, collectives per step)."""
    model = sharded(Net())
    made = built(model, options)
    share = (dist.get_rank(), dist.get_world_size())
    after = train(model, made, range(1, steps), share)
    made.zero_grad()
    backward(model, steps, share)
    with CommDebugMode() as comm:
        made.step()
    after.append({n: whole(p) for n, p in model.named_parameters()})
    places = {
        f"{n}.{slot}": (str(a.placements), tuple(a.shape), tuple(a.to_local().shape))
        for n, p in model.named_parameters()
        for slot, a in made.state[p].items()
        if isinstance(a, DTensor)
    }
    return after, places, [comm.get_total_counts()]


def fsdp_in_backward(options: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    model = sharded(Net())
    made = built(model, options)
    attach_backward_hooks(made)
    share = (dist.get_rank(), dist.get_world_size())
    after = train(model, made, range(1, steps + 1), share)
    assert all(p.grad is None for p in model.parameters())
    return after


def fsdp_and_tensor_parallel(
    options: dict[str, Any], steps: int
) -> tuple[list[dict[str, Any]], int, set[str]]:
    """(parameters per step, collectives of the last, kinds of placements)."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    plan = {"first": ColwiseParallel(), "second": RowwiseParallel()}
    model = parallelize_module(Block(), mesh["tp"], plan)
    sharded(model, mesh["dp"])
    made = built(model, options)
    share = (mesh.get_local_rank("dp"), 2)
    after = train(model, made, range(1, steps), share)
    made.zero_grad()
    backward(model, steps, share)
    with CommDebugMode() as comm:
        made.step()
    after.append({n: whole(p) for n, p in model.named_parameters()})
    kinds = {str(p.placements) for p in model.parameters()}
    return after, comm.get_total_counts(), kinds


def saved(folder: str, options: dict[str, Any], steps: int) -> None:
    """Trains under fully_shard, saves with torch.distributed.checkpoint."""
    model = sharded(Net())
    made = built(model, options)
    train(model, made, range(1, steps + 1), (dist.get_rank(), dist.get_world_size()))
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, made),
    }
    dcp.save(state, checkpoint_id=folder)


def resumed(
    folder: str, options: dict[str, Any], done: int, steps: int, shard: bool
) -> list[dict[str, Any]]:
    """Goes on from there, on however many ranks."""
    model = Net()
    if shard:
        sharded(model)
    made = built(model, options)
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, made),
    }
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, made, state["optimizer"])
    share = (dist.get_rank(), dist.get_world_size()) if shard else (0, 1)
    return train(model, made, range(done + 1, done + steps + 1), share)


def full_state(options: dict[str, Any], done: int, steps: int) -> list[dict[str, Any]]:
    """A full state dict on every rank, as one process has it, loaded into a sharded optimizer."""
    one = Net()
    first = built(one, {**options, "compiled": False})
    train(one, first, range(1, done + 1))
    model = Net()
    model.load_state_dict(one.state_dict())
    sharded(model)
    made = built(model, options)
    made.load_state_dict(first.state_dict())
    share = (dist.get_rank(), dist.get_world_size())
    return train(model, made, range(done + 1, done + steps + 1), share)


def gathered_state(options: dict[str, Any], done: int) -> dict[str, Any]:
    """The full state dict of a sharded run, as get_optimizer_state_dict gathers it."""
    model = sharded(Net())
    made = built(model, options)
    train(model, made, range(1, done + 1), (dist.get_rank(), dist.get_world_size()))
    how = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = get_optimizer_state_dict(model, made, options=how)
    return {
        f"{n}.{slot}": whole(a)
        for n, slots in found.get("state", {}).items()
        for slot, a in slots.items()
    }


def ddp(options: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    model = nn.parallel.DistributedDataParallel(Net())
    share = (dist.get_rank(), dist.get_world_size())
    return train(model, built(model, options), range(1, steps + 1), share)


def zero(options: dict[str, Any], steps: int) -> tuple[list[dict[str, Any]], int]:
    """(parameters per step, of how many tensors this rank keeps the state)."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.parallel.DistributedDataParallel(Net())
    made = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=Adafactor, **options)
    share = (dist.get_rank(), dist.get_world_size())
    after = train(model, made, range(1, steps + 1), share)
    made.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        assert len(made.state_dict()["state"]) == len(list(model.parameters()))
    return after, len(made.optim.state)


def fsdp1(use_orig_params: bool) -> str:
    """The message that FSDP1's parameters are refused with."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FSDP1 warns that it is deprecated, and of CPU tensors
        model = FullyShardedDataParallel(
            Net(), device_id=torch.device("cpu"), use_orig_params=use_orig_params
        )
    try:
        Adafactor(model.named_parameters(), lr=0.1)
    except af.ShapeError as error:
        return str(error)
    return "not refused"
