"""The checks that torch runs on its own optimizers, and what training loops do around a step."""

import copy
import sys
import unittest
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import core, normal
from _torch import Adafactor

try:
    import torch
    from torch.nn import Parameter
    from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
except ImportError:  # then the fixture `backend` skips
    torch = None
pytestmark = [pytest.mark.backends("torch"), pytest.mark.usefixtures("torch_is_here")]
INPUTS = {
    "default": {},
    "lr and decay": {"lr": 0.01, "weight_decay": 0.1},
    "maximize": {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    "momentum": {"lr": 0.01, "beta1": 0.9},
    "like torch's": {
        "lr": 0.01, "step_size": {"cap": None}, "eps1": "finfo", "eps1_mode": "clamp",
        "decay_rate": 1.0, "weight_decay": 0.1, "weight_decay_by": "lr", "clip_threshold": 1.5,
    },
    "flags": {"lr": 0.01, "foreach": True, "capturable": True},
}  # fmt: skip


def problem(group_of=lambda weight, bias: [weight, bias]):
    """Parameters and a closure whose loss can only fall, or rise under `maximize`."""
    weight, bias = Parameter(torch.randn(10, 5)), Parameter(torch.randn(10))
    at = torch.randn(5)

    def closure():
        for p in (weight, bias):
            p.grad = None
        loss = (weight.mv(at) + bias).square().sum()
        loss.backward()
        return loss

    return group_of(weight, bias), closure


def error_inputs(device, dtype):
    from torch.testing._internal import common_optimizers as theirs

    found = theirs.get_error_inputs_for_all_optims(device, dtype)
    bad = {"lr": -1.0, "eps1": -1e-30, "clip_threshold": 0.0, "decay_rate": -0.8, "beta1": 1.0}
    for name, value in bad.items():
        given = theirs.OptimizerInput(None, {name: value}, f"{name} out of range")
        found.append(theirs.ErrorOptimizerInput(given, error_type=af.ConfigError, error_regex=name))
    return found


@pytest.fixture(scope="module")
def info():
    """The class as an entry of torch's own list."""
    needed = ModuleType("expecttest")  # by helpers of its test suite that nothing here uses
    needed.TestCase = unittest.TestCase
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("expecttest") is None:
            patch.setitem(sys.modules, "expecttest", needed)
        theirs = import_module("torch.testing._internal.common_optimizers")
    return theirs.OptimizerInfo(
        Adafactor,
        optim_inputs_func=lambda device, dtype=None: [
            theirs.OptimizerInput(None, kwargs, desc) for desc, kwargs in INPUTS.items()
        ],
        optim_error_inputs_func=error_inputs,
        supported_impls=("foreach", "fused"),
        not_og_supported_flags=("foreach", "fused", "capturable", "compiled"),
        has_capturable_arg=True,
        supports_complex=False,
    )


# What torch's words are, where ours differ.
WORDS = {
    "Tensor lr must be 1-element": (af.ConfigError, "a tensor lr must have one element"),
    "a param group cannot have duplicate parameters": (af.TreeError, "is listed twice"),
}


def test_torchs_error_inputs(info):
    for case in info.optim_error_inputs_func("cpu", torch.float32):
        given = case.optimizer_error_input
        error, words = WORDS.get(given.desc, (case.error_type, case.error_regex))
        params = [Parameter(torch.ones(2, 2))] if given.params is None else given.params
        with pytest.raises(error, match=words):
            Adafactor(params, **given.kwargs)


def test_inputs_that_torch_does_not_list():
    x = Parameter(torch.ones(2))
    optimizer = Adafactor([x])
    for wrong, error, words in [
        (["weight"], TypeError, "can only optimize Tensors"),
        ([x * 2], ValueError, "non-leaf"),
        ([], ValueError, "empty parameter list"),
        ([torch.ones(2, dtype=torch.complex64)], af.DTypeError, "'0'.*complex64"),
        ([torch.ones(2, dtype=torch.int64)], af.DTypeError, "'0'.*int64"),
        ([{"params": [x], "seed": 3}], af.ConfigError, "seed=3 in a group"),
        ([{"params": [x], "eps2": -1.0}], af.ConfigError, "eps2"),
    ]:
        with pytest.raises(error, match=words):
            Adafactor(wrong)
    for wrong in ([x], x, "x"):
        with pytest.raises(TypeError, match="param_group must be a dict"):
            optimizer.add_param_group(wrong)
    with pytest.raises(af.DTypeError, match=r"'1'.*int64"):
        optimizer.add_param_group({"params": [torch.ones(2, dtype=torch.int64)]})
    assert len(optimizer.param_groups) == 1
    for wrong in ({"lr": lambda t: 0.1}, {"weight_decay": lambda t: 0.1}, {"weight_dekay": 1},
                  {"rules": []}, {"differentiable": True}, {"foreach": 1}):  # fmt: skip
        with pytest.raises(af.ConfigError, match=next(iter(wrong))):
            Adafactor([x], **wrong)


@pytest.mark.parametrize("lr", ["number", "tensor"])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_goes_in_the_right_direction(name, scheduled, lr, compiled):
    params, closure = problem()
    kwargs = dict(INPUTS[name])
    if lr == "tensor":
        kwargs["lr"] = torch.tensor(kwargs.get("lr", 0.01))
    optimizer = Adafactor(params, compiled=compiled, **kwargs)
    schedulers = [StepLR(optimizer, 10, 0.9), ReduceLROnPlateau(optimizer)] if scheduled else []
    start = closure().item()
    for _ in range(20):
        loss = optimizer.step(closure)
        for s in schedulers:
            s.step(*([loss.item()] if isinstance(s, ReduceLROnPlateau) else []))
    assert closure().item() > start if kwargs.get("maximize") else closure().item() < start


def test_groups_have_their_own_rate_and_decay(compiled):
    groups, closure = problem(lambda w, b: [{"params": [w]}, {"params": [b], "lr": 0.0}])
    optimizer = Adafactor(groups, lr=0.01, compiled=compiled)
    kept, start = groups[1]["params"][0].detach().clone(), closure().item()
    for _ in range(5):
        optimizer.step(closure)
    assert torch.equal(groups[1]["params"][0], kept)
    assert closure().item() < start
    x, y = Parameter(torch.ones(2, 3)), Parameter(torch.ones(2, 3))
    optimizer = Adafactor([{"params": [x], "weight_decay": 0.5}, {"params": [y]}], lr=0.1)
    x.grad = y.grad = torch.zeros(2, 3)
    optimizer.step()
    assert torch.equal(y, torch.ones(2, 3))
    assert torch.allclose(x, torch.full((2, 3), 0.95))


@pytest.mark.parametrize("name", INPUTS)
def test_a_step_without_gradients_or_with_zeros_is_none(name, compiled):
    params, _ = problem()
    optimizer = Adafactor(params, compiled=compiled, **(INPUTS[name] | {"weight_decay": 0.0}))
    kept = copy.deepcopy(params)
    assert optimizer.step() is None
    assert optimizer.state_dict()["state"] == {}
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, kept, strict=True))


