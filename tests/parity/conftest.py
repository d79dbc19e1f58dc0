"""`--parity-json FILE`: what was measured, for docs/parity.json. nox -s parity"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pytest

MEASURED = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-json", type=Path, help="write what was measured there")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = []


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Rows of the file; each test appends its own."""
    return request.config.stash[MEASURED]


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("parity_json", None)
    if path is None or session.testsfailed:
        return
    rows = session.config.stash[MEASURED]
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": sys.version.split()[0],
        "versions": {row.pop("distribution"): row.pop("version") for row in map(dict, rows)},
        "rows": [
            {k: v for k, v in row.items() if k not in ("distribution", "version")} for row in rows
        ],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")
