"""docs/trajectories: the worked steps follow from each other; what its page says was measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="not installed: scikit-learn")
pytest.importorskip("matplotlib", reason="not installed: matplotlib")

import numpy as np

import adafactor_core as af
from _trajectories import FOLDER, PAGE, descents, surfaces

sys.path.append(str(Path(__file__).parents[1] / "docs" / "_shared"))

import _factorization as factorization
import _page
import _steps as steps
import _surface_runs as runs

pytestmark = pytest.mark.backends("numpy")
RECORD = json.loads((FOLDER / "record.json").read_text(encoding="utf-8"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SCRIPT = FOLDER / "run.py"


def by_hand(x: np.ndarray, weights: np.ndarray, count: int, factored: bool) -> list[dict[str, Any]]:
    """The paper's Algorithm 6 with its outer product, in float64."""
    rows = []
    row = np.zeros((x.shape[0], 1))
    col, full = np.zeros((1, x.shape[-1])), np.zeros(x.shape)
    for t in range(1, count + 1):
        g = 2 * weights * x
        beta2 = 1 - t**-0.8
        square = g * g + 1e-30
        full = beta2 * full + (1 - beta2) * square
        v = full
        if factored:
            row = beta2 * row + (1 - beta2) * square.mean(axis=1, keepdims=True)
            col = beta2 * col + (1 - beta2) * square.mean(axis=0, keepdims=True)
            v = row @ col / row.mean()
        u = g / np.sqrt(v)
        found = {"t": t, "x_before": x, "f": np.sum(weights * x**2), "b": t**-0.8, "g": g, "v": v}
        found |= {"u": u, "u_rms": np.sqrt(np.mean(u**2)), "x_rms": np.sqrt(np.mean(x**2))}
        found |= {"row": row, "col": col} if factored else {"row": None, "col": None}
        clip, rho = 1 / max(1.0, found["u_rms"]), min(1e-2, t**-0.5)
        alpha = max(1e-3, found["x_rms"]) * rho
        d = -alpha * clip * u
        x = x + d
        rows.append({**found, "clip": clip, "rho": rho, "alpha": alpha, "d": d, "x": x})
    return rows


