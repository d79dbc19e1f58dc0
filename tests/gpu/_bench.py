"""What is timed on a GPU, by events, and told as a share of what a copy moves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import _others as others
import torch

STREAMS = 6  # of the tensor's bytes that a perfect step moves: G and X, G, then G, X and X
LARGE = {"8192x8192": [(8192, 8192)], "4096x4096": [(4096, 4096)]}
Steps = dict[str, Callable[[], Any]]


def transformer(layers: int = 30, width: int = 512) -> list[tuple[int, ...]]:
    """About 300 tensors: ten per layer."""
    layer = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)] + [(width,)] * 4
    return [(32_000, width), *layer * layers]


def share(milliseconds: float, elements: int, itemsize: int, copy: float) -> float:
    """Of the copy bandwidth (bytes per second) that six streams in this time amount to."""
    return STREAMS * elements * itemsize / (milliseconds * 1e-3) / copy


def median_ms(run: Callable[[], Any], repeats: int = 30) -> float:
    for _ in range(5):
        run()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a copy larger than any cache."""
    x = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.nbytes / (median_ms(lambda: y.copy_(x)) * 1e-3)


def model(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    params = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, device="cuda").to(dtype))
        p.grad = torch.randn(shape, device="cuda").to(dtype)
        params.append(p)
    return params


def ours(params: list[torch.nn.Parameter], **options: Any) -> Any:
    from adafactor_torch import Adafactor

    return Adafactor(params, **options)


def steppers(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> dict[str, Any]:
    """What is timed, as functions that make a step; each has tensors of its own when it is made."""
    found: dict[str, Any] = {
        "adafactor_torch": lambda: ours(model(shapes, dtype)).step,
        "adafactor_torch, plain passes": lambda: ours(model(shapes, dtype), compiled=False).step,
        "torch foreach": lambda: torch.optim.Adafactor(model(shapes, dtype), foreach=True).step,
        "torch fused AdamW": lambda: torch.optim.AdamW(model(shapes, dtype), fused=True).step,
    }
    try:
        from transformers.optimization import Adafactor as Hf
    except ImportError:
        pass
    else:
        found["transformers"] = lambda: Hf(model(shapes, dtype)).step
    return found


def replayed(step: Callable[[], Any]) -> Callable[[], Any]:
    """The step as a CUDA graph: without the time that Python takes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step()
    return recorded.replay


def benchmark(copy: float) -> list[dict[str, Any]]:
    rows = []
    for work, shapes in {**LARGE, "300 tensors": transformer()}.items():
        for dtype in (torch.bfloat16, torch.float32):
            size = sum(torch.Size(s).numel() for s in shapes)
            for name, make in steppers(shapes, dtype).items():
                for graphed in (False, True) if name == "adafactor_torch" else (False,):
                    row = {"work": work, "dtype": str(dtype).removeprefix("torch."), "name": name}
                    row["graph"] = graphed
                    try:
                        ms = median_ms(replayed(make()) if graphed else make())
                        row |= {"ms": ms, "of_copy": share(ms, size, dtype.itemsize, copy)}
                    except Exception as error:  # a peer that fails is a row that says so
                        row["error"] = f"{type(error).__name__}: {error}"[:300]
                    rows.append(row)
                    print(as_line(row), flush=True)
                    torch.cuda.empty_cache()
    return rows


def as_line(row: dict[str, Any]) -> str:
    name = row["name"] + (" (graph)" if row["graph"] else "")
    end = row["error"] if "error" in row else f"{row['ms']:9.3f} ms  {row['of_copy']:6.1%} of copy"
    return f"{row['work']:12} {row['dtype']:9} {name:32} {end}"


def has_cupy() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())


def has_jax() -> bool:
    try:
        import jax
    except ImportError:
        return False
    return str(jax.default_backend()) == "gpu"


def other_rows(copy: float) -> list[dict[str, Any]]:
    rows = []
    for work, shapes in {**LARGE, "300 tensors": transformer()}.items():
        size = sum(torch.Size(s).numel() for s in shapes)
        for dtype, itemsize in (("bfloat16", 2), ("float32", 4)):
            timed: dict[str, Callable[[], float]] = {}
            if has_cupy():
                timed["adafactor_cupy"] = partial(of_cupy, shapes, dtype)
            for name in ("adafactor_jax", "optax") if has_jax() else ():
                timed[name] = partial(of_jax, shapes, dtype, name)
            for name, run in timed.items():
                row: dict[str, Any] = {"work": work, "dtype": dtype, "name": name, "graph": False}
                try:
                    ms = run()
                    row |= {"ms": ms, "of_copy": share(ms, size, itemsize, copy)}
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {error}"[:300]
                rows.append(row)
                print(as_line(row), flush=True)
    return rows


def of_cupy(shapes: Sequence[tuple[int, ...]], dtype: str) -> float:
    return others.cupy_ms(others.cupy_stepper(shapes, dtype))


def of_jax(shapes: Sequence[tuple[int, ...]], dtype: str, name: str) -> float:
    return others.jax_ms(others.jax_steppers(shapes, dtype)[name])
