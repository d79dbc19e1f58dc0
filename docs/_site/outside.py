"""Links as they read best in the site.

What leaves docs/ works on GitHub; here, where the rest of the repository is not, it becomes text.
A link that shows a page's file name, `[jax.md](jax.md)`, shows the page's title up to a colon.
A page in HTML is copied as it is (`html_extra_path`, to the top) and opened, not downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def _read(app: Any, name: str, source: list[str]) -> None:
    folder = Path(app.env.doc2path(name)).parent
    root = Path(app.srcdir)

    def replaced(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if not target.is_relative_to(root):
            return match[1]
        if target.suffix == ".html":
            up = "../" * name.count("/")
            return f'<a href="{up}{target.name}">{match[1].strip("*")}</a>'
        if match[1].endswith(".md") and target.is_file():
            return f"[{_title(target)}]({match[2]}{match[3] or ''})"
        return match[0]

    source[0] = LINK.sub(replaced, source[0])


def _title(page: Path) -> str:
    first = page.read_text("utf-8").partition("\n")[0]
    return first.lstrip("# ").partition(": ")[0]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
