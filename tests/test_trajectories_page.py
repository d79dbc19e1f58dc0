"""The interactive page in Chromium: choices, what is shown, themes, and nothing cut off.

Skipped without Chromium and Playwright, all but the test of contrast.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="not installed: scikit-learn")

import numpy as np

from _chromium import LOOKS, SIZES, chromium, looked_at, picture
from _trajectories import OPTIMIZERS, PAGE


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_choices_redraw(browser: Any) -> None:
    """Each control changes what is drawn or shown."""
    with looked_at(browser) as page:
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
        names = "all => all.map(e => e.dataset.option)"
        offered = page.eval_on_selector_all("[data-option]", names)
        assert set(offered) == {*changes, "absolute_scale", "relative_scale", "warmup_init"}
        page.click("#defaults")
        page.select_option("#surface", "himmelblau")
        assert page.evaluate("state.options.beta1") == 0
        assert page.evaluate("state.lr.sgd") == 0.01


def test_a_value_that_is_not_one_changes_nothing(browser: Any) -> None:
    with looked_at(browser) as page:
        wrongs = {"beta1": "1.5", "steps": "3", "eps2": "", "clip_threshold": "0"}
        for name, wrong in wrongs.items():
            runs = page.evaluate("JSON.stringify(state.runs)")
            page.fill(f"[data-option={name}]", wrong)
            assert page.get_attribute(f"[data-option={name}]", "aria-invalid") == "true"
            assert page.evaluate("JSON.stringify(state.runs)") == runs
        page.fill("[data-option=clip_threshold]", "")  # empty is off
        assert page.get_attribute("[data-option=clip_threshold]", "aria-invalid") is None
        assert page.evaluate("state.options.clip_threshold") is None


def test_quantities_of_the_worked_example(browser: Any) -> None:
    """The panel has the numbers of the README's tables."""
    with looked_at(browser) as page:
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
def test_nothing_is_cut_off(browser: Any, size: str, theme: str) -> None:
    """No sideways scrolling, no text wider than its box, on every surface."""
    with looked_at(browser, size, theme) as page:
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


def test_themes(browser: Any) -> None:
    """The system's at first; the button turns it over, pictures included."""

    def background(page: Any) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with looked_at(browser, theme="light") as page:
        light, drawn = background(page), picture(page, "#plot")
        page.click("#theme")
        dark = background(page)
        assert dark != light
        assert picture(page, "#plot") != drawn
        page.click("#theme")
        assert background(page) == light
        page.emulate_media(color_scheme="dark")
        assert background(page) == light  # what was chosen stays
    with looked_at(browser, theme="dark") as page:
        assert background(page) == dark
        drawn = picture(page, "#loss")
        page.emulate_media(color_scheme="light")
        page.wait_for_function("() => !darkness.matches")
        assert background(page) == light
        assert picture(page, "#loss") != drawn


def test_reduced_motion(browser: Any) -> None:
    """Nothing moves by itself; playing is ten still pictures."""
    with looked_at(browser, reduced_motion="reduce") as page:
        page.evaluate("window.steps = []; const g = go; go = (s) => { steps.push(s); g(s); }; 0")
        page.wait_for_timeout(200)
        assert page.evaluate("steps") == []
        assert page.is_disabled("#speed")
        page.click("#play")
        page.wait_for_function("!state.playing", timeout=30_000)
        assert page.evaluate("steps.length") <= 12
        assert page.evaluate("steps.at(-1)") == 500


def test_one_unit_is_as_long_in_x_as_in_y(browser: Any) -> None:
    with looked_at(browser, "phone") as page:
        x = page.evaluate("plot.across(1) - plot.across(0)")
        y = page.evaluate("plot.down(0) - plot.down(1)")
        assert x == pytest.approx(y)
        box = page.locator("#plot").bounding_box()
        assert box["height"] == pytest.approx(page.evaluate("plot.height"), abs=1)
        ratio = page.evaluate("document.querySelector('#plot').width") / box["width"]
        assert ratio == pytest.approx(2, abs=0.01)  # as many pixels as the screen has


def luminance(color: str) -> float:
    """As WCAG 2 defines it."""
    parts = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(theme: str) -> None:
    """WCAG's 4.5 : 1 for text, 3 : 1 for lines, over every shade of the plot."""
    style = PAGE.read_text(encoding="utf-8")
    style = style.partition('[data-theme="dark"]')[2] if theme == "dark" else style
    colors = dict(re.findall(r"--([\w-]+): (#\w{6});", style.partition("}")[0]))

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(colors[a]), luminance(colors[b])))
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "muted", "wrong"):
        assert min(contrast(text, "sheet"), contrast(text, "page")) >= 4.5, text
    assert contrast("accent", "on-accent") >= 4.5
    for line in (*OPTIMIZERS, "ink"):
        assert min(contrast(line, ground) for ground in ("low", "high", "sheet")) >= 3, line
    assert min(contrast(edge, "sheet") for edge in ("edge", "accent")) >= 3
