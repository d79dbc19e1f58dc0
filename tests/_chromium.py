"""Chromium without a window, where the machine has one, through Playwright."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

from _trajectories import CHROMIUM, PAGE

SIZES = {"desktop": (1280, 800), "phone": (360, 740)}
THEMES = ("light", "dark")
LOOKS = [(size, theme) for size in SIZES for theme in THEMES]
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


def looked_at(
    browser: Any, size: str = "desktop", theme: str = "light", **more: Any
) -> AbstractContextManager[Any]:
    """The page at one of SIZES, in one of THEMES."""
    width, height = SIZES[size]
    phone: dict[str, Any] = {"has_touch": True, "device_scale_factor": 2}
    view = {"viewport": {"width": width, "height": height}, "color_scheme": theme}
    return opened(browser, **view, **(phone if size == "phone" else {}), **more)


def step_of(page: Any) -> int:
    return int(page.text_content("#at").split("/")[0])


def start_of(page: Any) -> tuple[float, float]:
    return float(page.input_value("#start-x")), float(page.input_value("#start-y"))


def picture(page: Any, canvas: str) -> str:
    """All pixels of a canvas."""
    return str(page.evaluate(f"document.querySelector('{canvas}').toDataURL()"))


def place_of(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a point of the plane is in the contour plot."""
    across, down = page.evaluate("([x, y]) => [plot.across(x), plot.down(y)]", [x, y])
    return across, down
