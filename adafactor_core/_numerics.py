"""All backend lore in one place: widening, sums, bounds. Measured reasons: docs/numerics.md."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import array_api_compat as compat

from ._errors import DTypeError

Array = Any  # an array of any namespace; the standard has no nominal type to name
Namespace = Any
DType = Any
Shape = tuple[int, ...]

TRAINABLE = ("float16", "bfloat16", "float32", "float64")
NARROW = ("float16", "bfloat16")  # narrower than the arithmetic done with them
WIDTHS = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
# Smallest normal number by dtype: a floor that keeps 1/sqrt(x) finite and never acts while
# eps1 >= 1e-30. finfo() is not asked: it raises for bfloat16 in NumPy and CuPy.
TINY = {"float32": 1.1754943508222875e-38, "float64": 2.2250738585072014e-308}
LARGEST = {"float32": (2 - 2.0**-23) * 2.0**127, "float64": (2 - 2.0**-52) * 2.0**1023}
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}

_RUNNING_SUM = 128  # from how many terms on a running float32 sum is not good enough


class _Known:
    """Namespaces found so far, as (type, namespace) by the type's name.

    Attributes and not a dict: torch.compile guards a dict as a whole, and would compile every step
    anew when another library's arrays come by.
    """


_known = _Known()


def namespace(x: Array, name: str = "value") -> Namespace:
    """The array-API namespace of `x`, looked up once per type (the lookup costs microseconds)."""
    kind = type(x)
    known = getattr(_known, kind.__name__, None)
    if known is not None and known[0] is kind:
        return known[1]
    try:
        found = compat.array_namespace(x)
    except TypeError:
        raise DTypeError(
            f"{name} is a {kind.__name__}, not an array. "
            f"Every leaf must be an array of a library that follows the array API standard."
        ) from None
    setattr(_known, kind.__name__, (kind, found))
    return found


def dtype_name(x: Array) -> str:
    """'bfloat16' for torch.bfloat16, ml_dtypes.bfloat16 and jnp.bfloat16 alike."""
    kind: Any = type(x.dtype)
    return _name_of(kind, x.dtype)


@lru_cache(maxsize=256)
def _name_of(_: Any, dtype: DType) -> str:
    # The type is in the key because array-api-strict's dtypes warn when compared with NumPy's.
    return str(dtype).rsplit(".", 1)[-1]


def wide_name(dtype: str) -> str:
    """In what tensors of this dtype are computed, and their statistics kept."""
    return "float64" if dtype == "float64" else "float32"


def wide_dtype(xp: Namespace, x: Array) -> DType:
    """float64 for a float64 tensor, float32 for every other."""
    return xp.float64 if dtype_name(x) == "float64" else xp.float32


def is_narrow(x: Array) -> bool:
    """Whether the tensor's dtype is narrower than the arithmetic done with it."""
    return dtype_name(x) in NARROW


def dtype_called(xp: Namespace, name: str, like: Array) -> DType:
    """The dtype of this name in `xp`, or that of `like` if it has the name. Raises DTypeError."""
    if dtype_name(like) == name:
        return like.dtype
    found = getattr(xp, name, None)
    if (
        found is None
        and name == "bfloat16"
        and (compat.is_numpy_namespace(xp) or compat.is_cupy_namespace(xp))
    ):
        # Their bfloat16 lives in an extension package. Imported only when somebody asks for it.
        try:
            import ml_dtypes
        except ImportError:
            raise DTypeError("bfloat16 in NumPy needs ml_dtypes: pip install ml_dtypes.") from None
        found = xp.dtype(ml_dtypes.bfloat16)
    if found is None:
        raise DTypeError(f"{xp.__name__} has no dtype {name!r}. Use 'float32'.")
    return found


def wide(xp: Namespace, x: Array, dtype: DType) -> Array:
    """`x` in the compute dtype. May be `x` itself: never write to the result."""
    return x if x.dtype == dtype else xp.astype(x, dtype, copy=False)


