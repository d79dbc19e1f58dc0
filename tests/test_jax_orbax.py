"""States of adafactor_jax through orbax, from one mesh to another: a process of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.backends("jax"),
    pytest.mark.skipif(not importlib.util.find_spec("orbax"), reason="orbax is not installed"),
]


@pytest.fixture(scope="module")
def results():
    program = Path(__file__).with_name("_jax_orbax.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_hold(results, name):
    """On 4x2, 2x4 and one device, over axes of type Auto and Explicit, and four sets of options."""
    mine = {case: report for case, report in results.items() if case.startswith(name)}
    failed = [f"{case}\n{report}" for case, report in mine.items() if report]
    assert len(mine) == 20
    assert not failed, "\n".join(failed)


def test_what_is_restored_has_the_saved_bits_and_lies_as_state_sharding_says(backend, results):
    all_hold(results, "restored_bits")


def test_training_goes_on_as_without_saving(backend, results):
    all_hold(results, "resumed")
