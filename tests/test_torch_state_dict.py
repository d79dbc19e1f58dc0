"""State dicts of adafactor_torch: bit for bit, by name, and refused without a trace."""

import copy
import io
import pickle

import pytest

import adafactor_core as af
from _close import dtype_of
from _run import normal
from _torch import Adafactor

try:
    import torch
except ImportError:  # then the fixture `backend` skips
    torch = None
pytestmark = [
    pytest.mark.backends("torch"),
    pytest.mark.usefixtures("torch_is_here"),
    pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate"),
]
SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4)}
OPTIONS = {
    "default": {},
    "momentum": {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1},
    "bfloat16 momentum": {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "bfloat16"},
    "int8 momentum, drawn": {
        "lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8", "momentum_rounding": "stochastic",
        "rounding": "stochastic", "seed": 3,
    },
    "kahan, skips": {"lr": 0.1, "rounding": "kahan", "nonfinite": "skip_tensor"},
}  # fmt: skip


def parameters(dtype="float32"):
    dtype = getattr(torch, dtype)
    return {n: torch.nn.Parameter(torch.tensor(normal(s)).to(dtype)) for n, s in SHAPES.items()}


def give(params, t, bad=False):
    for p in params.values():
        p.grad = torch.tensor(normal(p.shape, seed=t)).to(p.dtype)
    if bad:
        params["b"].grad[0] = float("nan")


def copied(params):
    return {n: torch.nn.Parameter(p.detach().clone()) for n, p in params.items()}


def trained(options, dtype="float32", compiled=False, steps=3):
    params = parameters(dtype)
    optimizer = Adafactor(params.items(), compiled=compiled, **options)
    for t in range(1, steps + 1):
        give(params, t, bad=t == 2 and "nonfinite" in options)
        optimizer.step()
    return params, optimizer


