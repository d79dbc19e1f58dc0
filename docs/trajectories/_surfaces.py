"""The 2-D surfaces: value, gradient, and how they are shown. Each has its minimum at 0.

Plain arithmetic, so that x and y may be numbers or arrays. `_page/surfaces.js` has the same ones
for the interactive page, and a test holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

TURN = 2.0 * math.pi
DECADES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


@dataclass(frozen=True)
class Surface:
    """`span`: (left, bottom, side) of the square that is shown. `levels`: of contour lines."""

    title: str
    formula: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[Any, Any], tuple[Any, Any]]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    span: tuple[float, float, float]
    levels: tuple[float, ...]
    note: str


def _within(low: float, high: float) -> tuple[float, ...]:
    return tuple(level for level in DECADES if low <= level <= high)


def _beale(x: Any, y: Any) -> Any:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
    return a * a + b * b + c * c


def _beale_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
    along_x = 2.0 * (a * (y - 1.0) + b * (y * y - 1.0) + c * (y * y * y - 1.0))
    return along_x, 2.0 * x * (a + 2.0 * b * y + 3.0 * c * y * y)


def _himmelblau(x: Any, y: Any) -> Any:
    a, b = x * x + y - 11.0, x + y * y - 7.0
    return a * a + b * b


def _himmelblau_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    a, b = x * x + y - 11.0, x + y * y - 7.0
    return 4.0 * x * a + 2.0 * b, 2.0 * a + 4.0 * y * b


def _rastrigin(x: Any, y: Any) -> Any:
    return 20.0 + x * x - 10.0 * np.cos(TURN * x) + y * y - 10.0 * np.cos(TURN * y)


def _rastrigin_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    along_x = 2.0 * x + 10.0 * TURN * np.sin(TURN * x)
    return along_x, 2.0 * y + 10.0 * TURN * np.sin(TURN * y)


def _rosenbrock_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    off = y - x * x
    return -2.0 * (1.0 - x) - 400.0 * x * off, 200.0 * off


SURFACES = {
    "bowl": Surface(
        "Round bowl",
        "x² + y²",
        lambda x, y: x * x + y * y,
        lambda x, y: (2.0 * x, 2.0 * y),
        (4.0, 4.0),
        ((0.0, 0.0),),
        (-5.0, -5.0, 10.0),
        _within(0.1, 30.0),
        "Every direction is alike, so there is nothing to adapt to: plain SGD is at its best.",
    ),
    "valley": Surface(
        "Narrow valley",
        "(x² + 50 y²) / 2",
        lambda x, y: 0.5 * (x * x + 50.0 * y * y),
        lambda x, y: (x, 50.0 * y),
        (4.0, 2.0),
        ((0.0, 0.0),),
        (-5.0, -5.0, 10.0),
        _within(0.1, 300.0),
        "Fifty times steeper in y than in x. A rate per coordinate makes it a round bowl.",
    ),
    "turned": Surface(
        "Turned valley",
        "((x + y)² + 50 (x − y)²) / 4",
        lambda x, y: 0.25 * ((x + y) * (x + y) + 50.0 * (x - y) * (x - y)),
        lambda x, y: (
            0.5 * (x + y) + 25.0 * (x - y),
            0.5 * (x + y) - 25.0 * (x - y),
        ),
        (3.0 * math.sqrt(2.0), math.sqrt(2.0)),
        ((0.0, 0.0),),
        (-5.0, -5.0, 10.0),
        _within(0.1, 300.0),
        "The same valley and start, turned by 45°. SGD and momentum do not notice; methods with a "
        "rate per coordinate do.",
    ),
    "rosenbrock": Surface(
        "Rosenbrock",
        "(1 − x)² + 100 (y − x²)²",
        lambda x, y: (1.0 - x) * (1.0 - x) + 100.0 * (y - x * x) * (y - x * x),
        _rosenbrock_gradient,
        (-1.2, 1.0),
        ((1.0, 1.0),),
        (-2.0, -1.0, 4.0),
        _within(0.1, 1000.0),
        "A curved valley whose floor is almost flat.",
    ),
    "beale": Surface(
        "Beale",
        "(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²",
        _beale,
        _beale_gradient,
        (1.0, 1.5),
        ((3.0, 0.5),),
        (-1.0, -2.5, 5.0),
        _within(0.03, 1000.0),
        "Flat around the minimum, walls elsewhere.",
    ),
    "himmelblau": Surface(
        "Himmelblau",
        "(x² + y − 11)² + (x + y² − 7)²",
        _himmelblau,
        _himmelblau_gradient,
        (-0.5, -4.0),
        (
            (3.0, 2.0),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.283185991286170),
            (3.584428340330492, -1.848126526964404),
        ),
        (-5.5, -5.5, 11.0),
        _within(1.0, 300.0),
        "Four minima of equal value. Which one is found depends on the optimizer.",
    ),
    "saddle": Surface(
        "Saddle",
        "x² / 2 + (y² − 1)² / 4",
        lambda x, y: 0.5 * x * x + 0.25 * (y * y - 1.0) * (y * y - 1.0),
        lambda x, y: (x, y * (y * y - 1.0)),
        (2.0, 0.001),
        ((0.0, 1.0), (0.0, -1.0)),
        (-2.5, -2.5, 5.0),
        _within(0.01, 10.0),
        "A saddle at (0, 0) between two minima. The start is almost on its ridge, where the "
        "gradient in y is close to 0.",
    ),
    "rastrigin": Surface(
        "Rastrigin",
        "20 + x² − 10 cos 2πx + y² − 10 cos 2πy",
        _rastrigin,
        _rastrigin_gradient,
        (3.4, 2.6),
        ((0.0, 0.0),),
        (-4.5, -4.5, 9.0),
        (2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0),
        "A minimum at about every pair of whole numbers. Nobody gets far by following gradients.",
    ),
}
