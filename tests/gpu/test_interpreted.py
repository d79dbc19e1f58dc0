"""The Triton passes under Triton's interpreter, on CPU tensors, against the array-API passes.

Run by tests/test_torch_triton.py in a process of its own: the interpreter has to be chosen before
Triton is imported.
"""

import os

import numpy as np
import pytest

import adafactor_core as af
from _close import close, close_entries, close_narrow, dtype_of
from _served import SERVED

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import adafactor_torch._plan as plan  # noqa: E402
import adafactor_torch._rows as rows  # noqa: E402
from adafactor_core._factoring import layout  # noqa: E402
from adafactor_torch import Adafactor, _triton_cut  # noqa: E402
from adafactor_torch._triton import TritonPasses  # noqa: E402

CPU = ("cpu",)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Half of the interpreter's time goes to preparing the language anew for each inner call."""
    from triton.runtime.interpreter import InterpretedFunction

    usual = InterpretedFunction.__call__

    def prepared(self, *arguments, **options):
        if self.fn.__module__.startswith("adafactor_torch"):  # which the launch has prepared
            return self.rewrite()(*arguments, **options)
        return usual(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "__call__", prepared)
        yield


SHAPES = {
    "scalar": (), "one": (1,), "vector": (7,), "long vector": (2100,), "1x1": (1, 1),
    "column": (13, 1), "row": (1, 13), "odd": (9, 13), "aligned": (9, 520), "odd wide": (3, 517),
    "three": (3, 4, 5), "conv": (6, 4, 3, 3), "stacked": (2, 2, 11, 7), "between": (12, 3, 16),
    "outer": (2, 2, 16, 24), "behind": (5, 6, 33),
    "ones behind": (9, 16, 1),
}  # fmt: skip
OPTIONS = SERVED | {
    "norm": {"max_grad_norm": 0.1},
    "skipped tensors": {"nonfinite": "skip_tensor", "max_grad_norm": 0.1},
    "skipped steps, telemetry": {"nonfinite": "skip_step", "telemetry": True},
}
NARROW = ("vector", "odd", "aligned", "conv", "between", "ones behind")
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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_array_api_to_rounding(options):
    agree(follow(FEW, options, (Must(),)), follow(FEW, options, ()))


@pytest.mark.parametrize("options", [{"beta1": 0.9, "weight_decay": 0.1}], ids=str)
def test_every_shape_in_one_launch(options):
    names = list(SHAPES)
    agree(follow(names, options, (Must(),)), follow(names, options, ()))


@pytest.mark.parametrize("dims", [(0, -1), (-1, 0), (-2, 0)], ids=str)
def test_any_two_axes(dims):
    names, options = ["three", "behind", "between"], {"factored_dims": dims}
    agree(follow(names, options, (Must(),)), follow(names, options, ()))


@pytest.mark.parametrize("scope", ["block", "tensor"])
def test_stacked_layers(scope):
    options = {"batch_axes": (0, 1), "scale_scope": scope, "clip_scope": "block", "lr": 0.3}
    names = ["stacked", "conv", "outer"]
    agree(follow(names, options, (Must(),)), follow(names, options, ()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {}, {"beta1": 0.9, "momentum_dtype": "bfloat16", "weight_decay": 0.1},
        {"rounding": "kahan", "weight_decay": 0.1, "factored": False}, {"rounding": "kahan"},
        {"rounding": "stochastic", "lr": 0.1}, {"rounding": "stochastic", "factored": False},
    ],
    ids=str,
)  # fmt: skip
def test_narrow_parameters(dtype, options):
    # One step: a rounding that falls the other way is more than 2 units of a smaller value later.
    names = NARROW if options.get("rounding") == "stochastic" else ("vector", "aligned")
    agree(*(follow(names, options, p, 1, dtype) for p in ((Must(),), ())))


