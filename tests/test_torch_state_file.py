"""State files of adafactor_torch: names, groups, counters per parameter, hooks."""

import copy

import numpy as np
import pytest

import adafactor_core as af
from _run import normal
from _torch import Adafactor
from adafactor_core import interchange

try:
    import torch
except ImportError:  # then the fixture `backend` skips
    torch = None
pytestmark = [pytest.mark.backends("torch"), pytest.mark.usefixtures("torch_is_here")]
SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4)}


def parameters():
    return {n: torch.nn.Parameter(torch.tensor(normal(s)).float()) for n, s in SHAPES.items()}


def give(params, t, only=tuple(SHAPES)):
    for n, p in params.items():
        p.grad = torch.tensor(normal(p.shape, seed=t)).float() if n in only else None


def copied(params):
    return {n: torch.nn.Parameter(p.detach().clone()) for n, p in params.items()}


def state_of(optimizer, params):
    return {
        f"{n}.{k}": (str(a.dtype), a.numpy().copy().tobytes())
        for n, p in params.items()
        for k, a in optimizer.state[p].items()
    }


def test_parameters_that_lag_behind_keep_their_own_counters(tmp_path):
    """As in torch, where only what has a gradient is stepped; "s" has not begun."""
    params = parameters()
    made = Adafactor(params.items(), lr=0.1, beta1=0.9)
    for t in range(1, 5):
        give(params, t, only=("w", "c") if t % 2 else ("w", "b"))
        made.step()
    made.save_state(tmp_path / "s")
    record = interchange.read(tmp_path / "s")
    assert record.step == 4
    assert {t.path: t.step for t in record.tensors} == {"w": None, "b": 2, "c": 2, "s": 0}
    other = copied(params)
    again = Adafactor(other.items(), lr=0.1, beta1=0.9)
    again.load_state(tmp_path / "s")
    for t in range(5, 8):
        for optimizer, ps in ((made, params), (again, other)):
            give(ps, t)
            optimizer.step()
    for n in SHAPES:
        assert torch.equal(params[n], other[n])
    assert state_of(made, params) == state_of(again, other)


def test_counters_that_go_together_are_one_tensor(tmp_path):
    params = parameters()
    made = Adafactor(params.items())
    give(params, 1)
    made.step()
    made.save_state(tmp_path / "s")
    made.load_state(tmp_path / "s")
    assert len({id(made.state[p]["step"]) for p in params.values()}) == 1


def test_before_the_first_step(tmp_path):
    params = parameters()
    Adafactor(params.items()).save_state(tmp_path / "s")
    record = interchange.read(tmp_path / "s")
    assert record.step == 0
    assert not any(np.any(r.bytes()) for t in record.tensors for r in t.slots.values())
    other = copied(params)
    made, fresh = (Adafactor(p.items(), lr=0.1) for p in (params, other))
    made.load_state(tmp_path / "s")
    for optimizer, ps in ((made, params), (fresh, other)):
        give(ps, 1)
        optimizer.step()
    assert all(torch.equal(params[n], other[n]) for n in SHAPES)


def options_of(optimizer):
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def test_groups_are_rules_and_stay_as_they_are(tmp_path):
    params = parameters()
    groups = [
        {"params": [("w", params["w"])]},
        {"params": [("b", params["b"]), ("s", params["s"])], "lr": 0.5, "weight_decay": 0.0},
        {"params": [("c", params["c"])], "beta1": 0.9, "momentum_dtype": "int8"},
    ]
    made = Adafactor(groups, lr=torch.tensor(0.25), weight_decay=0.1, seed=3)
    give(params, 1)
    made.step()
    made.save_state(tmp_path / "s", variant="mine")
    record = interchange.read(tmp_path / "s")
    assert record.variant == "mine"
    assert record.options == {
        "lr": 0.25,
        "weight_decay": 0.1,
        "seed": 3,
        "rules": [
            ["b", {"lr": 0.5, "weight_decay": 0.0}],
            ["s", {"lr": 0.5, "weight_decay": 0.0}],
            ["c", {"beta1": 0.9, "momentum_dtype": "int8"}],
        ],
    }
    # They are the options of the core.
    x = {n: p.detach().numpy() for n, p in params.items()}
    options = dict(record.options)
    config = af.Config(**{**options, "rules": [(p, o) for p, o in options.pop("rules")]})
    assert int(af.load_state(tmp_path / "s", x, config).step) == 1
    for group in made.param_groups:
        group["lr"] = 0.125
    before = copy.deepcopy(options_of(made))
    made.load_state(tmp_path / "s")
    assert options_of(made) == before


