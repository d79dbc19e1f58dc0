"""How two variants differ, in their options and on a drawn example. Needs NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._report import table
from .._step import init, step
from ._record import NAMES, Variant
from ._table import shown

try:
    import numpy as np
except ImportError as error:
    raise ImportError(
        'the drawn example of a diff needs NumPy: pip install "adafactor-core[numpy]"'
    ) from error

STEPS, SEED, RATE = 10, 0, 1e-2
# Large enough for every minimum size; the kernel shows rules that choose other axes.
SHAPES = {"matrix": (160, 128), "vector": (128,), "kernel": (40, 36, 3, 3)}

Arrays = dict[str, Any]


def report(a: Variant, b: Variant, lr: float | None, options: Mapping[str, Any]) -> str:
    """Both tables as text. `lr`: of both; None is each one's own, and RATE where it has none.

    `options`: further ones of both. Raises ConfigError.
    """
    rates = {v.name: RATE if lr is None and "lr" in v.required else lr for v in (a, b)}
    configs = [v(rates[v.name], **options) for v in (a, b)]
    rows = [
        (name, *(shown(getattr(c, name)) for c in configs))
        for name in NAMES
        if getattr(configs[0], name) != getattr(configs[1], name)
    ]
    lines = [table([("option", a.name, b.name), *rows]) if rows else "no option differs"]
    one, other = (_run(config) for config in configs)
    found = [(name, str(SHAPES[name]), *_distances(one, other, name)) for name in SHAPES]
    heads = ("tensor", "shape", "step 1", f"step {STEPS}", "worst", "at step")
    given = [name for name, rate in rates.items() if lr is None and rate is not None]
    own = f"; lr={RATE:g} for {', '.join(given)}, which has none of its own" if given else ""
    lines += [
        "",
        f"{STEPS} steps on drawn float32 tensors (seed {SEED}), max|a - b| / max|b|{own}.",
        "Gradients have heavy tails, and sizes from 1 along the first axis down to 1e-9.",
        "",
        table([heads, *found]),
    ]
    return "\n".join(lines)


def _run(config: Any) -> list[Arrays]:
    """The parameters after each step."""
    rng = np.random.default_rng(SEED)
    params = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in SHAPES.items()}
    state, after = init(params, config), []
    for _ in range(STEPS):
        grads = {name: _gradient(rng, shape) for name, shape in SHAPES.items()}
        params, state = step(params, grads, state, config)
        after.append(params)
    return after


def _gradient(rng: Any, shape: tuple[int, ...]) -> Any:
    sizes = np.logspace(0, -9, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    return (sizes * rng.standard_normal(shape) ** 3).astype(np.float32)


def _distances(a: list[Arrays], b: list[Arrays], name: str) -> list[str]:
    errors = [
        float(np.max(np.abs(x[name] - y[name])) / np.max(np.abs(y[name])))
        for x, y in zip(a, b, strict=True)
    ]
    worst = max(errors)
    when = str(errors.index(worst) + 1) if worst else "-"
    return [*(f"{e:.1e}" if e else "0" for e in (errors[0], errors[-1], worst)), when]
