"""Checks and times adafactor_torch on the GPU that is here: python tests/gpu/check.py

Needs torch, triton and numpy, and this repository; transformers is timed as well where it is
installed. One check that fails is reported and does not stop the others. Writes gpu_check.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backends"), str(ROOT / "tests")]

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


def conformance() -> str:
    """The kit's float64 oracle judges the optimizer with its tensors on the GPU."""
    from _torch import AsTorchOptimizer, judge

    subject = AsTorchOptimizer("torch cuda", place=lambda x: x.cuda(), whole=lambda x: x.cpu())
    subject.device = "cuda"
    for dtype in ("float32", "bfloat16", "float16"):
        judge(subject, dtype)
    return "float32, bfloat16, float16"


def kernels_serve() -> str:
    """Every tensor of a plain model goes through the kernels, in one batch."""
    from adafactor_torch._triton import TritonPasses

    optimizer = ours(model([(64, 48), (7,), (3, 4, 5)], torch.bfloat16))
    optimizer.step()
    groups = [g for p in optimizer._plans.values() for together in p._groups for g in together]
    assert [type(p) for p, _ in groups] == [TritonPasses], groups
    return "one batch"


def kernels_agree() -> str:
    """Steps with kernels against steps without, on the device, over options and odd shapes."""
    shapes = [(1031, 517), (520, 1032), (7,), (), (64, 32, 3, 3), (12, 3, 16), (100_003,)]
    worst = 0.0
    for options in ({}, {"beta1": 0.9, "weight_decay": 0.1}, {"max_grad_norm": 1.0},
                    {"nonfinite": "skip_step"}, {"factored": False}):  # fmt: skip
        results = []
        for compiled in (True, False):
            params = model(shapes, torch.float32)
            optimizer = ours(params, lr=0.1, compiled=compiled, **options)
            for _ in range(3):
                optimizer.step()
            results.append(params)
        for a, b in zip(*results, strict=True):
            error = float((a - b).abs().max() / b.abs().max())
            assert error <= 1e-6, (options, tuple(a.shape), error)
            worst = max(worst, error)
    return f"worst scaled error {worst:.2g}"


def no_sync() -> str:
    """No step waits for the device, and two runs give the same bits."""
    results = []
    for _ in range(2):
        params = model([(512, 768), (768,), (3, 5)], torch.bfloat16)
        optimizer = ours(params, rounding="stochastic", max_grad_norm=1.0, nonfinite="skip_step")
        optimizer.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        results.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    return "3 steps"


def graph() -> str:
    """A captured step replayed is the step itself, bit by bit."""
    eager, captured = (model([(512, 768), (768,), (3, 5)], torch.float32) for _ in range(2))
    first, second = ours(eager, lr=0.1), ours(captured, lr=0.1)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        second.step()
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        second.step()
    for _ in range(3):
        recorded.replay()
    for _ in range(4):
        first.step()
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))
    return "1 step and 3 replays"


def peak_memory() -> str:
    """What a step takes beside parameters, gradients and state."""
    params = model([(8192, 8192)], torch.bfloat16)
    size = sum(p.nbytes for p in params)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer = ours(params)
    optimizer.step()
    torch.cuda.synchronize()
    state = sum(a.nbytes for s in optimizer.state.values() for a in s.values())
    extra = (torch.cuda.max_memory_allocated() - before - state) / size
    assert extra < 0.01, f"{extra:.3%} of the parameters"
    return f"{extra:.3%} of the parameters"


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


CHECKS: dict[str, Callable[[], str]] = {
    "kernels serve": kernels_serve,
    "kernels agree with plain passes": kernels_agree,
    "no host sync, same bits": no_sync,
    "CUDA graph": graph,
    "peak memory": peak_memory,
    "conformance": conformance,
}


def attempt(check: Callable[[], str]) -> dict[str, str]:
    """The verdict on one check, whatever it raises."""
    try:
        return {"verdict": "ok", "said": check()}
    except Exception as error:
        traceback.print_exc(limit=-6)
        return {"verdict": "failed", "said": f"{type(error).__name__}: {error}"[:1000]}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="gpu_check.json")
    parser.add_argument("--only", nargs="*", choices=[*CHECKS, "benchmark"], default=None)
    asked = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("there is no GPU here that torch can use: nothing was checked")
        return 2
    import triton

    wanted = [*CHECKS, "benchmark"] if asked.only is None else asked.only
    found: dict[str, Any] = {
        "card": torch.cuda.get_device_name(), "torch": torch.__version__,
        "triton": triton.__version__, "checks": {},
    }  # fmt: skip
    for name in wanted:
        if name in CHECKS:
            found["checks"][name] = attempt(CHECKS[name])
            print(f"{name:34} {found['checks'][name]}", flush=True)
            Path(asked.out).write_text(json.dumps(found, indent=1))
    if "benchmark" in wanted:
        copy = copy_bandwidth()
        print(f"{found['card']}: a copy moves {copy / 1e9:.0f} GB/s")
        found |= {"copy": copy, "benchmark": benchmark(copy)}
    Path(asked.out).write_text(json.dumps(found, indent=1))
    return int(any(c["verdict"] != "ok" for c in found["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
