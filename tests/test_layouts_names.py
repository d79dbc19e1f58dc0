"""Names and axes of another model: what moves with them, and what cannot."""

import numpy as np
import pytest

import adafactor_core as af
from _layout_states import same, trained
from adafactor_core import interchange, layouts
from adafactor_core.interchange._arrays import numpy_array

NAMES = {
    "fc.weight": ("fc.kernel", (1, 0)),
    "conv.weight": ("conv.kernel", (2, 3, 1, 0)),
    "fc.bias": "fc.bias",
    "emb.weight": "emb.embedding",
}
SHAPES = {"fc.weight": (6, 4), "conv.weight": (5, 7, 3, 2), "fc.bias": (6,), "emb.weight": (9, 4)}
OPTIONS = [
    {},
    {"beta1": 0.9, "momentum_dtype": "float16"},
    {"factored": False, "beta1": 0.9},
    {"factored_dims": "largest"},
    {"rounding": "kahan"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_of_the_transposed_model_has_the_renamed_state(options, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    config = af.Config(lr=0.01, **options)
    params, state, record = trained(config, SHAPES, dtype=_dtype(dtype))
    other = {_new(n): x.transpose(_axes(n)) for n, x in params.items()}
    moved = layouts.reshaped(layouts.renamed(record, NAMES), config)
    assert moved.notes == ()
    there = interchange.state(moved, other, config)
    rng = np.random.default_rng(5)
    for _ in range(3):
        grads = {n: np.asarray(rng.normal(size=s), x.dtype) for (n, s), x in
                 zip(SHAPES.items(), (params[n] for n in SHAPES), strict=True)}  # fmt: skip
        turned = {_new(n): g.transpose(_axes(n)) for n, g in grads.items()}
        params, state = af.step(params, grads, state, config)
        other, there = af.step(other, turned, there, config)
    for n, x in params.items():
        a, b = (np.asarray(y, "f8") for y in (x.transpose(_axes(n)), other[_new(n)]))
        # Of 16-bit parameters a sum in another order may tip the last bit.
        assert np.max(np.abs(a - b)) / np.max(np.abs(b)) < {"float32": 1e-6}.get(dtype, 2.0**-8)


def _dtype(name):
    if name != "bfloat16":
        return name
    import ml_dtypes

    return ml_dtypes.bfloat16


def _new(name):
    new = NAMES[name]
    return new if isinstance(new, str) else new[0]


def _axes(name):
    new = NAMES[name]
    return range(len(SHAPES[name])) if isinstance(new, str) else new[1]


def test_every_slot_is_the_old_one_permuted():
    config = af.Config(beta1=0.9, factored_dims=(2, 3))
    _, _, record = trained(config, {"w": (5, 7, 3, 2)})
    axes = (2, 0, 3, 1)
    moved = layouts.renamed(record, {"w": ("x", axes)}).tensors[0]
    assert (moved.path, moved.shape) == ("x", (3, 5, 2, 7))
    assert (moved.row_axes, moved.col_axes) == ((0,), (2,))
    for slot, raw in record.tensors[0].slots.items():
        want = numpy_array(raw).transpose(axes)
        np.testing.assert_array_equal(numpy_array(moved.slots[slot]), want)


def test_there_and_back():
    _, _, record = trained(af.Config(beta1=0.9), SHAPES)
    back = layouts.renamed(layouts.renamed(record, NAMES), layouts.inverse(NAMES))
    same(back, record)


def test_a_function_and_rules():
    config = af.Config(beta1=0.9, rules=[("fc.*", {"momentum_on": "update"})])
    _, _, record = trained(config, {"fc.w": (4, 3), "out.w": (4, 3)})
    moved = layouts.renamed(record, lambda path: path.replace("fc", "dense"))
    assert [t.path for t in moved.tensors] == ["dense.w", "out.w"]
    assert moved.options["rules"] == [["dense.w", {"momentum_on": "update"}]]


def test_statistics_of_a_matrix_are_not_copied():
    def fail(start, stop):
        raise AssertionError("read")

    row, col = (interchange.Raw("float32", s, fail) for s in ((6, 1), (1, 4)))
    t = interchange.TensorRecord("w", (6, 4), "float32", (0,), (1,), {"row": row, "col": col})
    moved = layouts.renamed(interchange.Record(1, (t,)), {"w": ("w", (1, 0))}).tensors[0]
    assert moved.slots["row"].read is fail
    assert (moved.slots["row"].shape, moved.slots["col"].shape) == ((1, 6), (4, 1))


def test_refusals():
    _, _, record = trained(af.Config(beta1=0.9, momentum_dtype="int8"), {"a": (4, 3), "b": (3,)})
    with pytest.raises(af.TreeError, match="Without a new name: 'b'"):
        layouts.renamed(record, {"a": "x"})
    with pytest.raises(af.TreeError, match="not in the record: 'c'"):
        layouts.renamed(record, {"a": "x", "b": "y", "c": "z"})
    with pytest.raises(af.TreeError, match="'x' for two tensors"):
        layouts.renamed(record, {"a": "x", "b": "x"})
    with pytest.raises(af.ShapeError, match=r"'a' of shape \(4, 3\): \(0, 0\) is no order"):
        layouts.renamed(record, {"a": ("a", (0, 0)), "b": "b"})
    with pytest.raises(af.StateError, match="int8 momentum, whose scales"):
        layouts.renamed(record, {"a": ("a", (1, 0)), "b": "b"})
    stack = trained(af.Config(beta1=0.9, momentum_dtype="int8"), {"a": (2, 3, 200)})[2]
    moved = layouts.renamed(stack, {"a": ("a", (1, 0, 2))})
    scale = numpy_array(stack.tensors[0].slots["momentum_scale"]).transpose(1, 0, 2)
    np.testing.assert_array_equal(numpy_array(moved.tensors[0].slots["momentum_scale"]), scale)


# ---- torch and flax ----------------------------------------------------------------------------

TORCH = {
    "encoder.embed.weight": (11, 6),
    "encoder.layers.0.linear1.weight": (6, 6),
    "encoder.layers.0.linear1.bias": (6,),
    "encoder.layers.0.norm1.weight": (6,),
    "encoder.layers.0.norm1.bias": (6,),
    "encoder.layers.1.linear1.weight": (6, 6),
    "encoder.layers.1.linear1.bias": (6,),
    "encoder.layers.1.norm1.weight": (6,),
    "encoder.layers.1.norm1.bias": (6,),
    "head.weight": (4, 6),
    "stem.weight": (5, 3, 7, 2),
}
LINEN = {
    "encoder": {
        "embed": {"embedding": (11, 6)},
        **{
            f"layers_{k}": {
                "linear1": {"kernel": (6, 6), "bias": (6,)},
                "norm1": {"scale": (6,), "bias": (6,)},
            }
            for k in (0, 1)
        },
    },
    "head": {"kernel": (6, 4)},
    "stem": {"kernel": (7, 2, 3, 5)},
}


def params(tree):
    if isinstance(tree, dict):
        return {k: params(v) for k, v in tree.items()}
    return np.zeros(tree, "f4")


def test_conventions():
    flax = {"params": params(LINEN)}
    names = layouts.torch_to_flax(params({f"module.{k}": v for k, v in TORCH.items()}), flax)
    want = {
        "module.encoder.embed.weight": "params.encoder.embed.embedding",
        "module.head.weight": ("params.head.kernel", (1, 0)),
        "module.stem.weight": ("params.stem.kernel", (2, 3, 1, 0)),
    }
    for k in (0, 1):
        ours, theirs = f"module.encoder.layers.{k}", f"params.encoder.layers_{k}"
        want |= {
            f"{ours}.linear1.weight": (f"{theirs}.linear1.kernel", (1, 0)),
            f"{ours}.linear1.bias": f"{theirs}.linear1.bias",
            f"{ours}.norm1.weight": f"{theirs}.norm1.scale",
            f"{ours}.norm1.bias": f"{theirs}.norm1.bias",
        }
    assert names == want


def test_what_names_do_not_tell_shapes_may():
    torch = {"a.weight": np.zeros((4, 6)), "b.weight": np.zeros((5, 4)), "a.bias": np.zeros(4)}
    flax = {
        "Dense_0": {"kernel": np.zeros((6, 4)), "bias": np.zeros(4)},
        "Dense_1": {"kernel": np.zeros((4, 5))},
    }
    assert layouts.torch_to_flax(torch, flax) == {
        "a.weight": ("Dense_0.kernel", (1, 0)),
        "b.weight": ("Dense_1.kernel", (1, 0)),
        "a.bias": "Dense_0.bias",
    }


def test_ambiguity_is_refused_with_the_candidates():
    torch = {"a.weight": np.zeros((4, 6)), "b.weight": np.zeros((4, 6))}
    flax = {"Dense_0": {"kernel": np.zeros((6, 4))}, "Dense_1": {"kernel": np.zeros((6, 4))}}
    with pytest.raises(af.TreeError, match=r"'a.weight'.*'Dense_0.kernel'.*'Dense_1.kernel'"):
        layouts.torch_to_flax(torch, flax)
    both = {"e": {"kernel": np.zeros((6, 6)), "embedding": np.zeros((6, 6))}}
    with pytest.raises(af.TreeError, match=r"'e\.weight'.*'e\.embedding'.*'e\.kernel'"):
        layouts.torch_to_flax({"e.weight": np.zeros((6, 6))}, both)
    one = {"c": {"kernel": np.zeros((6, 4))}}
    with pytest.raises(af.TreeError, match=r"could be 'c\.kernel'"):
        layouts.torch_to_flax(torch, one)
    with pytest.raises(af.TreeError, match="could be none of the flax tree"):
        layouts.torch_to_flax(torch, {"a": {"kernel": np.zeros((6, 4))}})
    with pytest.raises(af.TreeError, match=r"flax tree has 'c.kernel'"):
        layouts.torch_to_flax({}, {"c": {"kernel": np.zeros((6, 4))}})


def test_name_maps_on_the_way():
    config = af.Config(beta1=0.9)
    params, state, record = trained(config, SHAPES)
    moved = layouts.renamed(record, NAMES)
    for names in (NAMES, NAMES.__getitem__):
        same(layouts.read(state, "adafactor_core", params, options=config, name_map=names), moved)
    other = {_new(n): x.transpose(_axes(n)) for n, x in params.items()}
    want = layouts.flat(layouts.write(moved, "mlx", params=other, arrays="numpy"))
    for names in (NAMES, NAMES.__getitem__):
        made = layouts.write(record, "mlx", params=other, arrays="numpy", name_map=names)
        assert made.keys() == want.keys()
        assert all(np.array_equal(made[key], want[key]) for key in want)
        told = layouts.losses(record, "keras", params=other, name_map=names)
        assert told == layouts.losses(moved, "keras", params=other)
        assert "fc.kernel" in told[0]
    with pytest.raises(af.TreeError, match=r"Without a new name: .*fc\.weight"):
        layouts.write(record, "mlx", name_map={"fc.bias": "x"})
    with pytest.raises(af.ShapeError, match="no order of its axes"):
        layouts.read(state, "adafactor_core", params, options=config,
                     name_map=lambda path: (path, (0, 0)))  # fmt: skip


def test_name_maps_start_from_the_old_names():
    config = af.Config()
    params, _, record = trained(config, SHAPES)
    back = layouts.inverse(NAMES)
    flat = layouts.write(record, "mlx", arrays="numpy", name_map=NAMES)
    new = {_new(n): x.transpose(_axes(n)) for n, x in params.items()}
    again = layouts.read(flat, "mlx", new, name_map=back)
    same(layouts.reshaped(again, config), record)
