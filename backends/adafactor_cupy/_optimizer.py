"""The stateful, in-place optimizer over CuPy arrays. Holds no formula: the core has them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from adafactor_core import (
    ArrayPasses,
    Config,
    DeviceError,
    DTypeError,
    Passes,
    ReadOnlyError,
    Work,
)
from adafactor_core._inplace import InPlace
from adafactor_core._numerics import device, move, namespace, on_host
from adafactor_core._tree import Leaves, Tree, check_disjoint, check_grad, check_writable

from ._device import CuPy, Library
from ._placed import PlacedPasses


class DeviceOptimizer(InPlace):
    """Adafactor over the arrays of a library whose work is queued on devices.

    Decisions over all tensors are made on one of the devices, and no step waits for them.
    """

    def __init__(
        self, library: Library, params: Tree, config: Config | None, options: dict[str, Any]
    ) -> None:
        self._library = library
        super().__init__(params, config, options)

    def _check_params(self, leaves: Leaves) -> None:
        for path, x in zip(leaves.paths, leaves.arrays, strict=True):
            if not self._library.is_array(x):
                raise DTypeError(
                    f"tensor {path!r} is a {type(x).__name__}, expected a {self._library.name} "
                    f"that can be updated in place. Make one with cupy.array(...) or, from "
                    f"another library on the device, cupy.from_dlpack(...)."
                )
            check_writable(x, path)
            # NumPy marks such views read-only, CuPy does not.
            held = zip(x.shape, x.strides, strict=True)
            if x.size and any(n > 1 and s == 0 for n, s in held):
                raise ReadOnlyError(
                    f"tensor {path!r} of shape {tuple(x.shape)} and dtype {x.dtype} is a broadcast "
                    f"view whose entries share memory. Pass a copy of it."
                )
        check_disjoint(leaves, self._bounds, self._library.share_memory)

    def _bounds(self, x: Any) -> tuple[int, int]:
        reach = [(n - 1) * s for n, s in zip(x.shape, x.strides, strict=True)]
        start = self._library.address(x)
        low, high = (sum(r for r in reach if (r < 0) == down) for down in (True, False))
        return start + low, start + high + x.dtype.itemsize

    def _take(self, work: Work, g: Any) -> tuple[Any, Hashable]:
        x = work.param
        if not self._library.is_array(g):
            g = self._from_dlpack(work, g)
        shape = tuple(g.shape)
        if shape != work.layout.shape or g.dtype != x.dtype or device(g) != device(x):
            check_grad(work.xp, x, g, work.path)
        check_writable(x, work.path)
        return g, (g.dtype, g.flags.c_contiguous)

    def _from_dlpack(self, work: Work, g: Any) -> Any:
        """The memory of another library's gradient; the device waits for it, the host does not."""
        if g is None:
            check_grad(work.xp, work.param, g, work.path)
        if not hasattr(g, "__dlpack__"):
            raise DTypeError(
                f"the gradient of tensor {work.path!r} is a {type(g).__name__}, expected a "
                f"{self._library.name} of shape {work.layout.shape}, or an array of another "
                f"library with __dlpack__ on device {device(work.param)}."
            )
        if self._library.is_on_host(g):
            raise DeviceError(
                f"tensor {work.path!r} is on device {device(work.param)}, its gradient, a "
                f"{type(g).__name__}, in CPU memory. Copy it over with cupy.asarray(...)."
            )
        try:
            with self._library.on(work.param):
                return self._library.from_dlpack(g)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise DTypeError(
                f"the gradient of tensor {work.path!r}, a {type(g).__name__}, cannot be taken "
                f"through DLPack: {error}. Detach or convert it, or pass a {self._library.name}."
            ) from error

    def _copy(self, array: Any, like: Any) -> Any:
        with self._library.on(like):
            return self._library.copy(array)

    def _all_passes(self) -> Sequence[Passes]:
        found = (*self._library.passes(), ArrayPasses())
        return [PlacedPasses(inner, self._on, self._home) for inner in found]

    def _on(self, x: Any) -> AbstractContextManager[Any]:
        first = self._leaves.arrays[0]
        if device(x) != device(first):
            # It reads counters and verdicts that are made there.
            self._library.wait(x, first)
        return self._library.on(x)

    def _home(self, value: Any) -> Any:
        first = self._leaves.arrays[0]
        if on_host(value) or device(value) == device(first):
            return value
        self._library.wait(first, value)
        return move(value, first, value.dtype)

    def _counter(self, value: Any, decided: bool) -> Any:
        if not (decided and self._leaves.arrays):
            return int(value)
        first = self._leaves.arrays[0]
        xp = namespace(first)
        with self._library.on(first):
            return xp.full((), int(value), dtype=xp.int32, device=device(first))


class Adafactor(DeviceOptimizer):
    """Adafactor over CuPy arrays, updated in place on the current stream of their device.

    `params`: one array or any nesting of dict, list, tuple or namedtuple of arrays of dtype
    float16, float32, float64 or ml_dtypes' bfloat16, none sharing memory with another. They may be
    on several devices. `config` or its options by name (`lr=1e-3, weight_decay=0.1`), as in
    docs/options.md, with `variant="transformers"` over those of a named variant (docs/variants.md).

    `step(grads)` takes CuPy arrays and anything with `__dlpack__` on the tensor's device, such as
    torch and JAX arrays, without a copy. Where their library works on another stream, keep them
    until the step is done: it may reuse their memory as soon as nobody holds them. A step queues
    work and returns: nothing in it waits for a device, whatever the options, except
    `nonfinite="raise"`, which reads one number. `grad_scale` may be a 0-D CuPy array. Under
    `nonfinite="skip_step"` the counter in `state` is a 0-D array on the device of the first tensor,
    else an int.

    Assigning `state` copies it, also from NumPy arrays. Raises ConfigError, DTypeError,
    ReadOnlyError, ShapeError or TreeError, naming the tensor, and MissingCuPyError without CuPy.
    """

    def __init__(self, params: Tree, config: Config | None = None, **options: Any) -> None:
        super().__init__(CuPy(), params, config, options)
