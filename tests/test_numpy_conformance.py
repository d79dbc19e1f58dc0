"""The in-place optimizer, plain and compiled, judged by the conformance kit."""

import warnings

import numpy as np
import optree
import pytest

import adafactor_core as af
from adafactor_core import conformance as kit
from adafactor_numpy import Adafactor

try:
    import numba  # noqa: F401

    COMPILED = [False, True]
except ImportError:
    COMPILED = [False]


class InPlace:
    """adafactor_numpy.Adafactor as a subject of the kit."""

    device = "cpu"
    mode = "in place"

    def __init__(self, compiled):
        self.name = "numpy, compiled" if compiled else "numpy, plain"
        (self.core,) = kit.core_subjects("numpy", "eager")
        self.compiled = compiled
        self.lacks = self.core.lacks

    def trajectory(self, case, dtype):
        case, after, moments, steps, skipped = case.at(dtype), [], [], [], []
        params = optree.tree_map(np.array, self.core.arrays(case.params, dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", af.LowPrecisionWarning)
            optimizer = Adafactor(params, self.core.config(case), compiled=self.compiled)
        for grads, scale in case.attempts():
            optimizer.step(self.core.arrays(grads, dtype), grad_scale=scale)
            after.append(self.core.numbers(params, dtype))
            state = optimizer.state
            moments.append(self.core.numbers(state.moments))
            steps.append(int(state.step))
            skipped += [] if state.skipped is None else [int(state.skipped)]
        return kit.Trajectory(after, (), moments, steps, skipped)


@pytest.mark.parametrize("dtype", kit.DTYPES)
@pytest.mark.parametrize("compiled", COMPILED, ids=["plain", "compiled"][: len(COMPILED)])
def test_conformance(compiled, dtype):
    results = list(kit.run(InPlace(compiled), [dtype], drawn=40))
    bad = [r for r in results if r.verdict not in ("ok", "skipped")]
    assert not bad, "\n".join(str(r) for r in bad)
    if dtype in ("float32", "float64"):
        assert sum(r.verdict == "ok" for r in results) >= 6
