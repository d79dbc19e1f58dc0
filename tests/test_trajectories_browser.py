"""The interactive page in Chromium: clicks, keys, playing, themes, a phone; a silent console.

Skipped without Chromium and Playwright. TRAJECTORY_SHOTS=folder keeps pictures to look at.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="not installed: scikit-learn")

from _chromium import chromium, opened, skip_without

SIZES = {"desktop": (1280, 800), "phone": (360, 740)}
THEMES = ("light", "dark")
LOOKS = [(size, theme) for size in SIZES for theme in THEMES]
Open = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    skip_without()
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser: Any) -> Open:
    def look(size: str = "desktop", theme: str = "light", **more: Any) -> Any:
        width, height = SIZES[size]
        phone: dict[str, Any] = {"has_touch": True, "device_scale_factor": 2}
        view = {"viewport": {"width": width, "height": height}, "color_scheme": theme}
        return opened(browser, **view, **(phone if size == "phone" else {}), **more)

    return look


def step_of(page: Any) -> int:
    return int(page.text_content("#at").split("/")[0])


def start_of(page: Any) -> tuple[float, float]:
    return tuple(float(page.input_value(f"#start-{axis}")) for axis in "xy")  # type: ignore[return-value]


def picture(page: Any, canvas: str) -> str:
    """All pixels of a canvas."""
    return str(page.evaluate(f"document.querySelector('{canvas}').toDataURL()"))


def place_of(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a point of the plane is in the contour plot."""
    return tuple(page.evaluate("([x, y]) => [plot.across(x), plot.down(y)]", [x, y]))


@pytest.mark.parametrize(("size", "theme"), LOOKS)
def test_a_click_sets_the_start(open_page: Open, size: str, theme: str) -> None:
    with open_page(size, theme) as page:
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


def test_dragging_moves_the_start(open_page: Open) -> None:
    with open_page() as page:
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


def test_number_fields_set_the_start(open_page: Open) -> None:
    with open_page() as page:
        page.select_option("#surface", "valley")
        page.fill("#start-x", "-1.25")
        page.press("#start-x", "Tab")
        assert start_of(page) == (-1.25, 2)
        assert page.evaluate("state.runs.adam.points[0]") == [-1.25, 2]
        page.fill("#start-y", "99")  # outside
        page.press("#start-y", "Tab")
        assert page.get_attribute("#start-y", "aria-invalid") == "true"
        assert page.evaluate("state.runs.adam.points[0]") == [-1.25, 2]


def test_playing_and_pausing(open_page: Open) -> None:
    with open_page() as page:
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


def test_speed(open_page: Open) -> None:
    with open_page() as page:
        page.select_option("#speed", "20")
        page.click("#reset")
        page.click("#play")
        page.wait_for_timeout(1500)
        assert 10 <= step_of(page) <= 60  # 30, on a busy machine


def test_scrubbing(open_page: Open) -> None:
    with open_page() as page:
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


def test_keyboard(open_page: Open) -> None:
    """Everything can be reached by Tab and is seen to have the focus; arrows move the start."""
    with open_page() as page:
        reached: list[str] = []
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e);"
                " return [e.id || e.dataset.option || e.tagName, s.outlineStyle, s.outlineWidth] })()"
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


def test_every_control_has_a_name(open_page: Open) -> None:
    with open_page() as page:
        nameless = page.eval_on_selector_all(
            "button, input, select",
            "all => all.filter(e => !(e.labels?.length && e.labels[0].innerText.trim())"
            " && !e.ariaLabel && !e.innerText?.trim()).map(e => e.outerHTML)",
        )
        assert nameless == []
        assert page.get_attribute("html", "lang") == "en"
        assert page.locator("h1").count() == 1


def test_choices_redraw(open_page: Open) -> None:
    """Each control changes what is drawn or shown."""
    with open_page() as page:
        seen = {picture(page, "#plot") + picture(page, "#loss")}
        for name in ("sgd", "momentum", "adam", "relative", "absolute"):
            page.uncheck(f"#show-{name}")
            seen.add(picture(page, "#plot") + picture(page, "#loss"))
        assert len(seen) == 6
        for name in ("sgd", "momentum", "adam", "relative", "absolute"):
            page.check(f"#show-{name}")
        for key in page.eval_on_selector_all("#surface option", "all => all.map(e => e.value)"):
            page.select_option("#surface", key)
            seen.add(picture(page, "#plot"))
        assert len(seen) == 14
        page.select_option("#surface", "rosenbrock")
        changes: dict[str, Any] = {
            "layout": "diagonal", "clip_threshold": "0.5", "beta1": "0.9", "decay_rate": "0.5",
            "eps2": "2", "cap": "0.05", "mu": "0.5", "adam_beta1": "0.5", "adam_beta2": "0.9",
            "steps": "300",
        }  # fmt: skip
        runs = {page.evaluate("JSON.stringify(state.runs)")}
        for name, value in changes.items():
            box = page.locator(f"[data-option={name}]")
            box.select_option(value) if name == "layout" else box.fill(value)
            runs.add(page.evaluate("JSON.stringify(state.runs)"))
        for name in ("absolute_scale", "relative_scale", "warmup_init"):
            page.click(f"[data-option={name}]")
            runs.add(page.evaluate("JSON.stringify(state.runs)"))
        for name in ("sgd", "momentum", "adam", "absolute"):
            page.fill(f"#lr-{name}", "0.0007")
            runs.add(page.evaluate("JSON.stringify(state.runs)"))
        assert len(runs) == 1 + len(changes) + 3 + 4
        offered = page.eval_on_selector_all("[data-option]", "all => all.map(e => e.dataset.option)")
        assert set(offered) == {*changes, "absolute_scale", "relative_scale", "warmup_init"}
        page.click("#defaults")
        page.select_option("#surface", "himmelblau")
        assert page.evaluate("state.options.beta1") == 0
        assert page.evaluate("state.lr.sgd") == 0.01


