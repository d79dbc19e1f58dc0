"""adafactor_cupy's kernels compiled for real GPUs by NVRTC, which needs none."""

import re
from itertools import product

import pytest

from adafactor_cupy import _kernels
from adafactor_cupy._table import DTYPES

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
from_nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy has no NVRTC")
try:
    from_nvrtc.getVersion()
except Exception as error:  # CuPy's own RuntimeError, or the loader's OSError
    pytest.skip(f"no NVRTC library: {error}", allow_module_level=True)

# All pairs of parameters and gradients, then the other options with a few: each takes a second.
INSTANCES = [(x, g, "", "nearest") for x, g in product(DTYPES.values(), repeat=2)]
INSTANCES += [("F32", "F32", "F32", "nearest"), ("F32", "F32", "BF16", "nearest")]
INSTANCES += [(x, x, m, rounding) for x, m, rounding in product(
    ("BF16", "F16"), ("", "F32"), ("stochastic", "kahan"))]  # fmt: skip


def compiled(instance, *words):
    """(the program, what the compiler said)."""
    program = from_nvrtc.createProgram(_kernels.source(), "kernels.cu", (), ())
    try:
        from_nvrtc.compileProgram(program, (*_kernels.options(instance), *words))
    finally:
        log = from_nvrtc.getProgramLog(program)
    return program, log.strip("\0 \n")


@pytest.mark.parametrize("arch", ["compute_80", "compute_90"])
@pytest.mark.parametrize("instance", INSTANCES, ids="-".join)
def test_every_instance_compiles_without_a_warning(instance, arch):
    program, log = compiled(instance, f"-arch={arch}")
    assert log == ""
    ptx = from_nvrtc.getPTX(program)
    ptx = ptx.decode() if isinstance(ptx, bytes) else ptx
    assert set(re.findall(r"\.entry (\w+)", ptx)) == set(_kernels.NAMES)
    # A 32-bit sum or product in double would take 32 times as long.
    assert ".f64" not in ptx


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("instance", [i for i in INSTANCES if i[0] == i[1] != "F16"], ids="-".join)
def test_two_blocks_fit_a_multiprocessor_and_no_register_spills(instance, arch):
    _, log = compiled(instance, f"-arch={arch}", "--ptxas-options=-v")
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", log)]
    assert len(registers) >= len(_kernels.NAMES)
    assert max(registers) <= 128  # of 65536, for 2 blocks of 256 threads
    assert not re.search(r"[1-9]\d* bytes spill", log), log
