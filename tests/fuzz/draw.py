"""One case per seed: options, tensors, a gradient per step, faults. Plain `random` and NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import ml_dtypes
import numpy as np

import adafactor_core as af

from . import schedules as at

Arrays = dict[str, np.ndarray]

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
WHOLE_STEP: dict[str, list[Any]] = {
    "batch_axes": [()],
    "seed": [0, 1, 2**40 + 5],
    "max_grad_norm": [None, None, None, 1e-3, 1.0, 1e6],
    "nonfinite": ["propagate", "skip_tensor", "skip_tensor", "skip_step", "skip_step", "raise"],
    "telemetry": [False, False, True],
    "max_scratch_bytes": [None, None, 1024, 4096],
}
# What may stand beside each option; drawn independently, then made consistent by `_consistent`.
CHOICES: dict[str, list[Any]] = {
    "lr": [None, None, 0.0, 0.13, 0.47, at.falling, at.decaying],
    "step_size": [None, None, af.RelativeStep(), af.RelativeStep(cap=0.5),
                  af.RelativeStep(cap=None), af.RelativeStep(cap=1e-2, warmup_init=True)],
    "scale_parameter": [True, True, False],
    "eps2": [1e-3, 0.5, 0.0],
    "max_parameter_scale": [None, None, 0.5],
    "factored": [True, True, True, False],
    "factored_dims": ["auto", "auto", "last", "largest", "largest_first", "conv"],
    "min_dim_size_to_factor": [1, 1, 2, 4],
    "scale_scope": ["block", "tensor"],
    "clip_scope": ["block", "tensor"],
    "eps1": [1e-30, 1e-30, 1e-30, 1e-15, 1e-3, "finfo", 0.0],
    "eps1_mode": ["grad_sq", "grad_sq", "stats", "clamp"],
    "decay_type": ["pow", "pow", "adam", "constant"],
    "decay_rate": [None, None, 0.5, 0.875, at.rising],
    "decay_offset": [0, 0, 1, 3],
    "beta2_cap": [None, None, 0.25, 0.75, 0.999],
    "clip_threshold": [1.0, 1.0, 0.25, 3.0, None],
    "beta1": [None, None, 0.0, 0.5, 0.9, at.rising],
    "momentum_on": ["scaled_update", "update", "grad"],
    "momentum_dtype": ["float32", "float32", "bfloat16", "float16", "int8"],
    "momentum_rounding": ["nearest", "nearest", "stochastic"],
    "momentum_arithmetic": ["float32", "float32", "buffer", "weak"],
    "weight_decay": [0.0, 0.0, 0.13, at.falling],
    "weight_decay_by": ["alpha", "lr", "none"],
    "weight_decay_first": [False, False, True],
    "rounding": ["nearest", "stochastic", "kahan"],
    "maximize": [False, False, True],
}  # fmt: skip
KINDS = ["plain", "plain", "dead", "zeros", "spikes", "sparse", "constant", "alternating",
         "uneven", "wild", "falling", "late"]  # fmt: skip
PATHS = ["w", "b", "layers.0.w", "layers.0.norm", "emb"]


@dataclass
class FuzzCase:
    """`options`: what `Config` takes, as Python values. `faults`: (step, path, value) put in."""

    seed: int
    options: dict[str, Any]
    params: Arrays
    grads: list[Arrays]
    grad_scale: Any = None
    faults: list[tuple[int, str, float]] = field(default_factory=list)

    @property
    def config(self) -> af.Config:
        return af.Config(**self.options)

    def of(self, path: str) -> dict[str, Any]:
        """The options of one tensor, rules taken in."""
        base = {k: v for k, v in self.options.items() if k != "rules"}
        return base | next((o for p, o in self.options["rules"] if p == path), {})

    def words(self) -> str:
        """Tensors and what is not the default, for a report."""
        plain, shown = af.Config(), {}
        for name, value in self.options.items():
            if getattr(plain, name) != value:
                shown[name] = getattr(value, "__name__", value)
        tensors = ", ".join(
            f"{p}: {x.dtype}{list(x.shape)} grad {self.grads[0][p].dtype}"
            for p, x in self.params.items()
        )
        return f"{tensors}; {shown}; grad_scale={self.grad_scale}; faults={self.faults}"


def draw(seed: int) -> FuzzCase:
    """The case of this seed."""
    random, rng = Random(seed), np.random.default_rng([7, seed])
    options = {n: random.choice(v) for n, v in (CHOICES | WHOLE_STEP).items()}
    steps = random.choice([1, 2, 2, 3, 3, 4, 6])
    scale = random.choice([None, None, None, 0.37, 1024.0, 2.0**16, 2.0**-20, 2.0**70])
    params: Arrays = {}
    grads: list[Arrays] = [{} for _ in range(steps)]
    rules = []
    small = random.random() < 0.9
    for path in random.sample(PATHS, random.choice([1, 1, 1, 2, 2, 3, 4])):
        shape = _shape(random, small)
        override = _override(random, options, len(shape))
        if override:
            rules.append((path, override))
        dtype = random.choice(["float32", "float32", "float64", "bfloat16", "float16"])
        other = random.choice(list(DTYPES)) if random.random() < 0.3 else dtype
        params[path] = _param(random, rng, shape, dtype)
        for g, array in zip(grads, _grads(random, rng, shape, other, steps, scale), strict=True):
            g[path] = array
    _consistent(options)
    if options["max_scratch_bytes"] and max(x.size for x in params.values()) > 600:
        options["max_scratch_bytes"] = 16384  # no more blocks than needed: they take the time
    options["rules"] = tuple(rules)
    case = FuzzCase(seed, options, params, grads, scale)
    if random.random() < 0.4:
        _put_faults(case, random)
    if scale is not None and random.random() < 0.3:
        case.grad_scale = np.asarray(scale, np.float32)
    return case


def _override(random: Random, options: dict[str, Any], rank: int) -> dict[str, Any]:
    """A rule for one tensor; axes always come by rule, since not every tensor has them."""
    if random.random() < 0.6:
        return {}
    found = {n: random.choice(v) for n, v in CHOICES.items() if random.random() < 0.15}
    free = list(range(rank))
    if rank > 1 and random.random() < 0.5:
        found["batch_axes"] = tuple(random.sample(free, random.choice([1, 1, min(2, rank - 1)])))
        free = [a for a in free if a not in found["batch_axes"]]
    if len(free) > 1 and random.random() < 0.4:
        random.shuffle(free)
        pair = ((free[:-1], free[-1:]), (free[:1], free[1:2]))[random.random() < 0.7]
        found["factored_dims"] = tuple(tuple(sorted(side)) for side in pair)
    together = options | found
    _consistent(together)
    return {n: v for n, v in together.items() if n in found or v != options[n]} if found else {}


def _consistent(o: dict[str, Any]) -> None:
    """Takes back what contradicts: these combinations are errors, not semantics."""
    if o["lr"] is None and o["step_size"] is not None and o["step_size"].cap is None:
        o["lr"] = 0.23
    if o["decay_type"] == "constant":
        o["decay_offset"] = 0
    if o["weight_decay_by"] == "alpha":
        o["weight_decay_first"] = False
    if o["momentum_dtype"] == "int8" and o["momentum_arithmetic"] == "weak":
        o["momentum_arithmetic"] = "buffer"
    if o["eps1_mode"] == "clamp" and o["eps1"] == 0.0:
        o["eps1"] = 1e-30


def _shape(random: Random, small: bool) -> tuple[int, ...]:
    rank = random.choice([0, 1, 1, 2, 2, 2, 3, 3, 4, 5])
    sizes = [1, 2, 3, 5] if rank > 3 else [1, 2, 3, 4, 5, 8, 11, 17]
    shape = [random.choice(sizes) for _ in range(rank)]
    if rank and random.random() < 0.05:
        shape[random.randrange(rank)] = 0
    elif rank and random.random() < (0.05 if small else 0.5):
        shape[random.randrange(rank)] = random.randint(100, 300)
    return tuple(shape)


def _exponent(random: Random, dtype: str) -> int:
    """Of two, for a whole tensor: usual, within 2**-60..2**60, or far beyond."""
    if dtype == "float16":
        return random.choice([0, 0, random.randint(-20, 13)])
    far = [random.randint(-148, -61), random.randint(61, 124)]
    if dtype == "float64":
        far = [random.randint(-240, -61), random.randint(61, 240)]  # beyond is beyond the oracle
    usual = random.randint(-60, 60)
    return random.choice([0, 0, 0, usual, usual, usual, usual, random.choice(far)])


def _param(random: Random, rng: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    e = random.choice([0, 0, 0, 0, -10, 10, _exponent(random, dtype)])
    x = rng.normal(size=shape) * random.choice([1.0, 1.0, 1.0, 0.0, 0.01]) * 2.0**e
    return _cast(x, dtype)


def _cast(x: Any, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(DTYPES[dtype])


def _grads(
    random: Random, rng: Any, shape: tuple[int, ...], dtype: str, steps: int, scale: Any
) -> list[np.ndarray]:
    """`steps` gradients of one kind; with a grad_scale, half of the time multiplied by it."""
    kind, e = random.choice(KINDS), _exponent(random, dtype)
    by = scale if scale is not None and random.random() < 0.5 and dtype != "float16" else 1.0
    found = []
    for step in range(steps):
        g = np.asarray(rng.normal(size=shape))
        for axis, size in enumerate(shape):
            if size > 2 and kind in ("dead", "wild"):
                np.moveaxis(g, axis, 0)[size // 2] = 0.0
        if kind == "zeros" or (kind == "late" and step < 2):
            g = g * 0.0
        elif kind == "spikes" and g.size:
            g.reshape(-1)[rng.integers(g.size)] *= 2.0 ** random.randint(1, 40)
        elif kind == "sparse" and g.ndim:
            g[np.arange(len(g)) % 3 != step % 3] = 0.0
        elif kind in ("constant", "alternating"):
            g = np.full(shape, 0.7 * (1 if kind == "constant" else (-1) ** step))
        elif kind in ("uneven", "wild"):
            g = g * 2.0 ** rng.integers(-12, 12, size=shape)
        elif kind == "falling":
            g = g * 2.0 ** (-3 * step)
        with np.errstate(over="ignore"):
            found.append(_cast(g * 2.0**e * by, dtype))
    return found


def _put_faults(case: FuzzCase, random: Random) -> None:
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        step, path = random.randrange(len(case.grads)), random.choice(list(case.params))
        array = case.grads[step][path]
        if random.random() < 0.03:
            step, array = -1, case.params[path]
        huge = 2.0 ** random.randint(64, 127) if array.dtype.itemsize < 8 else 2.0**600
        value = random.choice([np.nan, np.nan, np.inf, -np.inf, huge, -huge])
        if array.size:
            with np.errstate(over="ignore"):
                array.reshape(-1)[random.randrange(array.size)] = value
            case.faults.append((step, path, float(value)))
