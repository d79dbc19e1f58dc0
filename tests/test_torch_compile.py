"""torch.compile(optimizer.step): the eager result, one graph, and no new one at every rate."""

import copy

import pytest

import adafactor_core as af
from _close import close, close_narrow
from _run import normal
from _torch import Adafactor, AsTorchOptimizer, judge

try:
    import torch
    from torch._dynamo.testing import CompileCounterWithBackend
except ImportError:  # then the fixture `backend` skips
    torch = None

pytestmark = [
    pytest.mark.backends("torch"),
    pytest.mark.usefixtures("torch_is_here"),
    # Of Dynamo itself: it traces through caches, which is what is wanted, and its first use imports
    # a module of torch's that torch calls old.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
]
SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4)}
OPTIONS = {
    "default": {},
    "momentum, decay": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1},
    "relative, warm": {"step_size": af.RelativeStep(warmup_init=True), "decay_type": "adam"},
    "no clip, clamp": {"lr": 0.1, "clip_threshold": None, "eps1": "finfo", "eps1_mode": "clamp"},
    "norm, skipped tensors, telemetry": {
        "lr": 0.1, "max_grad_norm": 1.0, "nonfinite": "skip_tensor", "telemetry": True,
    },
    "skipped steps": {"lr": 0.1, "nonfinite": "skip_step", "weight_decay": 0.1},
    "stochastic, int8": {"lr": 0.1, "rounding": "stochastic", "beta1": 0.9,
                         "momentum_dtype": "int8"},
    "kahan": {"lr": 0.1, "rounding": "kahan"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def dynamo_from_scratch(backend):
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def parameters(dtype="float32"):
    dtype = getattr(torch, dtype)
    return {n: torch.nn.Parameter(torch.tensor(normal(s)).to(dtype)) for n, s in SHAPES.items()}


def give(params, t):
    for p in params.values():
        p.grad = torch.tensor(normal(p.shape, seed=t)).to(p.dtype)


def counting(backend="eager"):
    counter = CompileCounterWithBackend(backend)
    return counter, lambda step: torch.compile(step, fullgraph=True, backend=counter)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_eager_result_in_one_graph(backend, name, dtype):
    options, (counter, compile_) = OPTIONS[name], counting()
    eager, traced = (parameters(dtype) for _ in range(2))
    one = Adafactor(eager.items(), compiled=False, **options)
    other = Adafactor(traced.items(), **options)
    step = compile_(other.step)
    for t in range(1, 5):
        give(eager, t)
        give(traced, t)
        if t == 2 and "nonfinite" in options:
            eager["b"].grad[1] = traced["b"].grad[1] = float("nan")
        one.step()
        step()
        for n, p in eager.items():
            numbers = backend.numpy(traced[n]), backend.numpy(p)
            if dtype == "float32":
                close(*numbers, 1e-6, n)
            else:
                close_narrow(*numbers, dtype, n)
            assert int(one.state[p]["step"]) == int(other.state[traced[n]]["step"])
    assert counter.frame_count == 1
    if options.get("telemetry"):
        for n, metrics in one.metrics().items():
            for a, b in zip(metrics, other.metrics()[n], strict=True):
                close(backend.numpy(b), backend.numpy(a), 1e-6, n)


RATES = {"tensor": 1, "float": 2}


# The schedulers do not see calls of what was compiled.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step..` before")
@pytest.mark.parametrize("kind", RATES)
def test_graphs_over_twenty_steps_of_a_schedule(backend, kind):
    """A float lr is a constant of the first graph and an input of the second."""
    counter, compile_ = counting()
    params, eager = parameters(), parameters()
    lr = torch.tensor(0.1) if kind == "tensor" else 0.1
    optimizer = Adafactor(params.items(), lr=lr, weight_decay=0.1)
    plain = Adafactor(eager.items(), lr=copy.deepcopy(lr), weight_decay=0.1)
    step = compile_(optimizer.step)  # before the schedulers wrap it
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 20) for o in (optimizer, plain)]
    for t in range(1, 21):
        give(params, t)
        give(eager, t)
        step()
        plain.step()
        for s in schedules:
            s.step()
    assert counter.frame_count <= RATES[kind]
    for n, p in eager.items():
        close(backend.numpy(params[n]), backend.numpy(p), 1e-6, n)


def test_groups_of_options_in_one_graph_from_the_first_step_on(backend):
    counter, compile_ = counting()
    params, eager = parameters(), parameters()

    def made(params):
        vectors = [(n, p) for n, p in params.items() if p.ndim < 2]
        matrices = [(n, p) for n, p in params.items() if p.ndim > 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "beta1": 0.9}]
        return Adafactor(groups, lr=torch.tensor(0.1))

    optimizer, plain = made(params), made(eager)
    step = compile_(optimizer.step)
    for t in range(1, 4):
        give(params, t)
        give(eager, t)
        step()
        plain.step()
    assert counter.frame_count == 1
    for n, p in eager.items():
        close(backend.numpy(params[n]), backend.numpy(p), 1e-6, n)


def test_eager_and_compiled_steps_alternate(backend):
    counter, compile_ = counting()
    params, eager = parameters(), parameters()
    optimizer = Adafactor(params.items(), lr=0.1, beta1=0.9)
    plain = Adafactor(eager.items(), lr=0.1, beta1=0.9)
    step = compile_(optimizer.step)
    for t in range(1, 7):
        give(params, t)
        give(eager, t)
        (step if t % 2 else optimizer.step)()
        plain.step()
    assert counter.frame_count == 1
    for n, p in eager.items():
        close(backend.numpy(params[n]), backend.numpy(p), 1e-6, n)


def test_inductor(backend):
    """The compiler itself; metrics are those of the last step, compiled or not."""
    options = {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1, "telemetry": True}
    params, eager = parameters(), parameters()
    optimizer = Adafactor(params.items(), **options)
    plain = Adafactor(eager.items(), compiled=False, **options)
    step = torch.compile(optimizer.step, fullgraph=True)
    for t in range(1, 6):
        give(params, t)
        give(eager, t)
        (step if t in (1, 2, 4) else optimizer.step)()
        plain.step()
        for n, p in eager.items():
            close(backend.numpy(params[n]), backend.numpy(p), 1e-6, n)
            for a, b in zip(plain.metrics()[n], optimizer.metrics()[n], strict=True):
                close(backend.numpy(b), backend.numpy(a), 1e-6, n)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_conformance(backend, dtype):
    """Drawn cases alone: every case is a compilation of its own, and the kit has some 500."""

    def stepper(optimizer):
        torch._dynamo.reset()
        return torch.compile(optimizer.step, fullgraph=True, backend="eager")

    subject = AsTorchOptimizer("torch.optim, torch.compile", stepper=stepper)
    judge(subject, dtype, drawn=5, checks=["drawn", "zero-size"])
