"""The CUDA kernels of adafactor_cupy, compiled by a C++ compiler and run over NumPy arrays.

The source is the same to the letter. A block runs its phases one after the other, each as a loop
over the threads, which is what a barrier between two phases allows.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from adafactor_cupy import _kernels

COMPILER = shutil.which("g++") or shutil.which("c++")
SHIM = """
#include <cmath>
#include <cstring>
#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __shared__ static
#define EACH_THREAD(i) for (int i = 0; i < THREADS; ++i)
#define OWN(type, name, size) type name[THREADS][size]
#define ME(i) i
#define BARRIER
extern "C" { struct { unsigned x; } blockIdx; }
static inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
"""
C_TYPES = {np.int64: ctypes.c_longlong, np.float32: ctypes.c_float}
_FOLDER = tempfile.TemporaryDirectory()


@cache
def compiled(instance):
    path = Path(_FOLDER.name) / "_".join(instance)
    path.with_suffix(".cpp").write_text(SHIM + _kernels.source())
    told = [word for word in _kernels.options(instance) if word != "-fmad=false"]
    exact = ["-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unknown-pragmas"]
    command = [COMPILER, *told, *exact, "-shared", "-fPIC", "-o", f"{path}.so", f"{path}.cpp"]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    assert got.returncode == 0, got.stderr[:3000]
    return ctypes.CDLL(f"{path}.so")


class Emulated:
    """What _kernels.CuPyKernels is under CuPy."""

    def __init__(self):
        self.launches, self.uploads, self.entries = [], 0, 0

    def launch(self, instance, name, blocks, arguments):
        self.launches.append(name)
        library = compiled(instance)
        block = ctypes.c_uint.in_dll(library, "blockIdx")
        function = getattr(library, name)
        function.restype = None
        words = [C_TYPES[type(a)](a) for a in arguments]
        for k in range(blocks):
            block.value = k
            function(*words)

    def upload(self, values):
        self.uploads += 1
        return values.copy()

    def room(self, entries):
        self.entries += entries
        return np.full(entries, np.nan, np.float32)  # what is read before it is written shows

    def address(self, x):
        return getattr(x, "_values", x).__array_interface__["data"][0]  # also of the stand-in's
