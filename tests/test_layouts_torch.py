"""Formats of torch's optimizers, with those that are here, and torch files."""

import json

import numpy as np
import pytest

import adafactor_core as af
from _layout_states import same
from adafactor_core import interchange, layouts
from adafactor_core.interchange._arrays import numpy_array
from adafactor_core.layouts._main import main

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.backends("torch"),
    pytest.mark.usefixtures("torch_is_here"),
]


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
    )


def train(net, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator)
        optimizer.zero_grad()
        (net(x) - x[:, :2]).square().mean().backward()
        optimizer.step()


def grouped(net):
    """As trainers do: no decay of vectors. In this order a state dict counts."""
    wide = [p for p in net.parameters() if p.dim() > 1]
    return [
        {"params": wide, "weight_decay": 0.1},
        {"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]


def error(a, b):
    return max(
        float((x - y).abs().max() / y.abs().max())
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def ours(net, **options):
    from adafactor_torch import Adafactor

    return Adafactor(net.named_parameters(), **options)


@pytest.mark.parametrize("into", ["ours", "theirs"])
def test_torch_optim_and_ours(into):
    net = model()
    call = {"lr": 0.5, "weight_decay": 0.1}
    options = af.variants.options(af.variants.torch(**call))
    make = {
        "torch": lambda n: torch.optim.Adafactor(n.parameters(), **call),
        "adafactor_torch": lambda n: ours(n, **options),
    }
    first, second = list(make)[:: 1 if into == "ours" else -1]
    optimizer = make[first](net)
    train(net, optimizer, 5)
    there = model()
    there.load_state_dict(net.state_dict())
    record = layouts.read(optimizer.state_dict(), first, net)
    other = make[second](there)
    other.load_state_dict(
        layouts.write(record, second, other.state_dict(), params=layouts.torch_order(other, there))
    )
    train(net, optimizer, 5, seed=1)
    train(there, other, 5, seed=1)
    assert error(there, net) < 1e-6


def test_groups_change_the_order_and_torch_order_knows_it():
    transformers = pytest.importorskip("transformers")
    net = model()
    optimizer = transformers.Adafactor(grouped(net), beta1=0.9)
    train(net, optimizer, 3)
    order = layouts.torch_order(optimizer, net)
    assert [n for n, _ in order] == ["0.weight", "2.weight", "3.weight", "0.bias", "1.weight",
                                     "1.bias", "2.bias", "3.bias"]  # fmt: skip
    record = layouts.read(optimizer.state_dict(), "transformers", order)
    for t in record.tensors:
        p = net.get_parameter(t.path)
        m = numpy_array(t.slots["momentum"])
        np.testing.assert_array_equal(m, optimizer.state[p]["exp_avg"].numpy())
    with pytest.raises(af.StateError, match=r"'0.bias' of shape \(4,\): expected"):
        layouts.read(optimizer.state_dict(), "transformers", net)
    with pytest.raises(af.TreeError, match="parameter 0 of the optimizer"):
        layouts.torch_order(optimizer, model())


def test_names_in_the_groups_are_used():
    net = model()
    optimizer = torch.optim.Adafactor(list(net.named_parameters())[::-1])
    train(net, optimizer, 2)
    saved = optimizer.state_dict()
    record = layouts.read(saved, "torch", net)
    same(record, layouts.read(saved, "torch", layouts.torch_order(optimizer, net)))
    inferred = layouts.read(saved, "torch")
    same(record, inferred)
    assert inferred.notes == ()  # statistics have the dtype of the parameter
    with pytest.raises(af.StateError, match=r"Missing: 'x'; unknown: '0\.bias'"):
        layouts.read(saved, "torch", {"x": net[0].weight})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_is_seen_where_nobody_names_the_dtype(dtype):
    transformers = pytest.importorskip("transformers")
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 2)).to(dtype)
    optimizer = transformers.Adafactor(
        list(net.named_parameters()), lr=1e-3, relative_step=False, beta1=0.9
    )
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    record = layouts.read(optimizer.state_dict(), "transformers")
    same(record, layouts.read(optimizer.state_dict(), "transformers", net))
    assert {t.dtype for t in record.tensors} == {str(dtype).removeprefix("torch.")}
    assert bool(record.notes) == (dtype == torch.float32)  # as likely bfloat16


def test_a_checkpoint_around_the_state_dict():
    net = model()
    optimizer = torch.optim.Adafactor(net.parameters())
    train(net, optimizer, 2)
    saved = optimizer.state_dict()
    record = layouts.read(saved, "torch", net)
    for around in ({"optimizer": saved, "model": net.state_dict()}, {"optimizer_states": [saved]}):
        same(layouts.read(around, "torch", net), record)
    with pytest.raises(af.StateError, match="2 optimizers in it: 'a', 'b'"):
        layouts.read({"a": saved, "b": saved}, "torch", net)
    with pytest.raises(af.StateError, match="no optimizer's state"):
        layouts.read(net.state_dict(), "torch", net)


def test_options_of_our_own_groups_are_read():
    net = model().bfloat16()
    optimizer = ours(net, lr=1e-2, beta1=0.9, momentum_dtype="bfloat16", rounding="kahan",
                     factored_dims=(0, 1), nonfinite="skip_tensor")  # fmt: skip
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    saved = optimizer.state_dict()
    record = layouts.read(saved, "adafactor_torch", net)
    slots = {t.path: {s: r.dtype for s, r in t.slots.items()} for t in record.tensors}
    assert slots["0.weight"] == {"row": "float32", "col": "float32", "momentum": "bfloat16",
                                 "compensation": "bfloat16"}  # fmt: skip
    assert record.tensors[0].skipped == 0
    assert record.options["factored_dims"] == [[0], [1]]
    again = ours(model().bfloat16(), lr=1e-2, beta1=0.9, momentum_dtype="bfloat16",
                 rounding="kahan", factored_dims=(0, 1), nonfinite="skip_tensor")  # fmt: skip
    made = layouts.write(record, "adafactor_torch", again.state_dict())
    again.load_state_dict(made)
    for a, b in zip(saved["state"].values(), again.state_dict()["state"].values(), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert torch.equal(a[name], b[name]), name


def test_a_fresh_optimizer_says_whether_it_keeps_momentum():
    transformers = pytest.importorskip("transformers")
    net = model()
    plain, averaging = (transformers.Adafactor(net.parameters(), beta1=b) for b in (None, 0.9))
    train(net, plain, 2)
    train(net, averaging, 2)
    without, having = (
        layouts.read(o.state_dict(), "transformers", net) for o in (plain, averaging)
    )
    fresh = {b: transformers.Adafactor(net.parameters(), beta1=b).state_dict() for b in (None, 0.9)}
    with pytest.raises(af.StateError, match="momentum starts at 0"):
        layouts.write(without, "transformers", fresh[0.9], params=net)
    with pytest.raises(af.StateError, match="momentum is dropped"):
        layouts.write(having, "transformers", fresh[None], params=net)
    for record in (without, having):
        made = layouts.write(record, "transformers", fresh[0.9], params=net, momentum=False)
        assert not any(s["exp_avg"].any() for s in made["state"].values())
        made = layouts.write(record, "transformers", fresh[None], params=net, momentum=False)
        assert not any("exp_avg" in s for s in made["state"].values())


def frozen(net, optimizer, steps):
    """Without a gradient for 2.weight, 2.bias and 1.bias."""
    for name in ("2.weight", "2.bias", "1.bias"):
        net.get_parameter(name).requires_grad_(False)
    train(net, optimizer, steps)


def test_tensors_without_state_go_on_in_ours(tmp_path):
    transformers = pytest.importorskip("transformers")
    net = model()
    optimizer = transformers.Adafactor(net.parameters(), beta1=0.9)
    frozen(net, optimizer, 3)
    record = layouts.read(optimizer.state_dict(), "transformers", net)
    assert [t.path for t in record.tensors] == [n for n, _ in net.named_parameters()]
    found = {t.path: t for t in record.tensors}
    assert {p for p, t in found.items() if t.step == 0} == {"2.weight", "2.bias", "1.bias"}
    assert {p for p, t in found.items() if t.step is None} == found.keys() - {
        "2.weight", "2.bias", "1.bias"
    }  # fmt: skip
    new = found["2.weight"]
    assert (new.row_axes, new.col_axes) == (found["0.weight"].row_axes, found["0.weight"].col_axes)
    shapes = {s: (raw.dtype, raw.shape) for s, raw in new.slots.items()}
    assert shapes == {
        "row": ("float32", (4, 1)), "col": ("float32", (1, 4)), "momentum": ("float32", (4, 4))
    }  # fmt: skip
    interchange.write(tmp_path / "run.npz", record)
    there = model()
    there.load_state_dict(net.state_dict())
    options = af.variants.options(af.variants.transformers(beta1=0.9))
    other = ours(there, **options)
    other.load_state(tmp_path / "run.npz")
    for n in (net, there):
        n.requires_grad_(True)
    train(net, optimizer, 3, seed=1)
    train(there, other, 3, seed=1)
    assert error(there, net) < 1e-6


def test_tensors_without_state_stay_without_in_torch():
    transformers = pytest.importorskip("transformers")
    net = model()
    optimizer = transformers.Adafactor(net.parameters(), beta1=0.9)
    frozen(net, optimizer, 3)
    saved = optimizer.state_dict()
    record = layouts.read(saved, "transformers", net, step=3)  # told: theirs is 0 all the same
    assert [t.step for t in record.tensors].count(0) == 3
    for template in (None, transformers.Adafactor(net.parameters(), beta1=0.9).state_dict()):
        made = layouts.write(record, "transformers", template, params=net)
        assert made["state"].keys() == saved["state"].keys()
    stale = transformers.Adafactor(net.parameters(), beta1=0.9)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    stale.step()
    made = layouts.write(record, "transformers", stale.state_dict(), params=net)
    assert not made["state"][4]["exp_avg"].any()
    assert made["state"][4]["step"] == 0
    # Elsewhere there is one number for all, unless they are masked.
    with pytest.raises(af.StateError, match="it has taken 0 steps, others 3"):
        layouts.write(record, "mlx")
    trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
    assert "2.weight.exp_avg" not in layouts.write(record, "mlx", params=trained)
    all_at_once = layouts.read(saved, "transformers", net)
    assert [t.step for t in all_at_once.tensors] == [t.step for t in record.tensors]


@pytest.mark.parametrize("buffer", ["float32", "bfloat16", "int8"])
def test_tensors_without_state_of_our_own(buffer, tmp_path):
    options = {"lr": 1e-2, "beta1": 0.9, "momentum_dtype": buffer, "rounding": "kahan",
               "nonfinite": "skip_tensor"}  # fmt: skip
    net = model().bfloat16()
    optimizer = ours(net, **options)
    for name, p in net.named_parameters():
        if not name.startswith("2"):
            p.grad = torch.randn_like(p)
    optimizer.step()
    optimizer.save_state(tmp_path / "run.npz")
    same(
        layouts.read(optimizer.state_dict(), "adafactor_torch", net),
        interchange.read(tmp_path / "run.npz"),
    )


def test_groups_with_options_of_their_own():
    def make(net):
        from adafactor_torch import Adafactor

        def pairs(wide):
            return [(n, p) for n, p in net.named_parameters() if (p.dim() > 1) == wide]

        return Adafactor(
            [
                {"params": pairs(False)},
                {"params": pairs(True)[:1], "factored_dims": [[1], [0]], "lr": 0.5},
                {"params": pairs(True)[1:], "factored": False, "beta1": None},
            ],
            lr=0.1,
            beta1=0.9,
        )

    net = model()
    optimizer = make(net)
    train(net, optimizer, 2)
    record = layouts.read(optimizer.state_dict(), "adafactor_torch", net)
    found = {t.path: (t.row_axes, set(t.slots)) for t in record.tensors}
    assert found["0.bias"] == ((), {"full", "momentum"})
    assert found["0.weight"] == ((1,), {"row", "col", "momentum"})
    assert found["2.weight"] == found["3.weight"] == ((), {"full"})
    there = model()
    there.load_state_dict(net.state_dict())
    again = make(there)
    again.load_state_dict(layouts.write(record, "adafactor_torch", again.state_dict()))
    train(net, optimizer, 2, seed=1)
    train(there, again, 2, seed=1)
    assert error(there, net) == 0.0


def test_least_sizes_of_timm_groups():
    v = torch.ones(5, 4, 3, 3)
    full, conv = {"step": 2, "exp_avg_sq": v}, {
        "step": 2, "exp_avg_sq_row": torch.ones(5, 3, 3), "exp_avg_sq_col": torch.ones(4, 3, 3),
    }  # fmt: skip
    saved = {
        "state": {0: full, 1: conv},
        "param_groups": [
            {"params": [0], "min_dim_size_to_factor": 16},
            {"params": [1], "min_dim_size_to_factor": 3},
        ],
    }
    record = layouts.read(saved, "timm", {"a": v, "b": v})
    assert [t.row_axes for t in record.tensors] == [(), (0,)]
    assert record.options["min_dim_size_to_factor"] == 17
    assert record.options["rules"] == [["b", {"min_dim_size_to_factor": 4}]]
    fresh = {"state": {}, "param_groups": saved["param_groups"]}
    made = layouts.write(record, "timm", fresh, params={"a": v, "b": v})
    assert made["state"][1]["exp_avg_sq_col"].shape == (4, 3, 3)
    assert made["state"][0].keys() == {"step", "exp_avg_sq"}


def test_loading_keeps_float32_state_of_bfloat16_parameters():
    transformers = pytest.importorskip("transformers")
    net = model().bfloat16()
    call = {"lr": 1e-2, "relative_step": False, "beta1": 0.9}
    optimizer = transformers.Adafactor(net.parameters(), weight_decay=0.1, **call)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    record = layouts.read(optimizer.state_dict(), "transformers", net)
    again = transformers.Adafactor(net.parameters(), weight_decay=0.3, **call)
    # With no template the groups have ids and names alone: the rest is the optimizer's own.
    layouts.load_torch(again, layouts.write(record, "transformers", params=net))
    assert again.param_groups[0]["weight_decay"] == 0.3
    for p in net.parameters():
        one, two = optimizer.state[p], again.state[p]
        for name in one.keys() - {"RMS", "step"}:
            assert two[name].dtype == torch.float32
            assert torch.equal(one[name], two[name])
        p.grad = torch.randn_like(p)
    again.step()


def full(name, **options):
    return getattr(af.variants, name)(**options)


KNOWN = {
    "torch": ("torch", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "torch, clamped": ("torch", {"lr": 0.5, "eps1": 1e-9, "eps1_mode": "clamp"}),
    "transformers": ("transformers", {"beta1": 0.9, "eps2": 1e-2, "step_size": af.RelativeStep()}),
    "transformers, lr": ("transformers", {"lr": 0.1, "step_size": None, "decay_rate": 0.7}),
    "timm": ("timm", {"lr": 0.1, "step_size": None, "scale_parameter": False, "beta1": 0.9}),
    "timm, relative": ("timm", {"step_size": af.RelativeStep(warmup_init=True)}),
    "ours": ("adafactor_torch", {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.2}),
    "ours, relative": ("adafactor_torch", {"step_size": af.RelativeStep(cap=0.5)}),
}


@pytest.mark.parametrize("case", list(KNOWN))
def test_groups_are_whole_where_the_options_are_known(case):
    """The optimizer that loads such a state dict as ever goes on as ours does."""
    name, options = KNOWN[case]
    if name == "adafactor_torch":
        config, theirs = af.Config(**options), ours_of
    else:
        config = full(name, **options)
        module = pytest.importorskip({"torch": "torch.optim", "timm": "timm.optim"}.get(name, name))
        theirs = module.Adafactor
    net = model()
    mine = ours(net, **af.variants.options(config))
    train(net, mine, 3)
    record = layouts.read(mine.state_dict(), "adafactor_torch", net)
    for given in (config, options):
        there = model()
        there.load_state_dict(net.state_dict())
        other = theirs(list(there.named_parameters()))
        fresh = other.state_dict()["param_groups"][0]
        made = layouts.write(record, name, params=net, options=given)
        assert made["param_groups"][0].keys() >= fresh.keys() - {"capturable"}
        other.load_state_dict(made)
        here = model()
        here.load_state_dict(net.state_dict())
        again = ours(here, **af.variants.options(config))
        again.load_state_dict(mine.state_dict())
        train(here, again, 3, seed=1)
        train(there, other, 3, seed=1)
        assert error(there, here) < 1e-6


def ours_of(pairs):
    from adafactor_torch import Adafactor

    return Adafactor(pairs)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("torch", None),
        ("transformers", {"beta1": None, "eps2": 1e-2}),
        ("torch", {"weight_decay": 0.1}),  # nobody has said the rate
        ("torch", af.Config(lr=0.1)),  # which is not what torch.optim does
        ("transformers", af.Config(lr=0.1, rules=[("*", {"lr": 0.2})])),
        ("transformers", full("transformers", seed=3)),
        ("torch", full("torch", lr=0.1, decay_rate=lambda t: 0.5)),
        ("transformers", full("transformers", lr=0.1, decay_type="adam", decay_rate=0.9)),
        ("timm_bigvision", {"lr": 0.1}),
        ("adafactor_torch", {"weight_decay": 0.1}),
        ("adafactor_torch", af.Config(lr=lambda t: 0.1)),
    ],
)
def test_groups_stay_bare_where_something_is_not_known(name, given):
    net = model()
    optimizer = torch.optim.Adafactor(net.parameters())
    train(net, optimizer, 2)
    record = layouts.read(optimizer.state_dict(), "torch", net)
    made = layouts.write(record, name, params=net, options=given, approximate=True)
    assert made["param_groups"][0].keys() == {"params", "param_names"}


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Files of a run of torch.optim: its checkpoint, its model, its parameters."""
    monkeypatch.chdir(tmp_path)
    net = model()
    optimizer = torch.optim.Adafactor(net.parameters())
    train(net, optimizer, 3)
    torch.save({"optimizer": optimizer.state_dict(), "epoch": 1}, "run.pt")
    torch.save(net.state_dict(), "model.pt")
    rows = {n: [list(p.shape), "float32"] for n, p in net.named_parameters()}
    (tmp_path / "params.json").write_text(json.dumps(rows))
    names = {n: [n.replace("weight", "kernel"), [1, 0]] if len(s) == 2 else n
             for n, (s, _) in rows.items()}  # fmt: skip
    (tmp_path / "names.json").write_text(json.dumps(names))
    return layouts.read(optimizer.state_dict(), "torch", net)


def run(line):
    return main(line.split())


@pytest.mark.parametrize("params", ["params.json", "model.pt"])
@pytest.mark.parametrize("end", ["safetensors", "npz"])
def test_convert_to_a_state_file_and_back(saved, params, end, capsys):
    assert run(f"run.pt out.{end} --from torch --params {params}") == 0
    assert f"out.{end}: 8 tensors, 3 steps" in capsys.readouterr().out
    same(interchange.read(f"out.{end}"), saved)
    assert run(f"out.{end} again.pt --to torch --to-params {params}") == 0
    theirs = torch.load("again.pt")
    before = torch.load("run.pt")["optimizer"]
    for k, slots in before["state"].items():
        assert slots.keys() == theirs["state"][k].keys()
        for name, x in slots.items():
            assert x.dtype == theirs["state"][k][name].dtype
            assert torch.equal(x, theirs["state"][k][name])
    assert run(f"out.{end} again.pt --to torch --like run.pt --to-params {params}") == 0
    assert torch.load("again.pt")["param_groups"] == before["param_groups"]


def test_convert_to_flat_optax(saved, capsys):
    line = "run.pt optax.npz --from torch --to optax --params params.json --name-map names.json"
    assert run(line) == 1
    assert "cannot be converted exactly" in capsys.readouterr().err
    assert run(line + " --approximate") == 0
    assert "approximated: its second moment is rebuilt" in capsys.readouterr().err
    small = ["--to-options", '{"min_dim_size_to_factor": 1}']
    assert main([*line.split(), *small]) == 0
    assert capsys.readouterr().err == ""
    with np.load("optax.npz") as found:
        assert found["0.count"] == 3
        assert found["0.v_row.0.kernel"].shape == (4,)
    assert run("optax.npz back.npz --from optax --params nowhere.json") == 1
    assert "No such file" in capsys.readouterr().err
    assert run("run.pt named.npz --from torch --params params.json --name-map names.json") == 0
    back = ["--from", "optax", "--from-options", '{"min_dim_size_to_factor": 1}']
    assert main(["optax.npz", "back.npz", *back, "--params", "named.npz"]) == 0
    last = layouts.reshaped(interchange.read("back.npz"), af.Config(factored_dims=(1, 0)))
    same(last, interchange.read("named.npz"))


def test_order_is_asked_for_where_it_is_lost(saved, capsys):
    net = model()
    arrays = {n: p.detach().numpy() for n, p in net.named_parameters()}
    np.savez("model.npz", **arrays)
    assert run("run.pt out.npz --from torch --params model.npz") == 1
    assert "does not keep the order" in capsys.readouterr().err
    assert run("run.pt out.npz --from torch --params params.json") == 0
    assert run("out.npz x.pt --to torch") == 1
    assert "position alone" in capsys.readouterr().err


def test_groups_without_options_are_said_to_be_so(saved, capsys):
    assert run("run.pt bare.pt --from torch --to torch --params params.json") == 0
    told = capsys.readouterr().err
    assert told.startswith("note: the groups of OUT hold no options")
    assert "layouts.load_torch(optimizer, state)" in told
    net = model()
    optimizer = torch.optim.Adafactor(net.parameters(), lr=0.5)
    layouts.load_torch(optimizer, torch.load("bare.pt"))
    assert optimizer.param_groups[0]["lr"] == 0.5
    train(net, optimizer, 1)
    line = "run.pt whole.pt --from torch --to torch --params params.json --like run.pt"
    assert run(line) == 0
    assert capsys.readouterr().err == ""


def test_the_command_fills_groups_of_known_options(saved, capsys):
    line = "run.pt out.pt --from torch --to torch --params params.json --to-options"
    assert run(line + ' {"lr":0.25,"weight_decay":0.5}') == 0
    assert capsys.readouterr().err == ""
    net = model()
    optimizer = torch.optim.Adafactor(net.parameters())
    optimizer.load_state_dict(torch.load("out.pt"))
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["d"] == 1.0
    train(net, optimizer, 1)


def test_notes_are_no_approximations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    transformers = pytest.importorskip("transformers")
    net = model()
    optimizer = transformers.Adafactor(list(net.named_parameters()), beta1=0.9)
    train(net, optimizer, 2)
    torch.save(optimizer.state_dict(), "run.pt")
    assert run("run.pt run.npz --from transformers") == 0
    assert capsys.readouterr().err.startswith("note: dtypes of parameters are taken for float32")
    line = "run.pt out.pt --from transformers --to torch --approximate"
    assert run(line) == 0
    told = capsys.readouterr().err.splitlines()
    assert [x.split()[0] for x in told] == ["note:", "note:", "approximated:"]
    assert "momentum is dropped" in told[2]


class Evil:
    def __reduce__(self):
        return eval, ("1/0",)


def test_damaged_and_hostile_files(saved, tmp_path, capsys):
    whole = (tmp_path / "run.pt").read_bytes()
    for size in (0, 10, 1000, len(whole) - 20):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        assert run("cut.pt out.npz --from torch --params params.json") == 1
        assert "is no torch file that can be read" in capsys.readouterr().err
    torch.save({"state": Evil(), "param_groups": []}, "evil.pt")
    assert run("evil.pt out.npz --from torch --params params.json") == 1
    assert "weights_only" in capsys.readouterr().err
    for text in ("{", "[1, 2]", '{"a": 3}', '{"a": [[-1], "float32"]}', '[["a", [1], 2]]'):
        (tmp_path / "bad.json").write_text(text)
        assert run("run.pt out.npz --from torch --params bad.json") == 1
        assert "bad.json" in capsys.readouterr().err
    for text in ('{"0.weight": 3}', '{"0.weight": ["a", "b"]}', "[]"):
        (tmp_path / "bad.json").write_text(text)
        line = "run.pt out.npz --from torch --params params.json --name-map bad.json"
        assert run(line) == 1
        assert "bad.json" in capsys.readouterr().err
    assert run("run.pt out.npz --from torch --params run.pt") == 1
    assert "no arrays of floats" in capsys.readouterr().err
    assert run("run.pt out.pt --from torch --params params.json") == 1
    assert "ends in .safetensors or .npz" in capsys.readouterr().err
    assert run("run.npz out.npz --from torch --params params.json") == 1
    assert "end in .pt, .pth or .bin" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("line", ["a", "a b --from nothing", "a b --to-options 3", "a b --step x"])
def test_wrong_usage(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(line)
    assert stopped.value.code == 2


def test_a_failed_conversion_leaves_the_old_file(saved, tmp_path):
    for name in ("old.npz", "old.pt"):
        (tmp_path / name).write_bytes(b"old")
    assert run("run.pt old.npz --from torch --to optax --params params.json") == 1
    assert run("run.pt old.pt --from torch --to timm_bigvision --params params.json") == 1
    assert (tmp_path / "old.npz").read_bytes() == b"old"
    assert (tmp_path / "old.pt").read_bytes() == b"old"
