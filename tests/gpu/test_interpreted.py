"""The Triton passes against the array-API passes, and what they refuse."""

import numpy as np
import pytest
from _interpreted import CPU, FEW, SHAPES, Must, agree, drawn, follow, torch, tree

import adafactor_core as af
from _served import SERVED
from adafactor_core._factoring import layout
from adafactor_torch import _triton_cut
from adafactor_torch._triton import TritonPasses

OPTIONS = SERVED | {
    "norm": {"max_grad_norm": 0.1},
    "skipped tensors": {"nonfinite": "skip_tensor", "max_grad_norm": 0.1},
    "skipped steps, telemetry": {"nonfinite": "skip_step", "telemetry": True},
}
NARROW = ("vector", "odd", "aligned", "conv", "between", "ones behind")


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
