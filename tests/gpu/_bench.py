"""What is timed on a GPU, by events, and told as a share of what a copy moves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import _on_cupy as on_cupy
import _on_jax as on_jax
import torch

DEVICE = "cuda"  # ROCm's as well
STREAMS = 6  # of the tensor's bytes that a perfect step moves: G and X, G, then G, X and X
LARGE = {"8192x8192": [(8192, 8192)], "4096x4096": [(4096, 4096)]}
ITEMSIZE = {"bfloat16": 2, "float32": 4}
Tell = Callable[[dict[str, Any]], None]


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
    x = torch.empty(1 << 28, dtype=torch.float32, device=DEVICE)
    y = torch.empty_like(x)
    return 2 * x.nbytes / (median_ms(lambda: y.copy_(x)) * 1e-3)


def model(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    params = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, device=DEVICE).to(dtype))
        p.grad = torch.randn(shape, device=DEVICE).to(dtype)
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
    except Exception:  # a mismatch of its own dependencies is no ImportError
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

    def replay(kept: Any = step) -> None:  # or its tensors would be gone by then
        recorded.replay()

    return replay


def launched(step: Callable[[], Any]) -> int:
    """Kernels and copies that the device runs for one step, as its profiler sees them."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    on_device = [e for e in seen.events() if e.device_type == DeviceType.CUDA]
    # torch's own name for a step is drawn over the device's line as well.
    return sum(not getattr(event, "is_user_annotation", False) for event in on_device)


Timed = tuple[str, bool, Callable[[], float]]  # name, as a graph, milliseconds


def works() -> Iterator[tuple[str, Sequence[tuple[int, ...]], str]]:
    for work, shapes in {**LARGE, "300 tensors": transformer()}.items():
        for dtype in ITEMSIZE:
            yield work, shapes, dtype


def rows(tell: Tell, timed: Callable[[Sequence[tuple[int, ...]], str], list[Timed]]) -> str:
    """Tells each row as soon as it is there; one that fails says so and stops no other."""
    copy = copy_bandwidth()
    tell({"copy": copy})
    print(f"a copy moves {copy / 1e9:.0f} GB/s", flush=True)
    failed = []
    for work, shapes, dtype in works():
        size = sum(torch.Size(s).numel() for s in shapes)
        for name, graphed, run in timed(shapes, dtype):
            row: dict[str, Any] = {"work": work, "dtype": dtype, "name": name, "graph": graphed}
            try:
                ms = run()
                row |= {"ms": ms, "of_copy": share(ms, size, ITEMSIZE[dtype], copy)}
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:300]
                failed.append(f"{name}, {work}, {dtype}")
            tell({"row": row})
            print(as_line(row), flush=True)
            torch.cuda.empty_cache()
    assert not failed, failed
    return f"{copy / 1e9:.0f} GB/s copied"


def benchmark(tell: Tell) -> str:
    """torch: ours as it is and as a CUDA graph, and the others."""

    def timed(shapes: Sequence[tuple[int, ...]], dtype: str) -> list[Timed]:
        found: list[Timed] = [
            (name, False, lambda make=make: median_ms(make()))  # type: ignore[misc]
            for name, make in steppers(shapes, getattr(torch, dtype)).items()
        ]
        made = steppers(shapes, getattr(torch, dtype))["adafactor_torch"]
        return [*found, ("adafactor_torch", True, lambda: median_ms(replayed(made())))]

    return rows(tell, timed)


def of_cupy(tell: Tell) -> str:
    return rows(
        tell,
        lambda shapes, dtype: [
            ("adafactor_cupy", False, lambda: on_cupy.median_ms(on_cupy.stepper(shapes, dtype)))
        ],
    )


def of_jax(tell: Tell) -> str:
    def timed(shapes: Sequence[tuple[int, ...]], dtype: str) -> list[Timed]:
        return [
            (name, False, lambda make=make: on_jax.median_ms(make()))  # type: ignore[misc]
            for name, make in on_jax.steppers(shapes, dtype).items()
        ]

    return rows(tell, timed)


def as_line(row: dict[str, Any]) -> str:
    name = row["name"] + (" (graph)" if row["graph"] else "")
    end = row["error"] if "error" in row else f"{row['ms']:9.3f} ms  {row['of_copy']:6.1%} of copy"
    return f"{row['work']:12} {row['dtype']:9} {name:32} {end}"
