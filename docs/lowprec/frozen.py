"""Do 16-bit parameters move? A 64x64 matrix of ones in bfloat16, by Adafactor, with each rounding.

    python docs/lowprec/frozen.py [--out DIR] [numpy] [adafactor_numpy] [torch] [jax]

Two cases. "gradient": 300 steps of lr=1e-3 with gradients of one sign. "decay": 1000 steps of
lr=1e-2, weight_decay=1e-2 by "lr", and gradients of zero. Writes frozen.json and frozen.png.
Needs numpy, ml_dtypes, matplotlib; torch and jax run where they are installed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import adafactor_core as af

sys.path.insert(0, str(Path(__file__).parents[1] / "_shared"))

SHAPE = (64, 64)
OPTIONS: dict[str, dict[str, Any]] = {
    "gradient": {"lr": 1e-3},
    "decay": {"lr": 1e-2, "weight_decay": 1e-2, "weight_decay_by": "lr"},
}
STEPS = {"gradient": 300, "decay": 1000}
RUNS = {  # name: dtype, rounding
    "float32": ("float32", "nearest"),
    "nearest": ("bfloat16", "nearest"),
    "stochastic": ("bfloat16", "stochastic"),
    "kahan": ("bfloat16", "kahan"),
    "kahan, sum": ("bfloat16", "kahan"),  # of the parameter and its compensation
}
BACKENDS = {  # name: the modules that it needs
    "numpy": ("ml_dtypes",),
    "adafactor_numpy": ("ml_dtypes", "numba"),
    "torch": ("torch",),
    "jax": ("jax",),
}
Stepper = Callable[[np.ndarray], list[np.ndarray]]
"""A gradient in; the parameter and, if there is one, its compensation out."""


def missing(backend: str) -> list[str]:
    """What has to be installed before this backend can run."""
    return [module for module in BACKENDS[backend] if not find_spec(module)]


def trajectory(backend: str, case: str, run: str) -> np.ndarray:
    """The mean of the parameter before the first step and after each one."""
    dtype, rounding = RUNS[run]
    config = af.Config(rounding=rounding, **OPTIONS[case])
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():  # nearest is here on purpose
        warnings.simplefilter("ignore", af.LowPrecisionWarning)
        step = STARTERS[backend](np.ones(SHAPE), dtype, config)
    means = [1.0]
    for _ in range(STEPS[case]):
        g = rng.uniform(0.8, 1.2, SHAPE) if case == "gradient" else np.zeros(SHAPE)
        parts = [x.mean(dtype=np.float64) for x in step(g)]
        means.append(float(sum(parts) if run == "kahan, sum" else parts[0]))
    return np.array(means)


def _numpy(x: np.ndarray, dtype: str, config: af.Config) -> Stepper:
    return _pure(x, config, functools.partial(np.asarray, dtype=_numpy_dtype(dtype)))


def _jax(x: np.ndarray, dtype: str, config: af.Config) -> Stepper:
    import jax

    return _pure(x, config, functools.partial(jax.numpy.asarray, dtype=dtype), jax.jit)


def _torch(x: np.ndarray, dtype: str, config: af.Config) -> Stepper:
    import torch

    step = _pure(x, config, lambda a: torch.from_numpy(a).to(getattr(torch, dtype)))
    return torch.no_grad()(step)


def _pure(x: np.ndarray, config: af.Config, array: Any, compiled: Any = lambda f: f) -> Stepper:
    """`af.step` on the arrays that `array` makes of NumPy's."""
    params, step = array(x), compiled(functools.partial(af.step, config=config))
    state = af.init(params, config)

    def advance(g: np.ndarray) -> list[np.ndarray]:
        nonlocal params, state
        params, state = step(params, array(g), state)
        found = [x for x in (params, state.moments.compensation) if x is not None]
        # torch's bfloat16 has no way to NumPy but a wider type.
        return [np.asarray(x.double() if hasattr(x, "double") else x) for x in found]

    return advance


def _adapter(x: np.ndarray, dtype: str, config: af.Config) -> Stepper:
    from adafactor_numpy import Adafactor

    kind = _numpy_dtype(dtype)
    optimizer = Adafactor(x.astype(kind), config, compiled=True)

    def advance(g: np.ndarray) -> list[np.ndarray]:
        optimizer.step(g.astype(kind))
        found = [optimizer.params, optimizer.state.moments.compensation]
        return [x for x in found if x is not None]

    return advance


def _numpy_dtype(name: str) -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)


STARTERS = {"numpy": _numpy, "adafactor_numpy": _adapter, "torch": _torch, "jax": _jax}


def deviations(mean: float, reference: float) -> tuple[float, float]:
    """From float32's final mean, in % of that mean and in % of the distance it came from 1."""
    off = 100 * abs(mean - reference)
    return off / reference, off / (1 - reference)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, prints the table, writes the files."""
    parser = argparse.ArgumentParser(description="Do 16-bit parameters move?")
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=", ".join(BACKENDS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(argv)
    if unknown := set(options.backends) - set(BACKENDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(BACKENDS)}.")
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for backend in options.backends or BACKENDS:
        if lacks := missing(backend):
            print(f"{backend}: left out, not installed: {', '.join(lacks)}")
            continue
        found[backend] = {c: {r: trajectory(backend, c, r) for r in RUNS} for c in OPTIONS}
        print(f"{backend}: done", flush=True)
    rows = [
        (case, backend, run, *_final(by_case[case], run))
        for case in OPTIONS
        for backend, by_case in found.items()
        for run in RUNS
    ]
    print(f"\n{'case':9} {'backend':15} {'run':10}  final mean  off by: % of mean  % of the way")
    for case, backend, run, mean, of_mean, of_way in rows:
        print(f"{case:9} {backend:15} {run:10} {mean:11.6f} {of_mean:18.3f} {of_way:13.3f}")
    write(options.out, found, rows)


def _final(means: dict[str, np.ndarray], run: str) -> tuple[float, float, float]:
    mean = means[run][-1]
    return float(mean), *deviations(mean, means["float32"][-1])


def write(out: Path, found: dict[str, Any], rows: list[tuple[Any, ...]]) -> None:
    """frozen.json and frozen.png; the figure shows the first backend."""
    from _figures import draw_frozen
    from _record import write_json

    names = ("case", "backend", "run", "final_mean", "percent_of_mean", "percent_of_distance")
    record = {
        "shape": SHAPE,
        "options": OPTIONS,
        "steps": STEPS,
        "table": [dict(zip(names, row, strict=True)) for row in rows],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "frozen.json", record)
    draw_frozen(out / "frozen.png", *next(iter(found.items())))


if __name__ == "__main__":
    main()
