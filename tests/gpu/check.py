"""Checks and times the adapters on the GPU that is here: python tests/gpu/check.py

Needs this repository, and installed: torch with its Triton, numpy, optree and array-api-compat.
CuPy and JAX are checked, transformers and optax timed as well, where they are installed and find
the GPU. Every part runs in a process of its own, for a while at most, and gpu_check.json is whole
after each of its words. Exit code 0: all is well; 1: see the file; 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "backends"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import _bench as bench
import _on_cupy as on_cupy
import _on_jax as on_jax
import _others as others
from _parts import Book, python, run, tell

SHAPES = [(1031, 517), (520, 1032), (7,), (), (64, 32, 3, 3), (12, 3, 16), (100_003,)]
FEW = [(512, 768), (768,), (3, 5)]
PACKAGES = ("torch", "triton", "numpy", "jax", "jaxlib", "optax", "transformers")
CUPYS = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def conformance(dtype: str) -> str:
    """The kit's float64 oracle judges the optimizer with its tensors on the GPU."""
    from _torch import AsTorchOptimizer, judge

    subject = AsTorchOptimizer(
        "torch on the GPU", place=lambda x: x.to(bench.DEVICE), whole=lambda x: x.cpu()
    )
    subject.device = bench.DEVICE
    judge(subject, dtype)
    return dtype


def kernels_serve() -> str:
    """Every tensor of a plain model goes through the kernels, in one batch."""
    from adafactor_torch._triton import TritonPasses

    optimizer = bench.ours(bench.model([(64, 48), (7,), (3, 4, 5)], torch.bfloat16))
    optimizer.step()
    groups = [g for p in optimizer._plans.values() for together in p._groups for g in together]
    assert [type(p) for p, _ in groups] == [TritonPasses], groups
    return "one batch"


@torch.no_grad()
def kernels_agree() -> str:
    """Steps with kernels against steps without, on the device, over options and odd shapes."""
    worst = 0.0
    for options in ({}, {"beta1": 0.9, "weight_decay": 0.1}, {"max_grad_norm": 1.0},
                    {"nonfinite": "skip_step"}, {"factored": False}):  # fmt: skip
        results = []
        for compiled in (True, False):
            params = bench.model(SHAPES, torch.float32)
            optimizer = bench.ours(params, lr=0.1, compiled=compiled, **options)
            for _ in range(3):
                optimizer.step()
            results.append(params)
        for a, b in zip(*results, strict=True):
            error = float((a - b).abs().max() / b.abs().max())
            assert error <= 1e-6, (options, tuple(a.shape), error)
            worst = max(worst, error)
    return f"worst scaled error {worst:.2g}"


def no_sync() -> str:
    """No step waits for the device, with old gradients or new, and two runs give the same bits."""
    results = []
    for _ in range(2):
        params = bench.model(FEW, torch.bfloat16)
        optimizer = bench.ours(
            params, rounding="stochastic", max_grad_norm=1.0, nonfinite="skip_step"
        )
        optimizer.step()
        old = [p.grad for p in params]  # kept: the new ones are to lie elsewhere
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for fresh in (False, False, True, True):
                for p, g in zip(params, old, strict=True):
                    p.grad = g.clone() if fresh else g
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        results.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    return "4 steps, 2 of them with gradients in new memory"


def graph() -> str:
    """A captured step replayed is the step itself, bit by bit."""
    eager, captured = (bench.model(FEW, torch.float32) for _ in range(2))
    first, second = bench.ours(eager, lr=0.1), bench.ours(captured, lr=0.1)
    replay = bench.replayed(second.step)
    for _ in range(3):
        replay()
    for _ in range(4):
        first.step()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))
    return "1 step and 3 replays"


def launches() -> str:
    """What a step launches, copies included, is as much for many tensors as for few."""
    counts = {}
    for layers in (2, 30):
        shapes = bench.transformer(layers, 64)
        for options in ({}, {"lr": 0.1}):
            optimizer = bench.ours(bench.model(shapes, torch.bfloat16), **options)
            optimizer.step()
            name = f"{len(shapes)} tensors, {options}"
            counts[len(shapes), str(options)] = bench.launched(optimizer.step)
            assert counts[len(shapes), str(options)], f"the profiler saw nothing: {name}"
    said = ", ".join(f"{n} tensors {o}: {count}" for (n, o), count in counts.items())
    for options in ("{}", "{'lr': 0.1}"):
        assert len({c for (_, o), c in counts.items() if o == options}) == 1, said
    return said


