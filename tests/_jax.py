"""adafactor_jax, where JAX is installed: what its tests share."""

from dataclasses import fields

import adafactor_core as af
from adafactor_core import conformance as kit
from adafactor_core.conformance import CoreSubject

try:
    import jax

    import adafactor_jax as aj
except ImportError:  # then the fixture `backend` skips
    jax = aj = None

OPTIONS = [f.name for f in fields(af.Config) if f.name != "_"]


class AsJax(CoreSubject):
    """make_step as a subject of the kit; `options` come before those of a case."""

    def __init__(self, name, mode, scan=False, **options):
        (core,) = kit.core_subjects("jax", mode)
        super().__init__(core.namespace, mode)
        self.name, self.scan, self.options, self.quick = name, scan, options, False

    def made(self, case):
        config = self.config(case)
        given = {n: getattr(config, n) for n in OPTIONS}
        return aj.make_step(scan=self.scan, **{**given, **self.options})

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
