"""docs/relay: a run that hops between frameworks ends where one that stays ends."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "relay"
MISSING = [n for n in ("sklearn", "matplotlib") if not importlib.util.find_spec(n)]
HERE = {"numpy": "numpy", "torch": "torch", "jax": "jax", "fsdp2": "torch"}
LEGS = [n for n, module in HERE.items() if importlib.util.find_spec(module)]


def check(record, names, steps, hop):
    """Float noise, where a wrong step counter or a lost momentum gives 1e-2 and more."""
    legs = record["legs"]
    assert [leg["framework"] for leg in legs] == [names[k % len(names)] for k in range(len(legs))]
    assert [leg["to_step"] for leg in legs] == list(range(hop, steps + 1, hop))
    assert len(record["differences"]) == len(record["losses"]["relay"]) == steps
    assert max(record["differences"]) <= 1e-6
    assert min(x for n, x in record["moved"].items() if n.endswith("weight")) > 1e-2
    assert min(record["moved"].values()) > 1e-4
    for losses in record["losses"].values():
        assert losses[-1] < 0.8 * losses[0]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.backends("numpy", "torch", "jax")
def test_a_short_run_through_what_is_installed(backend, tmp_path):
    """All four where torch and JAX are: nox -s "tests(distributed)"."""
    words = [sys.executable, str(FOLDER / "relay.py"), *LEGS, "--steps", "40", "--hop", "5"]
    run = [*words, "--out", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert f"written: {tmp_path / 'relay.json'}" in done.stdout
    check(json.loads((tmp_path / "relay.json").read_text()), LEGS, 40, 5)
    assert (tmp_path / "relay.png").stat().st_size > 20_000


def test_the_record_is_of_all_four_and_the_readme_has_its_figures():
    record = json.loads((FOLDER / "relay.json").read_text())
    check(record, list(HERE), 120, 10)
    page = (FOLDER / "README.md").read_text()
    for value in (max(record["differences"]), record["differences"][-1]):
        assert f"{value:.1e}".replace("e-0", "e-") in page
    assert f"{record['parameters']:,}" in page