def peak_memory() -> str:
    """What a step takes beside parameters, gradients and state."""
    params = bench.model([(8192, 8192)], torch.bfloat16)
    size = sum(p.nbytes for p in params)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer = bench.ours(params)
    optimizer.step()
    torch.cuda.synchronize()
    state = sum(a.nbytes for s in optimizer.state.values() for a in s.values())
    extra = (torch.cuda.max_memory_allocated() - before - state) / size
    assert extra < 0.01, f"{extra:.3%} of the parameters"
    return f"{extra:.3%} of the parameters"


def together() -> str:
    """torch, CuPy and JAX on the GPU against NumPy."""
    takers = {"torch": others.torch_steps(bench.DEVICE)}
    takers |= {"cupy": others.cupy_steps} if others.lacks_cupy() == "" else {}
    takers |= {"jax": others.jax_steps} if others.lacks_jax() == "" else {}
    return others.agreement(takers)


Part = Callable[[], str]
# In this order, several at a time; and those that are timed, one at a time.
CHECKS: dict[str, Part] = {
    "kernels serve": kernels_serve,
    "kernels agree with plain passes": kernels_agree,
    "no host sync, same bits": no_sync,
    "CUDA graph": graph,
    "launches": launches,
    "peak memory": peak_memory,
    "torch, CuPy, JAX and NumPy agree": together,
    "CuPy: CUDA graph": on_cupy.graph,
    "CuPy: peak memory": on_cupy.memory,
    **{f"conformance, {d}": partial(conformance, d) for d in ("float32", "bfloat16", "float16")},
    "CuPy: conformance": on_cupy.conformance,
    "JAX: conformance": on_jax.conformance,
}
TIMED: dict[str, Part] = {
    "benchmark": partial(bench.benchmark, tell),
    "CuPy: benchmark": partial(bench.of_cupy, tell),
    "JAX: benchmark": partial(bench.of_jax, tell),
}
EVERY = {**CHECKS, **TIMED}
MISSING = {"CuPy": others.lacks_cupy, "JAX": others.lacks_jax}


def attempt(check: Part) -> dict[str, str]:
    """The verdict on one check, whatever it raises."""
    try:
        return {"verdict": "ok", "said": check()}
    except Exception as error:
        traceback.print_exc(limit=-6)
        return {"verdict": "failed", "said": f"{type(error).__name__}: {error}"[:1000]}


def described() -> dict[str, Any]:
    """The card, and what is installed."""
    found: dict[str, Any] = {"card": torch.cuda.get_device_name()}
    card = torch.cuda.get_device_properties(0)
    for name in ("total_memory", "multi_processor_count", "L2_cache_size"):
        found[name] = getattr(card, name, None)
    found |= {"cuda": torch.version.cuda, "hip": torch.version.hip}
    for package in (*PACKAGES, *CUPYS):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="gpu_check.json", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(EVERY), metavar="PART", default=None)
    parser.add_argument("--jobs", type=int, default=4, help="checks at a time; nothing timed")
    parser.add_argument("--limit", type=float, default=240, help="seconds for a part")
    parser.add_argument("--seconds", type=float, default=1e6, help="no part runs longer than this")
    parser.add_argument("--part", choices=list(EVERY), help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    # JAX would take three quarters of the memory, which others want as well.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if asked.part:
        verdict = attempt(EVERY[asked.part])
        tell(verdict)
        return int(verdict["verdict"] != "ok")
    until = time.monotonic() + asked.seconds
    if not torch.cuda.is_available():
        print("there is no GPU here that torch can use: nothing was checked")
        return 2
    book = Book(asked.out, described())
    wanted = list(EVERY) if asked.only is None else asked.only
    lacking = {kind: why() for kind, why in MISSING.items()}
    for name in [n for n in wanted if lacking.get(n.partition(":")[0])]:
        wanted.remove(name)
        if asked.only is not None:
            book.enter(name, {"verdict": "failed", "said": lacking[name.partition(":")[0]]})
    book.found["lacking"] = {kind: why for kind, why in lacking.items() if why}
    for parts, jobs in ((CHECKS, asked.jobs), (TIMED, 1)):
        names = [name for name in parts if name in wanted]
        run(book, names, partial(python, Path(__file__)), jobs, asked.limit, until)
    return int(not book.sound)


if __name__ == "__main__":
    sys.exit(main())
