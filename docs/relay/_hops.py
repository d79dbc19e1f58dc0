"""The runners: the same small network in NumPy, torch, JAX, and torch under FSDP2 on two ranks.

Between two of them go two files: the optimizer's state, and the parameters by name.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adafactor_core.schedules import cosine

SIZES = {"up.weight": (32, 64), "up.bias": (32,), "down.weight": (10, 32), "down.bias": (10,)}
Params = dict[str, np.ndarray]


class Task(NamedTuple):
    """Images (n, 64) in [0, 1], one-hot targets (n, 10), and which rows each step sees."""

    x: np.ndarray
    y: np.ndarray
    batches: np.ndarray


class Leg(NamedTuple):
    """Steps `first` to `last`, from the files in `come` to those in `go`."""

    first: int
    last: int
    come: Path | None
    go: Path


class Done(NamedTuple):
    """Per step: the loss before it, and the parameters after it."""

    losses: list[float]
    params: list[Params]


def options(steps: int) -> dict[str, Any]:
    """A rate that depends on the step, momentum and decay: what is lost on the way will show."""
    return {"lr": cosine(3e-2, total=steps, warmup=steps // 10), "beta1": 0.9, "weight_decay": 1e-2}


def start(seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(0, shape[-1] ** -0.5, shape) * (len(shape) > 1)).astype(np.float32)
        for name, shape in SIZES.items()
    }


def state_file(folder: Path) -> Path:
    return folder / "state.safetensors"


def params_of(leg: Leg, begin: Params) -> Params:
    if leg.come is None:
        return {name: x.copy() for name, x in begin.items()}
    with np.load(leg.come / "params.npz") as found:
        return dict(found)


def in_numpy(task: Task, leg: Leg, begin: Params, steps: int) -> Done:
    """Gradients by hand; optimized in place."""
    from adafactor_numpy import Adafactor

    params, done = params_of(leg, begin), Done([], [])
    optimizer = Adafactor(params, **options(steps))
    if leg.come:
        optimizer.load_state(state_file(leg.come))
    for rows in task.batches[leg.first : leg.last]:
        x, y = task.x[rows], task.y[rows]
        hidden = np.tanh(x @ params["up.weight"].T + params["up.bias"])
        logits = hidden @ params["down.weight"].T + params["down.bias"]
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        shares /= shares.sum(axis=1, keepdims=True)
        done.losses.append(float(-np.log((shares * y).sum(axis=1)).mean()))
        out = (shares - y) / np.float32(len(x))
        back = (out @ params["down.weight"]) * (1 - hidden * hidden)
        optimizer.step(
            {"up.weight": back.T @ x, "up.bias": back.sum(axis=0),
             "down.weight": out.T @ hidden, "down.bias": out.sum(axis=0)}
        )  # fmt: skip
        done.params.append({name: a.copy() for name, a in params.items()})
    optimizer.save_state(state_file(leg.go))
    np.savez(leg.go / "params.npz", **params)
    return done


def in_jax(task: Task, leg: Leg, begin: Params, steps: int) -> Done:
    """A nested dict of parameters, whose paths are torch's names."""
    import jax
    import jax.numpy as jnp

    from adafactor_jax import load_state, make_step, save_state

    found = params_of(leg, begin)
    params = {
        layer: {kind: jnp.asarray(found[f"{layer}.{kind}"]) for kind in ("weight", "bias")}
        for layer in ("up", "down")
    }

    @jax.jit
    def gradients(params: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> Any:
            up, down = params["up"], params["down"]
            hidden = jnp.tanh(x @ up["weight"].T + up["bias"])
            logits = jax.nn.log_softmax(hidden @ down["weight"].T + down["bias"])
            return -(logits * y).sum(axis=1).mean()

        return jax.value_and_grad(loss)(params)

    init, step = make_step(**options(steps))
    state = load_state(state_file(leg.come), params, **options(steps)) if leg.come else init(params)
    done = Done([], [])
    for rows in task.batches[leg.first : leg.last]:
        loss, grads = gradients(params, task.x[rows], task.y[rows])
        params, state = step(params, grads, state)
        done.losses.append(float(loss))
        done.params.append(
            {f"{layer}.{kind}": np.array(a) for layer, k in params.items() for kind, a in k.items()}
        )
    save_state(state_file(leg.go), params, state, **options(steps))
    np.savez(leg.go / "params.npz", **done.params[-1])
    return done


def in_torch(
    task: Task, leg: Leg, begin: Params, steps: int, share: tuple[int, int] | None = None
) -> Done:
    """A module. With `share` (rank, ranks) under fully_shard, each rank on its part of a batch."""
    import torch
    from torch import nn

    from adafactor_torch import Adafactor

    torch.set_num_threads(1)
    model = nn.Sequential()
    for name, k in (("up", "up"), ("tanh", ""), ("down", "down")):
        model.add_module(name, nn.Linear(*SIZES[f"{k}.weight"][::-1]) if k else nn.Tanh())
    model.load_state_dict({n: torch.from_numpy(x) for n, x in params_of(leg, begin).items()})
    rank, ranks = share or (0, 1)
    if share:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
    schedule = options(steps)["lr"]
    optimizer = Adafactor(model.named_parameters(), **{**options(steps), "lr": schedule(1)})
    if leg.come:
        optimizer.load_state(state_file(leg.come))
    done = Done([], [])
    for t, rows in enumerate(task.batches[leg.first : leg.last], leg.first + 1):
        rows = np.split(rows, ranks)[rank]
        x, y = torch.from_numpy(task.x[rows]), torch.from_numpy(task.y[rows])
        optimizer.param_groups[0]["lr"] = schedule(t)  # functions are no options in torch
        optimizer.zero_grad()
        loss = -(nn.functional.log_softmax(model(x), dim=1) * y).sum(dim=1).mean()
        loss.backward()
        optimizer.step()
        done.losses.append(_mean(loss.detach(), ranks))
        done.params.append({n: _whole(p).numpy().copy() for n, p in model.named_parameters()})
    optimizer.save_state(state_file(leg.go))  # on all ranks
    if rank == 0:
        np.savez(leg.go / "params.npz", **done.params[-1])
    return done


def _whole(p: Any) -> Any:
    p = p.detach()
    return p.full_tensor() if hasattr(p, "full_tensor") else p


def _mean(loss: Any, ranks: int) -> float:
    if ranks > 1:
        import torch.distributed as dist

        dist.all_reduce(loss)
    return float(loss) / ranks


class Ranks:
    """Two processes that stay, for torch under FSDP2: called like the functions above."""

    def __init__(self, size: int = 2) -> None:
        import torch.multiprocessing as mp

        spawn = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._inboxes, self._outbox = [spawn.Queue() for _ in range(size)], spawn.Queue()
        store = os.path.join(self._folder.name, "store")
        words = [(rank, size, store, box, self._outbox) for rank, box in enumerate(self._inboxes)]
        self._processes = [spawn.Process(target=_serve, args=w, daemon=True) for w in words]
        for process in self._processes:
            process.start()

    def __call__(self, *job: Any) -> Done:
        for box in self._inboxes:
            box.put(job)
        found = dict(self._outbox.get(timeout=120) for _ in self._processes)
        failed = [x for x in found.values() if isinstance(x, str)]
        if failed:
            self.close()
            raise RuntimeError(failed[0])
        done: Done = found[0]
        return done

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, size: int, store: str, inbox: Any, outbox: Any) -> None:
    import traceback

    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    while True:
        job: Sequence[Any] = inbox.get()
        try:
            outbox.put((rank, in_torch(*job, share=(rank, size))))
        except BaseException:
            outbox.put((rank, traceback.format_exc()))
