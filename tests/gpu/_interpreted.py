"""What tests of the Triton passes share: they run under Triton's interpreter, on CPU tensors.

tests/test_torch_triton.py runs them in processes of their own: the interpreter has to be chosen
before Triton is imported.
"""

import os

import pytest

import adafactor_core as af
from _close import close, close_entries, close_narrow, dtype_of

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from adafactor_torch._triton import TritonPasses  # noqa: E402

CPU = ("cpu",)
SHAPES = {
    "scalar": (), "one": (1,), "vector": (7,), "long vector": (2100,), "1x1": (1, 1),
    "column": (13, 1), "row": (1, 13), "odd": (9, 13), "aligned": (9, 520), "odd wide": (3, 517),
    "three": (3, 4, 5), "conv": (6, 4, 3, 3), "stacked": (2, 2, 11, 7), "between": (12, 3, 16),
    "outer": (2, 2, 16, 24), "behind": (5, 6, 33),
    "ones behind": (9, 16, 1),
}  # fmt: skip
FEW = ("vector", "odd", "aligned", "conv")  # of every kind that is walked in a way of its own


class Must(TritonPasses):
    """Fails instead of leaving a tensor to other passes."""

    def __init__(self):
        super().__init__(CPU)

    def serves(self, work):
        reason = super().serves(work)
        assert not reason, reason
        return reason


def drawn(shape, dtype, seed):
    """Heavy-tailed, so that no two rows or columns look alike."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g) * torch.exp(torch.randn(shape, generator=g))
    return x.to(dtype)


def tree(names, dtype, seed):
    return {n: drawn(SHAPES[n], dtype, seed * 100 + k) for k, n in enumerate(names)}


def follow(names, options, passes, steps=2, dtype=torch.float32, grads=None):
    config, params = af.Config(**options), tree(names, dtype, 0)
    state = af.init(params, config)
    for t in range(1, steps + 1):
        g = tree(names, grads or dtype, t)
        params, state = af.step(params, g, state, config, passes=passes)
    return params, state


def agree(got, want):
    (params, state), (others, known) = got, want
    for name, x in params.items():
        y, dtype = others[name], dtype_of(x)
        if dtype == "float32":
            close(x, y, 1e-6, name)
        else:
            close_narrow(x.float(), y.float(), dtype, name)
        pairs = zip(af.Moments._fields, state.moments[name], known.moments[name], strict=True)
        for slot, a, b in pairs:
            assert (a is None) == (b is None), slot
            if slot in ("row", "col", "full") and a is not None:
                close_entries(a, b, 1e-5, f"{name} {slot}")
            elif slot == "momentum" and a is not None:
                close(a.float(), b.float(), 1e-5 if a.dtype == torch.float32 else 1e-2, name)
            elif slot == "skipped" and a is not None:
                assert int(a) == int(b)
    for a, b in zip(*map(numbers, (state, known)), strict=True):
        assert a == pytest.approx(b, rel=1e-5, nan_ok=True)


def numbers(state):
    if state.metrics is None:
        return []
    return [float(x) for m in state.metrics.values() for x in m]
