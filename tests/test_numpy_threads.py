"""Two threads with an optimizer each, a fork in between, and installs that cannot be written."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="Numba is not installed")

import adafactor_numpy

COMMON = """
    import numpy as np
    from adafactor_numpy import Adafactor

    def train(seed, steps=8):
        rng = np.random.default_rng(seed)
        shapes = {"w": (700, 900), "v": (40, 50), "b": (1500,)}  # large enough for two threads
        params = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        optimizer = Adafactor(params, beta1=0.9, compiled=True)
        for _ in range(steps):
            grads = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
            optimizer.step(grads)
        return b"".join(x.tobytes() for x in params.values())
"""


def run(code, **env):
    """Runs code in a new interpreter where warnings are errors. Returns what it printed."""
    source = textwrap.dedent(COMMON) + textwrap.dedent(code)
    got = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env={**os.environ, "ADAFACTOR_NUM_THREADS": "2", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert got.returncode == 0, got.stderr[-2000:]
    return got.stdout


def test_two_threads_step_two_optimizers_at_once():
    run("""
        from concurrent.futures import ThreadPoolExecutor
        alone = [train(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(train, range(4))) == alone
    """)


def test_two_threads_compile_at_once():
    run("""
        import os, tempfile
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(train, [3, 3])
        assert first == second
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_between_steps():
    run("""
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns about fork with threads
        alone = train(1)
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if train(1) == alone else 3)
            assert train(1) == alone  # the parent goes on at the same time
            assert os.waitpid(child, 0)[1] == 0
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_steps():
    run("""
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        alone = train(1)
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                train(2, steps=2)

        thread = threading.Thread(target=busy)
        thread.start()
        codes = []
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if train(1) == alone else 3)
            codes.append(os.waitpid(child, 0)[1])
        stop.set()
        thread.join()
        assert codes == [0] * 5, codes
    """)


def test_threads_do_not_change_the_bits():
    code = "import hashlib; print(hashlib.sha256(train(7)).hexdigest())"
    assert len({run(code, ADAFACTOR_NUM_THREADS=n) for n in ("1", "2", "3")}) == 1


def test_an_install_and_a_home_that_cannot_be_written(tmp_path):
    """Neither __pycache__ nor a user cache: compiled for this process alone, without complaint."""
    package = tmp_path / "site" / "adafactor_numpy"
    package.mkdir(parents=True)
    for file in Path(adafactor_numpy.__file__).parent.glob("*.py"):
        (package / file.name).write_bytes(file.read_bytes())
    # Root may write anywhere, so the folders are made impossible and not just read-only.
    (package / "__pycache__").write_text("not a folder")
    home = tmp_path / "home"
    home.write_text("not a folder either")
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    printed = run(
        """
        import adafactor_numpy
        train(1, steps=2)
        print(adafactor_numpy.__file__)
        """,
        PYTHONPATH=path,
        HOME=str(home),
        XDG_CACHE_HOME=str(home / "cache"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert str(package) in printed


def test_the_cache_is_used(tmp_path):
    code = """
        from adafactor_numpy._compile import kernel
        train(1, steps=1)
        print(sum(kernel("observe").stats.cache_hits.values()))
    """
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "0"
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "1"


@pytest.mark.parametrize("first", ["vector", "matrix"])
def test_the_order_of_compilation_does_not_change_the_numbers(first, tmp_path):
    """Numba hands flags down to helpers from whoever compiles them first, unless told not to."""
    code = f"""
        import adafactor_core as af
        for shape in [(9,), (9, 7)][:: {1 if first == "vector" else -1}]:
            # decay_offset restarts the average at every step: the old value must not leak in.
            x = np.ones(shape, np.float32)
            optimizer = Adafactor(x, decay_offset=10, compiled=True)
            for scale in (1.0, 1e-10, 1e-15):
                optimizer.step(np.full(shape, scale, np.float32))
                statistic = [m for m in optimizer.state.moments if m is not None][0]
                assert np.allclose(statistic, scale**2 + 1e-30, rtol=1e-5, atol=0), statistic
    """
    run(code, NUMBA_CACHE_DIR=str(tmp_path))


def test_kernels_from_the_cache_give_the_bits_of_those_just_compiled(tmp_path):
    """A helper that is not inlined exists twice, and adds up in another order each time."""
    code = "import hashlib; print(hashlib.sha256(train(7)).hexdigest())"
    cold, warm = (run(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert cold == warm