def compare(example: Any, count: int, factored: bool) -> None:
    expected = by_hand(example.start, example.weights, count, factored)
    for ours, theirs in zip(steps.worked(example, count), expected, strict=True):
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            if value is None:
                assert ours[name] is None
            else:
                assert ours[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("key", list(steps.EXAMPLES))
def test_the_steps_that_are_shown(key: str, backend: Any) -> None:
    compare(steps.EXAMPLES[key], steps.STEPS, key != "vector")


@pytest.mark.parametrize("seed", range(8))
def test_steps_of_other_examples(seed: int, backend: Any) -> None:
    rng = np.random.default_rng(seed)
    shape = [(2,), (1, 2), (2, 1), (3, 4), (7,), (2, 5), (4, 4), (1, 1)][seed]
    start, weights = rng.normal(size=shape), rng.uniform(0.1, 30.0, shape)
    options = {"factored_dims": "last"} if 1 in shape else {}
    example = steps.Example("", start * 10 ** rng.uniform(-5, 2), weights, options)
    compare(example, 12, len(shape) == 2)


def test_one_row_loses_nothing(backend: Any) -> None:
    """What the page says of a 1x2 matrix, and of a 2x2 one."""
    vector, row, matrix = (steps.worked(example) for example in steps.EXAMPLES.values())
    for a, b in zip(vector, row, strict=True):
        assert b["x"][0] == pytest.approx(a["x"], rel=1e-14)
    first = matrix[0]
    assert (first["g"] ** 2).tolist() == [[64, 256], [576, 25600]]
    assert first["v"] == pytest.approx(np.array([[7.7, 312], [632, 25544]]), rel=5e-3)
    assert first["u"][0, 0] == pytest.approx(2.9, abs=0.05)
    assert first["u_rms"] == pytest.approx(1.66, abs=5e-3)
    assert first["u_rms"] * first["clip"] == pytest.approx(1.0)


def test_a_diagonal_is_the_worst_shape(backend: Any) -> None:
    """U = |G| / |g|, as the page says."""
    x, g = np.diag([-3.0, 2.0]), np.diag([-6.0, 28.0])
    u = np.diagonal(descents.direction(g, af.init(x), x, af.Config()))
    size = np.sqrt(np.sum(g**2))
    assert u == pytest.approx(np.array([-size / 6, size / 28]))


@pytest.mark.parametrize("key", list(surfaces.SURFACES))
def test_surface(key: str) -> None:
    """Gradients against central differences (h^2 ~ 1e-10 of third derivatives); minima at 0."""
    s = surfaces.SURFACES[key]
    left, bottom, side = s.span
    places = np.random.default_rng(0).uniform((left, bottom), (left + side, bottom + side), (50, 2))
    for x, y in [*places, s.start]:
        h = 1e-5
        along_x = (s.value(x + h, y) - s.value(x - h, y)) / (2 * h)
        along_y = (s.value(x, y + h) - s.value(x, y - h)) / (2 * h)
        assert s.gradient(x, y) == pytest.approx((along_x, along_y), rel=1e-6, abs=1e-5)
        assert s.value(x, y) >= 0
    for minimum in s.minima:
        assert s.value(*minimum) == pytest.approx(0, abs=1e-14)
        assert s.gradient(*minimum) == pytest.approx((0, 0), abs=1e-6)
        assert left < minimum[0] < left + side
        assert bottom < minimum[1] < bottom + side
    assert left <= s.start[0] <= left + side
    assert bottom <= s.start[1] <= bottom + side


def test_recorded_runs_can_be_made_again(backend: Any) -> None:
    """The first hundred steps: later some of them are chaotic."""
    for key, found in RECORD["surfaces"].items():
        for name, run in found["runs"].items():
            again = runs.one(name, surfaces.SURFACES[key], run["lr"], 100)
            shown = again.values[:: RECORD["steps"] // 100]
            kept = run["values"][: len(shown)]
            shown, kept = (np.maximum(v, descents.SMALLEST) for v in (shown, kept))
            assert shown == pytest.approx(kept, rel=2e-5), (key, name)


def test_chosen_rates_are_the_best_of_the_grid() -> None:
    for found in RECORD["surfaces"].values():
        for name, run in found["runs"].items():
            trials = run["mean_log10_f_by_rate"]
            if name == "relative":
                assert (run["lr"], trials) == (None, {})
            else:
                assert run["lr"] == float(min(trials, key=trials.get))
    assert tuple(RECORD["rates_tried"]) == descents.RATES


def test_turning_the_valley(backend: Any) -> None:
    """SGD and momentum do not notice; Adam and Adafactor do."""
    for name, lr in (("sgd", 0.03), ("momentum", 0.01), ("adam", 1.0), ("relative", None)):
        one, two = (runs.one(name, surfaces.SURFACES[k], lr, 50) for k in ("valley", "turned"))
        apart = np.max(np.abs(one.values - two.values) / one.values)
        assert (apart < 1e-9) == (name in ("sgd", "momentum")), name


def test_halving_the_distance(backend: Any) -> None:
    path = runs.one("relative", surfaces.SURFACES["bowl"], None, 100).path
    assert int(np.argmax(path[:, 0] < 2.0)) == 78
    assert "it takes 78 steps to halve the distance" in README


def test_factorization(backend: Any) -> None:
    of = factorization.problem()
    loss, grads = factorization.loss_and_gradients(of, of.start)
    place, h = (3, 2), 1e-6
    moved = []
    for sign in (1, -1):
        left = of.start["left"].copy()
        left[place] += sign * h
        moved.append(factorization.loss_and_gradients(of, {**of.start, "left": left})[0])
    slope = (moved[0] - moved[1]) / (2 * h) * len(of.matrix)
    assert grads["left"][place] == pytest.approx(slope, rel=1e-6)
    assert of.floor < loss
    # The best approximation has the loss that is called the best.
    u, s, v = np.linalg.svd(of.matrix, full_matrices=False)
    k = factorization.RANK
    best = {"left": u[:, :k] * s[:k], "right": v[:k]}
    assert factorization.loss_and_gradients(of, best)[0] == pytest.approx(of.floor, rel=1e-12)
    moments = factorization.second_moments(of)
    outer = moments["row"] * moments["col"] / moments["row"].mean()
    assert moments["estimate"] == pytest.approx(outer, rel=1e-10)
    off = np.abs(np.log(outer / moments["full"]))
    typical, largest = np.exp(np.median(off)), np.exp(np.max(off))
    recorded = RECORD["factorization"]["second_moment"]
    assert typical == pytest.approx(recorded["typical_factor_off"], rel=1e-6)
    assert largest == pytest.approx(recorded["largest_factor_off"], rel=1e-6)
    assert f"factor of {typical:.1f} in the median and {largest:.0f} in" in README


def test_pages_are_up_to_date(backend: Any) -> None:
    """The tables of README and play.html are those of the code and the record."""
    from _tables import filled

    assert filled(README, RECORD) == README
    assert README.count("<!-- end -->") == 3
    assert README.count("\n| ") > 50
    assert _page.assembled(RECORD) == PAGE.read_text(encoding="utf-8")


def test_figures_are_small() -> None:
    for name in ("surfaces", "losses", "factorization"):
        assert 20_000 < (FOLDER / f"{name}.png").stat().st_size <= 200_000
        assert f"({name}.png)" in README


def test_quick_run(tmp_path: Path, backend: Any) -> None:
    out = tmp_path / "new" / "folder"
    words = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    names = ["factorization.png", "losses.png", "play.html", "record.json", "surfaces.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        assert f"written: {out / name}" in done.stdout
        assert (out / name).stat().st_size > 10_000
    assert steps.section() in done.stdout
    assert json.loads((out / "record.json").read_text(encoding="utf-8"))["steps"] == 40


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    hide = "import runpy, sys; sys.modules['matplotlib'] = None; "
    words = [sys.executable, "-c", hide + f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 2
    assert "not installed: matplotlib" in done.stderr
    assert "Traceback" not in done.stderr
