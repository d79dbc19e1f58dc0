"""The optimizer over interpreted Triton kernels, judged by the conformance kit's float64 oracle.

In float32 every named case; in 16 bits those with a rounding or a momentum of their own. With
ADAFACTOR_KIT=all every case and check in every dtype.
"""

import os
from collections import Counter, defaultdict

import numpy as np
import pytest
from _interpreted import CPU

from _torch import AsTorchOptimizer
from adafactor_core import conformance as kit
from adafactor_core.conformance._trial import SIXTEEN_BIT, all_options
from adafactor_torch import _plan, _rows, _triton
from adafactor_torch._triton import TritonPasses

WHOLE = os.environ.get("ADAFACTOR_KIT") == "all"

# Reason to named cases, of which at least one tensor goes to the array-API passes for it.
REFUSED = {
    "batch_axes of an unfactored tensor": {
        "batch", "batch-scale-tensor", "batch-clip-tensor", "rounding-stochastic-batch",
        "rounding-kahan-batch", "fault-skip_tensor-batch", "fault-skip_step-batch", "nan-batch",
    },
    "batch_axes that are not the leading axes": {"batch-two"},
    "several axes on one side": {"axes-several", "batch-several"},
    "empty": {
        "zero-size", "norm-zero-size", "rounding-stochastic-zero-size", "rounding-kahan-zero-size",
    },
    "eps1_mode='clamp'": {
        "eps1-clamp", "eps1-finfo-clamp", "dead-clamp", "dead-huge-clamp", "silent-clamp",
        "as-torch",
    },
    "momentum_on='grad'": {
        "momentum-grad", "momentum-bfloat16-weak-grad", "momentum-float16-weak-grad",
        "momentum-bfloat16-weak-stochastic", "momentum-float16-weak-stochastic",
        "int8-float32-grad-nearest", "int8-buffer-grad-nearest", "int8-float32-grad-stochastic",
        "norm-sometimes", "scaled-eps",
    },
    "momentum_dtype='int8'": {
        "int8-float32-scaled_update-nearest", "int8-float32-scaled_update-stochastic",
        "int8-float32-update-nearest", "int8-buffer-scaled_update-nearest",
        "int8-buffer-update-nearest", "int8-buffer-update-stochastic", "int8-zero-size",
        "int8-dead", "int8-kahan", "nan-rounding", "fault-skip_tensor-everything",
        "fault-skip_step-everything",
    },
    "momentum_rounding='stochastic'": {
        f"momentum-{dtype}-{arithmetic}-stochastic"
        for dtype in SIXTEEN_BIT
        for arithmetic in ("float32", "buffer")
    },
    "momentum_arithmetic='buffer'": {f"momentum-{dtype}-buffer-update" for dtype in SIXTEEN_BIT},
}  # fmt: skip


class Interpreted(AsTorchOptimizer):
    """Keeps, by case, which kernels were launched and what was refused and served."""

    def __init__(self):
        super().__init__("torch.optim, interpreted Triton")
        self.steps, self.launched = {}, defaultdict(Counter)
        self.served, self.refused = Counter(), defaultdict(set)

    def trajectory(self, case, dtype):
        self.now, self.steps[case.name] = case.name, len(case.grads)
        with np.errstate(all="ignore"):  # the interpreter's arithmetic is NumPy's
            return super().trajectory(case, dtype)


@pytest.fixture
def subject(monkeypatch):
    found, launch = Interpreted(), _triton.launch

    class Listening(TritonPasses):
        def serves(self, work):
            reason = super().serves(work)
            if reason:
                found.refused[reason].add(found.now)
            else:
                found.served[found.now] += 1
            return reason

    def counted(kernel, *arguments, **options):
        found.launched[found.now][kernel.__name__] += 1
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(_triton, "launch", counted)
    monkeypatch.setattr(_plan, "kernel_passes", lambda wanted, params: (Listening(CPU),))
    for module in (_plan, _rows):  # counters are read as on a GPU
        monkeypatch.setattr(module, "on_cpu", lambda x: False)
    return found


def about_sixteen_bits(case):
    return any(
        options.get("rounding") or options.get("momentum_dtype") in SIXTEEN_BIT
        for options in all_options(case)
    )


@pytest.mark.parametrize("dtype", ["float32", *SIXTEEN_BIT])
def test_conformance(subject, dtype):
    whole, checks = WHOLE or dtype == "float32", list(kit.CHECKS)
    trial = kit.Trial(subject, dtype, drawn=20 if WHOLE else 6 if whole else 0)
    if not whole:
        trial.named = [case for case in trial.named if about_sixteen_bits(case)]
        checks = ["golden", "moments", "kahan"]
    results = [kit.judge(trial, check) for check in checks]
    bad = [r for r in results if r.verdict not in ("ok", "skipped")]
    assert not bad, "\n".join(map(str, bad))
    skipped = {r.check for r in results if r.verdict == "skipped"}
    assert skipped == (set() if dtype in SIXTEEN_BIT else {"kahan"})
    names = {case.name for case in trial.named}
    assert among(subject.refused, names) == among(REFUSED, names)
    for name, steps in subject.steps.items():
        launched = subject.launched[name]
        assert bool(launched) == (name in subject.served), name
        if launched:
            assert launched["observe"] == launched["apply"] >= steps, name
    assert len(names & subject.served.keys()) >= (140 if whole else 18)


def among(reasons, names):
    found = {reason: cases & names for reason, cases in reasons.items()}
    return {reason: cases for reason, cases in found.items() if cases}
