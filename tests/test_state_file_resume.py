"""5 steps, a state file, 5 steps: the 10 steps of a run that was never interrupted."""

import importlib.util

import numpy as np
import pytest

from _close import close
from _resume import NAMES, drawn, same, trained

OPTIONS = {
    "defaults": ({}, "float32", ()),
    "rate, momentum, decay": ({"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1}, "float32", ()),
    "full": ({"lr": 0.1, "factored": False}, "float32", ()),
    "batch axis": ({"lr": 0.1, "rules": [("c", {"batch_axes": 0})]}, "float32", ()),
    "bfloat16, stochastic": ({"lr": 0.1, "rounding": "stochastic", "seed": 3}, "bfloat16", ()),
    "bfloat16, kahan": ({"lr": 0.1, "rounding": "kahan", "beta1": 0.9}, "bfloat16", ()),
    "float16, nearest": ({"lr": 0.1}, "float16", ()),
    "momentum in bfloat16": (
        {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "bfloat16", "momentum_rounding": "stochastic"},
        "float32", (),
    ),
    "momentum in int8": ({"lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8"}, "float32", ()),
    "skipped tensors": ({"lr": 0.1, "nonfinite": "skip_tensor"}, "float32", (2, 3, 7)),
    "skipped steps": ({"lr": 0.1, "nonfinite": "skip_step", "telemetry": True}, "float32", (3, 6)),
}  # fmt: skip


def chosen(kind, options):
    """torch has groups and not rules."""
    return {k: v for k, v in options.items() if k != "rules" or kind != "torch"}


def needs(kind, dtype, options):
    if dtype == "bfloat16" or "bfloat16" in options.values():
        pytest.importorskip("ml_dtypes", reason="bfloat16 in NumPy needs ml_dtypes")
    if kind == "cupy":
        pytest.importorskip("_standin")


@pytest.mark.parametrize(
    ("setting", "suffix"),
    [*((setting, ".safetensors") for setting in OPTIONS), ("bfloat16, kahan", ".npz")],
)
@pytest.mark.backends("numpy", "torch", "jax")
def test_one_adapter_goes_on_to_the_bit(backend, setting, suffix, tmp_path):
    options, dtype, odd = OPTIONS[setting]
    needs(backend.name, dtype, options)
    kind, options = backend.name, chosen(backend.name, options)
    whole = trained([kind], [10], dtype, options, tmp_path, odd, suffix)
    parts = trained([kind, kind], [5, 5], dtype, options, tmp_path, odd, suffix)
    same(parts, whole)
    assert parts[1].step == 10 - (len(odd) if options.get("nonfinite") == "skip_step" else 0)
    if odd:
        assert parts[1].skipped == len(odd)


@pytest.mark.parametrize("setting", ["rate, momentum, decay", "batch axis", "skipped tensors"])
@pytest.mark.parametrize("other", [n for n in NAMES if n != "cupy"])
@pytest.mark.backends("numpy", "torch", "jax")
def test_from_adapter_to_adapter(backend, other, setting, tmp_path):
    options, dtype, odd = OPTIONS[setting]
    needs(backend.name, dtype, options)
    first, second = backend.name, other
    if first == second:
        pytest.skip("the bits of one adapter are tested above")
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    if "torch" in (first, second):
        options = chosen("torch", options)
    whole, record = trained([first], [10], dtype, options, tmp_path, odd)
    parts, last = trained([first, second], [5, 5], dtype, options, tmp_path, odd)
    for name, x in whole.items():
        close(parts[name], x, 1e-6, f"{first} to {second}, {name}")
    assert (last.step, last.skipped) == (record.step, record.skipped)
    # And it has been a way: a state that was lost shows.
    start = drawn(0)
    assert max(np.max(np.abs(whole[n] - start[n]), initial=0.0) for n in whole) > 1e-2