def choose(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`; for Python bools and arrays of bool."""
    if isinstance(condition, bool):
        return a if condition else b
    return namespace(condition).where(condition, a, b)


def at_least(x: Any, low: Any) -> Any:
    """max(x, low), NaN kept; for Python numbers and arrays.

    Not `xp.maximum(x, 1.0)`: that breaks torch.compile(fullgraph=True). Not `xp.clip`: on CuPy it
    goes through boolean indexing, a host sync. JAX's is one operation, where `where` is a call of
    four, and a step has five of them per tensor to compile; torch's `where` launches three kernels.
    """
    if isinstance(x, int | float):
        return choose(x < low, low, x)
    if compat.is_jax_array(x):
        return namespace(x).maximum(x, low)
    if isinstance(low, int | float) and compat.is_torch_array(x):
        return x.clamp(min=_held(low, x))
    return choose(x < low, low, x)


def at_most(x: Any, high: Any) -> Any:
    """min(x, high), NaN in `x` kept."""
    if isinstance(x, int | float):
        other = isinstance(high, int | float) or not compat.is_torch_array(high)
        return choose(x > high, high, x) if other else high.clamp(max=x)
    if compat.is_jax_array(x):
        return namespace(x).minimum(x, high)
    if isinstance(high, int | float) and compat.is_torch_array(x):
        return x.clamp(max=_held(high, x))
    return choose(x > high, high, x)


def _held(bound: float, x: Array) -> float:
    """`bound`, or the end of the range of `x`: torch refuses numbers beyond it."""
    most = LARGEST.get(dtype_name(x), math.inf)
    return min(max(bound, -most), most)


def exposed(x: Any) -> Any:
    """`x`, with NaN for infinity: dividing by an overflowed statistic would hide it in a 0."""
    if not isinstance(x, int | float) and compat.is_torch_array(x):
        return x.nan_to_num(math.nan, math.nan, -math.inf)  # one kernel and not three
    return choose(x < math.inf, x, math.nan)


def product(a: Any, b: Any) -> Any:
    """a*b for Python numbers and arrays; by the number 1 nothing is multiplied."""
    if isinstance(a, float) and a == 1.0:
        return b
    return a if isinstance(b, float) and b == 1.0 else a * b


def next_float(count: Array, dtype: DType) -> Array:
    """count + 1 in `dtype`, for a 0-D array of integers; beyond 2^24 float32 cannot count."""
    xp = namespace(count)
    if compat.is_torch_array(count) and xp.get_default_dtype() == dtype:
        return count + 1.0  # which gives the default dtype, without a cast of its own
    return xp.astype(count + 1, dtype, copy=False)


def square_root(x: Any) -> Any:
    """Of a Python number or an array."""
    return math.sqrt(x) if type(x) in (float, int) else namespace(x).sqrt(x)


def minus_expm1(x: Any) -> Any:
    """1 - exp(x), exact near 0, for a Python number or an array."""
    return -(math.expm1(x) if type(x) in (float, int) else namespace(x).expm1(x))


def logarithm(x: Any) -> Any:
    """Of a Python number or an array."""
    return math.log(x) if type(x) in (float, int) else namespace(x).log(x)


def sum_to(xp: Namespace, x: Array, shape: Shape) -> Array:
    """`x` summed, dims kept, over the axes on which `shape` is 1 and `x` is not."""
    axes = tuple(a for a, (n, m) in enumerate(zip(x.shape, shape, strict=True)) if m == 1 != n)
    if not axes:
        return x
    if sums_run(xp) and max(x.shape[a] for a in axes) > _RUNNING_SUM and axes != (x.ndim - 1,):
        # NumPy adds pairwise only along a contiguous axis; elsewhere the error grows with the
        # length (3e-6 at 4096). float64 accumulation costs 2.4 times that sum and removes it.
        return xp.astype(xp.sum(x, axis=axes, keepdims=True, dtype=xp.float64), x.dtype)
    return xp.sum(x, axis=axes, keepdims=True)


def sum_squares_to(xp: Namespace, x: Array, shape: Shape) -> Array:
    """`sum_to` of x*x; without the temporary where a dot product is as exact as a sum."""
    if x.ndim and shape[-1] == 1 != x.shape[-1] and sums_run(xp):
        # Not on other libraries: a GPU or TPU may run vecdot in TF32 or bfloat16.
        return sum_to(xp, xp.vecdot(x, x)[..., None], shape)
    return sum_to(xp, x * x, shape)


@lru_cache(maxsize=64)
def sums_run(xp: Namespace) -> bool:
    """Whether sums over a strided axis are plain running sums: NumPy, and dask over it.

    array-api-strict wraps NumPy as well, but its devices may lack float64, which the remedy needs.
    """
    return bool(compat.is_numpy_namespace(xp) or compat.is_dask_namespace(xp))


def can_write_blocks(x: Array) -> bool:
    """Whether arrays of this library take `out[block] = value`, the streamed executor's need.

    JAX does not; lazy libraries (dask, ndonnx) do, at the price of a graph node per block.
    """
    return not (compat.is_jax_array(x) or compat.is_lazy_array(x))


def bits_of(xp: Namespace, x: Array) -> Array | None:
    """The bits of a float32 array as int32, without a copy; None where the library has no view.

    The standard has no bitcast. NumPy, CuPy, torch, JAX and dask call theirs `view`.
    """
    if x.ndim == 0 and compat.is_dask_array(x):  # its view asks for the chunks of the last axis
        return None
    return x.view(xp.int32) if hasattr(x, "view") else None


def binade(xp: Namespace, x: Array) -> Array:
    """The largest power of two <= x, for normal x > 0, by comparisons and exact products alone.

    Not 2**floor(log2(x)): libraries round log2 and pow differently next to powers of two.
    """
    p = xp.ones_like(x)
    for k in (64, 32, 16, 8, 4, 2, 1):
        up, down = 2.0**k, 2.0**-k
        p = xp.where(x >= p * up, p * up, p)
        # x < p is where the power is still too large; a step down may not go below x.
        p = xp.where(x < p * (2.0 * down), p * down, p)
    return xp.where(x < p, p * 0.5, p)


def part(x: Array, index: tuple[slice, ...]) -> Array:
    """x[index], for slices of step 1.

    torch's own indexing asks for the driver of the device, and so fails for the fake tensors that
    prove a step free of host syncs; `narrow` does not. JAX's is a gather outside of jit, which
    fails on an axis that is cut and of type Explicit.
    """
    if not (compat.is_torch_array(x) or compat.is_jax_array(x)):
        return x[index]
    for axis, i in enumerate(index):
        if i.start is not None:
            x = _narrow(x, axis, i.start, i.stop)
    return x


def _narrow(x: Array, axis: int, start: int, stop: int) -> Array:
    if compat.is_torch_array(x):
        return x.narrow(axis, start, stop - start)
    from jax import lax  # it is there: `x` is one of its arrays

    return lax.slice_in_dim(x, start, stop, axis=axis)


def assign(out: Array, index: tuple[slice, ...], value: Array) -> None:
    """out[index] = value, for slices of step 1; () is everything."""
    if compat.is_torch_array(out):
        import torch  # it is there: `out` is one of its tensors

        torch.ops.aten.copy_(part(out, index), value)
    else:
        out[index or ...] = value


def quiet(xp: Namespace) -> AbstractContextManager[Any]:
    """No RuntimeWarning from NumPy for what a policy on non-finite numbers deals with."""
    if compat.is_numpy_namespace(xp):
        return xp.errstate(over="ignore", invalid="ignore")  # type: ignore[no-any-return]
    return nullcontext()


def on_host(x: Any) -> bool:
    """Whether reading the value waits for no device and breaks no trace: Python and NumPy."""
    return isinstance(x, bool | int | float) or bool(compat.is_numpy_array(x))


def runs_at_once(x: Array) -> bool:
    """Whether every operation on `x` is a launch of its own: nobody compiles them together."""
    if not compat.is_torch_array(x):
        return bool(compat.is_cupy_array(x))
    import torch  # it is there: `x` is one of its tensors

    return not torch.compiler.is_compiling()


def move(x: Any, like: Array, dtype: DType) -> Any:
    """A number or 0-D array for use beside `like`: on its device, in `dtype`."""
    if isinstance(x, bool | int | float):
        return x
    place = device(like)
    if place is not None and device(x) != place:
        x = compat.to_device(x, place)
    return namespace(like).astype(x, dtype, copy=False)


def keep_freed_blocks(xp: Namespace, like: Array, nbytes: int) -> None:
    """Lets the next blocks reuse each other's memory, for arrays that malloc provides.

    glibc hands freed blocks of this size back to the system, and every new one then costs page
    faults: a streamed step took 2 to 4 times as long. Freeing one larger block raises its limits.
    """
    on_host = compat.is_numpy_array(like) or (
        compat.is_torch_array(like) and like.device.type == "cpu"
    )
    if on_host:
        xp.empty((nbytes,), dtype=xp.uint8)  # freed at once, never touched


@contextmanager
def long_inner_loops(xp: Namespace, length: int) -> Iterator[None]:
    """Keeps NumPy from copying the operands of broadcast products through its buffer.

    It does so for inner loops of at most half the buffer (4096 elements), and a block times a row
    or column then takes 2 to 3 times as long. Below 512 elements the copy pays, so leave it there.
    """
    if length < 512 or not compat.is_numpy_namespace(xp):
        yield
        return
    before = xp.setbufsize(min(8192, length // 16 * 16))
    try:
        yield
    finally:
        xp.setbufsize(before)


def device(x: Array) -> Any:
    """What creation functions of x's namespace take as `device=`; None where they need none."""
    # JAX tracers and sharded arrays have no single device; XLA places the result.
    return None if compat.is_jax_array(x) else compat.device(x)
