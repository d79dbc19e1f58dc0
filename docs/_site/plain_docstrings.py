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
    # Backticks may span two lines; of the fields of a NamedTuple Python itself says only this.
    text = re.sub(r"^Alias for field number \d+$", "", "\n".join(lines))
    lines[:] = _escape(text).split("\n")


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any] | None:
    # Records that the core makes itself: twenty arguments that nobody passes.
    return ("", returns) if name in ("adafactor_core.Work",) else None


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
