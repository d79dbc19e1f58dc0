"""`python -m adafactor_core memory`: sizes against the states that the real optimizers make."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import adafactor_core as af
from adafactor_core._cli import main
from adafactor_core._memory import COLUMNS

SHAPES = {
    "embed": [300, 130],
    "tall": [[130, 128], "bfloat16"],
    "conv": [16, 8, 3, 3],
    "stack": [[3, 150, 200], "float32"],
    "below": [127, 200],
    "bias": [[33], "bfloat16"],
    "scalar": [],
    "one": [1, 50],
    "vector": [2000],
    "wide": [[20, 30], "float64"],
}


@pytest.fixture
def shapes(tmp_path):
    file = tmp_path / "shapes.json"
    file.write_text(json.dumps(SHAPES))
    return file


def parsed():
    for name, row in SHAPES.items():
        shape, dtype = row if row and isinstance(row[0], list) else (row, "float32")
        yield name, tuple(shape), dtype


def report(capsys, *words):
    status = main(["memory", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def refused(capsys, *words):
    status = main(["memory", *map(str, words)])
    out, err = capsys.readouterr()
    assert (status, out) == (2, ""), out
    return err


def column(found, name):
    return {t["path"]: t[name] for t in found["tensors"]}


def test_here_is_what_init_makes(shapes, capsys):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    words = ["beta1=0.9", "momentum_dtype=int8", "rounding=kahan", "min_dim_size_to_factor=2"]
    options = {"beta1": 0.9, "momentum_dtype": "int8", "rounding": "kahan"}
    kinds = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
    params = {name: np.zeros(shape, kinds[dtype]) for name, shape, dtype in parsed()}
    state = af.init(params, af.Config(min_dim_size_to_factor=2, **options))
    real = {
        name: sum(slot.nbytes for slot in moments if slot is not None)
        for name, moments in state.moments.items()
    }
    found = report(capsys, shapes, *(w for word in words for w in ("--set", word)))
    assert column(found, "here") == real
    assert found["totals"]["here"] == sum(real.values())
    assert found["parameters"] == sum(x.size for x in params.values())
    assert column(found, "param") == {name: x.nbytes for name, x in params.items()}


def torch_states(make):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = {n: torch.nn.Parameter(torch.ones(s, dtype=getattr(torch, d))) for n, s, d in parsed()}
    for x in params.values():
        x.grad = torch.ones_like(x)
    optimizer = make(torch, list(params.values()))
    optimizer.step()
    counters = {"step", "RMS"}
    return {
        name: sum(
            v.numel() * v.element_size()
            for k, v in optimizer.state[x].items()
            if k not in counters and torch.is_tensor(v)
        )
        for name, x in params.items()
    }


def hugging_face(torch, params):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    return transformers.optimization.Adafactor(params)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("Adam", lambda torch, params: torch.optim.AdamW(params)),
        ("torch.optim", lambda torch, params: torch.optim.Adafactor(params)),
        ("transformers", hugging_face),
    ],
    ids=["Adam", "torch.optim", "transformers"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_peers_are_what_they_make(name, make, shapes, capsys):
    assert column(report(capsys, shapes), name) == torch_states(make)


def test_optax_is_what_it_makes(shapes, capsys):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    jnp = pytest.importorskip("jax.numpy", reason="JAX is not installed")
    names = {name for name, _, dtype in parsed() if dtype != "float64"}  # JAX has none by default
    params = {name: jnp.zeros(shape, dtype) for name, shape, dtype in parsed() if name in names}
    factored = optax.adafactor(1e-2).init(params)[0]
    adam = optax.adam(1e-2).init(params)[0]
    real = {n: sum(t[n].nbytes for t in (factored.v_row, factored.v_col, factored.v))
            for n in params}  # fmt: skip
    found = report(capsys, shapes)
    columns = {c: {n: size for n, size in column(found, c).items() if n in names} for c in COLUMNS}
    assert columns["optax"] == real
    assert columns["Adam"] == {n: adam.mu[n].nbytes + adam.nu[n].nbytes for n in params}
    assert columns["Adam fp32"] == {n: 2 * 4 * x.size for n, x in params.items()}


def test_the_table_is_sorted_and_complete(shapes, capsys):
    assert main(["memory", str(shapes)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(SHAPES) + 2
    found = report(capsys, shapes)
    sizes = [t["here"] for t in found["tensors"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 3
    assert [line.split()[0] for line in lines[1:-1]] == [t["path"] for t in found["tensors"]]
    assert "only 1 axis to factor" in next(line for line in lines if line.startswith("bias"))
    main(["memory", str(shapes), "--top", "2"])
    short = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in short] == [
        "tensor", *(t["path"] for t in found["tensors"][:2]), "...", "total"
    ]  # fmt: skip
    assert short[-1].split() == lines[-1].split()  # totals are of all


def test_what_is_not_trained_is_named_and_not_counted(tmp_path, capsys):
    file = tmp_path / "s.json"
    file.write_text('{"w": [4, 5], "ids": [[9], "int64"]}')
    found = report(capsys, file)
    assert (found["left_out"], found["parameters"]) == ({"ids": "int64"}, 20)
    file.write_text('{"ids": [[9], "int64"]}')
    assert "no tensor of dtype" in refused(capsys, file)


def test_safetensors_needs_the_header_alone(tmp_path, capsys):
    head = json.dumps(
        {
            "w": {"dtype": "BF16", "shape": [1000, 500], "data_offsets": [0, 1_000_000]},
            "b": {"dtype": "F32", "shape": [7], "data_offsets": [1_000_000, 1_000_028]},
        }
    ).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        out.truncate(8 + len(head) + 1_000_028)
    found = report(capsys, file)
    assert column(found, "here") == {"w": 4 * 1500, "b": 28}
    assert column(found, "param") == {"w": 1_000_000, "b": 28}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,  # a header of 2**64 - 1 bytes
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        (9).to_bytes(8, "little") + b'{"a": NaN',
    ],
    ids=["empty", "huge", "beyond the file", "a list", "deep", "cut"],
)
def test_hostile_headers_are_refused(content, tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert f"{file} holds no shapes" in refused(capsys, file)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, -1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 8]},
        {"dtype": "NOPE", "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2]},
        [],
    ],
)
def test_hostile_entries_are_refused(entry, tmp_path, capsys):
    head = json.dumps({"w": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 8)
    assert f"{file} holds no shapes" in refused(capsys, file)


@pytest.mark.parametrize(
    "text",
    ["[1]", "{", '{"w": 3}', '{"w": [-1]}', '{"w": [true]}', '{"w": [[2], 3]}', '{"w": [1.5]}',
     '{"w": [2], "w": [3]}', "[" * 50_000, '{"w": [[2], "float32", 1]}', '{"w": null}'],
)  # fmt: skip
def test_bad_shapes_files_are_refused(text, tmp_path, capsys):
    file = tmp_path / "shapes.json"
    file.write_text(text)
    assert f"{file} holds no shapes" in refused(capsys, file)


def test_words_that_mean_nothing_are_refused(shapes, tmp_path, capsys):
    assert "Did you mean 'beta1'" in refused(capsys, shapes, "--set", "beta=0.9")
    assert "NAME=VALUE" in refused(capsys, shapes, "--set", "beta1")
    assert "twice" in refused(capsys, shapes, "--set", "beta1=0.9", "--set", "beta1=0.8")
    assert "momentum_dtype" in refused(capsys, shapes, "--set", "momentum_dtype=int3")
    assert "cannot be read" in refused(capsys, tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    assert "no regular file" in refused(capsys, tmp_path / "folder.json")
    for model in ("model", "a:", ":b", str(tmp_path)):
        assert "expected a JSON file of shapes" in refused(capsys, model)
    with pytest.raises(SystemExit, match="2"):
        main(["memory", str(shapes), "--top", "0"])


def test_a_variant_has_its_own_axes(shapes, capsys):
    found = column(report(capsys, shapes, "--variant", "transformers"), "here")
    assert found["conv"] == 4 * (16 * 8 * 3 + 16 * 8 * 3)
    given = ["--variant", "transformers", "--set", "factored_dims=auto"]
    assert column(report(capsys, shapes, *given), "here")["conv"] == 4 * 9 * (16 + 8)
    assert "no variant" in refused(capsys, shapes, "--variant", "nobody")


def test_rules_are_options_too(shapes, capsys):
    rules = "rules=[('embed', {'factored': False})]"
    assert column(report(capsys, shapes, "--set", rules), "here")["embed"] == 4 * 300 * 130


@pytest.fixture
def module(tmp_path, monkeypatch):
    def make(text):
        (tmp_path / "their_model.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        sys.modules.pop("their_model", None)
        return "their_model"

    yield make
    sys.modules.pop("their_model", None)


def test_a_torch_model_is_made_of_nothing(module, capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    name = module(
        "import torch\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(100_000, 50_000, bias=False)\n"  # 20 GB
        "        self.b = torch.nn.Linear(7, 3, dtype=torch.bfloat16)\n"
        "        self.tied = self.a\n"
    )
    status = main(["memory", f"{name}:Model", "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "importing their_model" in err
    assert "torch.device('meta')" in err
    found = json.loads(out)
    assert column(found, "here") == {"a.weight": 4 * 150_000, "b.weight": 40, "b.bias": 12}
    assert found["totals"]["param"] == 4 * 5_000_000_000 + 48


JAX_MODELS = {
    "tree": (
        "import jax, jax.numpy as jnp\n"
        "def make():\n"
        "    return {'layers': [{'w': jnp.zeros((100_000, 50_000)), 'b': jnp.zeros(5)}]}\n",
        {"layers.0.w": 600_000, "layers.0.b": 20},
    ),
    "linen": (
        "import jax, jax.numpy as jnp\nfrom flax import linen as nn\n"
        "def make():\n"
        "    return nn.Dense(50_000).init(jax.random.key(0), jnp.ones((1, 100_000)))\n",
        {"kernel": 600_000, "bias": 200_000},
    ),
    "nnx": (
        "from flax import nnx\n"
        "def make():\n"
        "    return nnx.Linear(100_000, 50_000, rngs=nnx.Rngs(0))\n",
        {"kernel": 600_000, "bias": 200_000},
    ),
    "equinox": (
        "import jax, equinox as eqx\n"
        "def make():\n"
        "    return eqx.nn.Linear(100_000, 50_000, key=jax.random.key(0))\n",
        {"weight": 600_000, "bias": 200_000},
    ),
}


@pytest.mark.parametrize("kind", JAX_MODELS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_jax_model_is_made_of_nothing(kind, module, capsys, monkeypatch):
    pytest.importorskip("jax", reason="JAX is not installed")
    if kind != "tree":
        pytest.importorskip({"equinox": "equinox"}.get(kind, "flax"))
    # As in a process of its own, where nothing has imported the others.
    for other in {"flax.nnx", "equinox"} - {"flax.nnx" * (kind in ("nnx", "linen")), kind}:
        monkeypatch.delitem(sys.modules, other, raising=False)
    text, expected = JAX_MODELS[kind]
    status = main(["memory", f"{module(text)}:make", "--json", "--framework", "jax"])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "importing their_model" in err
    assert "eval_shape" in err
    assert column(json.loads(out), "here") == expected


def test_code_that_fails_says_what_it_raised(module, capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    name = module("import torch\ndef make(n): ...\ndef other(): return 3\nx = 1\n")
    words = ["--framework", "torch"]
    assert "TypeError" in refused(capsys, f"{name}:make", *words)
    assert "returned a int" in refused(capsys, f"{name}:other", *words)
    assert "is a int, expected a function" in refused(capsys, f"{name}:x", *words)
    assert "AttributeError" in refused(capsys, f"{name}:none", *words)
    assert "ModuleNotFoundError" in refused(capsys, "no_such_module_here:make", *words)


def test_a_framework_that_is_missing_is_named(module, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    name = module("def make(): return 1\n")
    assert "--framework torch: import of torch" in refused(
        capsys, f"{name}:make", "--framework", "torch"
    )


def test_the_plot_is_a_picture(shapes, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    file = tmp_path / "plot.png"
    report(capsys, shapes, "--plot", file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "--plot" in refused(capsys, shapes, "--plot", tmp_path / "plot.nonsense")


def test_the_page_shows_what_is_printed(tmp_path, capsys):
    file = tmp_path / "shapes.json"
    file.write_text('{"embed": [32000, 512], "conv": [256, 256, 1, 1]}')
    assert main(["memory", str(file)]) == 0
    page = (Path(__file__).parent.parent / "docs/memory.md").read_text()
    missing = [x for x in capsys.readouterr().out.splitlines() if f"    {x}\n" not in page]
    assert missing == []


def test_help_is_the_commands_own(capsys):
    with pytest.raises(SystemExit):
        main(["memory", "--help"])
    assert "package.module:make" in capsys.readouterr().out
    assert COLUMNS[-1] == "here"
