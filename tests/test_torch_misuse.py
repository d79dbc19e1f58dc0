"""What users do to groups, state and gradients between steps: honoured, or refused unchanged."""

import copy
import gc
import warnings
import weakref

import pytest

import adafactor_core as af
from _close import close
from _run import normal
from _torch import Adafactor

try:
    import torch
    from torch.nn import Parameter

    from adafactor_torch import attach_backward_hooks, log_metrics
except ImportError:  # then the fixture `backend` skips
    torch = None

pytestmark = [pytest.mark.backends("torch"), pytest.mark.usefixtures("torch_is_here")]


def two(compiled=None, **options):
    """Two groups of one matrix each, with gradients."""
    params = [Parameter(torch.tensor(normal((4, 3), seed=k)).float()) for k in range(2)]
    for k, p in enumerate(params):
        p.grad = torch.tensor(normal((4, 3), seed=9 + k)).float()
    return params, Adafactor(
        [{"params": [p]} for p in params], lr=0.1, compiled=compiled, **options
    )


def snapshot(params, optimizer):
    return copy.deepcopy(([p.detach() for p in params], optimizer.state_dict()))


def same(one, other):
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def refused(error, message, params, optimizer, call):
    before = snapshot(params, optimizer)
    with pytest.raises(error, match=message):
        call()
    assert same(before, snapshot(params, optimizer))


WHOLE = {
    "seed": 3, "max_grad_norm": 1.0, "nonfinite": "skip_step", "telemetry": True,
    "max_scratch_bytes": 4096,
}  # fmt: skip


@pytest.mark.parametrize("started", [False, True], ids=["first step", "later"])
@pytest.mark.parametrize("name", WHOLE)
def test_an_option_of_the_whole_step_is_the_same_in_all_groups(name, started):
    params, optimizer = two()
    if started:
        optimizer.step()
    optimizer.param_groups[1][name] = WHOLE[name]
    refused(af.ConfigError, f"{name} concerns.*group 1", params, optimizer, optimizer.step)
    refused(
        af.ConfigError, f"{name} concerns", params, optimizer,
        lambda: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
    )  # fmt: skip


def test_an_option_of_the_whole_step_may_change_in_all_groups_together(compiled):
    params, optimizer = two(compiled)
    start = snapshot(params, optimizer)[0]
    for group in optimizer.param_groups:
        group["telemetry"] = True
    assert optimizer.metrics() == {}
    for p in params:
        p.grad *= float("inf")
    for group in optimizer.param_groups:
        group["nonfinite"] = "raise"
    refused(af.NonFiniteError, "'0'", params, optimizer, optimizer.step)
    assert same(start, [p.detach() for p in params])
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})
    assert optimizer.param_groups[2]["nonfinite"] == "raise"


def test_hooks_see_options_that_come_later():
    params, optimizer = two()
    attach_backward_hooks(optimizer)
    for group in optimizer.param_groups:
        group["max_grad_norm"] = 1.0
    with pytest.raises(af.ConfigError, match="max_grad_norm"):
        params[0].sum().backward()


def test_metrics_are_those_of_the_last_step_whoever_took_it():
    (w, _), optimizer = two(telemetry=True)
    optimizer.step()
    hooks = attach_backward_hooks(optimizer)
    w.grad = None
    (w * 3).sum().backward()
    close(optimizer.metrics()["0"].grad_norm.numpy(), 3 * 12**0.5, 1e-6, "grad_norm")
    hooks.remove()
    w.grad = torch.ones(4, 3)
    optimizer.step()
    close(optimizer.metrics()["0"].grad_norm.numpy(), 12**0.5, 1e-6, "grad_norm")


