"""DTensors in many layouts: the trajectory of one process, in two collectives per step."""

import pytest

pytest.importorskip("torch.distributed.tensor")

from _bodies import LAYOUTS, SIZES, alone, together

from _close import close

OPTIONS = {
    "defaults": {},
    "rate, momentum, decay": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1},
    "full": {"factored": False, "lr": 0.1},
    "norm, skipped steps, telemetry": {
        "max_grad_norm": 1.0, "nonfinite": "skip_step", "telemetry": True, "lr": 0.1,
    },
    "skipped tensors": {"nonfinite": "skip_tensor", "beta1": 0.9, "momentum_on": "grad"},
    "no clip": {"clip_threshold": None, "scale_parameter": False, "lr": 0.01},
}  # fmt: skip
STEPS = 5


def compare(got, want, tolerance):
    for t, (mine, theirs) in enumerate(zip(got, want, strict=True), 1):
        assert mine.keys() == theirs.keys()
        for name, x in theirs.items():
            close(mine[name], x, tolerance, f"step {t}, {name}")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_trajectory_of_one_process(ranks, layout, options):
    want = alone(OPTIONS[options], "float32", STEPS)
    for after, *_ in ranks(SIZES[layout]).run(together, layout, OPTIONS[options], "float32", STEPS):
        compare(after, want, 1e-6)
