"""The libraries that check.py holds against each other, where they find the GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

SHAPES = {"w": (1031, 517), "conv": (8, 6, 3, 3), "b": (20,), "s": ()}
OPTIONS = {"lr": 0.1, "weight_decay": 0.1, "beta1": 0.9}
STEPS = 5
Trees = dict[str, Any]
Take = Callable[[Trees, Sequence[Trees]], Trees]  # parameters after the steps, as NumPy arrays


def drawn(seed: int) -> Trees:
    rng = np.random.default_rng(seed)
    return {n: np.asarray(rng.standard_normal(s), np.float32) for n, s in SHAPES.items()}


def numpy_steps(params: Trees, grads: Sequence[Trees]) -> Trees:
    import adafactor_core as af

    config = af.Config(**OPTIONS)
    state = af.init(params, config)
    for g in grads:
        params, state = af.step(params, g, state, config)
    return params


def torch_steps(device: str) -> Take:
    def take(params: Trees, grads: Sequence[Trees]) -> Trees:
        import torch

        from adafactor_torch import Adafactor

        named = {n: torch.nn.Parameter(torch.tensor(x, device=device)) for n, x in params.items()}
        optimizer = Adafactor(named.items(), **OPTIONS)
        for g in grads:
            for n, p in named.items():
                p.grad = torch.tensor(g[n], device=device)
            optimizer.step()
        return {n: p.detach().cpu().numpy() for n, p in named.items()}

    return take


def jax_steps(params: Trees, grads: Sequence[Trees]) -> Trees:
    import jax

    from adafactor_jax import make_step

    init, step = make_step(**OPTIONS)
    x = jax.tree.map(lambda a: jax.numpy.array(a), params)
    state = init(x)
    for g in grads:
        x, state = step(x, jax.tree.map(jax.numpy.asarray, g), state)
    return {n: np.asarray(a) for n, a in x.items()}


def cupy_steps(params: Trees, grads: Sequence[Trees]) -> Trees:
    import cupy

    from adafactor_cupy import Adafactor

    x = {n: cupy.array(a) for n, a in params.items()}
    optimizer = Adafactor(x, **OPTIONS)
    for g in grads:
        optimizer.step({n: cupy.asarray(a) for n, a in g.items()})
    return {n: cupy.asnumpy(a) for n, a in x.items()}


def lacks_cupy() -> str:
    """Why CuPy cannot be used here; empty if it can."""
    try:
        import cupy

        return "" if cupy.is_available() else "CuPy finds no GPU"
    except Exception as error:  # a wheel for another CUDA raises what it likes
        return f"{type(error).__name__}: {error}"[:300]


def lacks_jax() -> str:
    """Why JAX cannot be used here; empty if it can."""
    try:
        import jax

        found = jax.default_backend()
        return "" if found in ("gpu", "cuda", "rocm") else f"JAX runs on {found}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]


def agreement(takers: Mapping[str, Take], tolerance: float = 1e-6) -> str:
    """Every library's parameters after a few steps against NumPy's on the CPU."""
    start, grads = drawn(0), [drawn(k) for k in range(1, STEPS + 1)]
    want = numpy_steps(start, grads)
    said, sound = [], True
    for name, take in takers.items():
        try:
            got = take(start, grads)
            worst = max(np.max(np.abs(got[n] - x)) / np.max(np.abs(x)) for n, x in want.items())
            sound &= bool(worst <= tolerance)
            said.append(f"{name} {worst:.2g}")
        except Exception as error:  # the others are to be compared all the same
            sound = False
            said.append(f"{name} {type(error).__name__}: {error}")
    text = ", ".join(said)
    assert sound, f"{text}; tolerance {tolerance:g}"
    return text
