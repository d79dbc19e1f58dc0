"""The CUDA source of the kernels, and its compiled form under CuPy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from ._table import Instance

THREADS = 256  # of a block, as in _numbers.cuh
NAMES = (
    "observe", "squares", "total", "advance", "measure", "judge", "scale", "apply", "metrics",
)  # fmt: skip
PARTS = ("_numbers.cuh", "_table.cuh", "_observe.cu", "_measure.cu", "_apply.cu", "_small.cu")
# Products are not contracted into sums: a step then has the bits of the same source elsewhere.
OPTIONS = ("-std=c++17", "-fmad=false")


@cache
def source() -> str:
    """All of it in one text, which includes no header."""
    return "\n".join(files(__package__).joinpath(name).read_text("utf-8") for name in PARTS)


def options(instance: Instance) -> tuple[str, ...]:
    """What the compiler is told for it."""
    x, g, m, rounding = instance
    types = (f"-DX_TYPE={x}", f"-DG_TYPE={g}", f"-DM_TYPE={m or 'F32'}")
    return (*OPTIONS, *types, f"-DAVERAGES={int(bool(m))}", f"-DROUNDING={rounding.upper()}")


class CuPyKernels:
    """Launches on the current device and stream; compiles at the first launch, and CuPy caches."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._modules: dict[tuple[Any, ...], dict[str, Any]] = {}

    def launch(self, instance: Instance, name: str, blocks: int, arguments: Sequence[Any]) -> None:
        key = (instance, self._cupy.cuda.runtime.getDevice())
        found = self._modules.get(key)
        if found is None:
            module = self._cupy.RawModule(code=source(), options=options(instance))
            found = self._modules[key] = {n: module.get_function(n) for n in NAMES}
        found[name]((blocks,), (THREADS,), tuple(arguments))

    def upload(self, values: Any) -> Any:
        # CuPy copies through pinned memory that it keeps until the copy is done. A pinned buffer
        # written anew each step would have to wait for the step before.
        return self._cupy.asarray(values, blocking=False)

    def room(self, entries: int, dtype: str = "float32") -> Any:
        return self._cupy.empty(entries, dtype=dtype)

    def address(self, x: Any) -> int:
        return int(x.data.ptr)
