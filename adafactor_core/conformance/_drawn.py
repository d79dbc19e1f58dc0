"""Random cases, the same ones for a seed everywhere: plain `random`, no Hypothesis."""

from random import Random
from typing import Any
from zlib import crc32

import numpy as np

from ._cases import Case
from ._numbers import fill, spoil
from ._trees import Tree, leaves, map_leaves

# What may stand beside each option; drawn independently, then made consistent by `_consistent`.
CHOICES: dict[str, list[Any]] = {
    "lr": [None, 0.13, 0.47, {"schedule": "inverse_sqrt", "peak": 0.47},
           {"schedule": "exponential", "start": 0.47, "rate": 0.77}],
    "step_size": [None, None, {"cap": 0.5, "warmup_init": False},
                  {"cap": None, "warmup_init": False}, {"cap": 1e-2, "warmup_init": True}],
    "scale_parameter": [True, True, False],
    "eps2": [1e-3, 0.5],
    "max_parameter_scale": [None, None, 0.5],
    "factored": [True, True, True, False],
    "factored_dims": ["auto", "auto", "last", "largest", "largest_first", "conv", "explicit"],
    "min_dim_size_to_factor": [1, 2, 4],
    "batch_axes": [[], [], [0], [-1], [0, 1]],
    "scale_scope": ["block", "tensor"],
    "clip_scope": ["block", "tensor"],
    "eps1": [1e-30, 1e-30, 1e-15, 1e-3, "finfo"],
    "eps1_mode": ["grad_sq", "grad_sq", "stats", "clamp"],
    "decay_type": ["pow", "pow", "adam", "constant"],
    "decay_rate": [None, 0.5, 0.875, {"schedule": "linear", "start": 0.5, "slope": 0.03125}],
    "decay_offset": [0, 0, 1, 3],
    "beta2_cap": [None, None, 0.25, 0.75],
    "clip_threshold": [1.0, 0.25, 3.0, None],
    "beta1": [None, None, 0.5, 0.9, {"schedule": "linear", "start": 0.5, "slope": 0.03125}],
    "momentum_on": ["scaled_update", "update", "grad"],
    "weight_decay": [0.0, 0.0, 0.13, {"schedule": "inverse_sqrt", "peak": 0.23}],
    "weight_decay_by": ["alpha", "lr", "none"],
    "weight_decay_first": [False, False, True],
    "max_scratch_bytes": [None, None, 1024],
    "maximize": [False, False, True],
}  # fmt: skip
# Drawn apart from the rest, so that the cases of older seeds stay what they were.
NEWER: dict[str, list[Any]] = {
    "rounding": ["nearest", "stochastic", "kahan"],
    "seed": [0, 1, 2**32 - 1, 2**40 + 3],
    "momentum_dtype": ["float32", "float32", "bfloat16", "float16", "int8", "int8"],
    "momentum_arithmetic": ["float32", "float32", "buffer", "weak"],
    "momentum_rounding": ["nearest", "stochastic"],
    "nonfinite": ["propagate", "propagate", "skip_tensor", "skip_step"],
    "max_grad_norm": [None, None, 0.37, 3.7, 1e4],
    "telemetry": [False, False, True],
}
SCALES = [None, 3.0, 1024.0, 0.37]
HUGE, SILENT = ("huge", "dead-huge"), ("dead", "silent", "sparse", "dead-huge")
KINDS = ["plain", "plain", "spike", "small", "dead", "silent", "sparse", "falling", "dead-huge",
         "huge", "tiny"]  # fmt: skip


