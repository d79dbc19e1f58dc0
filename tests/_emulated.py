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

import adafactor_core as af
from _close import close, close_entries, close_narrow, dtype_of
from _served import drawn
from adafactor_cupy import _kernels
from adafactor_cupy._passes import KernelPasses

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
static inline void atomicAdd(int* x, int y) { *x += y; }
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
    """What _kernels.CuPyKernels is under CuPy. `wrap`: of the arrays that it makes."""

    def __init__(self, wrap=np.asarray):
        self.launches, self.uploads, self.entries, self.wrap = [], 0, 0, wrap

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
        return self.wrap(values.copy())

    def room(self, entries, dtype="float32"):
        self.entries += entries if dtype == "float32" else 0
        filling = np.nan if dtype == "float32" else 77  # what is read before it is written shows
        return self.wrap(np.full(entries, filling, dtype))

    def address(self, x):
        return getattr(x, "_values", x).__array_interface__["data"][0]  # also of the stand-in's


class Must(KernelPasses):
    """Fails instead of leaving a tensor to the array-API passes, unless it is empty."""

    def __init__(self, wrap=np.asarray):
        self.kernels = Emulated(wrap)
        super().__init__(self.kernels)

    def serves(self, work):
        reason = super().serves(work)
        assert reason in ("", "empty"), reason
        return reason


def follow(param, options, passes, steps=3, grads=None):
    config = af.Config(**options)
    state = af.init(param, config)._replace(step=0)
    for k in range(steps):
        g = drawn(param.shape, grads or param.dtype, seed=k + 1)
        param, state = af.step(param, g, state, config, passes=passes)
    return param, state


def agree(got, want, what, flips=1e-3):
    (x, state), (y, other) = got, want
    assert x.dtype == y.dtype
    if dtype_of(x) == "float32":
        close(x, y, 1e-6, what)
    else:
        close_narrow(x, y, dtype_of(x), what, share=flips)
    for name, a, b in zip(af.Moments._fields, state.moments, other.moments, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            narrow = dtype_of(a) == "float16"
            (close if name == "momentum" else close_entries)(
                a, b, 1e-3 if narrow else 1e-5, f"{what} {name}"
            )
