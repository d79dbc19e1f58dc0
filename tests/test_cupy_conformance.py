"""adafactor_cupy over its stand-in, with and without its kernels, judged by the conformance kit."""

import numpy as np
import pytest

import _emulated
from _cupy import InPlace
from _emulated import Emulated
from _standin import Adafactor, Array, numpy, reading
from adafactor_core import conformance as kit
from adafactor_cupy._passes import KernelPasses


def subject(kernels):
    passes = (KernelPasses(Emulated(Array)),) if kernels else ()

    def make(params, config):
        return Adafactor(params, config, passes=passes)

    def whole(x):
        return numpy(x) if isinstance(x, Array) else x

    name = "cupy, kernels" if kernels else "cupy, plain"
    return InPlace(name, make, lambda x: Array(np.array(x)), whole, "stand-in", reading)


@pytest.mark.parametrize("dtype", kit.DTYPES)
@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def test_conformance(kernels, dtype):
    if kernels and _emulated.COMPILER is None:
        pytest.skip("no C++ compiler to run the kernels with")
    results = list(kit.run(subject(kernels), [dtype], drawn=40))
    bad = [r for r in results if r.verdict not in ("ok", "skipped")]
    assert not bad, "\n".join(str(r) for r in bad)
    if dtype in ("float32", "float64"):
        assert sum(r.verdict == "ok" for r in results) >= 6
