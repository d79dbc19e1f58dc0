"""Whatever stands in a checkpoint: it is read, or refused with an error of ours."""

import numpy as np
import pytest

import adafactor_core as af
from _layout_states import trained
from adafactor_core import layouts

JUNK = [
    None, 3, -1, 2.5, "x", True, [], {}, b"q", (1, 2), float("nan"), object(),
    np.zeros((2, 3), "f4"), np.zeros(5, "i4"), np.zeros(5, "c8"), np.array("s"), np.array(None),
    np.zeros(1, "f4"), np.zeros((), "M8[s]"),
]  # fmt: skip


def mutated(x, rng):
    """With one thing in it replaced, removed or added."""
    if isinstance(x, dict) and x and rng.random() < 0.8:
        key = list(x)[rng.integers(len(x))]
        y, choice = dict(x), rng.random()
        if choice < 0.6:
            y[key] = mutated(x[key], rng)
        elif choice < 0.8:
            del y[key]
        else:
            others = ["state", "param_groups", "step", "w", int(rng.integers(5))]
            y[others[rng.integers(len(others))]] = JUNK[rng.integers(len(JUNK))]
        return y
    if isinstance(x, list) and x and rng.random() < 0.8:
        y, k = list(x), rng.integers(len(x))
        y[k] = mutated(x[k], rng)
        return y
    return JUNK[rng.integers(len(JUNK))]


@pytest.mark.parametrize("name", list(layouts.FORMATS))
def test_errors_are_typed(name):
    fmt = layouts.FORMATS[name]
    own = {"lr": 0.1, **layouts.meaning(name), "min_dim_size_to_factor": 1}
    if "momentum" in fmt.factored and name != "adafactor8bit":
        own |= {"beta1": 0.9, "momentum_arithmetic": "float32"}
    config = af.Config(**own)
    if config.momentum_dtype == "bfloat16" and config.beta1 is not None:
        pytest.importorskip("ml_dtypes")
    params, _, record = trained(config, {"w": (5, 4), "b": (5,), "s": ()}, steps=1)
    made = layouts.write(
        record, name, params=params, options=config, arrays="raw", approximate=True
    )
    step = None if fmt.counters else 1
    layouts.read(made, name, params, options=config, step=step)
    refused = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 7])
        broken = mutated(made, rng)
        broken = mutated(broken, rng) if seed % 2 else broken
        try:
            found = layouts.read(
                broken, name, params, options=config, step=step, approximate=bool(seed % 3)
            )
            for t in found.tensors:
                for raw in t.slots.values():
                    raw.bytes()
            layouts.write(
                found, name, broken, params=params, options=config, arrays="raw", approximate=True
            )
        except af.AdafactorError:
            refused += 1
    assert refused > 15
