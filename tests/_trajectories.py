"""docs/trajectories as the tests see it: its modules, its page, and the library on its settings."""

import json
import random
import re
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import adafactor_core as af

FOLDER = Path(__file__).parents[1] / "docs" / "trajectories"
sys.path.append(str(FOLDER))  # its modules import each other by name

import _descents as descents
import _surfaces as surfaces

PAGE = FOLDER / "play.html"
NODE = shutil.which("node")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
OPTIMIZERS = tuple(descents.LABELS)
Settings = dict[str, Any]


def model() -> str:
    """The page's `simulate` and what it needs, as it stands in the page."""
    found = re.search(r'<script id="model">(.*?)</script>', PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def options_of_the_page() -> dict[str, list[str]]:
    """Name of each option that the page offers, with the values of its menu, if it is one."""
    page = PAGE.read_text(encoding="utf-8")
    names = re.findall(r'data-option="(\w+)"', page)
    menus = dict(re.findall(r'<select data-option="(\w+)">(.*?)</select>', page, re.S))
    return {name: re.findall(r'value="(\w+)"', menus.get(name, "")) for name in names}


def drawn(seed: int, count: int) -> list[Settings]:
    """Settings with every option of the page, each surface and each optimizer in turn."""
    rng = random.Random(seed)
    keys, layouts = list(surfaces.SURFACES), options_of_the_page()["layout"]
    cases = []
    for k in range(count):
        optimizer = OPTIMIZERS[k % len(OPTIMIZERS)]
        left, bottom, side = surfaces.SURFACES[keys[k % len(keys)]].span
        ceiling = -1.0 if optimizer in ("sgd", "momentum") else 0.3
        case: Settings = {
            "surface": keys[k % len(keys)],
            "optimizer": optimizer,
            "start": [low + side * rng.random() for low in (left, bottom)],
            "steps": rng.choice([10, 60, 200]),
            "lr": None if optimizer == "relative" else 10 ** rng.uniform(-4.0, ceiling),
            "mu": rng.uniform(0.0, 0.99),
            "adam_beta1": rng.choice([0.0, rng.uniform(0.0, 0.99)]),
            "adam_beta2": rng.choice([0.0, 0.999, rng.uniform(0.0, 0.9999)]),
            "cap": 10 ** rng.uniform(-3.0, 0.0),
            "warmup_init": rng.random() < 0.3,
            "scale_parameter": rng.random() < 0.5,
            "eps2": rng.choice([0.0, 10 ** rng.uniform(-4.0, 1.0)]),
            "clip_threshold": rng.choice([None, 1.0, 10 ** rng.uniform(-2.0, 1.0)]),
            "beta1": rng.choice([0.0, rng.uniform(0.0, 0.99)]),
            "decay_rate": rng.uniform(0.1, 1.5),
            "layout": rng.choice(layouts),
        }
        if k % 7 == 0:  # axes of symmetry, where gradients vanish
            case["start"][rng.randrange(2)] = 0.0
        cases.append(case)
    return cases


def config_of(s: Settings) -> af.Config:
    if s["optimizer"] == "adam":
        rest = {"beta1": s["adam_beta1"], "beta2": s["adam_beta2"]}
        return descents.config_of("adam", s["lr"], telemetry=True, **rest)
    relative = s["optimizer"] == "relative"
    rho = af.RelativeStep(cap=s["cap"], warmup_init=s["warmup_init"]) if relative else None
    return af.Config(
        lr=s["lr"],
        step_size=rho,
        telemetry=True,
        **{
            name: s[name]
            for name in ("scale_parameter", "eps2", "clip_threshold", "beta1", "decay_rate")
        },
        factored_dims="last",
    )


def by_library(
    s: Settings, points: Sequence[Sequence[float]] | None = None
) -> list[dict[str, Any]]:
    """One dict a step, named as in the page, until a number is not finite.

    `points`: where gradients are taken, instead of where the run itself is.
    """
    layout = s["layout"] if s["optimizer"] in ("relative", "absolute") else "vector"
    x = descents.placed(s["start"], layout)
    plain = s["optimizer"] in ("sgd", "momentum")
    config = af.Config() if plain else config_of(s)
    state, m = af.init(x, config), np.zeros(2)
    surface = surfaces.SURFACES[s["surface"]]
    steps = []
    for t in range(1, s["steps"] + 1):
        at = descents.point_of(x) if points is None else points[t - 1]
        g = descents.placed(surface.gradient(*map(np.float64, at)), layout)
        row: dict[str, Any] = {"t": t, "before": x, "g": g}
        if plain:
            m = (s["mu"] if s["optimizer"] == "momentum" else 0.0) * m + g
            new = x - s["lr"] * m
            row |= {"m": m}
        else:
            u = None if s["optimizer"] == "adam" else descents.direction(g, state, x, config)
            new, state = af.step(x, g, state, config)
            row |= told(state, u, s)
        row |= {"d": new - x, "x": new}
        if not np.all(np.isfinite(new)):
            break
        steps.append({k: np.ravel(v) if isinstance(v, np.ndarray) else v for k, v in row.items()})
        x = new
    return steps


def told(state: af.State, u: Any, s: Settings) -> dict[str, Any]:
    """What the state and its telemetry have."""
    moments, numbers = state.moments, af.metrics(state)
    if s["optimizer"] == "adam":
        return {"m": moments.momentum, "v": moments.full}
    row = {
        "row": moments.row,
        "col": moments.col,
        "u": u,
        "uRms": float(numbers["update_rms"]),
        "xRms": float(numbers["param_rms"]),
        "clip": float(numbers["clip_factor"]),
        "alpha": float(numbers["learning_rate"]),
        "m": moments.momentum,
    }
    return row if moments.full is None else {**row, "v": moments.full}


@cache
def cases() -> str:
    return json.dumps(drawn(0, 280))


def worst(found: dict[str, Any], steps: list[dict[str, Any]]) -> float:
    """The largest difference of any quantity at any step, relative to its size at that step."""
    assert len(found["steps"]) == len(steps)
    off = 0.0
    for ours, theirs in zip(steps, found["steps"], strict=True):
        assert all(theirs[k] is None for k, v in ours.items() if v is None)
        for name, value in ours.items():
            if value is not None:
                off = max(off, apart(value, theirs[name], ours if name in ("x", "d") else None))
    return off


def apart(a: Any, b: Any, row: dict[str, Any] | None) -> float:
    """A difference X + D is as exact as X and D are, not as it is itself."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    size = np.max(np.abs(a)) if row is None else np.max(np.abs(row["before"]))
    gap = np.max(np.abs(a - b))
    return float(gap / size) if size else float(gap)