@pytest.mark.parametrize("shape", [(4, 3), (5,)])
def test_a_gradient_that_is_a_negative_view(shape, compiled):
    found = []
    for view in (False, True):
        x, g = (torch.tensor(normal(shape, seed=k)) for k in range(2))
        p = Parameter(x)
        optimizer = Adafactor([p], lr=0.1, compiled=compiled)
        for k in range(3):  # the second step finds other gradients than the first
            p.grad = torch._neg_view(g) if view and k != 1 else -g
            optimizer.step()
        found.append(p.detach().numpy())
    close(found[1], found[0], 1e-6, "p")


def test_zero_grad_forgets_what_hooks_have_counted():
    p = Parameter(torch.ones(3, 2))
    optimizer = Adafactor([p], lr=0.1)
    attach_backward_hooks(optimizer, accumulate=2)
    p.sum().backward()
    optimizer.zero_grad()
    p.sum().backward()
    assert not optimizer.state
    p.sum().backward()
    assert int(optimizer.state[p]["step"]) == 1


def test_accumulated_gradients_that_miss_passes_are_the_plain_loops():
    found = []
    for hooked in (False, True):
        params, optimizer = two()
        optimizer.zero_grad()
        if hooked:
            attach_backward_hooks(optimizer, accumulate=2)
        for _ in range(3):
            (params[0] * 2).square().sum().backward()
            (params[0] + params[1]).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([p.detach() for p in params])
    assert same(*found)


def test_hooks_follow_groups_that_come_and_go():
    (a, b), optimizer = two()
    optimizer.zero_grad()
    attach_backward_hooks(optimizer, accumulate=2)
    c = Parameter(torch.ones(4, 3))
    for _ in range(2):
        (a.sum() + b.sum()).backward()
    optimizer.param_groups.pop()
    optimizer.add_param_group({"params": [c]})
    optimizer.param_groups.reverse()
    optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in (a, b, c)]
    for _ in range(2):
        (a.sum() + b.sum() + c.sum()).backward()
    assert [torch.equal(p, x) for p, x in zip((a, b, c), before, strict=True)] == [
        False,
        True,
        True,
    ]
    assert int(optimizer.state[c]["step"]) == 1
    optimizer.param_groups.pop()
    optimizer.add_param_group({"params": [a], "lr": 0.1})  # hooked already
    a.sum().backward()
    assert int(optimizer.state[a]["step"]) == 2


def test_hooks_ask_groups_and_not_what_the_optimizer_was_built_with():
    p = Parameter(torch.ones(3))
    optimizer = Adafactor([p], max_grad_norm=1.0)
    optimizer.param_groups[0]["max_grad_norm"] = None
    attach_backward_hooks(optimizer).remove()
    optimizer.param_groups[0]["nonfinite"] = "skip_step"
    with pytest.raises(af.ConfigError, match="skip_step"):
        attach_backward_hooks(optimizer)


def test_groups_are_what_others_may_be_built_from(compiled):
    _, optimizer = two(compiled)
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})
    assert all("compiled" not in group for group in optimizer.param_groups)
    again = [{**g, "params": [Parameter(torch.ones(2))]} for g in optimizer.param_groups]
    Adafactor(again, compiled=compiled)
    # ZeroRedundancyOptimizer puts the arguments into every group.
    Adafactor([{**again[0], "compiled": compiled, "lr": 0.2}], compiled=compiled)
    copied = copy.deepcopy(optimizer)
    assert copied._compiled is compiled
    saved = optimizer.state_dict()
    saved["param_groups"][0]["compiled"] = True  # of an earlier version
    optimizer.load_state_dict(saved)
    assert "compiled" not in optimizer.param_groups[0]


