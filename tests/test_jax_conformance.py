"""adafactor_jax judged by the conformance kit, in every mode and dtype, on a few cases each.

All golden ones mean a compilation each: `nox -s conformance_jax` has them, docs/conformance_jax.md
its last result.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from _jax import MESHES, AsJax, judged
from adafactor_core import conformance as kit

pytestmark = [
    pytest.mark.backends("jax"),
    pytest.mark.usefixtures("backend"),
    pytest.mark.filterwarnings("ignore::adafactor_core.LowPrecisionWarning"),
]
HERE = [("eager", False), ("jit", False), ("jit", True), ("scan", False), ("scan", True)]
ROWS = [(mode, scan, dtype) for mode, scan in HERE for dtype in kit.DTYPES]
IDS = ["-".join([mode, "scanned" if scan else "whole", dtype]) for mode, scan, dtype in ROWS]
CHECKS = ("golden", "drawn", "moments", "kahan", "dead")
FAILURE = "golden: default step 1 'w'"


@pytest.mark.parametrize(("way", "scan", "dtype"), ROWS, ids=IDS)
def test_on_one_device(way, scan, dtype):
    """Every row has a golden case of its own, and where that is quick a drawn one."""
    number = ROWS.index((way, scan, dtype))
    golden = [list(kit.golden_vectors())[4 + 9 * number]]
    drawn = int(way != "eager")
    row = judged(AsJax("make_step", way, scan), dtype, drawn, number, golden, CHECKS)
    assert not row["failures"], "\n".join(row["failures"])
    assert row["cases"]
    assert not scan or row["divided"]


def program(*words):
    words = [sys.executable, Path(__file__).with_name("jax_kit.py"), *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("way", MESHES)
def test_on_a_mesh(way):
    """Eight virtual devices, in a process of their own."""
    words = [word for check in CHECKS for word in ("--check", check)]
    words += ["--golden", "norm-scaled", "--drawn", "0"]
    code, rows = program(way, *words)
    assert [row["dtype"] for row in rows] == list(kit.DTYPES)
    for row in rows:
        assert not row["failures"], "\n".join(row["failures"])
        assert row["cases"] == 1
        assert row["divided"] == 1
    assert code == 0


@pytest.mark.parametrize("way", ["eager", "jit", "scan"])
def test_a_wrong_subject_fails(way):
    subject = AsJax("wrong", way, eps1=0.1)
    row = judged(subject, "float32", 0, golden=["default"], checks=["golden"])
    assert any(text.startswith(FAILURE) for text in row["failures"])


def test_a_wrong_subject_fails_on_a_mesh():
    words = ("auto", "--dtype", "float32", "--drawn", "0", "--golden", "default")
    code, (row,) = program(*words, "--check", "golden", "--eps1", "0.1")
    assert code == 1
    assert any(text.startswith(FAILURE) for text in row["failures"])
