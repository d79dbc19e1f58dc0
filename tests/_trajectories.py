"""docs/trajectories as the tests see it: its modules, its page, and the library on its settings."""

import json
import random
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import adafactor_core as af

# Its modules import each other by name.
sys.path.append(str(Path(__file__).parents[1] / "docs" / "trajectories"))

import _descents as descents
import _surfaces as surfaces

FOLDER = Path(__file__).parents[1] / "docs" / "trajectories"
PAGE = FOLDER / "play.html"
NODE = shutil.which("node")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
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


def setup_of_the_page() -> dict[str, Any]:
    """What it knows of the surfaces."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r'<script id="setup" type="application/json">(.*?)</script>', page, re.S)
    assert found is not None
    setup: dict[str, Any] = json.loads(found[1])
    return setup


def options_at_first() -> dict[str, Settings]:
    """By optimizer: the settings as the page's fields have them when it is opened."""
    page = PAGE.read_text(encoding="utf-8")
    fields = dict(re.findall(r'<input data-option="(\w+)" (.*?)>', page))
    numbers = {k: re.search(r' value="([\d.]+)"', f) for k, f in fields.items()}
    values: Settings = {
        k: float(v[1]) if (v := numbers[k]) else "checked" in f for k, f in fields.items()
    }
    values |= {"layout": options_of_the_page()["layout"][0], "steps": int(values["steps"])}
    return {
        name: {**values, "optimizer": name, "scale_parameter": values.get(f"{name}_scale")}
        for name in OPTIMIZERS
    }


def drawn(count: int, seed: int = 0) -> list[Settings]:
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
            "steps": rng.choice([10, 60, 150]),
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


def config_options(s: Settings) -> dict[str, Any]:
    """What an optimizer of the library gets beside its rate."""
    if s["optimizer"] == "adam":
        return {"beta1": s["adam_beta1"], "beta2": s["adam_beta2"]}
    names = ("scale_parameter", "eps2", "clip_threshold", "beta1", "decay_rate")
    options = {**{name: s[name] for name in names}, "factored_dims": "last"}
    if s["optimizer"] == "relative":
        options["step_size"] = af.RelativeStep(cap=s["cap"], warmup_init=s["warmup_init"])
    return options


def by_library(s: Settings, along: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dict a step, named as in the page, until a number is not finite.

    `along`: the page's steps. Each step here begins with its X and its G, so that no surface can
    amplify a difference in the last bit; what is kept from step to step is the library's own.
    """
    layout = s["layout"] if s["optimizer"] in ("relative", "absolute") else "vector"
    shape = descents.LAYOUTS[layout]
    x = descents.placed(s["start"], layout)
    plain = s["optimizer"] in ("sgd", "momentum")
    config = af.Config()
    if not plain:
        config = descents.config_of(s["optimizer"], s["lr"], telemetry=True, **config_options(s))
    state, m = af.init(x, config), np.zeros(2)
    surface = surfaces.SURFACES[s["surface"]]
    steps = []
    for t in range(1, s["steps"] + 1):
        if t <= len(along):
            # JSON writes large numbers as integers; as such they would be objects.
            x, g = (np.array(along[t - 1][k], np.float64).reshape(shape) for k in ("before", "g"))
        else:
            g = descents.placed(surface.gradient(*descents.point_of(x)), layout)
        row: dict[str, Any] = {"t": t}
        if plain:
            m = (s["mu"] if s["optimizer"] == "momentum" else 0.0) * m + g
            new = x - s["lr"] * m
            row |= {"m": m}
        else:
            u = None if s["optimizer"] == "adam" else descents.direction(g, state, x, config)
            new, state = af.step(x, g, state, config)
            row |= told(state, u, s)
        row |= {"d": new - x, "x": new, "before": x}
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


def worst(found: dict[str, Any], steps: list[dict[str, Any]]) -> float:
    """The largest difference of any quantity at any step, relative to its size at that step."""
    assert len(found["steps"]) == len(steps)
    off = 0.0
    for ours, theirs in zip(steps, found["steps"], strict=True):
        assert all(theirs[name] is None for name, value in ours.items() if value is None)
        for name, value in ours.items():
            if value is not None:
                # X + D is as exact as X and D are, not as their sum, which may be almost 0.
                size = ours["before"] if name in ("x", "d") else value
                off = max(off, apart(value, theirs[name], size))
    return off


def apart(a: Any, b: Any, size: Any) -> float:
    gap = float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
    return gap / (float(np.max(np.abs(size))) or 1.0)