def test_hooks_leave_alone_what_is_no_longer_theirs():
    params, optimizer = two()
    optimizer.zero_grad()
    taken = Parameter(torch.ones(2))
    taken.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    optimizer.add_param_group({"params": [taken]})
    attach_backward_hooks(optimizer)
    optimizer.param_groups.pop(0)
    before = [p.detach().clone() for p in (*params, taken)]
    (sum(p.sum() for p in params) + taken.sum()).backward()
    stepped = [not torch.equal(p, x) for p, x in zip((*params, taken), before, strict=True)]
    assert stepped == [False, True, False]
    assert params[0].grad is not None
    assert params[1].grad is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weight_decy", 0.1, "'weight_decy'.*Did you mean 'weight_decay'"),
        ("differentiable", True, "differentiable=True is not supported"),
        ("foreach", "x", "foreach must be"),
        ("compiled", 0, "compiled must be"),
        ("capturable", None, "capturable must be"),
        ("step_size", {"a": 1}, "step_size has the unknown entry 'a'"),
        ("lr", torch.ones(2) if torch else None, "tensor lr must have one element"),
    ],
)
def test_keys_of_groups_are_checked(key, value, message):
    params, optimizer = two()
    group = {"params": [Parameter(torch.ones(2))], key: value}
    refused(af.ConfigError, message, params, optimizer, lambda: optimizer.add_param_group(group))
    if key in ("foreach", "capturable"):
        with pytest.raises(af.ConfigError, match=message):
            Adafactor([Parameter(torch.ones(2))], **{key: value})


def test_groups_may_carry_what_users_and_schedulers_put_there():
    carried = {"lr_scale": 0.5, "name": "head", "initial_lr": 1.0, "max_lr": 1.0, "swa_lr": 0.1}
    carried |= {"no_weight_decay": True, "min_weight_decay": 0.0, "beta": 0.5, "eps": 1e-8, 3: 4}
    optimizer = Adafactor([{"params": [Parameter(torch.ones(2))], **carried}])
    assert carried.items() <= optimizer.param_groups[0].items()


TOUCHED = {
    "read": lambda o, p: o.state[p],
    "set to None": lambda o, p: o.state.update({p: None}),
    "emptied": lambda o, p: o.state.update({p: {}}),
    "a key of its own": lambda o, p: o.state.update({"global_step": 3}),
    "an entry of its own": lambda o, p: o.state[p].update(mine=torch.ones(3)),
}


@pytest.mark.parametrize("how", TOUCHED)
@pytest.mark.parametrize("started", [False, True], ids=["before", "between"])
def test_state_that_users_touch(how, started, compiled):
    params, optimizer = two(compiled, telemetry=True)
    if started:
        optimizer.step()
    TOUCHED[how](optimizer, params[1])
    optimizer.step()
    optimizer.step()
    log_metrics(optimizer, type("Writer", (), {"add_scalar": lambda *args: None})())
    attach_backward_hooks(optimizer)
    over = started and how in ("set to None", "emptied")
    steps = [int(optimizer.state[p]["step"]) for p in params]
    assert steps == [2 + started, 2 if over else 2 + started]
    assert "mine" not in how or "mine" in optimizer.state[params[1]]


