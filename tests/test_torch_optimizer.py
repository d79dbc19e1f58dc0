"""adafactor_torch.Adafactor: the core's numbers in place, under schedules and groups too."""

import gc
import weakref

import numpy as np
import pytest

import adafactor_core as af
from _backends import load, need
from _close import close, close_narrow, dtype_of
from _run import flat, normal
from _torch import Adafactor
from _variety import BATCHED, CAREFUL, VARIETY

try:
    import torch
    from torch.optim import lr_scheduler
except ImportError:  # then the fixture `backend` skips
    torch = None
pytestmark = [pytest.mark.backends("torch"), pytest.mark.usefixtures("torch_is_here")]
SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4), "none": (0, 4)}
CORES = {"float32": 1e-6, "float64": 1e-14}


def drawn(seed=0, shapes=SHAPES):
    return {p: normal(s, seed=seed) for p, s in shapes.items()}


def at(options, t):
    """Options with schedules as the numbers that somebody sets at step t."""
    return {n: v(t) if callable(v) else v for n, v in options.items()}


def made(backend, options, compiled=False, dtype="float32", shapes=SHAPES):
    params = {p: torch.nn.Parameter(backend.asarray(x, dtype)) for p, x in drawn(0, shapes).items()}
    return params, Adafactor(params.items(), compiled=compiled, **at(options, 1))


def give(backend, params, grads):
    for path, g in grads.items():
        params[path].grad = None if g is None else backend.asarray(g, dtype_of(params[path]))


class Core:
    """What af.step makes of the same numbers on another library's arrays."""

    def __init__(self, options, dtype="float32", shapes=SHAPES, library="numpy"):
        self.backend, self.dtype, self.config = load(library), dtype, af.Config(**options)
        need(self.backend, dtype)
        self.params = self.backend.tree(drawn(0, shapes), dtype)
        self.state = af.init(self.params, self.config)

    def step(self, grads, scale=None):
        grads = self.backend.tree(grads, self.dtype)
        done = af.step(self.params, grads, self.state, self.config, grad_scale=scale)
        self.params, self.state = done

    def same(self, backend, params, tolerance=1e-6):
        for path, x in params.items():
            want = self.backend.numpy(self.params[path])
            close(backend.numpy(x), want, tolerance, path)


EVERY = {**VARIETY, **BATCHED, **CAREFUL}


@pytest.mark.parametrize("name", EVERY)
def test_the_numbers_of_the_core(backend, name, compiled):
    options = EVERY[name]
    shapes = {"c": (3, 4, 5)} if name in BATCHED else SHAPES
    params, optimizer = made(backend, options, compiled, shapes=shapes)
    core = Core(options, shapes=shapes)
    for t in range(1, 5):
        grads = drawn(t, shapes)
        if t == 2 and options.get("nonfinite"):
            grads["b"][1] = np.nan
        done = max([int(s["step"]) for s in optimizer.state.values()], default=0)
        moving = {n: v for n, v in options.items() if callable(v)}
        optimizer.param_groups[0].update(at(moving, done + 1))
        give(backend, params, grads)
        assert optimizer.step() is None
        core.step(grads)
        core.same(backend, params)
    slots = {f"{p}.{n}": a for p, x in params.items() for n, a in optimizer.state[x].items()}
    assert {int(slots.pop(f"{p}.step")) for p in shapes} == {int(core.state.step)}
    want = flat(core.state.moments)
    assert slots.keys() == want.keys()
    for path, a in slots.items():
        if options.get("momentum_dtype") != "int8" or "momentum" not in path:
            close(backend.numpy(a), want[path], 1e-5, path)
    if options.get("telemetry"):
        told = optimizer.metrics()
        assert told.keys() == shapes.keys()
        for path in shapes.keys() - {"none"}:
            for got, number in zip(told[path], core.state.metrics[path], strict=True):
                close(backend.numpy(got), np.asarray(number), 1e-5, path)


ROUNDED = {
    "nearest": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1},
    "stochastic": {"lr": 0.1, "rounding": "stochastic", "seed": 7, "max_grad_norm": 0.5},
    "kahan": CAREFUL["kahan, decay and momentum"],
    "16-bit momentum": {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "bfloat16"},
    "int8 momentum": CAREFUL["everything"] | {"lr": 0.1},
}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ROUNDED)
def test_dtypes(backend, name, dtype, compiled):
    params, optimizer = made(backend, ROUNDED[name], compiled, dtype)
    core = Core(ROUNDED[name], dtype)
    for t in range(1, 4):
        give(backend, params, drawn(t))
        optimizer.step()
        core.step(drawn(t))
    for path, x in params.items():
        assert dtype_of(x) == dtype
        got, want = backend.numpy(x), core.backend.numpy(core.params[path])
        if dtype == "float64":
            close(got, want, 1e-14, path)
        else:
            close_narrow(got, want, dtype, path, reached=3.0)
    wide = "float64" if dtype == "float64" else "float32"
    assert dtype_of(optimizer.state[params["w"]]["row"]) == wide


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ROUNDED)
def test_the_bits_of_the_core_for_the_same_names(backend, name, dtype):
    params, optimizer = made(backend, ROUNDED[name], False, dtype)
    core = Core(ROUNDED[name], dtype, library="torch")
    for t in range(1, 4):
        give(backend, params, drawn(t))
        optimizer.step()
        core.step(drawn(t))
    for path, x in params.items():
        assert torch.equal(x, core.params[path]), path


