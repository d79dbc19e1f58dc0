"""The races as data: problem, contestants, targets. Targets: DESIGN.md section 9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from problems import LARGE, SMALL, T5, Problem

FLOORS = ("floor-numpy", "floor-torch")
OURS_TORCH = ("adafactor_torch", "adafactor_torch-plain")
TORCH = ("torch-loop", "torch-foreach")
ADAFACTORS = (*TORCH, "hf")
ADAMS = ("adamw-fused", "adamw-foreach")


class Target(NamedTuple):
    """`ours` takes at most `limit` times as long as the fastest of `against`.

    `times_faster` turns it round: at least so many times faster.
    """

    ours: str
    against: tuple[str, ...]
    what: str  # `against` in words
    limit: float = 0.0
    times_faster: float = 0.0


@dataclass(frozen=True)
class Race:
    """`inner`: steps per timed sample."""

    title: str
    problem: Problem
    contestants: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    inner: int = 1
    repeats: int = 30


_WATCHERS = ("told", "skip-tensor", "skip-step", "normed")
_OURS = ("compiled", "plain", *OURS_TORCH, "core-numpy", "core-torch", "core-jax", "adafactor_jax")
_ALL = (*FLOORS, *_OURS, *ADAFACTORS, "optax", *ADAMS)
# torch.compile takes seconds per tensor, so it has works of its own.
_GRAPH = (*FLOORS, *OURS_TORCH, "adafactor_torch-graph", *ADAFACTORS, *ADAMS)
_NO_SLOWER = Target("adafactor_torch", ("adamw-fused",), "torch fused AdamW", limit=1.0)
_LARGE_TARGETS = (
    Target("compiled", FLOORS, "the floor", limit=3.0),
    Target("compiled", TORCH, "torch.optim.Adafactor", times_faster=8.0),
    Target("compiled", ("hf",), "transformers Adafactor", times_faster=8.0),
    Target("compiled", ("adamw-fused",), "torch fused AdamW", limit=1.0),
    Target("plain", TORCH, "torch.optim.Adafactor", times_faster=3.0),
    Target("plain", ("hf",), "transformers Adafactor", times_faster=3.0),
    Target("adafactor_torch", ("floor-torch",), "torch's floor", limit=3.0),
    Target("adafactor_torch", TORCH, "torch.optim.Adafactor", times_faster=8.0),
    Target("adafactor_torch", ("hf",), "transformers Adafactor", times_faster=8.0),
    _NO_SLOWER,
    Target("adafactor_jax", ("optax",), "optax.adafactor", times_faster=4.0),
)
_JAX_NO_SLOWER = Target("adafactor_jax", ("optax",), "optax.adafactor", limit=1.0)

RACES: dict[str, Race] = {
    "large": Race("one 4096x4096 float32 tensor", Problem(LARGE), _ALL, _LARGE_TARGETS),
    "t5": Race(
        "49 tensors of T5-small shapes, 35 M parameters, float32",
        Problem(T5),
        _ALL,
        (_NO_SLOWER, _JAX_NO_SLOWER),
    ),
    "small": Race(
        "120 small tensors, 0.6 M parameters, float32",
        Problem(SMALL),
        _ALL,
        (
            Target("compiled", ("adamw-foreach",), "torch foreach AdamW", limit=1.0),
            Target("adafactor_torch", ("adamw-foreach",), "torch foreach AdamW", limit=1.0),
            _JAX_NO_SLOWER,
        ),
        inner=10,
        repeats=50,
    ),
    "bf16": Race(
        "one 4096x4096 bfloat16 tensor",
        Problem(LARGE, "bfloat16"),
        ("floor-torch", "compiled", "plain", *OURS_TORCH, *ADAFACTORS, *ADAMS),
    ),
    "graph": Race("torch.compile: one 4096x4096 float32 tensor", Problem(LARGE), _GRAPH),
    "graph-small": Race(
        "torch.compile: 8 small float32 tensors", Problem(SMALL[:8]), _GRAPH, inner=10
    ),
    **{
        name: Race(
            f"what watching costs: {title}",
            Problem(shapes),
            ("compiled", *_WATCHERS),
            tuple(Target(w, ("compiled",), "the step without", limit=1.03) for w in _WATCHERS),
            inner=inner,
        )
        for name, title, shapes, inner in (
            ("watched", "one 4096x4096 float32 tensor", LARGE, 1),
            ("watched-small", "120 small float32 tensors", SMALL, 10),
        )
    },
    **{
        name: Race(
            f"what rounding costs: {title}",
            Problem(shapes, "bfloat16"),
            ("compiled", "stochastic", "kahan"),
            (Target("stochastic", ("compiled",), "nearest rounding", limit=1.15),),
            inner=inner,
        )
        for name, title, shapes, inner in (
            ("rounding", "one 4096x4096 bfloat16 tensor", LARGE, 1),
            ("rounding-small", "120 small bfloat16 tensors", SMALL, 10),
        )
    },
    "momentum": Race(
        "one 4096x4096 float32 tensor, momentum on (beta1=0.9)",
        Problem(LARGE, beta1=0.9),
        (*FLOORS, "compiled", "plain", "hf", "optax", "adamw-fused"),
    ),
}


def verdicts(race: Race, rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Text and figures only: a slow machine fails nothing."""
    return [_verdict(target, rows) for target in race.targets]


def _verdict(target: Target, rows: Mapping[str, Any]) -> dict[str, Any]:
    ours = rows[target.ours].get("median_ms")
    others = [t for n in target.against if (t := rows[n].get("median_ms")) is not None]
    faster = target.times_faster > 0.0
    text = (
        f"{target.ours}: at least {target.times_faster:g} x faster than {target.what}"
        if faster
        else f"{target.ours}: at most {target.limit:g} x {target.what}"
    )
    if ours is None or not others:
        return {"text": text, "value": None, "met": None}
    value = min(others) / ours if faster else ours / min(others)
    met = value >= target.times_faster if faster else value <= target.limit
    return {"text": text, "value": value, "met": met}