def test_without_names_positions_are_the_paths(tmp_path):
    params = list(parameters().values())
    made = Adafactor([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}])
    made.save_state(tmp_path / "s")
    assert [t.path for t in interchange.read(tmp_path / "s").tensors] == ["0", "1", "2", "3"]
    made.load_state(tmp_path / "s")
    named = Adafactor(parameters().items())
    with pytest.raises(af.StateError, match="Missing in it: 'b', 'c', 's', 'w'; unknown to params"):
        named.load_state(tmp_path / "s")


REFUSED = {
    "a momentum": ({"beta1": 0.9}, {}, "'w', shape .* has momentum in float32"),
    "counters": ({"nonfinite": "skip_step"}, {}, "has a counter of skipped steps"),
    "no counters": ({}, {"nonfinite": "skip_tensor"}, "has no counter of skipped steps"),
    "no factors": ({"factored": False}, {}, "has a full second moment; the config wants rows"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_file_changes_nothing(tmp_path, what):
    theirs, ours, words = REFUSED[what]
    params = parameters()
    made, other = Adafactor(params.items(), **ours), Adafactor(copied(params).items(), **theirs)
    give(params, 1)
    made.step()
    other.save_state(tmp_path / "s")
    before, group = state_of(made, params), dict(made.param_groups[0])
    with pytest.raises(af.StateError, match=words):
        made.load_state(tmp_path / "s")
    assert state_of(made, params) == before
    assert made.param_groups[0] == group


def test_steps_in_backward_go_on(tmp_path):
    from adafactor_torch import attach_backward_hooks

    def run(params, optimizer, steps):
        for t in steps:
            loss = sum(
                (p * torch.tensor(normal(p.shape, seed=t)).float()).sum() for p in params.values()
            )
            loss.backward()
            optimizer.step()

    params = parameters()
    made = Adafactor(params.items(), lr=0.1)
    attach_backward_hooks(made)
    run(params, made, range(1, 4))
    made.save_state(tmp_path / "s")
    other = copied(params)
    again = Adafactor(other.items(), lr=0.1)
    attach_backward_hooks(again)
    again.load_state(tmp_path / "s")
    assert len({id(again.state[p]["step"]) for p in other.values()}) == len(SHAPES)
    run(params, made, range(4, 7))
    run(other, again, range(4, 7))
    assert all(torch.equal(params[n], other[n]) for n in SHAPES)
    assert state_of(made, params) == state_of(again, other)


def test_what_users_keep_in_the_state_stays(tmp_path):
    params = parameters()
    made = Adafactor(params.items(), lr=0.1)
    made.state[params["w"]]["mine"] = 3
    give(params, 1)
    made.step()
    made.save_state(tmp_path / "s")
    made.load_state(tmp_path / "s")
    assert made.state[params["w"]]["mine"] == 3
    give(params, 2)
    made.step()


def test_loaded_in_inference_mode_it_can_be_stepped(tmp_path):
    params = parameters()
    made = Adafactor(params.items(), lr=0.1)
    made.save_state(tmp_path / "s")
    with torch.inference_mode():
        made.load_state(tmp_path / "s")
    give(params, 1)
    made.step()
    assert made.state[params["w"]]["step"] == 1


def test_skips_of_single_tensors(tmp_path):
    """The record has no common counter of torch's, so it is the largest of theirs."""
    params = parameters()
    made = Adafactor(params.items(), lr=0.1, nonfinite="skip_tensor")
    for t in range(1, 5):
        give(params, t)
        params["b" if t < 4 else "c"].grad.reshape(-1)[0] = float("inf")
        made.step()
    made.save_state(tmp_path / "s")
    record = interchange.read(tmp_path / "s")
    assert {t.path: t.skipped for t in record.tensors} == {"w": 0, "b": 3, "s": 0, "c": 1}
    assert (record.step, record.skipped) == (4, 3)
