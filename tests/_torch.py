"""adafactor_torch, where torch is installed: what its tests share."""

import warnings
from dataclasses import fields

import adafactor_core as af
from adafactor_core import conformance as kit
from adafactor_core._config import resolve
from adafactor_core.conformance._trees import leaves, map_leaves, rebuild

try:
    import torch

    from adafactor_torch import Adafactor
except ImportError:  # then the fixture `backend` skips
    torch = Adafactor = None
try:
    import numba  # noqa: F401

    COMPILED = [False, True]
except ImportError:
    COMPILED = [False]

OPTIONS = [f.name for f in fields(af.Config) if f.name not in ("_", "rules")]
WHOLE_STEP = ("seed", "max_grad_norm", "nonfinite", "telemetry", "max_scratch_bytes")


def schedules(config):
    """The options that torch users would set from outside, as functions of t."""
    return {n: f for n in OPTIONS if callable(f := getattr(config, n))}


def group(config, named):
    """A parameter group of these options; rules are groups in torch."""
    options = {n: getattr(config, n) for n in OPTIONS if n not in WHOLE_STEP}
    options |= {n: f(1) for n, f in schedules(config).items()}
    return {"params": named, **options}


class AsTorchOptimizer:
    """adafactor_torch.Adafactor as a subject of the kit: rules as groups, schedules set by hand.

    `place` puts an array where the optimizer is to find it, `whole` brings it back; `stepper`
    makes what takes a step of an optimizer.
    """

    device = "cpu"
    mode = "in place"

    def __init__(
        self, name, *, place=lambda x: x, whole=lambda x: x, stepper=lambda o: o.step, **flags
    ):
        self.name, self.flags = name, flags
        self.place, self.whole, self.stepper = place, whole, stepper
        (self.core,) = kit.core_subjects("torch", "eager")
        self.lacks = self.core.lacks

    def start(self, case, params):
        config, paths = self.core.config(case), list(params)
        ruled = resolve(config, paths)
        configs = {id(c): c for c in ruled}
        groups = [
            group(c, [(p, params[p]) for p, o in zip(paths, ruled, strict=True) if o is c])
            for c in configs.values()
        ]
        common = {n: getattr(config, n) for n in WHOLE_STEP}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", af.LowPrecisionWarning)
            optimizer = Adafactor(groups, **self.flags, **common)
        return optimizer, list(configs.values())

    def arrays(self, numbers, dtype):
        return map_leaves(self.place, self.core.arrays(numbers, dtype))

    def numbers(self, tree, *dtype):
        return self.core.numbers(map_leaves(self.whole, tree), *dtype)

    def trajectory(self, case, dtype):
        case, after, moments, steps = case.at(dtype), [], [], []
        tree = map_leaves(torch.nn.Parameter, self.arrays(case.params, dtype))
        params = leaves(tree)
        optimizer, configs = self.start(case, params)
        step = self.stepper(optimizer)
        for t, (grads, scale) in enumerate(case.attempts(), 1):
            if t > 1:  # a skipped step does not count
                t = 1 + max(int(s["step"]) for s in optimizer.state.values())
            for options, config in zip(optimizer.param_groups, configs, strict=True):
                options |= {n: f(t) for n, f in schedules(config).items()}
            for path, g in leaves(self.arrays(grads, dtype)).items():
                params[path].grad = g
            optimizer.grad_scale = scale
            step()
            after.append(self.numbers(tree, dtype))
            states = {p: optimizer.state[x] for p, x in params.items()}
            slots = {
                p: af.Moments(*(s.get(n) for n in af.Moments._fields)) for p, s in states.items()
            }
            moments.append(self.numbers(rebuild(tree, slots)))
            steps.append(max(int(s["step"]) for s in states.values()))
        return kit.Trajectory(after, (), moments, steps, ())


def judge(subject, dtype, drawn=6, checks=()):
    """Raises AssertionError with what the kit finds wrong; `checks`: some of them alone."""
    results = list(kit.run(subject, [dtype], checks, drawn))
    bad = [r for r in results if r.verdict not in ("ok", "skipped")]
    assert not bad, "\n".join(str(r) for r in bad)
    assert any(r.verdict == "ok" for r in results)
    if dtype in ("float32", "float64") and not checks:
        assert sum(r.verdict == "ok" for r in results) >= 6
