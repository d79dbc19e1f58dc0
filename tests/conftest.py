"""`--backend`, the fixtures `backend` and `mode`, and how Hypothesis draws."""

from typing import Any

import pytest

from _backends import ROWS, Backend, UnavailableError, load

try:
    from hypothesis import settings
except ImportError:  # then its tests skip themselves
    pass
else:
    # The same examples in every run; `--hypothesis-profile wide` looks for others, ten times more.
    settings.register_profile("steady", derandomize=True, database=None, deadline=None)
    settings.register_profile("wide", database=None, deadline=None, max_examples=1000)
    settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=list(ROWS),
        help="run the tests of this array library alone (repeatable); missing, it is an error",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "backends(*names): the rows of _backends.py that this test is about"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("backends")
    names = [
        n for n in metafunc.config.getoption("backend") or ROWS if not marker or n in marker.args
    ]
    if "mode" in metafunc.fixturenames:
        rows = [(name, mode) for name in names for mode in ROWS[name].modes]
        ids = [f"{name}-{mode}" for name, mode in rows]
        metafunc.parametrize(("backend", "mode"), rows, ids=ids, indirect=["backend"])
    else:
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture(scope="session")
def backend(request: Any) -> Backend:
    """One row of the table; skipped where it is missing, unless it was named."""
    try:
        return load(request.param)
    except UnavailableError as error:
        if request.config.getoption("backend"):
            pytest.fail(f"--backend {request.param}: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture
def torch_is_here(backend: Backend) -> None:
    """For modules that import torch themselves; seeds its global generator."""
    backend.lib.manual_seed(0)


@pytest.fixture(params=[False, True], ids=["plain", "compiled"])
def compiled(request: Any) -> bool:
    """Whether the adapter is to use Numba's passes."""
    if request.param:
        pytest.importorskip("numba")
    return bool(request.param)