@pytest.mark.parametrize("name", INPUTS)
def test_state_dicts_are_deterministic_and_load_into_what_differs(name, info):
    params, closure = problem()
    optimizer = Adafactor(params, **INPUTS[name])
    for _ in range(3):
        optimizer.step(closure)
    saved = copy.deepcopy(optimizer.state_dict())
    start, runs = copy.deepcopy(params), []
    for _ in range(2):
        for p, was in zip(params, start, strict=True):
            p.data.copy_(was)
        again = Adafactor(params, **INPUTS[name])
        again.load_state_dict(saved)
        runs.append([again.step(closure).item() for _ in range(4)])
    assert runs[0] == runs[1]
    older = copy.deepcopy(saved)
    for flag in info.not_og_supported_flags:
        for group in older["param_groups"]:
            group.pop(flag, None)
    for state in older["state"].values():
        state["step"] = state["step"].item()  # torch's test_load_nontensor_step
    again.load_state_dict(older)
    again.step(closure)
    duplicate = copy.deepcopy(again)
    public = {k for k in vars(again) if not k.startswith("_")}
    assert public == {k for k in vars(duplicate) if not k.startswith("_")}
    assert duplicate.state_dict()["state"].keys() == again.state_dict()["state"].keys() != set()
    assert "Adafactor" in repr(duplicate)


def test_hooks_run_in_order_and_steps_show_in_a_profile(compiled):
    params, closure = problem()
    optimizer, seen = Adafactor(params, lr=0.1, compiled=compiled), []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    removed = optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("save"))
    optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "more": 1})
    for word in ("second", "first"):
        optimizer.register_load_state_dict_pre_hook(
            lambda o, saved, word=word: seen.append(word), prepend=True
        )
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step(closure)
        optimizer.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#Adafactor.step", "Optimizer.zero_grad#Adafactor.zero_grad"} <= names
    removed.remove()
    optimizer.step(closure)
    saved = optimizer.state_dict()
    assert saved["more"] == 1
    optimizer.load_state_dict(saved)
    assert seen == ["before", "after", "before", "save", "first", "second", "loaded"]


def test_closures_and_zero_grad():
    params, closure = problem()
    optimizer = Adafactor(params, lr=0.1)
    loss = optimizer.step(closure)
    assert loss.requires_grad
    assert all(p.requires_grad and p.is_leaf and p.grad is not None for p in params)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_every_parameter_counts_its_own_steps(backend, compiled):
    """A first gradient that comes late, and gradients that are missing in between."""
    when = {"always": [1, 2, 3, 4, 5], "late": [3, 4, 5], "gaps": [1, 4, 5], "never": []}
    start = {n: normal((4, 3), seed=k) for k, n in enumerate(when)}
    params = {n: Parameter(backend.asarray(x)) for n, x in start.items()}
    options = {"beta1": 0.9, "weight_decay": 0.1}
    optimizer = Adafactor(params.items(), compiled=compiled, **options)
    for t in range(1, 6):
        for n, p in params.items():
            p.grad = backend.asarray(normal((4, 3), seed=t)) if t in when[n] else None
        optimizer.step()
        if t == 4:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for n, p in params.items():
        grads = [{n: normal((4, 3), seed=t)} for t in when[n]]
        after, _ = core(backend, {n: start[n]}, grads, af.Config(**options))
        close(backend.numpy(p), after[-1][n] if after else start[n].astype(np.float32), 1e-6, n)
        assert int(optimizer.state[p]["step"] if n != "never" else 0) == len(when[n])


def test_grad_scaler(compiled):
    params, closure = problem()
    plain = copy.deepcopy(params)
    optimizer = Adafactor(params, lr=0.1, compiled=compiled)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = copy.deepcopy(params)
    for scale in (float("inf"), 1.0):
        scaler.scale(closure() * 0.0)  # makes the scale
        for p in params:
            p.grad *= scaler.get_scale() * scale
        scaler.step(optimizer)
        scaler.update()
        still = [torch.equal(p, q) for p, q in zip(params, before, strict=True)]
        assert still == [scale != 1.0] * 2
    assert scaler.get_scale() == 512.0
    assert {int(s["step"]) for s in optimizer.state.values()} == {1}
    for p, q in zip(params, plain, strict=True):
        q.grad = p.grad
    Adafactor(plain, lr=0.1, compiled=compiled).step()
    assert all(torch.equal(p, q) for p, q in zip(params, plain, strict=True))
