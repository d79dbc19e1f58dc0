"""docs/jax_mesh: a transformer goes on, on another mesh, as if it had not been moved."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "jax_mesh"
MISSING = [name for name in ("flax", "orbax") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.backends("jax")


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_a_short_run(backend, tmp_path):
    words = [sys.executable, str(FOLDER / "train.py"), "--steps", "10", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert f"written: {tmp_path / 'train.json'}" in done.stdout
    record = json.loads((tmp_path / "train.json").read_text())
    assert len(record["losses"]["4x2, then 2x4"]) == 10
    check(record)


def check(record):
    """Float noise, where a wrong step counter or a lost momentum gives 3e-2 and more."""
    assert len(record["differences"]) == 5
    for name, found in record["differences"].items():
        limit = 0 if name == "resumed on 4x2, to 4x2 uninterrupted" else 1e-5
        assert max(found.values()) <= limit, name
    assert record["least_moved"] > 1e-2
    for losses in record["losses"].values():
        assert losses[-1] < losses[0]


def test_measured_results_are_those_of_the_readme():
    record = json.loads((FOLDER / "train.json").read_text())
    page = (FOLDER / "README.md").read_text()
    check(record)
    for found in record["differences"].values():
        for value in found.values():
            assert (f"{value:.1e}".replace("e-0", "e-") if value else "none") in page
