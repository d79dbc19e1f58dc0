"""Links that leave docs/ work on GitHub; here, where the rest of the repository is not, as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def _read(app: Any, name: str, source: list[str]) -> None:
    folder = Path(app.env.doc2path(name)).parent
    root = Path(app.srcdir)

    def replaced(match: re.Match[str]) -> str:
        inside = (folder / match[2]).resolve().is_relative_to(root)
        return match[0] if inside else match[1]

    source[0] = LINK.sub(replaced, source[0])


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
