"""docs/cupy_fit: hidden pixels are found, with NumPy's arrays in CuPy's place."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "cupy_fit"
MISSING = [name for name in ("sklearn", "matplotlib") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.backends("numpy")


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_a_short_run(backend, tmp_path):
    words = ["--library", "numpy", "--steps", "200", "--out", str(tmp_path)]
    command = [sys.executable, str(FOLDER / "fit.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    runs = json.loads((tmp_path / "fit.json").read_text())["runs"]
    ends = {name: run["ends"][1] for name, run in runs.items()}
    assert ends["the same, momentum 0.9"] < 0.23
    assert ends["relative step (defaults)"] < 0.30  # 0.282 measured; it began at 0.54


def test_measured_results_are_those_of_the_readme():
    runs = json.loads((FOLDER / "fit.json").read_text())["runs"]
    page = (FOLDER / "README.md").read_text()
    for run in runs.values():
        assert f"{run['ends'][1]:.3f}" in page
