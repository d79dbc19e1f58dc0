"""Docstrings of this project are plain text; here what reStructuredText would take for markup."""

from __future__ import annotations

import re
from typing import Any


def _escape(text: str) -> str:
    """Outside of backticks, `*`, `|` and a trailing `_` are themselves."""
    parts = re.split(r"(``?[^`]*``?)", text)
    plain = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    code = [f"``{part.strip('`')}``" for part in parts[1::2]]
    return "".join(x for pair in zip(plain, [*code, ""], strict=True) for x in pair)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    # Backticks may span two lines.
    lines[:] = _escape("\n".join(lines)).split("\n")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
