"""Random cases, the same ones for a seed everywhere: plain `random`, no Hypothesis."""

from random import Random
from typing import Any
from zlib import crc32

import numpy as np

from ._cases import Case
from ._numbers import fill
from ._trees import Tree, map_leaves

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
    return Case(f"drawn-{seed}", options, map_leaves(full_width, params), blurred)


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
