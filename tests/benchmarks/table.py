"""Renders a stored record as Markdown: python tests/benchmarks/table.py FILE.json [work ...]"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
MIB = 1 << 20

# kind of work: columns as (key, heading, format)
COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "times": (
        ("median_ms", "median ms", "ms"),
        ("min_ms", "min", "ms"),
        ("quartiles", "quartiles", ""),
        ("over_floor", "x floor", "ratio"),
        ("over_compiled", "x compiled", "ratio"),
        ("over_plain", "x plain", "ratio"),
        ("deviation", "deviation", "small"),
    ),
    "scratch": (
        ("counted_bytes", "counted MiB", "mib"),
        ("resident_bytes", "resident MiB", "mib"),
    ),
    "latency": (
        ("numpy_import_s", "import numpy s", "s"),
        ("import_s", "import adafactor_numpy s", "s"),
        ("build_s", "construct s", "s"),
        ("first_step_s", "first step s", "s"),
        ("second_step_s", "second step s", "s"),
        ("process_s", "whole process s", "s"),
        ("cpu_s", "of it CPU s", "s"),
    ),
    "compile": (
        ("trace_s", "trace s", "s"),
        ("lower_s", "lower s", "s"),
        ("compile_s", "compile s", "s"),
        ("total_s", "all s", "s"),
    ),
}


def markdown(record: Record, works: Sequence[str] = ()) -> str:
    """The whole record, or these works of it; ends with the machine."""
    named = {n: w for n, w in record["works"].items() if not works or n in works}
    parts = [section(name, work) for name, work in named.items()]
    return "\n\n".join([*parts, machine(record)]) + "\n"


def section(name: str, work: Record) -> str:
    """Heading, table, verdicts and notes of one work."""
    if "failed" in work:
        return f"## {name}\n\nfailed: {work['failed']}"
    head = f"## {name}: {work['title']}\n\n{_repeats(work)}"
    blocks = [head, _table(work), _verdicts(work["targets"]), *work.get("notes", ())]
    return "\n\n".join(block for block in blocks if block)


def machine(record: Record) -> str:
    """One paragraph."""
    m = record["machine"]
    versions = ", ".join(f"{n} {v or 'absent'}" for n, v in m["packages"].items())
    pages = f", transparent huge pages: {m['huge_pages']}" if m["huge_pages"] else ""
    busy = m["load_before"] and m["load_before"][0] > 0.5 * m["cores"]
    warning = " The machine was busy before the start: do not quote." if busy else ""
    quick = " A quick run: too few repeats to quote." if record["quick"] else ""
    return (
        f"Machine: {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['system']}{pages}, "
        f"Python {m['python']}, {versions}; commit {m['commit']}, {record['time']}, load average "
        f"{m['load_before']} before and {record['load_after']} after.{quick}{warning}"
    )


def _repeats(work: Record) -> str:
    inner = work.get("steps_per_sample", 1)
    return f"{work['repeats']} repeats" + (f" of {inner} steps each." if inner > 1 else ".")


def _table(work: Record) -> str:
    """Aligned, so that it reads in a terminal, too. A skipped row says why."""
    columns = [c for c in COLUMNS[work["kind"]] if any(_cell(r, c) for r in work["rows"].values())]
    lines = [["", *(heading for _, heading, _ in columns)]]
    for row in work["rows"].values():
        cells = [_cell(row, c) for c in columns]
        if "skipped" in row:
            cells[0] = f"skipped: {row['skipped']}"
        lines.append([row["label"], *cells])
    plain = [line for line in lines if not line[1].startswith("skipped")]
    widths = [max(len(line[i]) for line in plain) for i in range(len(columns) + 1)]
    widths[0] = max(len(line[0]) for line in lines)
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join(_line(line, widths) for line in [lines[0], rule, *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join([first, *rest]) + " |"


def _cell(row: Record, column: tuple[str, str, str]) -> str:
    key, _, style = column
    if key == "quartiles":
        return f"{_number(row['q1_ms'])} - {_number(row['q3_ms'])}" if "q1_ms" in row else ""
    value = row.get(key)
    if value is None:
        return ""
    styles = {"ratio": f"{value:.2f}", "small": f"{value:.1e}", "s": f"{value:.3f}"}
    return styles.get(style) or _number(value / MIB if style == "mib" else value)


def _number(value: float) -> str:
    """Three figures, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def _verdicts(targets: Sequence[Record]) -> str:
    return "\n".join(f"* {_verdict(target)}" for target in targets)


def _verdict(target: Record) -> str:
    if target["met"] is None:
        return f"{target['text']}: not measured"
    return f"{target['text']}: {target['value']:.3f}, {'met' if target['met'] else 'NOT met'}"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:]), end="")
