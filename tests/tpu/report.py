"""Compiles the step for all topologies; writes docs/tpu.json and the tables of docs/tpu.md.

python tests/tpu/report.py, or nox -s tpu, which installs libtpu and quietens it.
"""

import json
import warnings
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import jax
from _aot import LAYOUTS, MERGE_ALL, TOPOLOGIES, Built, build

from adafactor_core import LowPrecisionWarning

DOCS = Path(__file__).parents[2] / "docs"
MARK = "<!-- below: written by tests/tpu/report.py -->"
WORK = {
    "one matrix": {"w": (32768, 16384)},
    "two layers": {
        f"{i}.{name}": shape
        for i in range(2)
        for name, shape in {
            "q": (2048, 2048), "k": (2048, 2048), "v": (2048, 2048), "o": (2048, 2048),
            "up": (2048, 8192), "down": (8192, 2048), "scale": (2048,), "shift": (2048,),
        }.items()
    },
}  # fmt: skip


def traffic() -> list[dict[str, Any]]:
    rows = []
    for work, topology, dtype, layout in product(
        WORK, TOPOLOGIES, ("float32", "bfloat16"), ("single", *LAYOUTS)
    ):
        built = build(topology, layout, dtype, WORK[work])
        row = {"work": work, "topology": topology, "dtype": dtype, "layout": layout}
        rows.append(row | numbers(built))
    return rows


def numbers(built: Built) -> dict[str, Any]:
    return {
        "six_streams": built.minimum,
        "hbm": built.moved(),
        "accessed": built.accessed,
        "temporary": built.temporary,
        "held": built.held,
        "aliased": built.aliased,
        "all_reduces": built.count("all-reduce"),
        "seconds": round(built.seconds, 2),
    }


def merging() -> list[dict[str, Any]]:
    rows = []
    for topology, layout in product(TOPOLOGIES, LAYOUTS):
        row: dict[str, Any] = {"topology": topology, "layout": layout}
        for name, options in {"default": None, "merged": MERGE_ALL}.items():
            row[name] = [
                build(
                    topology,
                    layout,
                    "float32",
                    {f"p{i}": (512, 256) for i in range(n)},
                    compiler_options=options,
                ).count("all-reduce")
                for n in (1, 10, 100, 150)
            ]
        rows.append(row)
    return rows


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def written(found: dict[str, Any]) -> str:
    mib = 2**20
    parts = [f"jax {found['jax']}, libtpu {found['libtpu']}."]
    for work in WORK:
        rows = [
            [
                r["topology"],
                r["dtype"],
                r["layout"],
                f"{r['six_streams'] / mib:.1f}",
                f"{r['hbm'] / mib:.1f} ({r['hbm'] / r['six_streams']:.2f})",
                f"{r['accessed'] / mib:.1f} ({r['accessed'] / r['six_streams']:.2f})",
                f"{r['temporary'] / mib:.2f}",
                f"{r['aliased'] / mib:.2f} / {r['held'] / mib:.2f}",
                r["all_reduces"],
                r["seconds"],
            ]
            for r in found["traffic"]
            if r["work"] == work
        ]
        head = [
            "topology", "dtype", "layout", "six streams", "HBM", "XLA's count", "temporaries",
            "reused / held", "all-reduces", "compiled in s",
        ]  # fmt: skip
        parts.append(f"## {work.capitalize()}: MiB per device\n\n{table(head, rows)}")
    rows = [
        [r["topology"], r["layout"], *(", ".join(map(str, r[k])) for k in ("default", "merged"))]
        for r in found["merging"]
    ]
    head = ["topology", "layout", "as it comes", "with the option"]
    parts.append(f"## All-reduces for 1, 10, 100 and 150 matrices\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def main() -> None:
    warnings.simplefilter("ignore", LowPrecisionWarning)
    found = {
        "jax": jax.__version__,
        "libtpu": version("libtpu"),
        "traffic": traffic(),
        "merging": merging(),
    }
    (DOCS / "tpu.json").write_text(json.dumps(found, indent=1) + "\n")
    page = DOCS / "tpu.md"
    page.write_text(page.read_text().partition(MARK)[0] + f"{MARK}\n\n{written(found)}\n")


if __name__ == "__main__":
    main()
