"""adafactor_jax on a mesh of eight virtual devices, which need a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.backends("jax")
NAMES = (
    "placement_after_init", "trajectory", "collectives", "one_compilation", "other_mesh",
    "specs_alone", "committed_device", "wrong_mesh", "gradient_placed_otherwise",
    "axes_that_cannot_meet", "int8_without_jit", "int8_in_a_scan",
)  # fmt: skip


@pytest.fixture(scope="module")
def results():
    program = Path(__file__).with_name("_jax_mesh.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_mesh(backend, results, name):
    """Over mesh axes of type Auto, Explicit and one of each, and four sets of options."""
    mine = {case: report for case, report in results.items() if case.startswith(name)}
    failed = [f"{case}\n{report}" for case, report in mine.items() if report]
    assert mine
    assert not failed, "\n".join(failed)


def test_every_check_has_its_name_here(backend, results):
    assert {case.split("-")[0] for case in results} == set(NAMES)
