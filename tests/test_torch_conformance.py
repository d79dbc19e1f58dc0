"""adafactor_torch.Adafactor judged by the kit, by a fake GPU, and on tensors of every layout."""

import copy

import pytest

import adafactor_core as af
from _close import close, dtype_of
from _run import core, normal
from _torch import Adafactor, AsTorchOptimizer, judge
from adafactor_core import conformance as kit

try:
    import torch
except ImportError:  # then the fixture `backend` skips
    torch = None
pytestmark = pytest.mark.backends("torch")


@pytest.mark.parametrize("dtype", kit.DTYPES)
def test_conformance(backend, compiled, dtype):
    judge(AsTorchOptimizer("torch.optim", compiled=compiled), dtype)


FAKE = {
    "default": {},
    "momentum, decay": {"beta1": 0.9, "weight_decay": 0.1},
    "norm, skipped tensors, telemetry": {
        "max_grad_norm": 1.0, "nonfinite": "skip_tensor", "telemetry": True,
    },
    "skipped steps": {"nonfinite": "skip_step", "weight_decay": 0.1},
    "stochastic": {"rounding": "stochastic", "clip_threshold": None},
    "kahan, int8": {"rounding": "kahan", "beta1": 0.9, "momentum_dtype": "int8"},
    "streamed": {"max_scratch_bytes": 1024},
}  # fmt: skip
DTYPES = {"w": "float32", "b": "bfloat16", "s": "float64", "long": "bfloat16", "h": "float16"}
SIZES = {"w": (6, 5), "b": (5,), "s": (), "long": (30, 100), "h": (2, 3, 4)}


def fake_step(device, lr, options, steps=2):
    """A whole step and the next one; returns the optimizer."""
    params = [
        (n, torch.zeros(SIZES[n], dtype=getattr(torch, d), device=device))
        for n, d in DTYPES.items()
    ]
    if lr not in (None, 0.1):
        lr = torch.tensor(0.1, device=lr)
    optimizer = Adafactor(params, lr=lr, **options)
    for _ in range(steps):
        for _, p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    if options.get("telemetry"):
        assert optimizer.metrics().keys() == DTYPES.keys()
    return optimizer


@pytest.mark.parametrize("lr", [None, 0.1, "cpu", "cuda"])
@pytest.mark.parametrize("name", FAKE)
def test_a_fake_gpu_sees_no_host_sync_and_no_other_device(backend, name, lr):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        optimizer = fake_step("cuda", lr, FAKE[name])
        states = [a for s in optimizer.state.values() for a in s.values()]
        assert {a.device.type for a in [*optimizer.state, *states]} == {"cuda"}


def test_a_group_on_a_fake_gpu_may_have_its_own_tensor_lr(backend):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        lr, p = torch.tensor(0.1, device="cuda"), torch.zeros(3, device="cuda")
        optimizer = Adafactor([{"params": [p], "lr": lr.clone()}], lr=lr)
        p.grad = torch.ones_like(p)
        optimizer.step()


@pytest.mark.parametrize("lr", [None, 0.1, "cpu"])
@pytest.mark.parametrize("name", FAKE)
def test_cpu_tensors_are_not_read_one_by_one_either(backend, name, lr, compiled):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            self.reads += op is torch.ops.aten._local_scalar_dense.default
            return op(*args, **(kwargs or {}))

    with Count() as count:
        fake_step("cpu", lr, {**FAKE[name], "compiled": compiled})
        assert count.reads == 0
        torch.ones(()).item()
    assert count.reads == 1


def follow(backend, params, swap, compiled, grad=lambda g: g):
    """Steps with something done to the parameters in between, against the core."""
    start = {n: backend.numpy(p) for n, p in params.items()}
    grads = [{n: normal(p.shape, seed=t) for n, p in params.items()} for t in range(1, 4)]
    options = {"lr": 0.1, "beta1": 0.9}
    after, _ = core(backend, start, grads, af.Config(**options))
    optimizer = Adafactor(params.items(), compiled=compiled, **options)
    for t, now in enumerate(grads):
        for n, p in params.items():
            p.grad = grad(backend.asarray(now[n]))
        optimizer.step()
        for n, p in params.items():
            close(backend.numpy(p), after[t][n], 1e-6, n)
            swap(p, optimizer.state[p])


