"""Steps inside backward: the plain loop's numbers to the bit, one live gradient at a time."""

import copy
import gc
import warnings
import weakref

import pytest

import adafactor_core as af
from _run import normal
from _torch import Adafactor

try:
    import torch
    from torch import nn

    from adafactor_torch import attach_backward_hooks, log_metrics
except ImportError:  # then the fixture `backend` skips
    torch = None

pytestmark = [pytest.mark.backends("torch"), pytest.mark.usefixtures("torch_is_here")]
OPTIONS = {
    "default": {},
    "rate, momentum, decay": {"lr": 0.05, "beta1": 0.9, "weight_decay": 0.1},
    "skipped tensors, telemetry": {"lr": 0.05, "nonfinite": "skip_tensor", "telemetry": True},
    "stochastic, int8": {"lr": 0.05, "rounding": "stochastic", "beta1": 0.9,
                         "momentum_dtype": "int8", "momentum_rounding": "stochastic"},
}  # fmt: skip


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))


def made(model, compiled=False, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", af.LowPrecisionWarning)
        return Adafactor(model.named_parameters(), compiled=compiled, **options)


def backward(model, t):
    x = torch.tensor(normal((4, 6), seed=t)).to(next(model.parameters()).dtype)
    model(x).float().square().mean().backward()


def same(one, other):
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def same_state(one, other):
    (ours,), (theirs,) = (o.param_groups for o in (one, other))
    for p, q in zip(ours["params"], theirs["params"], strict=True):
        assert one.state[p].keys() == other.state[q].keys()
        assert all(torch.equal(a, other.state[q][name]) for name, a in one.state[p].items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_bits_of_the_plain_loop(backend, name, accumulate, dtype, compiled):
    plain, hooked = (net().to(getattr(torch, dtype)) for _ in range(2))
    one, other = (made(m, compiled, **OPTIONS[name]) for m in (plain, hooked))
    attach_backward_hooks(other, accumulate)
    for t in range(1, 5):
        for k in range(accumulate):
            backward(plain, 10 * t + k)
            backward(hooked, 10 * t + k)
        assert all(p.grad is None for p in hooked.parameters())
        one.step()
        one.zero_grad()
        assert other.step() is None  # what loops call anyway; nothing is left to do
        same(plain, hooked)
        same_state(one, other)
        if OPTIONS[name].get("telemetry"):
            assert one.metrics() == other.metrics()


def test_one_live_gradient():
    model, alive, most = net(), weakref.WeakSet(), []
    optimizer = made(model, lr=0.05)

    def count(p):
        alive.add(p.grad)
        most.append(len(alive))

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(count)
    backward(model, 1)
    assert max(most) == 6  # the count can fail
    optimizer.zero_grad()
    gc.collect()
    most.clear()
    attach_backward_hooks(optimizer)
    for t in range(2, 4):
        backward(model, t)
    assert most == [1] * 12


def test_what_is_left_over_is_taken_by_step(compiled):
    plain, hooked = net(), net()
    one, other = (made(m, compiled, lr=0.05, beta1=0.9) for m in (plain, hooked))
    attach_backward_hooks(other, accumulate=2)
    for t, passes in enumerate([2, 1, 2]):  # the second batch ends early
        for k in range(passes):
            backward(plain, 10 * t + k)
            backward(hooked, 10 * t + k)
        one.step()
        one.zero_grad()
        other.step()
        assert all(p.grad is None for p in hooked.parameters())
        same(plain, hooked)
        same_state(one, other)


def test_one_state_dict_that_either_loop_resumes(compiled):
    plain, hooked = net(), net()
    one, other = (made(m, compiled, lr=0.05, beta1=0.9) for m in (plain, hooked))
    hooks = attach_backward_hooks(other)
    scheduler = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in (one, other)]

    def both(t):
        backward(plain, t)
        one.step()
        one.zero_grad()
        backward(hooked, t)
        other.step()
        for s in scheduler:
            s.step()

    for t in range(3):
        both(t)
    saved = copy.deepcopy(one.state_dict()), copy.deepcopy(other.state_dict())
    one.load_state_dict(saved[1])
    other.load_state_dict(saved[0])
    for t in range(3, 5):
        both(t)
    same(plain, hooked)
    hooks.remove()
    backward(hooked, 5)
    assert all(p.grad is not None for p in hooked.parameters())
    backward(plain, 5)
    one.step()
    other.step()
    same(plain, hooked)
    same_state(one, other)


def test_frozen_unused_and_added_parameters():
    model, late = net(), nn.Linear(3, 3)
    model[0].bias.requires_grad_(False)
    before = model[0].bias.clone()
    optimizer = made(model, lr=0.05)
    attach_backward_hooks(optimizer)
    optimizer.add_param_group({"params": [(f"late.{n}", p) for n, p in late.named_parameters()]})
    backward(model, 1)
    assert torch.equal(model[0].bias, before)
    assert all(p not in optimizer.state for p in late.parameters())
    late(model(torch.ones(2, 6))).sum().backward()
    assert all(int(optimizer.state[p]["step"]) == 1 for p in late.parameters())
    assert int(optimizer.state[model[0].weight]["step"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_grad_norm": 1.0}, "max_grad_norm=1.0 needs all gradients"),
        ({"nonfinite": "skip_step"}, "Use nonfinite='skip_tensor'"),
        ({"nonfinite": "raise"}, "Use nonfinite='skip_tensor'"),
    ],
)
def test_what_needs_all_gradients_is_refused(options, words):
    model = net()
    optimizer = made(model, lr=0.05, **options)
    with pytest.raises(af.ConfigError, match=words):
        attach_backward_hooks(optimizer)
    backward(model, 1)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True, None])