def same(a, b):
    """Trees of what state dicts hold, to the bit and to the dtype."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def go_on_alike(params, optimizer, others, other, steps=(4, 5, 6)):
    for t in steps:
        for tree, o in ((params, optimizer), (others, other)):
            give(tree, t)
            o.step()
        assert all(torch.equal(params[n], others[n]) for n in params)
        for n in params:
            assert same(dict(optimizer.state[params[n]]), dict(other.state[others[n]])), n


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_saved_to_disk_and_resumed_to_the_bit(name, dtype, compiled):
    params, optimizer = trained(OPTIONS[name], dtype, compiled)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)  # weights_only=True
    others = copied(params)
    other = Adafactor(others.items(), compiled=compiled)  # options come with the state
    other.load_state_dict(saved)
    wide = "float64" if dtype == "float64" else "float32"
    assert dtype_of(other.state[others["w"]]["row"]) == wide
    assert same(other.state_dict(), saved)
    go_on_alike(params, optimizer, others, other)
    assert same(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("name", OPTIONS)
def test_copies_and_pickles_go_on_identically(name, compiled):
    params, optimizer = trained(OPTIONS[name], "bfloat16", compiled)
    for duplicate in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        others, other = duplicate((params, optimizer))
        mine = copied(params)
        again = Adafactor(mine.items(), compiled=compiled)
        again.load_state_dict(optimizer.state_dict())
        go_on_alike(mine, again, others, other)


@pytest.mark.parametrize("how", ["loaded", "copied"])
def test_a_group_can_be_added_afterwards(how):
    params, optimizer = trained({"lr": 0.1})
    if how == "copied":
        params, optimizer = copy.deepcopy((params, optimizer))
    else:
        optimizer.load_state_dict(optimizer.state_dict())
    more = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [("more", more)]})
    give(params | {"more": more}, 4)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in (more, params["w"])] == [1, 4]


def test_options_of_the_whole_step_are_loaded_as_a_whole():
    _, optimizer = trained({"nonfinite": "skip_step", "telemetry": True})
    others, more = parameters(), torch.nn.Parameter(torch.ones(3))
    other = Adafactor(others.items())
    other.load_state_dict(optimizer.state_dict())
    other.add_param_group({"params": [("more", more)]})
    give(others | {"more": more}, 1)
    other.step()
    assert other.metrics().keys() == {*SHAPES, "more"}


def test_parameters_and_groups_are_found_by_name(compiled):
    def grouped(params, names):
        groups = [
            {"params": [(n, params[n]) for n in part], "lr": 0.1 if "w" in part else 0.3}
            for part in names
        ]
        return Adafactor(groups, compiled=compiled)

    params = parameters()
    optimizer = grouped(params, ["ws", "bc"])
    give(params, 1)
    optimizer.step()
    others = copied(params)
    other = grouped(others, ["cb", "sw"])
    other.load_state_dict(optimizer.state_dict())
    found = [(g["lr"], g["param_names"]) for g in other.param_groups]
    assert found == [(0.3, ["c", "b"]), (0.1, ["s", "w"])]
    go_on_alike(params, optimizer, others, other)


def test_without_names_the_position_counts():
    params, _ = trained({})
    optimizer = Adafactor(params.values(), lr=0.1)
    optimizer.step()
    others = copied(params)
    other = Adafactor(others.values())
    other.load_state_dict(optimizer.state_dict())
    go_on_alike(params, optimizer, others, other)
    with pytest.raises(af.StateError, match="has 4 parameters in the state dict, 3 here"):
        Adafactor(list(others.values())[:3]).load_state_dict(optimizer.state_dict())


def test_names_that_two_parameters_share_do_not_mix_their_states():
    """Refused when they are given, or kept apart when they are loaded."""
    a, b = parameters(), parameters()
    try:
        optimizer = Adafactor([{"params": a.items()}, {"params": b.items(), "lr": 0.5}], lr=0.1)
    except af.TreeError:
        return
    give(a, 1)
    give(b, 2)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert same(optimizer.state_dict(), saved)


def test_load_hooks_run_and_see_exact_dtypes():
    _, optimizer = trained(OPTIONS["default"], "bfloat16")
    others = parameters("bfloat16")
    other, seen = Adafactor([(f"new.{n}", p) for n, p in others.items()]), []

    def rename(o, saved):
        seen.append("pre")
        saved = copy.deepcopy(saved)
        (group,) = saved["param_groups"]
        group["param_names"] = [f"new.{n}" for n in group["param_names"]]
        saved["state"][0]["step"] = torch.tensor(7)
        return saved

    def look(o):
        seen.append({dtype_of(a) for s in o.state.values() for a in s.values()})

    other.register_load_state_dict_pre_hook(rename)
    other.register_load_state_dict_post_hook(look)
    other.load_state_dict(optimizer.state_dict())
    assert seen == ["pre", {"float32", "int32"}]
    assert [int(other.state[p]["step"]) for p in others.values()] == [7, 3, 3, 3]


def test_a_scheduler_may_have_left_more_in_the_groups():
    """A state saved before, or without, a scheduler is no other optimizer's."""
    params, optimizer = trained({"lr": 0.1})
    saved = copy.deepcopy(optimizer.state_dict())
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=9, cycle_momentum=False)
    with_more = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    other = Adafactor(parameters().items())
    other.load_state_dict(with_more)
    assert other.param_groups[0]["max_lr"] == 0.3
    give(params, 4)
    optimizer.step()


def test_states_that_are_empty_or_of_no_parameter_do_no_harm():
    params, optimizer = trained({"lr": 0.1})
    more = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [("more", more)]})
    assert optimizer.state[more] == {}  # the defaultdict now has an entry
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"]["of nobody"] = {"x": 1}
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert int(optimizer.state[params["w"]]["step"]) == 5


def of_torch(name):
    params = parameters()
    optimizer = getattr(torch.optim, name)(params.values())
    give(params, 1)
    optimizer.step()
    return optimizer.state_dict()