MISFITS = {
    "an int": ("step", lambda a: 3, "step=3.*0-D int32"),
    "a float": ("step", lambda a: a.float(), "0-D int32"),
    "two counters": ("step", lambda a: a.repeat(2), "0-D int32"),
    "device": ("row", lambda a: a.to("meta"), "row on meta"),
    "dtype": ("row", lambda a: a.double(), "row should be.*del optimizer.state"),
    "no array": ("col", lambda a: 1.0, "col should be"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_state_that_does_not_fit_is_refused_with_what_to_do(case, compiled):
    slot, change, message = MISFITS[case]
    params, optimizer = two(compiled)
    optimizer.step()
    optimizer.state[params[1]][slot] = change(optimizer.state[params[1]][slot])
    start = [p.detach().clone() for p in params]
    for _ in range(2):
        with pytest.raises(af.StateError, match=message):
            optimizer.step()
    assert same(start, [p.detach() for p in params])
    assert int(optimizer.state[params[0]]["step"]) == 1


def test_a_model_that_was_cast_after_steps_is_told_how_to_go_on():
    model = torch.nn.Linear(3, 4)
    optimizer = Adafactor(model.named_parameters())
    for _ in range(2):
        model.zero_grad()
        model(torch.ones(2, 3, dtype=model.weight.dtype)).sum().backward()
        if model.weight.dtype is torch.float64:
            with pytest.raises(af.StateError, match=r"'weight'.*del optimizer\.state"):
                optimizer.step()
        else:
            optimizer.step()
            model.double()
    for p in model.parameters():
        del optimizer.state[p]
    optimizer.step()
    assert optimizer.state[model.weight]["row"].dtype is torch.float64


def test_steps_in_and_out_of_inference_mode():
    params, optimizer = two(telemetry=True)
    with torch.inference_mode():
        optimizer.step()
    optimizer.step()
    params[0].grad = None  # from here on counters part
    with torch.inference_mode():
        optimizer.step()
    params[0].grad = torch.ones(4, 3)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [3, 4]
    assert len(optimizer.metrics()) == 2


def test_a_state_that_was_loaded_in_inference_mode_is_stepped():
    params, optimizer = two()
    optimizer.step()
    with torch.inference_mode():
        optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert int(optimizer.state[params[0]]["step"]) == 2


def test_a_group_without_its_options_is_refused():
    params, optimizer = two()
    optimizer.param_groups[1] = {"params": [params[1]], "lr": 0.1}
    with pytest.raises(af.ConfigError, match=r"group 1 has no .*add_param_group"):
        optimizer.step()


def test_a_refused_first_step_leaves_neither_state_nor_gradients():
    params, optimizer = two()
    optimizer.param_groups[1]["lr"] = -1.0
    optimizer.state[params[0]]["mine"] = 1
    refused(af.ConfigError, "lr returned -1.0", params, optimizer, optimizer.step)
    assert dict(optimizer.state) == {params[0]: {"mine": 1}}
    optimizer.param_groups[1]["lr"] = 0.1
    optimizer.step()
    optimizer.param_groups[1]["lr"] = -1.0
    refused(af.ConfigError, "lr returned -1.0", params, optimizer, optimizer.step)
    gradient = weakref.ref(params[0].grad)
    optimizer.zero_grad()
    gc.collect()
    assert gradient() is None


def test_lazy_parameters_are_refused_by_name():
    with pytest.raises(af.ShapeError, match=r"'weight' has no shape yet.*Run the model"):
        Adafactor(torch.nn.LazyLinear(3).named_parameters())


def test_the_warning_points_to_the_line_that_builds_the_optimizer():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        Adafactor([Parameter(torch.ones(2, 2, dtype=torch.bfloat16))], rounding="nearest")
    assert [w.filename for w in found] == [__file__]


@pytest.mark.parametrize("name", ["lr", "weight_decay", "beta1"])
@pytest.mark.parametrize("where", ["argument", "group", "variant"])
def test_a_tensor_option_is_the_tensor_that_was_given(torch_is_here, name, where):
    p, value = torch.nn.Parameter(torch.ones(3, 4)), torch.tensor(0.125)
    if where == "group":
        optimizer = Adafactor([{"params": [p], name: value}], lr=None if name == "lr" else 0.1)
    else:
        own = {"variant": "optax"} if where == "variant" else {}
        optimizer = Adafactor([p], **own, **{name: value})
    assert optimizer.param_groups[0][name] is value


def test_no_variant_in_a_group_is_the_common_one(torch_is_here):
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = Adafactor([{"params": [p]}, {"params": [q], "variant": None}], variant="torch")
    assert [g["variant"] for g in optimizer.param_groups] == ["torch", "torch"]


@pytest.mark.parametrize("options", [{"eps2": 1e39}, {"max_parameter_scale": 1e39}], ids=str)
def test_bounds_beyond_the_dtype_are_its_ends(torch_is_here, options):
    p = torch.nn.Parameter(torch.ones(3, 4))
    p.grad = torch.ones(3, 4)
    Adafactor([p], lr=1e-30, compiled=False, **options).step()
    assert torch.isfinite(p).all()
