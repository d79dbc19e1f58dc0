"""The table and the JSON record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from _record import write_json
from _training import BATCH, SIZES, Run

Row = dict[str, Any]

COLUMNS = (  # heading, key of a row, format
    ("backend", "backend", "{}"),
    ("optimizer by", "package", "{}"),
    ("accuracy", "test_accuracy", "{:.2%}"),
    ("train loss", "train_loss", "{:.5f}"),
    ("steps/s", "steps_per_second", "{:.0f}"),
    ("optimizer/s", "optimizer_steps_per_second", "{:.0f}"),
    ("state B", "state_bytes", "{:,}"),
    ("Adam B", "adam_bytes", "{:,}"),
    ("dev. training", "max_training_deviation", "{:.1e}"),
    ("dev. optimizer", "max_optimizer_deviation", "{:.1e}"),
)

NOTES = """\
accuracy: of the held-out quarter; train loss: mean cross-entropy over the rest. Both at the end.
steps/s: 1 / median time of a whole step, gradient included; optimizer/s: of its part alone.
state B: bytes of the optimizer's arrays; Adam B: what Adam keeps for the same parameters.
dev.: the largest max|a-b| / max|b| of any tensor after any step, b being numpy's parameters;
  training: each backend on its own gradients; optimizer: each on numpy's gradients.
float64: the same run in double precision, a yardstick: what float32's rounding alone amounts to."""


def summary(name: str, run: Run) -> Row:
    """One row of the table, for JSON. A run compared with nothing has None for deviations."""
    seconds = [g + o for g, o in zip(run.gradient_seconds, run.optimizer_seconds, strict=True)]
    return {
        "backend": name,
        "package": run.package,
        "test_accuracy": list(run.accuracy.values())[-1],
        "train_loss": run.train_loss,
        "steps_per_second": 1 / median(seconds),
        "optimizer_steps_per_second": 1 / median(run.optimizer_seconds),
        "state_bytes": run.state_bytes,
        "adam_bytes": run.adam_bytes,
        "max_training_deviation": max(run.training_deviation, default=None),
        "max_optimizer_deviation": max(run.optimizer_deviation, default=None),
        "first_step_seconds": seconds[0],  # compilation included
    }


def table(rows: list[Row]) -> str:
    """All rows, aligned, with the meaning of the columns below."""
    cells = [[heading for heading, _, _ in COLUMNS]]
    for row in rows:
        values = [(row[key], form) for _, key, form in COLUMNS]
        cells.append(["-" if v is None else form.format(v) for v, form in values])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        left = [c.ljust(n) for c, n in zip(line[:2], widths[:2], strict=True)]
        right = [c.rjust(n) for c, n in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(left + right))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", NOTES])


def save(out: Path, options: Mapping[str, Any], runs: Mapping[str, Run], rows: list[Row]) -> Path:
    """Writes the record of everything that was measured; returns its path."""
    record = {
        "options": {**options, "sizes": SIZES, "batch": BATCH},
        "table": rows,
        "runs": {
            name: {
                "losses": run.losses,
                "training_deviation": run.training_deviation,
                "optimizer_deviation": run.optimizer_deviation,
                "test_accuracy_after_step": run.accuracy,
            }
            for name, run in runs.items()
        },
    }
    path = out / "record.json"
    write_json(path, record, "scikit-learn")
    return path
