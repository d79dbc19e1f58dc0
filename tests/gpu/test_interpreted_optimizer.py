"""adafactor_torch.Adafactor over the Triton passes: groups, and gradients that move."""

import numpy as np
import pytest
from _interpreted import FEW, Must, drawn, torch, tree

from _close import close
from adafactor_torch import Adafactor
from adafactor_torch import _plan as plan
from adafactor_torch import _rows as rows


@pytest.mark.parametrize("policy", ["propagate", "skip_tensor", "skip_step", "raise"])
def test_an_optimizer_of_groups_whose_counters_are_numbers(monkeypatch, policy):
    """In CPU memory rates are floats, where the other tests have arrays: both are compiled in."""
    results = []
    for passes in ((Must(),), ()):
        monkeypatch.setattr(plan, "kernel_passes", lambda w, p, found=passes: found)
        params = {n: torch.nn.Parameter(x) for n, x in tree(FEW, torch.float32, 0).items()}
        groups = [
            {"params": [(n, params[n]) for n in FEW[:2]], "weight_decay": 0.1},
            {"params": [(n, params[n]) for n in FEW[2:]], "beta1": 0.9},
        ]
        optimizer = Adafactor(groups, lr=0.1, nonfinite=policy, max_grad_norm=1.0)
        for t in (1, 2):
            for n, g in tree(FEW, torch.float32, t).items():
                params[n].grad = g
            optimizer.step()
        results.append(params)
    for name in FEW:
        close(results[0][name].detach(), results[1][name].detach(), 1e-6, name)


APART = {  # groups that share a batch
    "decay or none": [{"weight_decay": 0.1}, {}],
    "everything": [
        {"lr": 0.1, "weight_decay": 0.1, "beta1": 0.9},
        {"lr": torch.tensor(0.3), "weight_decay": 0.2, "beta1": 0.5, "decay_rate": 0.5},
        {"lr": 0.2, "beta1": torch.tensor(0.3), "step_size": {"cap": 0.05, "warmup_init": False}},
    ],
    "only the momentum": [{"beta1": 0.9}, {"beta1": 0.2}],
}  # fmt: skip


@pytest.mark.parametrize("on_device", [False, True], ids=["host counter", "device counter"])
@pytest.mark.parametrize("policy", ["propagate", "skip_tensor"])
@pytest.mark.parametrize("groups", APART.values(), ids=APART)
def test_tensors_of_a_batch_have_the_rates_of_their_groups(monkeypatch, groups, policy, on_device):
    if on_device:
        monkeypatch.setattr(plan, "on_cpu", lambda x: False)
        monkeypatch.setattr(rows, "on_cpu", lambda x: False)
    results, batches = [], []
    names = ["vector", "odd", "aligned"]
    for passes in ((Must(),), ()):
        monkeypatch.setattr(plan, "kernel_passes", lambda w, p, found=passes: found)
        params = {n: torch.nn.Parameter(x) for n, x in tree(names, torch.float32, 0).items()}
        parts = [{"params": [], **g} for g in groups]
        for k, n in enumerate(names):
            parts[k % len(groups)]["params"].append((n, params[n]))
        beta1 = 0.7 if "beta1" in groups[0] else None
        optimizer = Adafactor(parts, beta1=beta1, nonfinite=policy)
        for t in (1, 2, 3):
            for n, g in tree(names, torch.float32, t).items():
                params[n].grad = g
            if policy == "skip_tensor" and t == 2:
                params["odd"].grad[1, 1] = float("nan")
            if t == 3:
                optimizer.param_groups[0]["weight_decay"] = 0.3
            with np.errstate(invalid="ignore"):
                optimizer.step()
        batches += [ws for p in optimizer._plans.values() for run in p._groups for _, ws in run]
        results.append((params, {n: optimizer.state[p].get("skipped") for n, p in params.items()}))
    assert len(batches[0]) == len(names)
    for name in names:
        close(results[0][0][name].detach(), results[1][0][name].detach(), 1e-6, name)
        assert results[0][1][name] == results[1][1][name]


def test_gradients_may_move_and_lose_their_alignment(monkeypatch):
    results = []
    for passes in ((Must(),), ()):
        monkeypatch.setattr(plan, "kernel_passes", lambda w, p, found=passes: found)
        p = torch.nn.Parameter(drawn((9, 16), torch.float32, 0))
        optimizer = Adafactor([p], lr=torch.tensor(0.1))
        for t in range(3):
            memory = torch.zeros(9 * 16 + 1)
            p.grad = memory[t % 2 : 9 * 16 + t % 2].view(9, 16)
            p.grad.copy_(drawn((9, 16), torch.float32, t + 1))
            optimizer.step()
        results.append(p.detach().clone())
    close(*results, 1e-6)


def stepped(monkeypatch, passes, groups, steps, before=lambda optimizer: None, **options):
    monkeypatch.setattr(plan, "kernel_passes", lambda wanted, params: passes)
    params = [torch.nn.Parameter(x.clone()) for x, _ in groups]
    given = [{"params": [p], **o} for p, (_, o) in zip(params, groups, strict=True)]
    optimizer = Adafactor(given, **options)
    before(optimizer)
    for t in range(steps):
        for k, p in enumerate(params):
            p.grad = drawn(tuple(p.shape), torch.float32, 10 * t + k)
        with np.errstate(invalid="ignore"):
            optimizer.step()
    return [p.detach() for p in params]


def test_one_tensor_for_the_momentum_of_a_whole_batch(monkeypatch):
    """As a view, with what nobody may read beside it."""
    monkeypatch.setattr(plan, "on_cpu", lambda x: False)
    monkeypatch.setattr(rows, "on_cpu", lambda x: False)
    held = torch.full((64,), float("nan"))
    held[32] = 0.9
    groups = [(drawn((4, 6), torch.float32, k), {}) for k in range(3)]

    def give(optimizer):
        for group in optimizer.param_groups:
            group["beta1"] = held[32:33].reshape(())

    found = [
        stepped(monkeypatch, p, groups, 2, give, lr=0.01, beta1=0.5, nonfinite="skip_tensor")
        for p in ((Must(),), ())
    ]
    for got, want in zip(*found, strict=True):
        close(got, want, 1e-6)


def test_decay_of_others_does_not_touch_what_is_infinite(monkeypatch):
    x = torch.ones(4, 4)
    x[0, 0] = float("inf")
    groups = [(x, {}), (torch.ones(4, 4), {"weight_decay": 0.1})]
    found = [
        stepped(monkeypatch, p, groups, 1, lr=0.1, scale_parameter=False) for p in ((Must(),), ())
    ]
    assert torch.equal(found[0][0][0, :1], found[1][0][0, :1])
    assert torch.isinf(found[0][0][0, 0])
