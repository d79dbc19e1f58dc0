"""Pytest plugin, off unless asked for: `pytest -p adafactor_core.conformance.plugin`.

A test that takes `adafactor_check` becomes one test per library, mode, dtype and check:

    def test_adafactor(adafactor_check):
        adafactor_check()

Libraries come from `--adafactor-namespace NAME` (repeatable, default numpy).
"""

from collections.abc import Callable
from functools import cache

import pytest

from ._namespaces import DTYPES, UnavailableError
from ._report import FAILED, SKIPPED, checks_for, judge
from ._subjects import CoreSubject, core_subjects
from ._trial import Trial


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the libraries."""
    group = parser.getgroup("adafactor", "Adafactor conformance")
    group.addoption("--adafactor-namespace", action="append", default=[], metavar="NAME")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per library, mode, dtype and check; a library that is missing stops the run."""
    if "adafactor_check" not in metafunc.fixturenames:
        return
    names = metafunc.config.getoption("adafactor_namespace") or ["numpy"]
    rows = [
        pytest.param((subject, dtype, check), id=f"{name}-{subject.mode}-{dtype}-{check}")
        for name in names
        for subject in _subjects(name)
        for dtype in DTYPES
        for check in checks_for(subject)
    ]
    metafunc.parametrize("adafactor_check", rows, indirect=True)


@pytest.fixture
def adafactor_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Call it to run the check: it fails, passes or skips the test."""
    subject, dtype, check = request.param

    def run() -> None:
        if reason := subject.lacks(dtype):
            pytest.skip(reason)
        result = judge(_trial(subject, dtype), check)
        if result.verdict == SKIPPED:
            pytest.skip(result.detail[0])
        if result.verdict == FAILED:
            pytest.fail("\n".join(result.detail), pytrace=False)

    return run


@cache
def _subjects(name: str) -> list[CoreSubject]:
    try:
        return core_subjects(name)
    except UnavailableError as error:
        raise pytest.UsageError(f"--adafactor-namespace {error}") from None


@cache
def _trial(subject: CoreSubject, dtype: str) -> Trial:
    return Trial(subject, dtype)
