"""adafactor_jax, where JAX is installed: what its tests share."""

from contextlib import contextmanager, nullcontext
from dataclasses import fields
from time import perf_counter
from unittest.mock import patch

import adafactor_core as af
from adafactor_core import conformance as kit
from adafactor_core._streaming import blocks
from adafactor_core.conformance import CoreSubject
from adafactor_core.conformance._namespaces import load
from adafactor_core.conformance._trees import map_leaves

try:
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import adafactor_jax as aj
except ImportError:  # then the fixture `backend` skips
    jax = aj = None

OPTIONS = [f.name for f in fields(af.Config) if f.name != "_"]
MESHES = ("auto", "explicit")
MODES = ("eager", "jit", "scan", *MESHES)
ELEMENTS = 4  # of a block of the scanned executor: golden tensors have 2 to 27 elements


class AsJax(CoreSubject):
    """make_step as a subject of the kit; `options` come before those of a case.

    `mode`: "eager" (not jitted), "jit" (call by call), "scan" (all steps of a case in one
    lax.scan), or, jitted and on a mesh of eight devices, the type of its axes. `scan`: the executor
    that sums block by block, here in blocks of `ELEMENTS`.
    """

    def __init__(self, name, mode, scan=False, **options):
        super().__init__(load("jax"), mode)
        self.name, self.scan, self.options, self.quick = name, scan, options, False
        self.mesh, self.kept = None, {}
        self.divides, self.divided = False, 0  # cases with a tensor in blocks, or cut over devices
        if mode in MESHES:
            kinds = (AxisType.Auto if mode == "auto" else AxisType.Explicit,) * 3
            self.mesh = jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=kinds)

    def made(self, case):
        """Kept: each new one would be compiled anew."""
        if case.name not in self.kept:
            config = self.config(case)
            given = {n: getattr(config, n) for n in OPTIONS}
            self.kept[case.name] = aj.make_step(scan=self.scan, **{**given, **self.options})
        return self.kept[case.name]

    def step(self, case, donate=False):
        made = self.made(case).step
        run = made.__wrapped__ if self.mode == "eager" else made

        def step(params, grads, state, scale=None):
            if not donate:
                params, state = jax.tree.map(lambda a: a.copy(), (params, state))
            return run(params, grads, state, scale)

        return step

    def update(self, case):
        config = self.config(case)
        given = {n: getattr(config, n) for n in OPTIONS} | self.options
        run = aj.adafactor(scan=self.scan, **given).update
        run = run if self.mode == "eager" else jax.jit(run)
        return lambda params, grads, state, scale=None: run(grads, state, params, grad_scale=scale)

    def start(self, case, dtype):
        params = self.arrays(case.params, dtype)
        return params, self.made(case).init(params)

    def arrays(self, tree, dtype):
        arrays = super().arrays(tree, dtype)
        return map_leaves(self.placed, arrays) if self.mesh else arrays

    def placed(self, x):
        """Over every mesh axis that divides it, in turn over the tensor's axes."""
        names = [()] * x.ndim
        for name in self.mesh.axis_names:
            free = [a for a, n in enumerate(x.shape) if n and n % 2 ** (len(names[a]) + 1) == 0]
            if free:
                names[min(free, key=lambda a: len(names[a]))] += (name,)
        self.divides |= any(names)
        spec = PartitionSpec(*(given or None for given in names))
        return jax.device_put(x, NamedSharding(self.mesh, spec))

    def trajectory(self, case, dtype):
        self.divides = False
        with self.in_blocks() if self.scan else nullcontext():
            done = super().trajectory(case, dtype)
        self.divided += self.divides
        return done

    @contextmanager
    def in_blocks(self):
        passes, wanted = aj._passes.XlaPasses, aj._passes.XlaPasses._blocks

        def seen(*given):
            found = wanted(*given)
            self.divides |= found is not None
            return found

        small = patch.object(aj._passes, "blocks", lambda shape, limit: blocks(shape, ELEMENTS))
        with small, patch.object(passes, "_blocks", seen):
            yield

    def states(self, case, dtype):
        return self.in_scan(case, dtype) if self.mode == "scan" else super().states(case, dtype)

    def in_scan(self, case, dtype):
        """The trajectory as one program."""
        attempts = [(self.arrays(grads, dtype), scale) for grads, scale in case.attempts()]
        scales = [1.0 if scale is None else scale for _, scale in attempts]
        scales = jax.numpy.asarray(scales) if case.grad_scale else None
        grads = jax.tree.map(lambda *a: jax.numpy.stack(a), *(grads for grads, _ in attempts))
        step = self.made(case).step

        def turn(now, given):
            now = step(now[0], given[0], now[1], given[1])
            return now, now

        def run(params, state, grads, scales):
            return jax.lax.scan(turn, (params, state), (grads, scales))[1]

        done = jax.device_get(jax.jit(run)(*self.start(case, dtype), grads, scales))
        for k in range(len(attempts)):
            yield jax.tree.map(lambda a, k=k: a[k], done)


def judged(subject, dtype, drawn, seed=0, golden=None, checks=()):
    """One row of docs/conformance_jax.md, as plain data. `golden`: names, or all of them."""
    start, trial = perf_counter(), kit.Trial(subject, dtype, drawn, seed)
    if golden is not None:
        trial.named = [case for case in trial.named if case.name in golden]
    results = [kit.judge(trial, check) for check in checks or kit.CHECKS]
    failures = [f"{r.check}: {d}" for r in results if r.verdict == "FAIL" for d in r.detail]
    limits = [(r.error / r.tolerance, r.check, r.detail[0]) for r in results if r.tolerance]
    return {
        "mode": subject.mode,
        "executor": "scanned" if subject.scan else "whole",
        "dtype": dtype,
        "cases": len(trial.done),
        "divided": subject.divided,
        "failures": failures,
        "worst": max(limits, default=(0.0, "", "")),
        "seconds": round(perf_counter() - start, 1),
    }
