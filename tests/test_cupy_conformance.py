"""adafactor_cupy over its stand-in, with and without its kernels, judged by the conformance kit."""

import warnings

import numpy as np
import optree
import pytest

import _emulated
import adafactor_core as af
from _emulated import Emulated
from _standin import Adafactor, Array, numpy, reading
from adafactor_core import conformance as kit
from adafactor_cupy._passes import KernelPasses


def owned(x):
    return Array(np.array(x))


class InPlace:
    """The adapter as a subject of the kit."""

    device = "stand-in"
    mode = "in place"

    def __init__(self, kernels):
        self.name = "cupy, kernels" if kernels else "cupy, plain"
        (self.core,) = kit.core_subjects("numpy", "eager")
        self.passes = (KernelPasses(Emulated()),) if kernels else ()
        self.lacks = self.core.lacks

    def numbers(self, tree, *dtype):
        arrays = optree.tree_map(lambda x: numpy(x) if isinstance(x, Array) else x, tree)
        return self.core.numbers(arrays, *dtype)

    def trajectory(self, case, dtype):
        case, after, moments, steps, skipped = case.at(dtype), [], [], [], []
        params = optree.tree_map(owned, self.core.arrays(case.params, dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", af.LowPrecisionWarning)
            optimizer = Adafactor(params, self.core.config(case), passes=self.passes)
        reads = optimizer.config.nonfinite == "raise"
        for grads, scale in case.attempts():
            grads = optree.tree_map(Array, self.core.arrays(grads, dtype))
            if reads:
                with reading():
                    optimizer.step(grads, grad_scale=scale)
            else:
                optimizer.step(grads, grad_scale=scale)
            after.append(self.numbers(params, dtype))
            state = optimizer.state
            moments.append(self.numbers(state.moments))
            with reading():
                steps.append(int(state.step))
                skipped += [] if state.skipped is None else [int(state.skipped)]
        return kit.Trajectory(after, (), moments, steps, skipped)


@pytest.mark.parametrize("dtype", kit.DTYPES)
@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def test_conformance(kernels, dtype):
    if kernels and _emulated.COMPILER is None:
        pytest.skip("no C++ compiler to run the kernels with")
    results = list(kit.run(InPlace(kernels), [dtype], drawn=40))
    bad = [r for r in results if r.verdict not in ("ok", "skipped")]
    assert not bad, "\n".join(str(r) for r in bad)
    if dtype in ("float32", "float64"):
        assert sum(r.verdict == "ok" for r in results) >= 6
