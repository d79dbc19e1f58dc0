"""Policies, the norm, telemetry and draws never wait for a device, and trace with one structure."""

import numpy as np
import optree
import pytest

import adafactor_core as af
from _close import close, dtype_of
from _run import flat, normal
from _variety import CAREFUL

SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4)}
DTYPES = {"w": "float32", "b": "bfloat16", "s": "float64", "c": "bfloat16"}


def drawn(seed, bad=None):
    tree = {p: normal(s, seed=seed) for p, s in SHAPES.items()}
    if bad is not None:
        tree["w"][2, 3] = bad
    return tree


@pytest.mark.parametrize("options", CAREFUL.values(), ids=CAREFUL)
@pytest.mark.backends("torch")
def test_meta_tensors_have_no_value_to_read(backend, options):
    """Nor another device to mix with."""
    torch, config = backend.lib, af.Config(**options)
    x = {
        p: torch.empty(s, dtype=backend.dtype(DTYPES[p]), device="meta") for p, s in SHAPES.items()
    }
    scale = torch.empty((), device="meta")
    new, state = af.step(x, x, af.init(x, config), config, grad_scale=scale)
    d, after = af.update(x, state, x, config, grad_scale=scale)
    assert {a.device.type for a in optree.tree_leaves((new, state, d, after))} == {"meta"}
    assert {p: dtype_of(a) for p, a in new.items()} == DTYPES
    if config.telemetry:
        told = optree.tree_leaves(af.metrics(state))
        assert {(a.device.type, a.shape) for a in told} == {("meta", torch.Size(()))}


@pytest.mark.parametrize("options", CAREFUL.values(), ids=CAREFUL)
@pytest.mark.backends("torch")
def test_no_operation_brings_a_number_to_the_host(backend, options):
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    config = af.Config(**options)
    x = {p: backend.asarray(a, DTYPES[p]) for p, a in drawn(0).items()}
    state = af.init(x, config)
    for t, bad in enumerate([None, np.nan, None], 1):
        g = {p: backend.asarray(a, DTYPES[p]) for p, a in drawn(t, bad).items()}
        with Watch():
            x, state = af.step(x, g, state, config)
            if config.telemetry:
                af.metrics(state)
    assert seen
    assert not [name for name in seen if "_local_scalar_dense" in name or "nonzero" in name]
    if state.skipped is not None:
        with Watch():
            assert int(state.skipped) == 1
        assert "aten._local_scalar_dense.default" in seen  # so it would have been seen


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step"])
@pytest.mark.backends("jax")
def test_scan_over_steps_with_a_fault_in_the_middle(backend, policy):
    """`scan` refuses a carry whose structure, dtypes or ranks change."""
    jax = backend.lib
    config = af.Config(
        lambda t: 0.1 * t**-0.5, nonfinite=policy, telemetry=True, max_grad_norm=2.0, beta1=0.9,
    )  # fmt: skip
    grads = [drawn(t, np.inf if t == 3 else None) for t in range(1, 6)]
    stacked = {p: jax.numpy.stack([backend.asarray(g[p]) for g in grads]) for p in SHAPES}

    def body(carry, g):
        x, state = af.step(carry[0], g, carry[1], config)
        return (x, state), state.skipped

    x = backend.tree(drawn(0))
    (got, state), skips = jax.lax.scan(body, (x, af.init(x, config)), stacked)
    assert [int(n) for n in skips] == [0, 0, 1, 1, 1]
    assert int(state.step) == (5 if policy == "skip_tensor" else 4)
    want = {p: a.astype(np.float32) for p, a in drawn(0).items()}
    clean = af.init(want, config)
    for g in grads:
        want, clean = af.step(want, {p: a.astype(np.float32) for p, a in g.items()}, clean, config)
    for path, array in {**flat(want), **flat(clean.moments)}.items():
        close(np.asarray({**flat(got), **flat(state.moments)}[path]), array, 2e-6, path)
    for path, metrics in clean.metrics.items():
        for name, value in metrics._asdict().items():
            close(np.asarray(getattr(state.metrics[path], name)), value, 5e-6, f"{path} {name}")


@pytest.mark.backends("jax")
def test_one_trace_whatever_happens(backend):
    traces, config = [], af.Config(**CAREFUL["tensors skipped, norm clipped"])

    @backend.jit
    def step(x, g, state, scale):
        traces.append(1)
        return af.step(x, g, state, config, grad_scale=scale)

    x = backend.tree(drawn(0))
    state = af.init(x, config)
    for t, bad in enumerate([np.nan, None, 1e25, None], 1):
        x, state = step(x, backend.tree(drawn(t, bad)), state, backend.asarray(2.0**t))
    assert len(traces) == 1
    assert (int(state.step), int(state.skipped), int(state.moments["w"].skipped)) == (4, 2, 2)
    assert all(np.isfinite(a).all() for a in map(backend.numpy, x.values()))


@pytest.mark.backends("jax")
def test_raise_cannot_be_traced_and_says_what_can(backend):
    config = af.Config(0.1, nonfinite="raise", clip_threshold=None, scale_parameter=False)
    x = backend.asarray(normal((4, 3)))
    state = af.init(x, config)
    with pytest.raises(af.ConfigError, match=r"nonfinite='raise'.*Use nonfinite='skip_step'"):
        backend.jit(lambda x, s: af.step(x, x, s, config))(x, state)
    with pytest.raises(af.NonFiniteError, match=r"tensor '' of shape \(4, 3\)"):
        af.step(x, x * np.float32(np.nan), state, config)  # eager JAX can


@pytest.mark.backends("torch", "jax")
def test_a_scale_on_the_device_may_have_any_dtype(backend):
    """Loss scales come as float32, and as what the loss has; the division is a float32 one."""
    config = af.Config(0.1, factored=False, scale_parameter=False, clip_threshold=None, eps1=1.0)
    x, scale = backend.asarray(normal((4, 3))), backend.asarray(1000.0, "bfloat16")
    g = normal((4, 3), seed=1)
    got, _ = af.step(x, backend.asarray(g * 1000.0), af.init(x, config), config, grad_scale=scale)
    want, _ = af.step(x, backend.asarray(g), af.init(x, config), config)
    close(backend.numpy(got), backend.numpy(want), 1e-6)
