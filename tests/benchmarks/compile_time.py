"""How long JAX takes from a step to a program for it, beside optax; nothing is run."""

from __future__ import annotations

import time
from importlib.util import find_spec
from itertools import pairwise
from statistics import median
from typing import Any

from fresh import in_fresh_process

MATRICES = ((512, 512), (512, 1536), (512, 2048), (2048, 512))
TENSORS = 500
KINDS = {"matrices": MATRICES, "half matrices, half vectors": (*MATRICES, *[(512,)] * 4)}


def run_compile(repeats: int | None, quick: bool) -> dict[str, Any]:
    """Rows of medians, in seconds; each repeat is a fresh process."""
    rows: dict[str, dict[str, Any]] = {}
    rounds = repeats or (1 if quick else 3)
    missing = [m for m in ("jax", "optax") if find_spec(m) is None]
    for kind in KINDS:
        for whose in ("adafactor_jax, make_step", "optax.adafactor"):
            row: dict[str, Any] = {"label": f"{whose}: {kind}"}
            if missing:
                row["skipped"] = f"no module named {', '.join(missing)}"
            else:
                found = [in_fresh_process(_times, whose, kind) for _ in range(rounds)]
                row |= {key: median(f[key] for f in found) for key in found[0]}
            rows[row["label"]] = row
    return {
        "kind": "compile",
        "title": f"compiling a step of {TENSORS} float32 tensors under jax.jit, on a CPU",
        "repeats": rounds,
        "rows": rows,
        "targets": [],
        "notes": [f"of shapes {', '.join(map(str, MATRICES))} in turn, and (512,)."],
    }


def _times(whose: str, kind: str) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    shapes = KINDS[kind]
    x = [jax.ShapeDtypeStruct(shapes[i % len(shapes)], jnp.float32) for i in range(TENSORS)]
    if whose.startswith("optax"):
        import optax

        tx = optax.adafactor(1e-3)
        init = tx.init

        def step(params: Any, grads: Any, state: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

    else:
        from adafactor_jax import make_step

        init, step = make_step(1e-3)
    state = jax.eval_shape(init, x)
    moments = [time.perf_counter()]
    traced = jax.jit(step, donate_argnums=(0, 2)).trace(x, x, state)
    moments.append(time.perf_counter())
    lowered = traced.lower()
    moments.append(time.perf_counter())
    lowered.compile()
    moments.append(time.perf_counter())
    trace, lower, done = (b - a for a, b in pairwise(moments))
    return {"trace_s": trace, "lower_s": lower, "compile_s": done, "total_s": trace + lower + done}