def test_accumulate_is_a_count(accumulate):
    with pytest.raises(af.ConfigError, match="accumulate must be an int >= 1"):
        attach_backward_hooks(made(net()), accumulate)


def test_closures_scalers_and_second_hooks_are_refused():
    model = net()
    optimizer = made(model, lr=0.05)
    attach_backward_hooks(optimizer)
    with pytest.raises(af.ConfigError, match=r"remove\(\)"):
        attach_backward_hooks(optimizer)
    with pytest.raises(af.ConfigError, match="without a closure"):
        optimizer.step(lambda: backward(model, 1))
    with pytest.raises(af.ConfigError, match="not what wraps it"):
        attach_backward_hooks(torch.optim.SGD(model.parameters(), lr=0.1))
    for explicit in (False, True):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.ones(()))
        backward(model, 1)
        if explicit:
            scaler.unscale_(optimizer)
        with pytest.raises(af.ConfigError, match="GradScaler unscales gradients after backward"):
            scaler.step(optimizer)
    assert optimizer.step() is None  # nothing of the scaler is left


class Writer:
    def __init__(self):
        self.rows = {}

    def add_scalar(self, tag, value, step):
        self.rows[tag] = (value, step)


@pytest.mark.parametrize("hooked", [False, True])
def test_metrics_for_tensorboard(hooked):
    model, writer = net(), Writer()
    optimizer = made(model, lr=0.05, telemetry=True)
    if hooked:
        attach_backward_hooks(optimizer)
    for t in range(2):
        optimizer.zero_grad()
        backward(model, t)
        optimizer.step()
    found = log_metrics(optimizer, writer)
    assert {tag: value for tag, (value, _) in writer.rows.items()} == found
    assert {step for _, step in writer.rows.values()} == {2}
    assert len(found) == 1 + 6 * len(af.Metrics._fields)
    told = optimizer.metrics()["2.weight"]
    assert found["adafactor/update_rms/2.weight"] == float(told.update_rms)
    norms = [float(m.grad_norm) ** 2 for m in optimizer.metrics().values()]
    assert found["adafactor/grad_norm"] == pytest.approx(sum(norms) ** 0.5)
    log_metrics(optimizer, writer, step=7, prefix="")
    assert writer.rows["grad_norm"][1] == 7
    with pytest.raises(af.StateError, match="telemetry=True"):
        log_metrics(made(net()), writer)


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    model = net()
    optimizer = made(model, lr=0.05, telemetry=True)
    backward(model, 1)
    optimizer.step()
    with SummaryWriter(tmp_path) as writer:
        log_metrics(optimizer, writer)
    (file,) = tmp_path.iterdir()
    assert b"adafactor/update_rms/0.weight" in file.read_bytes()


def test_a_state_dict_that_hooks_cannot_take_changes_nothing():
    saved = made(net(), lr=0.05, max_grad_norm=1.0).state_dict()
    model = net()
    optimizer = made(model, lr=0.05)
    attach_backward_hooks(optimizer)
    backward(model, 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(af.ConfigError, match="max_grad_norm"):
        optimizer.load_state_dict(saved)
    assert str(optimizer.state_dict()) == str(before)
    assert optimizer.defaults["max_grad_norm"] is None
