"""Adafactor step by step: every quantity of every step, read from the library.

State and telemetry have most of it. U is the update that the library gives where nothing scales it,
and the V that R and C stand for follows from U = G / sqrt(V). A test computes all of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from _descents import direction

import adafactor_core as af
from adafactor_core._schedules import rates

STEPS = 5
STIFF = np.array([[1.0, 2.0], [3.0, 20.0]])


@dataclass(frozen=True)
class Example:
    """f(X) = sum(weights * X^2), from `start`. `tight`: options other than the defaults."""

    title: str
    start: np.ndarray
    weights: np.ndarray
    options: dict[str, Any]


EXAMPLES = {
    "vector": Example("a vector, (2,)", np.array([4.0, 4.0]), np.array([1.0, 1.0]), {}),
    "row": Example(
        "a 1x2 matrix, factored",
        np.array([[4.0, 4.0]]),
        np.array([[1.0, 1.0]]),
        {"factored_dims": "last"},
    ),
    "matrix": Example("a 2x2 matrix, factored", np.full((2, 2), 4.0), STIFF, {}),
}


def worked(example: Example, steps: int = STEPS) -> list[dict[str, Any]]:
    """One dict a step: numbers, and arrays of the parameter's rank."""
    config = af.Config(telemetry=True, **example.options)
    x = example.start.copy()
    state = af.init(x, config)
    return [row for row, x, state in _along(example, config, x, state, steps)]


def _along(example: Example, config: af.Config, x: np.ndarray, state: af.State, steps: int) -> Any:
    for t in range(1, steps + 1):
        g = 2.0 * example.weights * x
        u = direction(g, state, x, config)
        unscaled = replace(config, scale_parameter=False)
        _, plain = af.update(g, state, x, unscaled)
        new, state = af.step(x, g, state, config)
        told = af.metrics(state)
        moments = state.moments
        row = {
            "t": t,
            "x_before": x,
            "b": rates(config, t, "float64").b,
            "f": float(np.sum(example.weights * x * x)),
            "g": g,
            "row": moments.row,
            "col": moments.col,
            "v": (g / u) ** 2,
            "u": u,
            "u_rms": float(told["update_rms"]),
            "clip": float(told["clip_factor"]),
            "x_rms": float(told["param_rms"]),
            "rho": float(af.metrics(plain)["learning_rate"]),
            "alpha": float(told["learning_rate"]),
            "d": new - x,
            "x": new,
        }
        x = new
        yield row, x, state


LINES: tuple[tuple[str, str], ...] = (
    ("X before", "x_before"),
    ("f(X)", "f"),
    ("G = ∇f(X)", "g"),
    ("b = t^−0.8", "b"),
    ("R, row means", "row"),
    ("C, column means", "col"),
    ("V, mean of G²", "v"),
    ("U = G / √V", "u"),
    ("RMS(U)", "u_rms"),
    ("1 / max(1, RMS(U) / d)", "clip"),
    ("ρ = min(0.01, 1/√t)", "rho"),
    ("RMS(X)", "x_rms"),
    ("α = ρ max(ε₂, RMS(X))", "alpha"),
    ("D = −α U / max(1, RMS(U) / d)", "d"),
    ("X after = X + D", "x"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line per quantity, a column per step."""
    head = ["t", *(str(row["t"]) for row in rows)]
    lines = [head, ["---"] * len(head)]
    for label, key in LINES:
        if rows[0][key] is not None:
            named = "V = R C / mean(R)" if key == "v" and rows[0]["row"] is not None else label
            lines.append([named, *(text(row[key]) for row in rows)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(value: Any) -> str:
    """A number, (a, b) for a vector, [a, b; c, d] for a matrix."""
    if isinstance(value, float):
        return number(value)
    if value.ndim == 1:
        return "(" + ", ".join(map(number, value)) + ")"
    return "[" + "; ".join(", ".join(map(number, line)) for line in value) + "]"


def number(value: float) -> str:
    """Five significant digits: enough to follow the arithmetic with a pocket calculator."""
    shown = f"{value:.5g}"
    return "0" if float(shown) == 0.0 else shown.replace("-", "−")


def section(worked_examples: Callable[[Example], list[dict[str, Any]]] = worked) -> str:
    """The tables of the page."""
    parts = []
    for example in EXAMPLES.values():
        parts += [f"**As {example.title}**", table(worked_examples(example))]
    return "\n\n".join(parts)