def test_small_float16_values_are_rounded_at_random_as_in_the_core():
    from adafactor_core import stochastic_round

    x = drawn((40, 24), torch.float32, 0) * 2.0**-18
    config = af.Config(lr=0.0, rounding="stochastic", scale_parameter=False, weight_decay=0.5,
                       weight_decay_by="none")  # fmt: skip
    narrow = x.to(torch.float16)
    y, _ = af.step(narrow, torch.ones_like(narrow), af.init(narrow, config), config,
                   passes=(Must(),))  # fmt: skip
    want = stochastic_round(narrow.float() * 0.5, "float16", seed=0, t=1, path="")
    assert torch.equal(y.float(), want)


@pytest.mark.parametrize(
    ("param", "grad"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_gradients_of_another_dtype(param, grad):
    agree(*(follow(FEW, {}, p, 1, param, grad) for p in ((Must(),), ())))


@pytest.mark.parametrize("rows", [1, 8, 13])
def test_many_tiles_add_up_to_the_same(monkeypatch, rows):
    monkeypatch.setattr(_triton_cut, "LEAST", rows)
    names = ["aligned", "odd wide", "long vector", "behind"]
    agree(follow(names, {}, (Must(),), 1), follow(names, {}, (), 1))


def test_a_batch_gives_the_bits_of_its_tensors_alone():
    names = ["aligned", "odd", "vector"]
    together, _ = follow(names, {}, (Must(),))
    again, _ = follow(names, {}, (Must(),))
    assert all(torch.equal(together[n], again[n]) for n in names)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("policy", ["propagate", "skip_tensor", "skip_step"])
def test_what_is_not_finite(policy, bad):
    config = af.Config(nonfinite=policy, max_grad_norm=1.0)
    params, grads = tree(FEW, torch.float32, 0), tree(FEW, torch.float32, 1)
    grads["odd"][3, 5] = bad
    grads["vector"][2] = bad
    state = af.init(params, config)
    with np.errstate(all="ignore"):  # the interpreter's arithmetic is NumPy's
        got = af.step(params, grads, state, config, passes=(Must(),))
    agree(got, af.step(params, grads, state, config))


def test_dead_rows_and_columns_stay_exactly():
    for scale in (2.0**-60, 1.0, 2.0**60):
        x, g = (drawn((19, 520), torch.float32, k) for k in (0, 1))
        g[7] = g[:, 11] = 0
        y, _ = af.step(x, g * scale, af.init(x), passes=(Must(),))
        assert torch.isfinite(y).all()
        assert torch.equal(y[7], x[7])
        assert torch.equal(y[:, 11], x[:, 11])


REFUSED = {
    "float64": (torch.zeros(4, 6, dtype=torch.float64), {}),
    "not contiguous in C order": (torch.zeros(6, 4).T, {}),
    "more than 64 elements behind the factored axes": (
        torch.zeros(4, 6, 65), {"factored_dims": (0, 1)},
    ),
    "eps1_mode='clamp'": (torch.zeros(4, 6), {"eps1": 1e-3, "eps1_mode": "clamp"}),
    "empty": (torch.zeros(0, 3), {}),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_refused_says_why(reason):
    x, options = REFUSED[reason]
    said = []

    class Listening(TritonPasses):
        def serves(self, work):
            said.append(super().serves(work))
            return said[-1]

    config = af.Config(**options)
    af.step(x, torch.ones_like(x), af.init(x, config), config, passes=(Listening(CPU),))
    assert said == [reason]
    said.clear()
    af.step(x, torch.ones_like(x), af.init(x, config), config, passes=(Listening(("cuda",)),))
    assert said == ["not a plain tensor on cuda"]


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


@pytest.mark.parametrize("size", [(8192, 8192), (1 << 17, 64), (64, 1 << 17), (50257, 768)])
@pytest.mark.parametrize("width", [2, 4])
def test_partial_sums_stay_below_a_share_of_the_parameters(size, width):
    class Big:  # no memory behind it
        options = af.Config()
        layout = layout(size, af.Config())
        param = torch.empty(0, dtype=torch.float32 if width == 4 else torch.bfloat16)

    (found,) = _triton_cut.cuts([Big], [True])
    assert 4 * found.partials <= max(0.01 * width * size[0] * size[1], 1 << 20)
    assert found.tiles >= 64