# What is done to a state dict of ours, or returned instead of it, and what is said.
SPOILT = {
    "Adam": (lambda s: of_torch("Adam"), "another optimizer"),
    "torch's Adafactor": (lambda s: of_torch("Adafactor"), "another optimizer"),
    "nothing": (lambda s: {}, "'state' and 'param_groups'"),
    "a list": (lambda s: [s], "'state' and 'param_groups'"),
    "slot missing": (lambda s: s["state"][0].__delitem__("row"), "tensor 'w'.*row.*absent"),
    "shape": (lambda s: s["state"][0].update(row=torch.zeros(3, 1)), "tensor 'w'.*row should be"),
    "dtype": (lambda s: s["state"][0].update(col=s["state"][0]["col"].half()), "'w'.*col"),
    "momentum": (lambda s: s["state"][1].update(momentum=torch.zeros(4)), "'b'.*momentum"),
    "no tensor": (lambda s: s["state"][1].update(full=[1.0]), "tensor 'b'.*full should be"),
    "no step": (lambda s: s["state"][1].__delitem__("step"), "tensor 'b'.*'step'"),
    "negative step": (lambda s: s["state"][1].update(step=torch.tensor(-1)), "tensor 'b'.*step"),
    "step of two": (lambda s: s["state"][1].update(step=torch.zeros(2)), "tensor 'b'.*step"),
    "step is NaN": (
        lambda s: s["state"][1].update(step=torch.tensor(float("nan"))),
        "tensor 'b'.*step",
    ),
    "half a step": (lambda s: s["state"][1].update(step=2.5), "tensor 'b'.*step"),
    "step is True": (lambda s: s["state"][1].update(step=True), "tensor 'b'.*step"),
    "step beyond int32": (lambda s: s["state"][1].update(step=2**31), "tensor 'b'.*step"),
    "complex step": (lambda s: s["state"][1].update(step=torch.tensor(1j)), "'b'.*step"),
    "sparse": (lambda s: s["state"][0].update(row=torch.zeros(6, 1).to_sparse()), "'w'.*row"),
    "meta": (lambda s: s["state"][0].update(row=s["state"][0]["row"].to("meta")), "'w'.*row"),
    "fewer params": (
        lambda s: s["param_groups"][0]["params"].__delitem__(0),
        "group 0.*param_names",
    ),
    "names are None": (lambda s: s["param_groups"][0].update(param_names=None), "param_names"),
    "differentiable": (
        lambda s: s["param_groups"][0].update(differentiable=True),
        "differentiable",
    ),
    "lists as keys": (lambda s: s["param_groups"][0].update(params=[[0], [1]]), "group 0.*keys"),
    "a name twice": (lambda s: s["param_groups"][0]["param_names"].__setitem__(1, "w"), "twice"),
    "step_size": (lambda s: s["param_groups"][0].update(step_size={"a": 1}), "step_size.*'a'"),
    "more": (lambda s: s["state"][1].update(exp_avg=torch.zeros(5)), "tensor 'b'.*'exp_avg'"),
    "no dict": (lambda s: s["state"].update({1: torch.zeros(5)}), "tensor 'b'"),
    "no states": (lambda s: s.update(state=None), "state"),
    "no groups": (lambda s: s.update(param_groups=[]), "0 parameter groups, the optimizer 1"),
    "no params": (lambda s: s["param_groups"][0].__delitem__("params"), "params"),
    "no group": (lambda s: s["param_groups"].__setitem__(0, 3), "group"),
    "bad option": (lambda s: s["param_groups"][0].update(eps2=-1.0), "eps2"),
    "names": (
        lambda s: s["param_groups"][0]["param_names"].__setitem__(0, "other"),
        "Missing: 'w'; unknown: 'other'",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_does_not_fit_is_refused_and_changes_nothing(case):
    params, optimizer = trained(OPTIONS["momentum"])
    before = copy.deepcopy((list(params.values()), optimizer.state_dict(), optimizer.defaults))
    saved = copy.deepcopy(optimizer.state_dict())
    change, message = SPOILT[case]
    other = change(saved)
    with pytest.raises((af.StateError, af.ConfigError), match=message):
        optimizer.load_state_dict(saved if other is None else other)
    assert same(before, (list(params.values()), optimizer.state_dict(), optimizer.defaults))
