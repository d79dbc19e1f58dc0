"""docs/demo runs, trains, and agrees with itself; and says what is wrong when it cannot."""

import importlib.util
import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "demo"
SCRIPT = FOLDER / "digits.py"
NEEDED = ("numpy", "sklearn", "matplotlib", "tqdm", "threadpoolctl")
MISSING = [name for name in NEEDED if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# Largest of 12 seeds x (torch, jax, float64), 60 steps: 4.1e-6 in training, 5.7e-7 alone.
TRAINING, ALONE = 1e-5, 1.5e-6


def demo(*words: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, as if a module were not installed; no warnings."""
    command = [str(SCRIPT)]
    if without:
        hide = f"import runpy, sys; sys.modules[{without!r}] = None; "
        command = ["-c", hide + f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"]
    command = [sys.executable, "-W", "error", *command, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def shown(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


@pytest.mark.backends("numpy", "torch", "jax")
def test_quick_run(backend: Any, tmp_path: Path) -> None:
    done = demo(backend.name, "--quick", "--out", str(tmp_path / "new" / "folder"))
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [f.name for f in files] == ["deviation.png", "loss.png", "memory.png", "record.json"]
    for file in files:
        assert f"written: {file}" in done.stdout
    for file in files[:3]:
        assert file.stat().st_size > 10_000
        assert min(shown(file)) > 400
    record = json.loads(files[3].read_text())
    names = list(dict.fromkeys(["numpy", backend.name]))
    assert list(record["runs"]) == [*names, "float64", "cosine lr", "Adam"]
    assert record["options"]["frameworks"] == names
    check_runs(record)
    for name in [*names[1:], "float64"]:
        check_deviations(name, record)


def check_runs(record: dict[str, Any]) -> None:
    for row in record["table"]:
        losses = record["runs"][row["backend"]]["losses"]
        assert len(losses) == 60
        assert all(map(math.isfinite, losses))
        assert row["train_loss"] < 1 < losses[0]  # chance is log 10 = 2.3
        assert row["test_accuracy"] > 0.8  # chance is 0.1
        assert row["optimizer_steps_per_second"] > row["steps_per_second"] > 0
    adafactor, adam = record["table"][0], record["table"][-1]
    assert adafactor["state_bytes"] == 4 * (64 + 3 * 128 + 3 * 64 + 2 * 10)  # rows, columns, biases
    assert adam["state_bytes"] == adam["adam_bytes"] == adafactor["adam_bytes"] > 100_000


def check_deviations(name: str, record: dict[str, Any]) -> None:
    run = record["runs"][name]
    assert len(run["training_deviation"]) == len(run["optimizer_deviation"]) == 60
    assert 0 < max(run["training_deviation"]) < TRAINING
    assert 0 < max(run["optimizer_deviation"]) < ALONE


def test_unknown_framework() -> None:
    done = demo("numpy", "tensorflow")
    assert done.returncode == 2
    assert "unknown framework: tensorflow. Known: numpy, torch, jax." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("module", "words"), [("torch", ["torch"]), ("jax", ["numpy", "jax"]), ("sklearn", [])]
)
def test_missing_package(module: str, words: list[str]) -> None:
    done = demo(*words, without=module)
    assert done.returncode == 2
    package = {"sklearn": "scikit-learn"}.get(module, module)
    assert f"not installed: {package}" in done.stderr
    assert f"pip install {package}" in done.stderr
    assert "Traceback" not in done.stderr


def load(name: str) -> ModuleType:
    """A module of the demo, under its own name."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradient_by_hand(activation: str) -> None:
    """Against central differences, in float64: error h^2 ~ 1e-12, rounding 1e-16 / h."""
    import numpy as np

    by_hand = load("_network").by_hand
    rng = np.random.default_rng(0)
    sizes = [(5, 4), (4, 3), (3, 2)]
    params = [{"weight": rng.normal(size=s), "bias": rng.normal(size=s[1])} for s in sizes]
    x, y = rng.normal(size=(7, 5)), np.eye(2)[rng.integers(2, size=7)]
    _, grads = by_hand(params, x, y, activation)
    for layer, found in zip(params, grads, strict=True):
        for name, values in layer.items():
            for at in np.ndindex(values.shape):
                middle, losses = values[at], []
                for h in (1e-6, -1e-6):
                    values[at] = middle + h
                    losses.append(by_hand(params, x, y, activation)[0])
                values[at] = middle
                slope = (losses[0] - losses[1]) / 2e-6
                assert found[name][at] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_real_shapes() -> None:
    """The parameter counts that the models' authors give."""
    memory = load("_memory")
    counts = {name: memory.point(name, s).params for name, s in memory.MODELS.items()}
    assert counts == {
        "ResNet-50": 25_557_032,
        "GPT-2 small": 124_439_808,
        "Llama 2 7B": 6_738_415_616,
    }
