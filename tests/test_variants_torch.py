"""Variants in torch: groups, state dicts, copies. Groups hold plain values."""

import copy
import io
import pickle

import pytest

import adafactor_core as af
from adafactor_core import variants

pytestmark = [pytest.mark.backends("torch"), pytest.mark.usefixtures("torch_is_here")]
BESIDES = {"params", "param_names", "differentiable"}


def parameter(*shape):
    import torch

    p = torch.nn.Parameter(torch.ones(*shape))
    p.grad = torch.full_like(p, 0.1)
    return p


def plain(group):
    return {name: value for name, value in group.items() if name not in BESIDES}


def made(*args, **options):
    from adafactor_torch import Adafactor

    return Adafactor(*args, **options)


def test_groups_have_the_keys_of_before_and_their_variant():
    without = made([parameter(3, 4)]).param_groups[0]
    group = made([parameter(3, 4)], variant="torch").param_groups[0]
    assert group.keys() == without.keys() | {"variant"}
    assert "variant" not in without


def test_what_a_variant_means_follows_the_rate_of_the_group():
    groups = [
        {"params": [parameter(3, 4)]},
        {"params": [parameter(3, 4)], "lr": 1e-3},
        {"params": [parameter(3, 4)], "lr": 1e-3, "scale_parameter": True},
        {"params": [parameter(3, 4)], "variant": "torch"},
        {"params": [parameter(3, 4)], "variant": "torch", "weight_decay_by": "alpha"},
    ]
    optimizer = made(groups, variant="timm", weight_decay=0.1)
    optimizer.add_param_group({"params": [parameter(2)], "lr": 0.5})
    found = [
        [g[n] for n in ("variant", "lr", "scale_parameter", "eps1", "weight_decay_by")]
        for g in optimizer.param_groups
    ]
    assert found == [
        ["timm", 1.0, True, 1e-30, "alpha"],
        ["timm", 1e-3, False, 1e-30, "alpha"],
        ["timm", 1e-3, True, 1e-30, "alpha"],
        ["torch", 1e-2, True, "finfo", "lr"],
        ["torch", 1e-2, True, "finfo", "alpha"],
        ["timm", 0.5, False, 1e-30, "alpha"],
    ]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1] * 6
    assert [g["min_dim_size_to_factor"] for g in optimizer.param_groups] == [17, 17, 17, 1, 1, 17]
    relative = optimizer.param_groups[0]["step_size"]
    assert relative == {"cap": 1e-2, "warmup_init": False}


def test_the_constructors_options_outweigh_the_variant_in_every_group():
    optimizer = made([parameter(3)], lr=0.1, variant="timm", scale_parameter=True)
    optimizer.add_param_group({"params": [parameter(3)], "lr": 0.2})
    assert [g["scale_parameter"] for g in optimizer.param_groups] == [True, True]


@pytest.mark.parametrize("name", variants.names())
def test_a_state_dict_loads_under_weights_only_and_goes_on(name):
    import torch

    def fresh():
        return made([("w", parameter(6, 5)), ("b", parameter(5))], lr=0.05, variant=name)

    one, other = fresh(), fresh()
    for _ in range(2):
        one.step()
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert plain(other.param_groups[0]) == plain(one.param_groups[0])
    for group in (one, other):
        group.add_param_group({"params": [("c", parameter(3))]})
    assert plain(other.param_groups[1]) == plain(one.param_groups[1])
    assert plain(one.param_groups[1]) == plain(one.param_groups[0])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_keep_the_variant(again):
    optimizer = again(made([parameter(3, 4)], variant="timm", weight_decay=0.1))
    optimizer.add_param_group({"params": [parameter(3)], "lr": 1e-3})
    group = optimizer.param_groups[1]
    assert not group["scale_parameter"]
    assert group["weight_decay"] == 0.1
    assert group["min_dim_size_to_factor"] == 17


def test_an_optimizer_of_before_variants_is_read():
    optimizer = made([parameter(3, 4)], lr=0.1, weight_decay=0.1)
    state = optimizer.__getstate__()
    del state["_variant"], state["_given"]
    again = object.__new__(type(optimizer))
    again.__setstate__(state)
    again.add_param_group({"params": [parameter(3)]})
    assert again.param_groups[1]["weight_decay"] == 0.1


def test_palms_decay_is_a_name_in_the_group_and_moves_with_the_step():
    import torch

    p = parameter(4, 4)
    p.grad = torch.zeros_like(p)
    optimizer = made([p], variant="palm", lr=1e-2)
    assert optimizer.param_groups[0]["weight_decay"] == {"schedule": "palm_decay"}
    for _ in range(2):
        optimizer.step()
    assert p[0, 0].item() == pytest.approx((1 - 1e-4) ** 2, rel=1e-6)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    optimizer.step()
    assert p[0, 0].item() == pytest.approx(0.5, rel=1e-3)
    for bad in ({"schedule": "other"}, {"name": "palm_decay"}, {}):
        with pytest.raises(af.ConfigError, match="palm_decay"):
            made([parameter(2)], weight_decay=bad)


def test_what_is_refused():
    with pytest.raises(af.ConfigError, match="Did you mean 'timm'"):
        made([parameter(2)], variant="tim")
    with pytest.raises(af.ConfigError, match="must be a name"):
        made([parameter(2)], variant=variants.timm)
    with pytest.raises(af.ConfigError, match="no default for lr"):
        made([parameter(2)], variant="flax")
    with pytest.raises(af.ConfigError, match=r"'timm': unknown option 'eps_scale'.*from_timm"):
        made([parameter(2)], variant="timm", eps_scale=1.0)
    with pytest.raises(af.ConfigError, match="rules are parameter groups"):
        made([parameter(2)], variant="timm", rules=[("b", {})])
    with pytest.raises(af.ConfigError, match="Did you mean 'variant'"):
        made([{"params": [parameter(2)], "variants": "timm"}])
    optimizer = made([parameter(2)])
    with pytest.raises(af.ConfigError, match="max_grad_norm"):
        optimizer.add_param_group({"params": [parameter(2)], "lr": 0.1, "variant": "palm"})
    assert len(optimizer.param_groups) == 1


def test_a_rate_may_be_a_tensor():
    import torch

    rate = torch.tensor(0.25)
    for name in variants.names():
        optimizer = made([parameter(3, 4)], lr=rate, variant=name, scale_parameter=False)
        (group,) = optimizer.param_groups
        relative = variants.get(name)(0.1).step_size
        assert group["lr"] is rate
        assert group["step_size"] == (relative and {"cap": None, "warmup_init": False})