def draw_case(seed: int) -> Case:
    """The case of this seed: one to three tensors of one rank up to 5, three to six steps."""
    random = Random(seed)
    options = {name: random.choice(values) for name, values in CHOICES.items()}
    rank = random.choice([0, 1, 1, 2, 2, 2, 3, 3, 4, 5])
    _consistent(options, rank, random)
    kind, steps = random.choice(KINDS), random.randint(3, 6)
    if kind == "tiny":  # squares outside float32: only eps1 inside the average hides them
        options["eps1_mode"] = "grad_sq"
    shapes = [_shape(random, rank) for _ in range(random.randint(1, 3))]
    rng = np.random.default_rng(crc32(f"drawn {seed}".encode()))
    tree = _tree(random, [np.zeros(shape) for shape in shapes])
    params, grads = fill(rng, tree, kind, steps)

    def full_width(x: Any) -> Any:  # `fill` gives few digits, for the golden file
        return x * (1 + rng.random(x.shape) / 8)

    blurred = tuple(map_leaves(full_width, grad) for grad in grads)
    case = Case(f"drawn-{seed}", options, map_leaves(full_width, params), blurred)
    return _newer(case, kind, Random(f"newer {seed}"))


def _newer(case: Case, kind: str, random: Random) -> Case:
    """The case with the options that look at all tensors or round, a loss scale, and faults."""
    more = {name: random.choice(values) for name, values in NEWER.items()}
    if more["momentum_dtype"] == "int8" and more["momentum_arithmetic"] == "weak":
        more["momentum_arithmetic"] = "buffer"  # that pair is an error
    if kind in HUGE:  # the sum of all squares leaves the range of float32
        more |= {"max_grad_norm": None, "nonfinite": "propagate"}
    if kind in (*HUGE, "tiny") and more["momentum_dtype"] == "float16":  # and gradients that of it
        more["momentum_dtype"] = "bfloat16"
    scales = None
    if random.random() < 0.3 and kind not in HUGE:
        scales = tuple(random.choice(SCALES) for _ in case.grads)
    chance = {"propagate": 0.25, "skip_tensor": 0.9, "skip_step": 0.9}[more["nonfinite"]]
    if kind in SILENT and more["nonfinite"] == "propagate":
        chance = 0.0  # 0 / NaN of an entry without a gradient: 0 or NaN, by the order of factors
    paths = [path for path, x in leaves(case.params).items() if x.size]
    faults = []
    for _ in range(random.choice([1, 2, 3]) if random.random() < chance else 0):
        path, step = random.choice(paths), random.randrange(len(case.grads))
        index = random.randrange(leaves(case.params)[path].size)
        value = random.choice(["nan", "inf", "-inf"]) if more["nonfinite"] != "propagate" else "nan"
        faults.append((step, path, index, float(value)))
    params, grads = spoil((case.params, case.grads), faults)
    return Case(case.name, {**case.options, **more}, params, grads, scales)


def _consistent(options: dict[str, Any], rank: int, random: Random) -> None:
    """Take back what contradicts: these combinations are errors, not semantics."""
    if rank < 3:
        options["batch_axes"] = [0] if rank == 2 and random.random() < 0.2 else []
    free = [axis for axis in range(rank) if axis not in {a % rank for a in options["batch_axes"]}]
    if options["factored_dims"] == "explicit":
        random.shuffle(free)
        several = [free[:-1], free[-1]] if len(free) > 2 else free[:2]
        options["factored_dims"] = random.choice([free[:2], several]) if len(free) > 1 else "auto"
    if options["lr"] is None and (options["step_size"] or {}).get("cap", 1) is None:
        options["lr"] = 0.23
    if options["decay_type"] == "constant":
        options["decay_offset"] = 0
    if options["weight_decay_by"] == "alpha":
        options["weight_decay_first"] = False


def _shape(random: Random, rank: int) -> tuple[int, ...]:
    sizes = [1, 2, 3, 5, 7] if rank > 3 else [1, 2, 3, 4, 5, 8, 11, 17]
    return tuple(random.choice(sizes) for _ in range(rank))


def _tree(random: Random, arrays: list[Any]) -> Tree:
    """A bare array, or a dict, list or nested container of them."""
    if len(arrays) == 1 and random.random() < 0.5:
        return arrays[0]
    named = {f"w{index}": array for index, array in enumerate(arrays)}
    return random.choice([named, arrays, {"layers": [named]}])
