"""Checks and times the adapters on the GPU that is here: python tests/gpu/check.py

Needs torch, triton and numpy, and this repository; CuPy and JAX are checked, transformers and optax
timed as well where they are installed and find the GPU. One check that fails is reported and does
not stop the others. Writes gpu_check.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "backends"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import _others as others
from _bench import benchmark, copy_bandwidth, has_cupy, has_jax, model, other_rows, ours


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


def together() -> str:
    """torch, CuPy and JAX on the GPU against NumPy."""
    takers = {"torch": others.torch_steps("cuda")}
    takers |= {"cupy": others.cupy_steps} if has_cupy() else {}
    takers |= {"jax": others.jax_steps} if has_jax() else {}
    return others.agreement(takers)


def jax_conformance() -> str:
    from _jax import AsJax
    from _torch import judge

    for dtype in ("float32", "bfloat16", "float16"):
        judge(AsJax("jax on the GPU", "jit"), dtype, drawn=20)
    return "float32, bfloat16, float16"


CHECKS: dict[str, Callable[[], str]] = {
    "kernels serve": kernels_serve,
    "kernels agree with plain passes": kernels_agree,
    "no host sync, same bits": no_sync,
    "CUDA graph": graph,
    "peak memory": peak_memory,
    "conformance": conformance,
    "torch, CuPy, JAX and NumPy agree": together,
}
CUPY_CHECKS: dict[str, Callable[[], str]] = {
    "CuPy: CUDA graph": others.cupy_graph,
    "CuPy: peak memory": others.cupy_memory,
    "CuPy: conformance": others.cupy_conformance,
}
JAX_CHECKS: dict[str, Callable[[], str]] = {"JAX: conformance": jax_conformance}
EVERY = {**CHECKS, **CUPY_CHECKS, **JAX_CHECKS}


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
    parser.add_argument("--only", nargs="*", choices=[*EVERY, "benchmark"], default=None)
    asked = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("there is no GPU here that torch can use: nothing was checked")
        return 2
    import triton

    # JAX would take three quarters of the memory, which torch and CuPy want as well.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    here = {**CHECKS, **(CUPY_CHECKS if has_cupy() else {}), **(JAX_CHECKS if has_jax() else {})}
    wanted = [*here, "benchmark"] if asked.only is None else asked.only
    found: dict[str, Any] = {
        "card": torch.cuda.get_device_name(), "torch": torch.__version__,
        "triton": triton.__version__, "checks": {},
    }  # fmt: skip
    for name in wanted:
        if name in EVERY:
            found["checks"][name] = attempt(EVERY[name])
            print(f"{name:34} {found['checks'][name]}", flush=True)
            Path(asked.out).write_text(json.dumps(found, indent=1))
    if "benchmark" in wanted:
        copy = copy_bandwidth()
        print(f"{found['card']}: a copy moves {copy / 1e9:.0f} GB/s")
        found |= {"copy": copy, "benchmark": benchmark(copy) + other_rows(copy)}
    Path(asked.out).write_text(json.dumps(found, indent=1))
    return int(any(c["verdict"] != "ok" for c in found["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
