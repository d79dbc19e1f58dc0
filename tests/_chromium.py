"""Chromium without a window, where the machine has one, through Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

from _trajectories import CHROMIUM, PAGE

MISSING = [
    name
    for name, here in (("Chromium", CHROMIUM), ("playwright (pip)", find_spec("playwright")))
    if not here
]


def skip_without() -> None:
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    skip_without()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox cannot start as root, as whom containers often run.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, **context: Any) -> Iterator[Any]:
    """The interactive page. At the end, its console must be silent and the network untouched."""
    place = browser.new_context(**context)
    page = place.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(PAGE.as_uri())
    try:
        yield page
    finally:
        place.close()
    assert said == []
    assert [url for url in asked if url not in (PAGE.as_uri(), "data:,")] == []
