"""Compiles the Triton kernels for GPUs that are not here; says what each program takes.

Registers and spills of CUDA are ptxas's own words, those of ROCm the code object's notes.
"""

import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adafactor_torch import _triton_apply as last
from adafactor_torch import _triton_kernels as large
from adafactor_torch import _triton_small as small
from adafactor_torch._triton import WARPS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KINDS = {"float32": tl.float32, "bfloat16": tl.bfloat16, "float16": tl.float16}
POINTERS = {
    "items": "*i32", "parts": "*i32", "scopes": "*i32", "ints": "*i64", "grads": "*i64",
    "fine": "*u8", "normal": "*u8", "key": "*i32",
}  # fmt: skip
NUMBERS = {
    **dict.fromkeys(("b_step", "lr_step", "size_step", "decay_step", "beta_step"), "i32"),
    "fine_step": "i32", "unit": "fp32",
}  # fmt: skip


def variants(dtype: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Kernels with what is compiled into them: the defaults, and everything at once."""
    kind = KINDS[dtype]
    seen = {"X_KIND": kind, "G_KIND": kind, "SCALED": True, "NORMED": False, "GUARDED": False}
    done = {
        "X_KIND": kind, "G_KIND": kind, "M_KIND": kind, "ROUNDS": "nearest", "AVERAGES": False,
        "DECAYS": False, "WAITS": False,
    }  # fmt: skip
    size = {
        "SCALED": True, "EPS2": 1e-3, "MOST": None, "THRESHOLD": 1.0, "BY": "alpha",
        "FIRST": False, "AVERAGES": None, "SIGN": 1.0,
    }  # fmt: skip
    found = {
        "observe": (large.observe, seen),
        "observe, norm and policy": (large.observe, {**seen, "NORMED": True, "GUARDED": True}),
        "advance": (small.advance, {"GUARDED": False}),
        "advance, policy": (small.advance, {"GUARDED": True}),
        "measure": (large.measure, {"G_KIND": kind}),
        "scale": (small.scale, size),
        "scale, all": (
            small.scale, {**size, "MOST": 1.0, "FIRST": True, "BY": "lr", "AVERAGES": "update"},
        ),
        "apply": (last.apply, done),
        "apply, momentum and decay": (last.apply, {**done, "AVERAGES": True, "DECAYS": True}),
        "apply, momentum, decay, policy": (
            last.apply, {**done, "AVERAGES": True, "DECAYS": True, "WAITS": True},
        ),
        "squares": (small.squares, {"GUARDED": True}),
        "judge": (small.judge, {"CLIPS": True, "NORMED": True}),
    }  # fmt: skip
    if dtype != "float32":
        found["apply, stochastic"] = (last.apply, {**done, "ROUNDS": "stochastic"})
        found["apply, kahan"] = (last.apply, {**done, "ROUNDS": "kahan", "DECAYS": True})
    return found


class Built(NamedTuple):
    """What a program of a kernel takes."""

    registers: int  # per thread
    spills: int  # bytes on CUDA, registers on ROCm, per thread
    shared: int  # bytes per program
    code: str  # PTX or AMDGCN


def build(kernel: Any, constants: dict[str, Any], target: GPUTarget) -> Built:
    names = kernel.arg_names
    signature = {
        n: "constexpr" if n in constants else NUMBERS.get(n) or POINTERS.get(n, "*fp32")
        for n in names
    }
    # As at run time: torch's memory starts at multiples of 16 bytes.
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if "*" in signature[n]}
    fixed = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature, fixed, attrs)
    options = {"num_warps": WARPS, "enable_fp_fusion": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = triton.compile(source, target=target, options=options)
    if target.backend == "cuda":
        return Built(*_of_ptx(done.asm["ptx"], target.arch), done.metadata.shared, done.asm["ptx"])
    return Built(*_of_amdgcn(done.asm["amdgcn"]), done.metadata.shared, done.asm["amdgcn"])


def _of_ptx(ptx: str, arch: int) -> tuple[int, int]:
    from triton.backends.nvidia.compiler import get_ptxas

    name = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        words = [get_ptxas(arch).path, "-v", f"-arch={name}", str(path), "-o", f"{folder}/out"]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
    return int(re.search(r"Used (\d+) registers", said)[1]), spilled


def _of_amdgcn(text: str) -> tuple[int, int]:
    def noted(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])

    return noted("vgpr_count"), noted("vgpr_spill_count") + noted("sgpr_spill_count")
