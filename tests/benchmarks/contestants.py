"""Who takes part: the floor, and this project's paths. The peers are in peers.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from problems import Array, Problem


class Contestant(NamedTuple):
    """`step`: one whole step on gradients that are already there; returns when it is done."""

    step: Callable[[], Any]
    read: Callable[[], list[Array]]  # the parameters now, as NumPy; only for checks


class Entry(NamedTuple):
    """`build` imports its library itself; what it lacks makes a skipped row."""

    label: str
    kind: str  # "floor", "ours" or "peer"
    adafactor: bool  # computes Adafactor: its numbers are compared with ours
    build: Callable[[Problem], Contestant]


def torch_view(x: Array) -> Any:
    """A torch tensor on the memory of a NumPy array, so that all parameters lie alike."""
    import torch

    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def torch_read(t: Any) -> Array:
    """The numbers of a torch tensor."""
    import torch

    found: Array = t.detach().to(torch.float32).numpy()
    return found


def _floor_numpy(problem: Problem) -> Contestant:
    pairs = list(zip(params := problem.params(), problem.grads, strict=True))

    def step() -> None:
        for p, g in pairs:
            np.subtract(p, g, out=p)

    return Contestant(step, lambda: params)


def _floor_torch(problem: Problem) -> Contestant:
    params = problem.params()
    ps, gs = map(torch_view, params), map(torch_view, problem.grads)
    pairs = list(zip(ps, gs, strict=True))

    def step() -> None:
        for p, g in pairs:
            p.sub_(g)

    return Contestant(step, lambda: params)


def _options(problem: Problem) -> dict[str, Any]:
    """The rest are the paper's defaults: relative step, parameter scale, clipping."""
    return {"beta1": problem.beta1, "max_scratch_bytes": problem.max_scratch_bytes}


def _config(problem: Problem, **options: Any) -> Any:
    import adafactor_core as af

    return af.Config(**_options(problem), **options)


def _in_place(compiled: bool, **options: Any) -> Callable[[Problem], Contestant]:
    def build(problem: Problem) -> Contestant:
        from adafactor_numpy import Adafactor

        if compiled:
            import numba  # noqa: F401  # absent: ImportError, and the row is skipped
        params, grads = problem.params(), problem.grads
        config = _config(problem, **options)
        optimizer = Adafactor(params, config, compiled=compiled)
        return Contestant(lambda: optimizer.step(grads), lambda: params)

    return build


def torch_optimizer(problem: Problem, make: Callable[[list[Any]], Any]) -> Contestant:
    """A torch.optim.Optimizer over tensors that share memory with NumPy arrays."""
    import torch

    arrays: list[Array] = problem.params()
    params = [torch.nn.Parameter(torch_view(x)) for x in arrays]
    for p, g in zip(params, problem.grads, strict=True):
        p.grad = torch_view(g)
    optimizer = make(params)
    return Contestant(optimizer.step, lambda: arrays)


def _torch_in_place(compiled: bool | None, graph: bool = False) -> Callable[[Problem], Contestant]:
    def build(problem: Problem) -> Contestant:
        import torch

        from adafactor_torch import Adafactor

        if compiled is None:
            import numba  # noqa: F401  # absent: the plain passes would run
        options = _options(problem)
        made = torch_optimizer(problem, lambda ps: Adafactor(ps, compiled=compiled, **options))
        return made._replace(step=torch.compile(made.step)) if graph else made

    return build


def _core(problem: Problem, params: list[Any], grads: list[Any], read: Any) -> Contestant:
    """af.step with donated arrays, which the core may overwrite."""
    import adafactor_core as af

    config = _config(problem)
    now: list[Any] = [params, af.init(params, config)]

    def step() -> None:
        now[:] = af.step(now[0], grads, now[1], config, donate=True)

    return Contestant(step, lambda: [read(x) for x in now[0]])


def _core_numpy(problem: Problem) -> Contestant:
    return _core(problem, problem.params(), problem.grads, lambda x: x)


def _core_torch(problem: Problem) -> Contestant:
    params = [torch_view(x) for x in problem.params()]
    return _core(problem, params, [torch_view(g) for g in problem.grads], torch_read)


def jitted(problem: Problem, init: Any, step: Any) -> Contestant:
    """`step(params, state, grads) -> (params, state)` compiled by XLA, params and state donated."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    run = jax.jit(step, donate_argnums=(0, 1))
    params = [jnp.array(x, copy=True) for x in problem.start]
    grads = [jnp.asarray(g) for g in problem.grads]
    now = [params, init(params)]

    def one() -> None:
        now[:] = run(now[0], now[1], grads)
        jax.block_until_ready(now)

    return Contestant(one, lambda: [np.asarray(x) for x in now[0]])


def _core_jax(problem: Problem) -> Contestant:
    import adafactor_core as af

    config = _config(problem)

    def step(params: Any, state: Any, grads: Any) -> Any:
        return af.step(params, grads, state, config, donate=True)

    return jitted(problem, lambda params: af.init(params, config), step)


def _adafactor_jax(problem: Problem) -> Contestant:
    from adafactor_jax import make_step

    init, step = make_step(**_options(problem))
    return jitted(problem, init, lambda params, state, grads: step(params, grads, state))


_WATCHED = {"telemetry": True}

# name: entry
OURS = {
    "floor-numpy": Entry("floor: NumPy p -= g", "floor", False, _floor_numpy),
    "floor-torch": Entry("floor: torch p.sub_(g)", "floor", False, _floor_torch),
    "compiled": Entry("adafactor_numpy, compiled", "ours", True, _in_place(True)),
    "plain": Entry("adafactor_numpy, plain NumPy", "ours", True, _in_place(False)),
    **{
        name: Entry(f"compiled, {label}", "ours", True, _in_place(True, **options))
        for name, (label, options) in {
            "told": ("telemetry", {"telemetry": True}),
            "skip-tensor": ("skip_tensor, telemetry", _WATCHED | {"nonfinite": "skip_tensor"}),
            "skip-step": ("skip_step, telemetry", _WATCHED | {"nonfinite": "skip_step"}),
            # So large a norm never acts: the numbers stay comparable.
            "normed": (
                "the same and max_grad_norm",
                _WATCHED
                | {
                    "nonfinite": "skip_step",
                    "max_grad_norm": 1e6,
                },
            ),
            "stochastic": ("rounding='stochastic'", {"rounding": "stochastic"}),
            "kahan": ("rounding='kahan'", {"rounding": "kahan"}),
        }.items()
    },
    **{
        name: Entry(f"adafactor_torch, {label}", "ours", True, build)
        for name, label, build in (
            ("adafactor_torch", "compiled", _torch_in_place(None)),
            ("adafactor_torch-plain", "plain", _torch_in_place(False)),
            ("adafactor_torch-graph", "torch.compile", _torch_in_place(False, graph=True)),
        )
    },
    "core-numpy": Entry("af.step, NumPy", "ours", True, _core_numpy),
    "core-torch": Entry("af.step, torch", "ours", True, _core_torch),
    "adafactor_jax": Entry("adafactor_jax, make_step", "ours", True, _adafactor_jax),
    "core-jax": Entry("af.step, JAX jit", "ours", True, _core_jax),
}
