"""What only an installed wheel can show; `nox -s wheel` builds and installs it first."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WHEEL = os.environ.get("ADAFACTOR_WHEEL")
ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(WHEEL is None, reason="no wheel here: run nox -s wheel")


def outside(code):
    """Runs code away from the checkout, so that only the installed wheel can be imported."""
    got = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, cwd=Path(WHEEL).parent, check=False,
    )  # fmt: skip
    assert got.returncode == 0, got.stderr
    return got.stdout


def test_importing_the_core_imports_no_array_library():
    loaded = outside(
        "import adafactor_core, sys; print(adafactor_core.__file__); "
        "print([m for m in ('numpy', 'torch', 'jax', 'cupy', 'dask', 'numba', 'ml_dtypes') "
        "if m in sys.modules])"
    )
    assert "site-packages" in loaded
    assert str(ROOT / "adafactor_core") not in loaded
    assert loaded.endswith("[]\n")


def test_the_core_works_with_no_array_library_installed():
    assert (
        outside(
            "import adafactor_core as af\n"
            "class X: shape, dtype = (4, 5), 'float32'\n"
            "print(af.memory_report({'w': X()}).state_bytes)"
        )
        == "36\n"
    )


def test_every_package_and_its_data_are_in_the_wheel():
    names = zipfile.ZipFile(WHEEL).namelist()
    folders = [ROOT / "adafactor_core", *(ROOT / "backends").iterdir()]
    for folder in (f for f in folders if (f / "__init__.py").exists()):
        assert f"{folder.name}/__init__.py" in names
        assert f"{folder.name}/py.typed" in names
    assert "adafactor_core/conformance/vectors.json" in names
    source = ("_numbers.cuh", "_observe.cu", "_measure.cu", "_apply.cu")
    assert {f"adafactor_cupy/{name}" for name in source} <= set(names)
    assert not [n for n in names if n.startswith(("tests", "docs", "backends"))]


def test_missing_numpy_is_explained():
    code = "import sys, adafactor_core._cli as c; sys.exit(c.main(['conformance']))"
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(WHEEL).parent,
        check=False,
    )  # fmt: skip
    assert got.returncode != 0
    assert "adafactor-core[numpy]" in got.stderr