def test_draws_go_by_names_and_not_by_positions(backend, compiled):
    options = {"lr": 0.1, "rounding": "stochastic"}
    params, optimizer = made(backend, options, compiled, "bfloat16")
    others, _ = made(backend, options, compiled, "bfloat16")
    back = Adafactor(list(others.items())[::-1], compiled=compiled, **options)
    for tree, o in ((params, optimizer), (others, back)):
        give(backend, tree, drawn(1))
        o.step()
    assert all(torch.equal(params[p], others[p]) for p in params)


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1.0 / (k + 2)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.3, total_steps=8, cycle_momentum=False
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
}


@pytest.mark.parametrize("lr", [None, 0.2, "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_are_exact(backend, name, lr, compiled):
    base = {None: 1.0, "tensor": 0.25}.get(lr, lr)
    given = torch.tensor(base, dtype=torch.float64) if lr == "tensor" else lr
    params, optimizer = made(backend, {"lr": given, "weight_decay": 0.1}, compiled)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=base)
    ours, theirs = SCHEDULERS[name](optimizer), SCHEDULERS[name](plain)
    rates = []
    relative = {"step_size": af.RelativeStep()} if lr is None else {}
    core = Core({"lr": lambda t: rates[int(t) - 1], "weight_decay": 0.1, **relative})
    for t in range(1, 7):
        rates.append(plain.param_groups[0]["lr"])
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(rates[-1], rel=1e-12)
        give(backend, params, drawn(t))
        plain.step()
        optimizer.step()
        core.step(drawn(t))
        core.same(backend, params)
        loss = (1.0,) if name == "ReduceLROnPlateau" else ()
        ours.step(*loss)
        theirs.step(*loss)
    assert len(set(rates)) > 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_of_any_dtype(backend, dtype, shape, compiled):
    lr = torch.full(shape, 0.125, dtype=getattr(torch, dtype))
    params, optimizer = made(backend, {"lr": lr}, compiled)
    core = Core({"lr": lambda t: 0.125 / t})
    for t in range(1, 4):
        lr.fill_(0.125).div_(t)
        rate, core.config = float(lr), af.Config(lr=float(lr))
        give(backend, params, drawn(t))
        optimizer.step()
        core.step(drawn(t))
        core.same(backend, params)
        assert float(lr) == rate


def test_groups_have_their_own_options(backend, compiled):
    rules = [
        ("w", {"lr": 0.05, "beta1": 0.9}),
        ("c", {"batch_axes": (0,), "weight_decay": 0.1, "maximize": True}),
    ]
    params, _ = made(backend, {})
    rest = [n for n in SHAPES if n not in ("w", "c")]
    optimizer = Adafactor(
        [
            {"params": [("w", params["w"])], **rules[0][1]},
            {"params": [("c", params["c"])], **rules[1][1]},
            {"params": [(n, params[n]) for n in rest[:1]]},
        ],
        lr=0.2,
        max_grad_norm=0.5,
        compiled=compiled,
    )
    optimizer.add_param_group({"params": [(n, params[n]) for n in rest[1:]]})
    core = Core({"lr": 0.2, "max_grad_norm": 0.5, "rules": rules})
    for t in range(1, 4):
        give(backend, params, drawn(t))
        optimizer.step()
        core.step(drawn(t))
    core.same(backend, params)


RELATIVE = {"step_size": af.RelativeStep(cap=0.5)}


@pytest.mark.parametrize("common", [{}, RELATIVE, {"lr": 1.0}, {"lr": 1.0, **RELATIVE}], ids=str)
def test_a_group_with_a_rate_of_its_own_beside_the_relative_step(backend, common):
    params, _ = made(backend, {})
    groups = [{"params": [("w", params["w"])], "lr": 0.5}, {"params": [("b", params["b"])]}]
    optimizer = Adafactor(groups, **common)
    shapes = {n: SHAPES[n] for n in ("w", "b")}
    core = Core({"rules": [("w", {"lr": 0.5})], **common}, shapes=shapes)
    for t in range(1, 3):
        give(backend, params, drawn(t, shapes))
        optimizer.step()
        core.step(drawn(t, shapes))
    core.same(backend, {n: params[n] for n in shapes})


def test_options_may_change_under_way(backend, compiled):
    params, optimizer = made(backend, {"lr": 0.1, "beta1": 0.9}, compiled)
    core = Core({"lr": 0.1, "beta1": 0.9})
    changes = [{"lr": 0.3}, {"weight_decay": 0.1}, {"clip_threshold": None}, {"beta1": 0.5},
               {"maximize": True}, {"max_grad_norm": 0.1}, {"weight_decay": 0.0},
               {"step_size": af.RelativeStep()}]  # fmt: skip
    known = {"lr": 0.1, "beta1": 0.9}
    for t, change in enumerate(changes, 1):
        known |= change
        optimizer.param_groups[0].update(change)
        core.config = af.Config(**known)
        give(backend, params, drawn(t))
        optimizer.step()
        core.step(drawn(t))
        core.same(backend, params)


def test_a_group_that_was_replaced_counts(backend):
    params, optimizer = made(backend, {"lr": 0.1})
    give(backend, params, drawn(1))
    optimizer.step()
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.0}
    before = params["w"].detach().clone()
    optimizer.step()
    assert torch.equal(params["w"], before)


def test_gradients_are_not_kept_alive(backend, compiled):
    params, optimizer = made(backend, {"beta1": 0.9, "telemetry": True}, compiled)
    for t in range(1, 3):
        give(backend, params, drawn(t))
        watched = [weakref.ref(p.grad) for p in params.values()]
        optimizer.step()
        optimizer.zero_grad()
        gc.collect()
        assert all(p.grad is None for p in params.values())
        assert not any(ref() is not None for ref in watched)
