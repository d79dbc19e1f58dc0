"""The interactive page in Chromium: where a run starts, and playing it; by mouse, touch and keys.

Skipped without Chromium and Playwright. TRAJECTORY_SHOTS=folder keeps pictures to look at.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="not installed: scikit-learn")

from _chromium import LOOKS, chromium, looked_at, picture, place_of, start_of, step_of


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize(("size", "theme"), LOOKS)
def test_a_click_sets_the_start(browser: Any, size: str, theme: str) -> None:
    with looked_at(browser, size, theme) as page:
        page.select_option("#surface", "bowl")
        assert start_of(page) == (4, 4)
        before = picture(page, "#plot")
        x, y = place_of(page, -2.5, 3.0)
        press = page.tap if size == "phone" else page.click
        press("#plot", position={"x": x, "y": y})
        unit = 10 / page.evaluate("plot.inner")  # of the plane, a pixel
        assert start_of(page) == pytest.approx((-2.5, 3.0), abs=unit)
        assert picture(page, "#plot") != before
        run = page.evaluate("state.runs.sgd.points[0]")
        assert run == pytest.approx(start_of(page))
        page.evaluate("window.scrollTo(0, 0)")
        folder = os.environ.get("TRAJECTORY_SHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{folder}/{size}-{theme}.png", full_page=True)


def test_dragging_moves_the_start(browser: Any) -> None:
    with looked_at(browser) as page:
        page.select_option("#surface", "bowl")
        box = page.locator("#plot").bounding_box()
        x, y = place_of(page, 1.0, 1.0)
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.mouse.down()
        x, y = place_of(page, -4.0, -3.0)
        page.mouse.move(box["x"] + x, box["y"] + y, steps=5)
        assert start_of(page) == pytest.approx((-4, -3), abs=0.05)
        page.mouse.move(box["x"] - 100, box["y"] + y)  # beyond the edge it stays on it
        page.mouse.up()
        assert start_of(page) == pytest.approx((-5, -3), abs=0.05)


def test_number_fields_set_the_start(browser: Any) -> None:
    with looked_at(browser) as page:
        page.select_option("#surface", "valley")
        page.fill("#start-x", "-1.25")
        page.press("#start-x", "Tab")
        assert start_of(page) == (-1.25, 2)
        assert page.evaluate("state.runs.adam.points[0]") == [-1.25, 2]
        page.fill("#start-y", "99")  # outside
        page.press("#start-y", "Tab")
        assert page.get_attribute("#start-y", "aria-invalid") == "true"
        assert page.evaluate("state.runs.adam.points[0]") == [-1.25, 2]


def test_playing_and_pausing(browser: Any) -> None:
    with looked_at(browser) as page:
        assert step_of(page) == 500
        page.click("#play")  # from the end: once more from the start
        page.wait_for_function("0 < state.step && state.step < 490")
        assert page.text_content("#play") == "Pause"
        drawn = picture(page, "#plot")
        at = step_of(page)
        page.wait_for_function(f"state.step > {at + 5}")
        assert picture(page, "#plot") != drawn
        page.click("#play")
        assert page.text_content("#play") == "Play"
        at = step_of(page)
        page.wait_for_timeout(300)
        assert step_of(page) == at
        assert int(page.input_value("#scrub")) == at
        page.click("#forth")
        assert step_of(page) == at + 1
        assert page.text_content("#inspect-title") == f"Step {at + 1}"
        page.click("#back")
        page.click("#back")
        assert step_of(page) == at - 1
        page.click("#reset")
        assert step_of(page) == 0
        page.click("#back")
        assert step_of(page) == 0
        page.select_option("#speed", "200")
        page.fill("[data-option=steps]", "60")
        page.click("#play")
        page.wait_for_function("!state.playing")  # stops by itself
        assert step_of(page) == 60
        assert "60" in page.text_content("#status")


def test_speed(browser: Any) -> None:
    """As many steps a second as were asked for, however late the frames come."""
    with looked_at(browser) as page:
        page.select_option("#speed", "20")
        page.click("#reset")
        begun = page.evaluate("play(true), performance.now()")
        page.wait_for_timeout(2000)
        step, now = page.evaluate("[state.step, performance.now()]")
        assert step == pytest.approx(20 * (now - begun) / 1000, abs=12)


def test_scrubbing(browser: Any) -> None:
    with looked_at(browser) as page:
        page.focus("#scrub")
        page.press("#scrub", "Home")
        assert step_of(page) == 0
        page.press("#scrub", "ArrowRight")
        assert step_of(page) == 1
        page.fill("#scrub", "123")
        assert step_of(page) == 123
        box = page.locator("#loss").bounding_box()
        page.click("#loss", position={"x": box["width"] / 2, "y": 60})
        assert step_of(page) == pytest.approx(235, abs=25)


def test_keyboard(browser: Any) -> None:
    """Everything can be reached by Tab and is seen to have the focus; arrows move the start."""
    with looked_at(browser) as page:
        reached: list[str] = []
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e), d = e.dataset;"
                " return [e.id || d.option || e.tagName, s.outlineStyle, s.outlineWidth] })()"
            )
            if found[0] == "BODY":
                break
            reached.append(found[0])
            assert found[1:] == ["solid", "3px"], found
        everything = page.eval_on_selector_all(
            "button, input, select, [tabindex]",
            "all => all.filter(e => !e.disabled).map(e => e.id || e.dataset.option || e.tagName)",
        )
        assert sorted(reached) == sorted(everything)
        page.select_option("#surface", "bowl")
        page.focus("#plot")
        page.keyboard.press("ArrowLeft")
        assert start_of(page) == pytest.approx((3.95, 4))
        page.keyboard.press("Shift+ArrowDown")
        assert start_of(page) == pytest.approx((3.95, 3.5))
        assert "3.5" in page.text_content("#status")
        page.keyboard.press("Space")
        page.wait_for_function("state.playing && state.step < 500")
        page.keyboard.press("Space")
        assert not page.evaluate("state.playing")


def test_every_control_has_a_name(browser: Any) -> None:
    with looked_at(browser) as page:
        nameless = page.eval_on_selector_all(
            "button, input, select",
            "all => all.filter(e => !(e.labels?.length && e.labels[0].innerText.trim())"
            " && !e.ariaLabel && !e.innerText?.trim()).map(e => e.outerHTML)",
        )
        assert nameless == []
        assert page.get_attribute("html", "lang") == "en"
        assert page.locator("h1").count() == 1
