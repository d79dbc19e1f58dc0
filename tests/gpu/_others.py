"""What check.py does with CuPy and with JAX, where they are installed and find the GPU.

Nothing here has run on a GPU yet; `agreement` is tested on CPUs.
"""

from __future__ import annotations

import statistics
import time
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


def agreement(takers: Mapping[str, Take], tolerance: float = 1e-6) -> str:
    """Every library's parameters after a few steps against NumPy's on the CPU."""
    start, grads = drawn(0), [drawn(k) for k in range(1, STEPS + 1)]
    want = numpy_steps(start, grads)
    worst = {}
    for name, take in takers.items():
        got = take(start, grads)
        errors = [float(np.max(np.abs(got[n] - x)) / np.max(np.abs(x))) for n, x in want.items()]
        worst[name] = max(errors)
        assert worst[name] <= tolerance, f"{name}: {worst[name]:.3g} > {tolerance:g}"
    return ", ".join(f"{name} {error:.2g}" for name, error in worst.items())


def cupy_conformance() -> str:
    import cupy

    from _cupy import InPlace
    from adafactor_core import conformance as kit
    from adafactor_cupy import Adafactor

    def whole(x: Any) -> Any:
        return cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else x

    subject = InPlace("cupy", Adafactor, cupy.asarray, whole, "cuda")
    results = list(kit.run(subject, ["float32", "float64", "float16"], drawn=20))
    bad = [str(r) for r in results if r.verdict not in ("ok", "skipped")]
    assert not bad, bad
    return f"{sum(r.verdict == 'ok' for r in results)} rows"


def cupy_graph() -> str:
    """A captured step launched again is the step itself, bit by bit."""
    import cupy

    from adafactor_cupy import Adafactor

    grads = {n: cupy.asarray(a) for n, a in drawn(1).items()}
    runs = []
    for captured in (False, True):
        x = {n: cupy.asarray(a) for n, a in drawn(0).items()}
        optimizer = Adafactor(x, lr=0.1, nonfinite="skip_step")  # whose counter is on the device
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            optimizer.step(grads)
            if captured:
                stream.begin_capture()
                optimizer.step(grads)
                graph = stream.end_capture()
                for _ in range(3):
                    graph.launch(stream)
            else:
                for _ in range(3):
                    optimizer.step(grads)
            stream.synchronize()
        runs.append(x)
    assert all(bool((runs[0][n] == runs[1][n]).all()) for n in SHAPES)
    return "1 step and 3 launches"


def cupy_memory() -> str:
    """What a step takes from the pool beside parameters, gradients and state."""
    import cupy

    from adafactor_cupy import Adafactor

    pool = cupy.get_default_memory_pool()
    x, g = (cupy.ones((8192, 8192), cupy.float32) for _ in range(2))
    optimizer = Adafactor(x)
    pool.free_all_blocks()
    before = pool.total_bytes()
    optimizer.step(g)
    cupy.cuda.Device().synchronize()
    extra = (pool.total_bytes() - before) / x.nbytes
    assert extra < 0.01, f"{extra:.3%} of the parameters"
    return f"{extra:.3%} of the parameters"


def cupy_stepper(shapes: Sequence[tuple[int, ...]], dtype: str) -> Callable[[], Any]:
    import cupy
    import ml_dtypes

    from adafactor_cupy import Adafactor

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    x, g = (
        [cupy.random.standard_normal(s, dtype=cupy.float32).astype(kind) for s in shapes]
        for _ in range(2)
    )
    optimizer = Adafactor(x)
    return lambda: optimizer.step(g)


def cupy_ms(step: Callable[[], Any], repeats: int = 30) -> float:
    """The median of a step, by events on the current stream."""
    import cupy

    for _ in range(5):
        step()
    times = []
    for _ in range(repeats):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        step()
        stop.record()
        stop.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, stop))
    return statistics.median(times)


def jax_steppers(shapes: Sequence[tuple[int, ...]], dtype: str) -> dict[str, Callable[[], Any]]:
    """Ours, and optax's where it is installed; what a call returns is to be waited for."""
    import jax

    from adafactor_jax import make_step

    made = {"adafactor_jax": make_step()}
    try:
        import optax
    except ImportError:
        pass
    else:
        tx = optax.adafactor()

        def step(params: Any, grads: Any, state: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        made["optax"] = (tx.init, jax.jit(step, donate_argnums=(0, 2)))
    found = {}
    for name, (init, step_) in made.items():
        x, g = ([jax.numpy.ones(s, dtype) for s in shapes] for _ in range(2))
        now = [x, init(x)]

        def one(now: list[Any] = now, step_: Any = step_, g: Any = g) -> Any:
            now[:] = step_(now[0], g, now[1])
            return now

        found[name] = one
    return found


def jax_ms(step: Callable[[], Any], repeats: int = 30, inner: int = 10) -> float:
    """The median over rounds of steps that are waited for together: JAX has no events."""
    import jax

    jax.block_until_ready(step())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(inner):
            now = step()
        jax.block_until_ready(now)
        times.append((time.perf_counter() - start) / inner * 1e3)
    return statistics.median(times)
