"""The CUDA source of the kernels, and its compiled form under CuPy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

THREADS = 256  # of a block, as in _numbers.cuh
NAMES = ("observe", "squares", "total", "advance", "measure", "scale", "apply")
# Products are not contracted into sums: a step then has the bits of the same source elsewhere.
OPTIONS = ("-std=c++17", "-fmad=false")


@cache
def source() -> str:
    """All of it in one text, which includes no header."""
    parts = ("_numbers.cuh", "_observe.cu", "_measure.cu", "_apply.cu")
    return "\n".join(files(__package__).joinpath(name).read_text("utf-8") for name in parts)


def options(dtypes: tuple[str, str, str]) -> tuple[str, ...]:
    """What the compiler is told for parameters, gradients and momentum of these dtypes."""
    return (*OPTIONS, *(f"-D{of}_TYPE={name}" for of, name in zip("XGM", dtypes, strict=True)))


class CuPyKernels:
    """Launches on the current device and stream; compiles at the first launch, and CuPy caches."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._modules: dict[tuple[Any, ...], dict[str, Any]] = {}

    def launch(
        self, dtypes: tuple[str, str, str], name: str, blocks: int, arguments: Sequence[Any]
    ) -> None:
        key = (dtypes, self._cupy.cuda.runtime.getDevice())
        found = self._modules.get(key)
        if found is None:
            module = self._cupy.RawModule(code=source(), options=options(dtypes))
            found = self._modules[key] = {n: module.get_function(n) for n in NAMES}
        found[name]((blocks,), (THREADS,), tuple(arguments))

    def upload(self, values: Any) -> Any:
        # CuPy copies through pinned memory that it keeps until the copy is done. ndarray.set, or
        # a pinned buffer written anew each step, would have to wait for the step before.
        return self._cupy.asarray(values)

    def room(self, entries: int) -> Any:
        return self._cupy.empty(entries, dtype=self._cupy.float32)

    def address(self, x: Any) -> int:
        return int(x.data.ptr)
