"""The table of formats, as `convert --formats` prints it and docs/converting.md has it."""

from __future__ import annotations

from ._format import Format
from ._table import FORMATS, meaning

HEADER = "| format | of | second moment | momentum | steps | axes | statistics | notes |"
DTYPES = {"wide": "float32, float64", "float32": "float32", "param": "the parameter's"}


def table() -> str:
    """Markdown, a line for each format."""
    lines = [HEADER, "| --- " * (HEADER.count("|") - 1) + "|"]
    for name, fmt in FORMATS.items():
        cells = [
            f"`{name}`",
            fmt.of,
            _keys(fmt, "row", "col", "full"),
            _keys(fmt, "momentum"),
            ", ".join(f"`{key}`" for key in fmt.counters) or "elsewhere",
            _axes(name, fmt),
            DTYPES[fmt.statistics],
            fmt.note,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _keys(fmt: Format, *slots: str) -> str:
    found = [
        kind[slot] for slot in slots for kind in (fmt.factored, fmt.unfactored) if slot in kind
    ]
    return ", ".join(f"`{key}`" for key in dict.fromkeys(found)) or "-"


def _axes(name: str, fmt: Format) -> str:
    if fmt.ours:
        return "by its options"
    own = meaning(name)
    least = own.get("min_dim_size_to_factor", 1)
    kept = ", kept with size 1" if fmt.keepdims else ""
    return f"`{own.get('factored_dims', 'auto')}`" + (f" from {least}" if least > 1 else "") + kept
