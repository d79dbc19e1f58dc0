"""What check.py does with JAX. None of it has run on a GPU yet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

# Each case is a program, which XLA takes seconds to compile.
GOLDEN = {
    "float32": [
        "default", "full", "axes-auto", "momentum-update", "weight-decay-first-lr", "norm-scaled",
        "rounding-stochastic", "fault-skip_step-twice",
    ],
    "bfloat16": ["default", "rounding-kahan-decay", "rounding-stochastic"],
    "float16": ["default", "rounding-kahan-decay", "rounding-stochastic"],
}  # fmt: skip


def conformance() -> str:
    from _jax import AsJax, judged

    counted = 0
    for dtype, golden in GOLDEN.items():
        checks = ("golden", "moments", "kahan")
        row = judged(AsJax("jax on the GPU", "jit"), dtype, 0, golden=golden, checks=checks)
        assert not row["failures"], row["failures"]
        counted += row["cases"]
    return f"{counted} cases"


def steppers(
    shapes: Sequence[tuple[int, ...]], dtype: str
) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Ours, and optax's where it is installed, with tensors of their own when they are made.

    What a step returns is to be waited for.
    """
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

    def make(init: Any, step: Any) -> Callable[[], Any]:
        x, g = ([jax.numpy.ones(s, dtype) for s in shapes] for _ in range(2))
        now = [x, init(x)]

        def one() -> Any:
            now[:] = step(now[0], g, now[1])
            return now

        return one

    return {name: partial(make, *pair) for name, pair in made.items()}


def median_ms(step: Callable[[], Any], repeats: int = 30, inner: int = 10) -> float:
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
