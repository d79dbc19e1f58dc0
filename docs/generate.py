"""Writes the pages that are generated from the code: `python docs/generate.py`. A test compares.

Needs numpy, numba, torch and triton; the test compares the columns whose libraries are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import adafactor_core as af
from adafactor_core.layouts._describe import table

HERE = Path(__file__).parent

# Label, options, shape, dtype: one line of the table each.
SETTINGS: list[tuple[str, dict[str, Any], tuple[int, ...], str]] = [
    ("the defaults, a matrix", {}, (4, 5), "float32"),
    ("a vector or scalar", {}, (5,), "float32"),
    ("any rank, any two factored axes", {"factored_dims": (2, 0)}, (3, 4, 5), "float32"),
    ("`factored=False`", {"factored": False}, (4, 5), "float32"),
    ("float64", {}, (4, 5), "float64"),
    ("float16, bfloat16", {}, (4, 5), "float16"),
    (
        "`lr`, `step_size`, `scale_parameter`, `eps2`, `max_parameter_scale`",
        {"lr": 0.1},
        (4, 5),
        "",
    ),
    ("`decay_type`, `decay_rate`, `decay_offset`, `beta2_cap`", {"decay_type": "adam"}, (4, 5), ""),
    ("`clip_threshold`, also None", {"clip_threshold": None}, (4, 5), ""),
    ("`eps1`, also `'finfo'`", {"eps1": "finfo"}, (4, 5), ""),
    ("`eps1_mode='stats'`", {"eps1_mode": "stats"}, (4, 5), ""),
    ("`eps1_mode='clamp'`", {"eps1_mode": "clamp"}, (4, 5), ""),
    ("`weight_decay`, `weight_decay_by`, `weight_decay_first`", {"weight_decay": 0.1}, (4, 5), ""),
    ("`maximize`", {"maximize": True}, (4, 5), ""),
    ("`beta1` on `'scaled_update'`", {"beta1": 0.9}, (4, 5), ""),
    ("`beta1` on `'update'`", {"beta1": 0.9, "momentum_on": "update"}, (4, 5), ""),
    ("`beta1` on `'grad'`", {"beta1": 0.9, "momentum_on": "grad"}, (4, 5), ""),
    ("`momentum_dtype` of 16 bits", {"beta1": 0.9, "momentum_dtype": "float16"}, (4, 5), ""),
    ("`momentum_dtype='int8'`", {"beta1": 0.9, "momentum_dtype": "int8"}, (4, 5), ""),
    (
        "`momentum_rounding='stochastic'`",
        {"beta1": 0.9, "momentum_dtype": "float16", "momentum_rounding": "stochastic"},
        (4, 5),
        "",
    ),
    (
        "`momentum_arithmetic` in 16 bits",
        {"beta1": 0.9, "momentum_dtype": "float16", "momentum_arithmetic": "buffer"},
        (4, 5),
        "",
    ),
    ("`rounding='stochastic'`", {"rounding": "stochastic"}, (4, 5), "float16"),
    ("`rounding='kahan'`", {"rounding": "kahan"}, (4, 5), "float16"),
    ("`nonfinite`, all policies", {"nonfinite": "skip_step"}, (4, 5), ""),
    ("`max_grad_norm`, `grad_scale`", {"max_grad_norm": 1.0}, (4, 5), ""),
    ("`telemetry`", {"telemetry": True}, (4, 5), ""),
    ("`telemetry` without clipping", {"telemetry": True, "clip_threshold": None}, (4, 5), ""),
    ("leading `batch_axes`", {"batch_axes": (0,)}, (3, 4, 5), ""),
    ("other `batch_axes`", {"batch_axes": (2,)}, (3, 4, 5), ""),
    ("`batch_axes` of an unfactored tensor", {"batch_axes": (0,), "factored": False}, (4, 5), ""),
    ("several axes on one side", {"factored_dims": ((0, 1), 2)}, (3, 4, 5), ""),
    ("over 64 elements behind both factored axes", {"factored_dims": (0, 1)}, (4, 5, 65), ""),
    ("arrays that are not in C order", {}, (-4, 5), ""),
]


class Asked(af.ArrayPasses):
    """Remembers what some passes answer for the one tensor that they are asked about."""

    def __init__(self, passes: af.Passes) -> None:
        super().__init__()
        self._passes, self.reason = passes, ""

    def serves(self, work: af.Work) -> str:
        self.reason = self._passes.serves(work)
        return "only asking"


Ones = Callable[[list[int], str], Any]  # of a shape and a dtype


def answer(
    passes: af.Passes, ones: Ones, options: dict[str, Any], shape: tuple[int, ...], dtype: str
) -> str:
    """What they say to a tensor of this kind."""
    x = ones([abs(n) for n in shape], dtype or "float32")
    x = x.T if min(shape) < 0 else x
    config, asked = af.Config(**options), Asked(passes)
    af.step(x, x, af.init(x, config), config, passes=(asked,))
    return f"array API: {asked.reason}" if asked.reason else "yes"


def column(passes: af.Passes, ones: Ones) -> list[str]:
    """Their answers, a cell per setting."""
    return [answer(passes, ones, *setting) for _, *setting in SETTINGS]


def of_numba() -> list[str]:
    """Raises ImportError without Numba, as the others do without what they need."""
    import numpy as np

    from adafactor_numpy._compiled import CompiledPasses

    return column(CompiledPasses(), np.ones)


def of_cuda() -> list[str]:
    import numpy as np

    from adafactor_cupy._passes import KernelPasses

    kernels: Any = None  # they are not launched
    return column(KernelPasses(kernels), np.ones)


def of_triton() -> list[str]:
    import torch

    from adafactor_torch._triton import TritonPasses

    def ones(shape: list[int], dtype: str) -> Any:
        return torch.ones(shape, dtype=getattr(torch, dtype))

    return column(TritonPasses(("cpu",)), ones)


COLUMNS: dict[str, Callable[[], list[str]]] = {
    "Numba passes": of_numba,
    "Triton passes of torch": of_triton,
    "CUDA passes of CuPy": of_cuda,
}
HEAD = """# What the compiled passes serve

Generated by `docs/generate.py` from the code; do not edit. A tensor that the Numba passes of
`adafactor_numpy` and, for CPU tensors, of `adafactor_torch`, the Triton passes of
`adafactor_torch` or the CUDA passes of `adafactor_cupy` do not serve goes through the array-API
passes, with the same result to rounding (`tests/test_numpy_passes.py`,
`tests/gpu/test_interpreted.py` and `tests/test_cupy_passes.py` hold them against each other).

"""


def kernels(columns: Mapping[str, list[str]]) -> str:
    """docs/kernels.md; `columns` by name, a cell per setting."""
    rows = [["setting", *columns], ["---"] * (1 + len(columns))]
    labels = [label for label, *_ in SETTINGS]
    rows += map(list, zip(labels, *columns.values(), strict=True))
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def converting() -> str:
    """docs/converting.md, with its table."""
    page = (HERE / "converting.md").read_text()
    before, _, rest = page.partition("<!-- formats: generated by docs/generate.py -->\n")
    _, _, after = rest.partition("<!-- end -->\n")
    return (
        f"{before}<!-- formats: generated by docs/generate.py -->\n{table()}<!-- end -->\n{after}"
    )


if __name__ == "__main__":
    made = {name: cells() for name, cells in COLUMNS.items()}
    (HERE / "kernels.md").write_text(kernels(made))
    (HERE / "converting.md").write_text(converting())
