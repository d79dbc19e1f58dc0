"""adafactor_torch.Adafactor over the Triton passes: how often it launches, groups, gradients."""

import pytest
from _interpreted import FEW, Must, drawn, torch, tree

from _close import close
from adafactor_torch import Adafactor, _triton
from adafactor_torch import _plan as plan


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 5), ({"clip_threshold": None}, 4), ({"max_grad_norm": 1.0}, 6),
     ({"max_grad_norm": 1.0, "nonfinite": "skip_step", "beta1": 0.9}, 7)],
    ids=str,
)  # fmt: skip
def test_launches_do_not_grow_with_the_number_of_tensors(monkeypatch, options, most):
    counts = []
    real = _triton.launch

    def counted(*arguments, **kwargs):
        counts[-1] += 1
        real(*arguments, **kwargs)

    monkeypatch.setattr(_triton, "launch", counted)
    monkeypatch.setattr(plan, "kernel_passes", lambda wanted, params: (Must(),))
    for number in (3, 30):
        shapes = [(5, 8), (3,), (4, 3)] * (number // 3)
        params = [torch.nn.Parameter(drawn(s, torch.float32, k)) for k, s in enumerate(shapes)]
        optimizer = Adafactor(params, **options)
        counts.append(0)
        for k, p in enumerate(params):
            p.grad = drawn(tuple(p.shape), torch.float32, k + 1)
        optimizer.step()
    assert counts == [most, most]


@pytest.mark.parametrize(("options", "most"), [({}, 10), ({"lr": 0.1}, 5)], ids=str)
def test_what_torch_launches_besides(monkeypatch, options, most):
    """With the counter on the device, as it is on a GPU: as much for many tensors as for few."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            self.seen += op.namespace == "aten"
            return op(*args, **(kwargs or {}))

    monkeypatch.setattr(plan, "on_cpu", lambda x: False)
    monkeypatch.setattr(plan, "kernel_passes", lambda w, p: (Must(),))
    counts = []
    for number in (2, 8):
        params = [torch.nn.Parameter(drawn((3, 8), torch.float32, k)) for k in range(number)]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer = Adafactor(params, **options)
        optimizer.step()
        with monkeypatch.context() as patch, Count() as count:
            patch.setattr(_triton, "launch", lambda *arguments: None)
            optimizer.step()
        counts.append(count.seen)
    assert counts == [most, most]


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