def test_a_value_that_is_not_one_changes_nothing(open_page: Open) -> None:
    with open_page() as page:
        for name, wrong in (("beta1", "1.5"), ("steps", "3"), ("eps2", ""), ("clip_threshold", "0")):
            runs = page.evaluate("JSON.stringify(state.runs)")
            page.fill(f"[data-option={name}]", wrong)
            assert page.get_attribute(f"[data-option={name}]", "aria-invalid") == "true"
            assert page.evaluate("JSON.stringify(state.runs)") == runs
        page.fill("[data-option=clip_threshold]", "")  # empty is off
        assert page.get_attribute("[data-option=clip_threshold]", "aria-invalid") is None
        assert page.evaluate("state.options.clip_threshold") is None


def test_quantities_of_the_worked_example(open_page: Open) -> None:
    """The panel has the numbers of the README's tables."""
    with open_page() as page:
        page.select_option("#surface", "bowl")
        page.fill("#scrub", "2")
        shown = page.locator("#quantities tr").all_inner_texts()
        cells = [line.split("\t") for line in shown]
        values = {(c[0], c[1]): c[2] for c in cells}
        assert values["G", "gradient"] == "(7.92, 7.92)"
        assert values["V", "G², averaged"] == "(63.27, 63.27)"
        assert values["RMS(U)", ""] == "0.9957"
        assert values["α", "ρ max(ε₂, RMS(X))"] == "0.0396"
        assert values["X", "after: X + D"] == "(3.921, 3.921)"
        page.select_option("[data-option=layout]", "2x1")
        cells = [line.split("\t") for line in page.locator("#quantities tr").all_inner_texts()]
        named = {c[0]: c[2] for c in cells}
        assert named["C"] == "[63.27]"
        assert named["R"] == "[63.27]\n[63.27]"
        for name in ("sgd", "momentum", "adam", "absolute"):
            page.select_option("#inspect", name)
            first = page.locator("#quantities tr").first.inner_text()
            assert first.startswith("X")
        page.fill("#lr-sgd", "30")  # overflows
        page.fill("#scrub", "500")
        assert "lost at" in page.text_content("#now-sgd")


@pytest.mark.parametrize(("size", "theme"), LOOKS)
def test_nothing_is_cut_off(open_page: Open, size: str, theme: str) -> None:
    """No sideways scrolling, no text wider than its box, on every surface."""
    with open_page(size, theme) as page:
        for key in page.eval_on_selector_all("#surface option", "all => all.map(e => e.value)"):
            page.select_option("#surface", key)
            for layout in ("vector", "diagonal"):
                page.select_option("[data-option=layout]", layout)
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width <= SIZES[size][0]
                cut = page.eval_on_selector_all(
                    "button, td, th, label, output, h1, h2, legend",
                    "all => all.filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth &&"
                    " !e.classList.contains('unseen')).map(e => e.outerHTML)",
                )
                assert cut == []


def test_themes(open_page: Open) -> None:
    """The system's at first; the button turns it over, pictures included."""
    def background(page: Any) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with open_page(theme="light") as page:
        light, drawn = background(page), picture(page, "#plot")
        page.click("#theme")
        dark = background(page)
        assert dark != light
        assert picture(page, "#plot") != drawn
        page.click("#theme")
        assert background(page) == light
        page.emulate_media(color_scheme="dark")
        assert background(page) == light  # what was chosen stays
    with open_page(theme="dark") as page:
        assert background(page) == dark
        drawn = picture(page, "#loss")
        page.emulate_media(color_scheme="light")
        page.wait_for_function("() => !darkness.matches")
        assert background(page) == light
        assert picture(page, "#loss") != drawn


def test_reduced_motion(open_page: Open) -> None:
    """Nothing moves by itself; playing is ten still pictures."""
    with open_page(reduced_motion="reduce") as page:
        page.evaluate("window.steps = []; const g = go; go = (s) => { steps.push(s); g(s); }; 0")
        page.wait_for_timeout(200)
        assert page.evaluate("steps") == []
        assert page.is_disabled("#speed")
        page.click("#play")
        page.wait_for_function("!state.playing", timeout=30_000)
        assert page.evaluate("steps.length") <= 12
        assert page.evaluate("steps.at(-1)") == 500


def test_one_unit_is_as_long_in_x_as_in_y(open_page: Open) -> None:
    with open_page("phone") as page:
        x = page.evaluate("plot.across(1) - plot.across(0)")
        y = page.evaluate("plot.down(0) - plot.down(1)")
        assert x == pytest.approx(y)
        box = page.locator("#plot").bounding_box()
        assert box["height"] == pytest.approx(page.evaluate("plot.height"), abs=1)
        ratio = page.evaluate("document.querySelector('#plot').width") / box["width"]
        assert ratio == pytest.approx(2, abs=0.01)  # as many pixels as the screen has
