"""docs/lowprec: 16-bit parameters that move as float32's do, and the training runs that show it."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "lowprec"
LIMITS = {"stochastic": 2.0, "kahan": 0.5, "kahan, sum": 0.01}  # % of float32's mean


def load(name: str) -> ModuleType:
    """A script of the folder, under its own name."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


frozen = load("frozen")


@pytest.mark.parametrize("case", list(frozen.OPTIONS))
@pytest.mark.parametrize("name", list(frozen.BACKENDS))
def test_parameters_move_as_in_float32(name: str, case: str) -> None:
    if lacks := frozen.missing(name):
        pytest.skip(f"not installed: {', '.join(lacks)}")
    reference = frozen.trajectory(name, case, "float32")
    start, end = {"gradient": (1.0, 0.7423), "decay": (1.0, 0.9048)}[case]
    assert reference[[0, -1]] == pytest.approx([start, end], abs=5e-5)
    for run, limit in LIMITS.items():
        means = frozen.trajectory(name, case, run)
        assert len(means) == len(reference) == frozen.STEPS[case] + 1
        assert frozen.deviations(means[-1], reference[-1])[0] < limit
    assert set(frozen.trajectory(name, case, "nearest")) == {1.0}


def test_quick_training(tmp_path: Path) -> None:
    needed = ("torch", "matplotlib", "tqdm")
    if lacks := [module for module in needed if not importlib.util.find_spec(module)]:
        pytest.skip(f"not installed: {', '.join(lacks)}")
    out = tmp_path / "new" / "folder"
    words = [sys.executable, "-W", "error", str(FOLDER / "transformer.py"), "--quick"]
    done = subprocess.run([*words, "--out", str(out)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    files = sorted(out.iterdir())
    assert [f.name for f in files] == ["transformer.json", "transformer.png"]
    for file in files:
        assert f"written: {file}" in done.stdout
    record = json.loads(files[0].read_text())
    assert list(record["experiments"]) == ["scratch", "tune"]
    for experiment in record["experiments"].values():
        check(experiment)


def check(experiment: dict[str, Any]) -> None:
    """10 steps: losses are finite, and every kind is within 5 % of the first."""
    assert list(experiment["runs"]) == list(experiment["kinds"]) == list(experiment["table"])
    for kind, (run,) in experiment["runs"].items():
        assert list(run["held_out"]) == ["5", "10"]
        values = [*run["train"], *run["held_out"].values(), run["held_out_float32"]]
        assert all(map(math.isfinite, values))
        assert run["held_out_float32"] < math.log(103)  # better than guessing
        assert abs(experiment["table"][kind]["held_out_above_%"]) < 5


def test_quick_does_not_replace_the_measured_results() -> None:
    if not importlib.util.find_spec("torch"):
        pytest.skip("not installed: torch")
    words = [sys.executable, str(FOLDER / "transformer.py"), "--quick"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert done.returncode == 2
    assert "--quick needs --out" in done.stderr
    assert "Traceback" not in done.stderr


def test_measured_results_are_those_of_the_guide() -> None:
    """The numbers in docs/training.md and the folder's README come from the record."""
    record = json.loads((FOLDER / "transformer.json").read_text())
    pages = [(FOLDER.parent / "training.md").read_text(), (FOLDER / "README.md").read_text()]
    for kind, row in record["experiments"]["scratch"]["table"].items():
        assert any(f"{row['held_out']:.4f}" in page for page in pages), kind
