"""An in-place optimizer like adafactor_cupy's as a subject of the kit."""

import warnings
from contextlib import nullcontext

import optree

import adafactor_core as af
from adafactor_core import conformance as kit


class InPlace:
    """`make(params, config)` an optimizer; `place` puts a NumPy array where it works on arrays,
    `whole` brings one back; `reading` allows what else waits for the device."""

    mode = "in place"

    def __init__(self, name, make, place, whole, device, reading=nullcontext):
        self.name, self.make, self.device = name, make, device
        self.place, self.whole, self.reading = place, whole, reading
        (self.core,) = kit.core_subjects("numpy", "eager")
        self.lacks = self.core.lacks

    def numbers(self, tree, *dtype):
        return self.core.numbers(optree.tree_map(self.whole, tree), *dtype)

    def trajectory(self, case, dtype):
        case, after, moments, steps, skipped = case.at(dtype), [], [], [], []
        params = optree.tree_map(self.place, self.core.arrays(case.params, dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", af.LowPrecisionWarning)
            optimizer = self.make(params, self.core.config(case))
        reads = optimizer.config.nonfinite == "raise"
        for grads, scale in case.attempts():
            grads = optree.tree_map(self.place, self.core.arrays(grads, dtype))
            with self.reading() if reads else nullcontext():
                optimizer.step(grads, grad_scale=scale)
            after.append(self.numbers(params, dtype))
            state = optimizer.state
            moments.append(self.numbers(state.moments))
            with self.reading():
                steps.append(int(state.step))
                skipped += [] if state.skipped is None else [int(state.skipped)]
        return kit.Trajectory(after, (), moments, steps, skipped)