LEFT = []  # memory that nothing may write to any more; kept, so that a kernel that does is no crash


def moved(p, state):
    """What FSDP, offloading and model.to() do: other memory under the same parameter."""
    LEFT.append(p.data)
    p.data = p.data.clone()
    LEFT[-1].fill_(3)


def moved_state(p, state):
    for a in state.values():
        moved(a, None)


def transposed(p, state):
    """The same numbers in the same memory order, and then in another: strides change alone."""
    old = p.data.clone()
    p.data = p.data.t()
    p.data.copy_(old)


@pytest.mark.parametrize("part", [slice(0, 8), slice(0, 1)])
def test_a_parameter_that_became_smaller_is_refused_and_writes_nowhere_else(
    backend, part, compiled
):
    base = torch.randn(64, 32)
    p = torch.nn.Parameter(base)
    optimizer = Adafactor([p], lr=0.1, compiled=compiled)
    p.grad = torch.randn_like(p)
    optimizer.step()
    before = base.clone()
    p.data, p.grad = base[part], None
    p.grad = torch.randn_like(p)
    with pytest.raises(af.StateError, match="does not fit"):
        optimizer.step()
    assert torch.equal(base, before)


SWAPS = {"parameter": moved, "state": moved_state, "strides": transposed}


@pytest.mark.parametrize("name", SWAPS)
def test_memory_may_change_under_a_tensor(backend, name, compiled):
    params = {n: torch.nn.Parameter(backend.asarray(normal((4, 4), seed=k)))
              for k, n in enumerate("ab")}  # fmt: skip
    follow(backend, params, SWAPS[name], compiled)


def test_strided_and_shared_memory(backend, compiled):
    base = backend.asarray(normal((8, 10)))
    flat = backend.asarray(normal((30,)))
    params = {"t": base.clone().t(), "part": base[::2, 1:], "view": flat[10:].view(4, 5)}
    follow(backend, params, lambda p, s: None, compiled)
    follow(backend, params, lambda p, s: None, compiled, lambda g: g.t().contiguous().t())


@pytest.mark.parametrize("given", ["float64", "bfloat16", "float16"])
def test_gradients_of_another_dtype(backend, given, compiled):
    x, g = torch.nn.Parameter(torch.ones(4, 3)), backend.asarray(normal((4, 3)), given)
    x.grad_dtype = None
    x.grad = g
    want, _ = af.step(x.detach().clone(), g, af.init(x), af.Config(lr=0.1))
    Adafactor([x], lr=0.1, compiled=compiled).step()
    assert dtype_of(x) == "float32"
    close(backend.numpy(x), backend.numpy(want), 1e-6)


@pytest.mark.filterwarnings("ignore")  # of torch's own: FSDP's deprecations
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_distributed_checkpoint_in_one_process(backend, named, flat):
    from torch.distributed.checkpoint import state_dict as dcp

    def made():
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)).bfloat16()
        params = model.named_parameters() if named else model.parameters()
        return model, Adafactor(params, **FAKE["kahan, int8"])

    def step(model, optimizer):
        model(torch.ones(5, 4, dtype=torch.bfloat16)).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    how = dcp.StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = made()
    step(model, optimizer)
    saved = dcp.get_optimizer_state_dict(model, optimizer, options=how)
    again, other = made()
    again.load_state_dict(model.state_dict())
    dcp.set_optimizer_state_dict(again, other, saved, options=how)
    for _ in range(2):
        step(model, optimizer)
        step(again, other)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
        for name, a in optimizer.state[p].items():
            assert a.dtype == other.state[q][name].dtype
            assert torch.equal(a, other.state[q][name])


@pytest.mark.filterwarnings("ignore")  # of torch's own: FSDP's deprecations
def test_a_full_state_dict_through_torchs_own_functions(backend):
    from torch.distributed.checkpoint import state_dict as dcp

    model = torch.nn.Linear(4, 3)
    optimizer = Adafactor(model.named_parameters(), lr=0.1, beta1=0.9)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    how = dcp.StateDictOptions(full_state_dict=True)
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(model, optimizer, options=how))
    want = {n: a.clone() for n, a in optimizer.state[model.weight].items()}
    optimizer.step()
    dcp.set_optimizer_state_dict(model, optimizer, saved, options=how)
    assert all(torch.equal(a, optimizer.state[model.weight][n]) for n, a in want.items())
