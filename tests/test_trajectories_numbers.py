"""The interactive page computes what the library does: its script against adafactor_numpy.

In Node.js and in Chromium, each where it is installed.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="not installed: scikit-learn")

import numpy as np

import _trajectories as trajectories
from _chromium import chromium, opened
from _trajectories import Settings, by_library, config_options, descents, drawn, surfaces, worst

pytestmark = pytest.mark.backends("numpy")

# Largest of 2000 drawn settings, relative to the quantity at that step: 2.1e-13.
ALONE = 1e-10
# In units of what the library's own run changes when its start is off in the last place.
SENSITIVE = 100
WHOLE = 1e-6
Simulate = Callable[[list[Settings]], list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["node", "chromium"])
def simulate(request: Any) -> Iterator[Simulate]:
    """The page's function on many settings."""
    if request.param == "node":
        if trajectories.NODE is None:
            pytest.skip("not installed: Node.js")
        yield in_node
        return
    with chromium() as browser, opened(browser) as page:
        words = "cases => JSON.stringify(cases.map(simulate))"  # Playwright's own way is slow
        yield lambda cases: json.loads(page.evaluate(words, cases))


def in_node(cases: list[Settings]) -> list[dict[str, Any]]:
    words = f"console.log(JSON.stringify({json.dumps(cases)}.map(simulate)))"
    done = subprocess.run(
        [str(trajectories.NODE), "-"], input=f"{trajectories.model()}\n{words}",
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_every_quantity_of_every_step(backend: Any, simulate: Simulate) -> None:
    """Each step of the library begins with the page's X and G; what is kept is its own."""
    cases = drawn(120)
    for case, found in zip(cases, simulate(cases), strict=True):
        assert worst(found, by_library(case, found["steps"])) < ALONE, case


def test_whole_runs(backend: Any, simulate: Simulate) -> None:
    """adafactor_numpy by itself, in place, from the start to the end."""
    cases = drawn(120, seed=1)
    found = simulate(cases)
    assert sum(agree(c, f) for c, f in zip(cases, found, strict=True)) > 100


def test_the_runs_that_the_page_shows_first(backend: Any, simulate: Simulate) -> None:
    """Every surface from its own start, with the rates and options as they are at first."""
    setup = trajectories.setup_of_the_page()["surfaces"]
    cases = [
        {**options, "surface": key, "start": about["start"], "lr": about["lr"].get(name)}
        for key, about in setup.items()
        for name, options in trajectories.options_at_first().items()
    ]
    found = simulate(cases)
    assert sum(agree(c, f) for c, f in zip(cases, found, strict=True)) >= 36
    assert len(cases) == 40


def agree(case: Settings, found: dict[str, Any]) -> bool:
    """Whether the run says something: a few are chaotic, and a last bit grows to any size.

    There the page may be off by as much as the library is off from itself.
    """
    points, own = np.array(found["points"], np.float64), run(case)
    nudged = run({**case, "start": [np.nextafter(c, 9.0) for c in case["start"]]})
    assert len(points) == len(own)
    size = np.maximum.accumulate(np.max(np.abs(own), axis=1))[:, None] + 1e-300
    same = len(nudged) == len(own)
    limit = SENSITIVE * float(np.max(np.abs(nudged - own) / size)) if same else np.inf
    assert np.max(np.abs(points - own) / size) < max(WHOLE, limit), case
    return limit < WHOLE


def run(s: Settings) -> np.ndarray:
    """The points of the library's run, (steps + 1, 2)."""
    surface = surfaces.SURFACES[s["surface"]]
    adafactor = s["optimizer"] in ("relative", "absolute")
    layout = s["layout"] if adafactor else "vector"

    def gradient(x: np.ndarray) -> np.ndarray:
        return descents.placed(surface.gradient(*descents.point_of(x)), layout)

    options = config_options(s) if s["optimizer"] not in ("sgd", "momentum") else {"mu": s["mu"]}
    start = descents.placed(s["start"], layout)
    path = descents.descend(s["optimizer"], gradient, start, s["lr"], s["steps"], **options)
    return np.array([descents.point_of(x) for x in path])


@pytest.mark.parametrize("key", list(surfaces.SURFACES))
def test_surfaces(key: str, simulate: Simulate) -> None:
    """Values and gradients, at drawn points: a run of one step shows both."""
    surface = surfaces.SURFACES[key]
    left, bottom, side = surface.span
    rng = np.random.default_rng(0)
    places = rng.uniform([left, bottom], [left + side, bottom + side], (50, 2)).tolist()
    case = {"surface": key, "optimizer": "sgd", "steps": 1, "lr": 0.0}
    for place, found in zip(places, simulate([{**case, "start": p} for p in places]), strict=True):
        assert found["values"][0] == pytest.approx(surface.value(*place), rel=1e-13)
        gradient = surface.gradient(*place)
        assert found["steps"][0]["g"] == pytest.approx(gradient, rel=1e-12, abs=1e-12)


def test_every_option_of_the_page_is_drawn() -> None:
    offered = set(trajectories.options_of_the_page())
    renamed = {"relative_scale": "scale_parameter", "absolute_scale": "scale_parameter"}
    cases = drawn(120)
    assert {renamed.get(name, name) for name in offered} <= set(cases[0])
    for name in cases[0]:
        if name != "start":
            assert len({case[name] for case in cases}) > 1, name
    assert {c["layout"] for c in cases} == set(trajectories.options_of_the_page()["layout"])
    assert {c["surface"] for c in cases} == set(surfaces.SURFACES)
