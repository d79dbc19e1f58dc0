"""What is recorded and printed of the runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, median
from typing import Any

import torch
from _training import Run


def plain(runs: Sequence[Run], reference: Sequence[Run] | None, every: int) -> dict[str, Any]:
    """One kind, a run per seed. `reference`: the runs that they are compared with, if any.

    In the curves `train` are means over `every` steps, and `train_differences` of single steps.
    """
    kept = []
    for k, run in enumerate(runs):
        parts = range(0, len(run.train), every)
        curves = {
            "held_out": run.held_out,
            "train": [round(mean(run.train[t : t + every]), 5) for t in parts],
        }
        if reference is not None:
            curves["train_differences"] = [
                float(f"{d:.2e}") for d in differences(run.train, reference[k].train)
            ]
        kept.append(curves)
    found = {
        "held_out_last": mean(run.held_out[-1] for run in runs),
        "state_bytes": runs[0].state_bytes,
        "step_ms": 1000 * median(s for run in runs for s in run.step_seconds),
        "seconds": mean(run.seconds for run in runs),
    }
    if reference is not None:
        found["from_transformers"] = largest(runs, reference)
    return found | {"runs": kept}


def differences(losses: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Relative, with sign."""
    return [a / b - 1 for a, b in zip(losses, reference, strict=True)]


def largest(runs: Sequence[Run], reference: Sequence[Run]) -> dict[str, Any]:
    """Over all seeds and the whole run; `parameters` and `way` after so many steps.

    `held_out`, `train`: relative difference of losses. `parameters`: max abs(a - b) / max abs(b) of
    the worst tensor. `way`, for scale: the same between the reference's parameters and what they
    were at first, but the mean over tensors and seeds.
    """
    pairs = list(zip(runs, reference, strict=True))
    times = sorted(set(reference[0].snapshots) - {0})
    return {
        "held_out": max(map(abs, _chain(differences(a.held_out, b.held_out) for a, b in pairs))),
        "train": max(map(abs, _chain(differences(a.train, b.train) for a, b in pairs))),
        "parameters": {
            t: max(_chain(deviations(a.snapshots[t], b.snapshots[t]) for a, b in pairs))
            for t in times
        },
        "way": {
            t: mean(_chain(deviations(b.snapshots[t], b.snapshots[0]) for b in reference))
            for t in times
        },
    }


def _chain(parts: Iterable[Iterable[float]]) -> list[float]:
    return [x for part in parts for x in part]


def deviations(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> list[float]:
    """max abs(a - b) / max abs(b) by tensor."""
    return [float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True)]


def same_bits(runs: Sequence[Run], reference: Sequence[Run]) -> bool:
    """Whether all losses and all snapshots are equal, bit for bit."""
    return all(
        a.train == b.train
        and a.held_out == b.held_out
        and all(map(torch.equal, _tensors(a), _tensors(b)))
        for a, b in zip(runs, reference, strict=True)
    )


def _tensors(run: Run) -> list[torch.Tensor]:
    return [x for t in sorted(run.snapshots) for x in run.snapshots[t]]


def print_tables(record: Mapping[str, Any]) -> None:
    """Losses, bytes and times of every kind; differences from transformers'."""
    groups = {name: s["kinds"] for name, s in record["settings"].items()}
    groups["others"] = record["others"]
    print(f"\n{'':36}{'held-out loss':>14}{'state B':>12}{'ms/step':>9}{'s':>6}")
    for name, kinds in groups.items():
        for kind, row in kinds.items():
            print(
                f"{name + ': ' + kind:36}{row['held_out_last']:14.4f}{row['state_bytes']:12,}"
                f"{row['step_ms']:9.2f}{row['seconds']:6.1f}"
            )
    print("\nlargest relative difference from transformers': losses, parameters after n steps")
    for name, kinds in groups.items():
        for kind, row in kinds.items():
            if found := row.get("from_transformers"):
                ways = [
                    f"{t}: {x:.1e} of {found['way'][t]:.1e}" for t, x in found["parameters"].items()
                ]
                losses = f"held out {found['held_out']:.1e}  train {found['train']:.1e}"
                print(f"{name + ': ' + kind:36}{losses}  {'  '.join(ways)}")
