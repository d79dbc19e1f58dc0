"""Puts play.html together from its parts in _page/: one file that needs no network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _surfaces import SURFACES

PARTS = Path(__file__).parent / "_page"


def assembled(record: Mapping[str, Any]) -> str:
    """The page; the rates that it starts with are those of the record."""
    page = _part("index.html")
    parts = {name: _part(name) for name in re.findall(r"/\*\{([\w.]+\.(?:js|css))\}\*/", page)}
    parts = {name: text.replace('"use strict";\n', "") for name, text in parts.items()}
    parts["style.css"] = _themed(parts["style.css"])
    parts["setup"] = json.dumps(setup(record), ensure_ascii=False).replace("</", "<\\/")
    for name, text in parts.items():
        page = page.replace(f"/*{{{name}}}*/", text.rstrip("\n"))
    return page


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _themed(style: str) -> str:
    """The dark colours once more, for those whose system is dark and who have chosen nothing."""
    found = re.search(r':root\[data-theme="dark"\] (\{.*?\n\})', style, re.S)
    assert found is not None
    again = f"@media (prefers-color-scheme: dark) {{\n:root:not([data-theme]) {found[1]}\n}}"
    return style.replace("/*{dark}*/", again)


def colors() -> dict[str, str]:
    """Those of the light theme by name, for figures that look like the page."""
    light = _part("style.css").partition("}")[0]
    return dict(re.findall(r"--([\w-]+): (#\w+);", light))


def setup(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's scripts know about the surfaces, beside their formulas."""
    return {
        "surfaces": {
            key: {
                "title": s.title,
                "formula": s.formula,
                "note": s.note,
                "start": s.start,
                "minima": s.minima,
                "span": s.span,
                "levels": s.levels,
                "lr": {
                    name: run["lr"]
                    for name, run in record["surfaces"][key]["runs"].items()
                    if run["lr"] is not None
                },
            }
            for key, s in SURFACES.items()
        }
    }
