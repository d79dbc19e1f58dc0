"""Compiles all kernels for GPUs that are not here; writes docs/gpu_kernels.json and a table.

python tests/gpu/report.py, or nox -s gpu -- kernels
"""

import json
from itertools import product
from pathlib import Path

import _gpu_kernels as kernels
import triton

DOCS = Path(__file__).parents[2] / "docs"
MARK = "<!-- below: written by tests/gpu/report.py -->"


def rows() -> list[dict[str, object]]:
    found = []
    for dtype, target in product(kernels.KINDS, kernels.TARGETS):
        for name, (kernel, constants) in kernels.variants(dtype).items():
            built = kernels.build(kernel, constants, kernels.TARGETS[target])
            row = {"kernel": name, "dtype": dtype, "target": target}
            found.append({**row, "registers": built.registers, "spills": built.spills,
                          "shared": built.shared})  # fmt: skip
    return found


def table(found: list[dict[str, object]]) -> str:
    """Registers, spills and shared memory, a row per kernel and dtype."""
    lines = ["| kernel | dtype | " + " | ".join(kernels.TARGETS) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(kernels.TARGETS))
    cells: dict[tuple[object, object], list[str]] = {}
    for row in found:
        said = f"{row['registers']} / {row['spills']} / {row['shared']}"
        cells.setdefault((row["kernel"], row["dtype"]), []).append(said)
    lines += [f"| {k} | {d} | " + " | ".join(c) + " |" for (k, d), c in cells.items()]
    return "\n".join(lines)


def main() -> None:
    found = rows()
    data = {"triton": triton.__version__, "kernels": found}
    (DOCS / "gpu_kernels.json").write_text(json.dumps(data, indent=1) + "\n")
    page = DOCS / "gpu.md"
    head = page.read_text().split(MARK)[0]
    page.write_text(f"{head}{MARK}\n\nTriton {triton.__version__}.\n\n{table(found)}\n")


if __name__ == "__main__":
    main()
