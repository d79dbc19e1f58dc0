"""Checkpoint formats: what is where, exact ways there and back, and every refusal."""

import sys
import tracemalloc
from collections import namedtuple
from dataclasses import dataclass, replace

import numpy as np
import pytest

import adafactor_core as af
from _layout_states import SHAPES, Ema, Empty, Factored, mean, same, squares, trained
from adafactor_core import interchange, layouts
from adafactor_core.interchange import Raw, Record, TensorRecord
from adafactor_core.interchange._arrays import numpy_array, zeros
from adafactor_core.interchange._arrays import raw_of as raw
from adafactor_core.interchange._raw import CHUNK, computed
from adafactor_core.layouts._main import main
from adafactor_core.layouts._numbers import converted

FLOAT = {"factored_dims": "last"}


def array(record, path, slot):
    return numpy_array(next(t for t in record.tensors if t.path == path).slots[slot])


def axes(record, path):
    found = next(t for t in record.tensors if t.path == path)
    return found.row_axes, found.col_axes


def config_of(name, **more):
    """The options that a format's states have, small axes included."""
    fmt, own = layouts.FORMATS[name], layouts.meaning(name)
    floor = {} if fmt.ours else {"min_dim_size_to_factor": 1}
    beta = {"beta1": 0.9} if "momentum" in fmt.factored else {}
    return af.Config(lr=0.1, **{**own, **floor, **beta, "momentum_arithmetic": "float32", **more})


@pytest.mark.parametrize("name", [n for n in layouts.FORMATS if n != "adafactor8bit"])
def test_every_format_gives_back_the_bits_that_it_was_given(name, tmp_path):
    config = config_of(name)
    if config.momentum_dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    params, _, record = trained(config)
    made = layouts.write(record, name, params=params, options=config, arrays="raw")
    shapes = {path: (x.shape, str(x.dtype)) for path, x in params.items()}
    step = None if layouts.FORMATS[name].counters else record.step
    found = layouts.read(made, name, shapes, options=config, step=step)
    same(found, record)
    interchange.write(tmp_path / "state.npz", found)  # checks it, too
    same(interchange.read(tmp_path / "state.npz"), record)
    with pytest.raises(af.StateError):  # the same shapes, other tensors
        layouts.read(made, name, {"other": ((9, 9), "float32")}, options=config, step=step)


@pytest.mark.parametrize("name", ["torch", "timm_bigvision", "optax", "keras", "mlx"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bits_of_16_bit_statistics_come_back(name, dtype):
    pytest.importorskip("ml_dtypes")
    config = config_of(name, beta1=None)
    shapes = {n: (s, dtype) for n, s in SHAPES.items()}
    _, _, record = trained(config)
    record = _as_dtype(record, dtype)
    first = layouts.write(
        record, name, params=shapes, options=config, arrays="raw", approximate=True
    )
    again = layouts.read(first, name, shapes, options=config)
    assert all(r.dtype == "float32" for t in again.tensors for r in t.slots.values())
    second = layouts.write(again, name, params=shapes, options=config, arrays="raw")
    one, two = layouts.flat(first), layouts.flat(second)
    assert one.keys() == two.keys()
    narrow = 0
    for key, x in one.items():
        if hasattr(x, "bytes"):
            narrow += x.dtype == dtype
            assert (x.dtype, x.shape) == (two[key].dtype, two[key].shape)
            assert bytes(x.bytes()) == bytes(two[key].bytes()), key
    assert narrow >= len(SHAPES)


def _as_dtype(record, dtype):
    return replace(record, tensors=tuple(replace(t, dtype=dtype) for t in record.tensors))


def test_optax_drops_the_largest_axis_first():
    v = {n: squares(SHAPES[n]) for n in ("tall", "wide", "square", "vector", "thin")}
    small = np.zeros(1, "float32")
    state = (
        Empty(),
        Factored(
            np.int32(4),
            {
                "tall": mean(v["tall"], 0),
                "wide": mean(v["wide"], 1),
                "square": mean(v["square"], 1),  # of equals the later one is the larger
                "thin": mean(v["thin"], 2),
                "vector": small,
            },
            {
                "tall": mean(v["tall"], 1),
                "wide": mean(v["wide"], 0),
                "square": mean(v["square"], 0),
                "thin": mean(v["thin"], 0),
                "vector": small,
            },
            {n: x if n == "vector" else small for n, x in v.items()},
        ),
    )
    record = layouts.read(state, "optax", v, options={"min_dim_size_to_factor": 2})
    assert record.step == 4
    assert axes(record, "tall") == ((1,), (0,))
    assert axes(record, "wide") == ((0,), (1,))
    assert axes(record, "square") == ((0,), (1,))
    assert axes(record, "thin") == ((0,), (2,))
    last = layouts.reshaped(_without(record, "thin"), af.Config(factored_dims="last"))
    for name in ("tall", "wide", "square"):
        # Whatever they are called, rows are indexed by axis 0 here.
        np.testing.assert_array_equal(array(last, name, "row")[:, 0], mean(v[name], 1))
        np.testing.assert_array_equal(array(last, name, "col")[0], mean(v[name], 0))
    np.testing.assert_array_equal(array(last, "vector", "full"), v["vector"])


def _without(record, *paths):
    return replace(record, tensors=tuple(t for t in record.tensors if t.path not in paths))


def test_on_a_tie_mesh_tensorflow_has_rows_and_columns_the_other_way_round():
    v = squares((6, 6))
    state = {"w_slot_vr": mean(v, 0), "w_slot_vc": mean(v, 1), "global_step": np.int64(3)}
    record = layouts.read(state, "mesh_tensorflow", {"w": v}, options={"min_dim_size_to_factor": 2})
    assert axes(record, "w") == ((1,), (0,))
    made = layouts.write(record, "optax", options={"min_dim_size_to_factor": 2}, arrays="numpy")
    np.testing.assert_array_equal(made["0.v_row.w"], mean(v, 1))
    np.testing.assert_array_equal(made["0.v_col.w"], mean(v, 0))


def test_what_a_checkpoint_that_was_made_with_smaller_axes_shows():
    v = squares((7, 5))
    state = Factored(np.int32(1), {"w": mean(v, 0)}, {"w": mean(v, 1)}, {"w": np.zeros(1, "f4")})
    assert axes(layouts.read(state, "optax", {"w": v}), "w") == ((1,), (0,))


def test_placeholders_are_not_taken_for_statistics():
    small = np.zeros(1, "float32")
    v = {"one": squares((1,)), "ones": squares((1, 1)), "flat": squares((1, 7))}
    state = Factored(np.int32(1), dict.fromkeys(v, small), dict.fromkeys(v, small), v)
    record = layouts.read(state, "optax", v)
    for name, x in v.items():
        assert axes(record, name) == ((), ())
        np.testing.assert_array_equal(array(record, name, "full"), x)


def test_flax_momentum_of_one_element_is_told_from_its_placeholder():
    small = np.zeros(1, "float32")
    for m, there in ((np.ones(3, "f4"), True), (small, False)):
        leaves = {
            "b": {"v_row": small, "v_col": small, "v": squares((3,)), "m": m},
            "s": {"v_row": small, "v_col": small, "v": squares((1,)), "m": small + 2},
        }
        params = {"b": squares((3,)), "s": squares((1,))}
        state = {"state": {"step": np.int32(2), "param_states": leaves}, "target": params}
        record = layouts.read(state, "t5x", params)
        assert ["momentum" in t.slots for t in record.tensors] == [there, there]


@pytest.mark.parametrize("wrap", ["chain", "inject", "multi"])
def test_containers_around_an_optax_state_make_no_difference(wrap):
    v = {"a": squares((3,)), "b": squares((4,))}
    small = dict.fromkeys(v, np.zeros(1, "f4"))
    inner = (Factored(np.int32(7), small, small, v), Empty(), Ema(np.int32(7), v))
    inject = namedtuple_of("Inject", count=np.int32(7), hyperparams={"lr": 0.1}, inner_state=inner)
    half = {n: (Factored(np.int32(7), {n: small[n]}, {n: small[n]}, {n: v[n]}),) for n in v}
    state = {
        "chain": (Empty(), (inner, Empty())),
        "inject": inject,
        "multi": namedtuple_of("Partition", inner_states=half),
    }[wrap]
    record = layouts.read(state, "optax", v)
    assert record.step == 7
    assert [("momentum" in t.slots) for t in record.tensors] == [wrap != "multi"] * 2
    made = layouts.write(record, "optax", state)
    assert type(made) is type(state)
    one, two = layouts.flat(state), layouts.flat(made)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)


def namedtuple_of(name, **fields):
    return namedtuple(name, fields)(**fields)


def test_a_state_that_is_there_twice_is_refused():
    v = {"a": squares((3,))}
    small = dict.fromkeys(v, np.zeros(1, "f4"))
    one = Factored(np.int32(7), small, small, v)
    with pytest.raises(af.StateError, match="'a' is in the state more than once"):
        layouts.read((one, one), "optax", v)


def test_parameters_that_are_called_like_slots():
    v = {n: {"w": squares((3,)) + k} for k, n in enumerate(("v", "v_row", "ema", "moments"))}
    v["w"] = squares((3,))
    small = {n: {"w": np.zeros(1, "f4")} for n in v if n != "w"} | {"w": np.zeros(1, "f4")}
    state = (Factored(np.int32(7), small, small, v), Ema(np.int32(7), v))
    record = layouts.read(state, "optax", v)
    for path, x in layouts.flat(v).items():
        np.testing.assert_array_equal(array(record, path, "full"), x)
        np.testing.assert_array_equal(array(record, path, "momentum"), x)
    config = af.Config(beta1=0.9, factored=False)
    ours = interchange.state(record, v, config)
    same(layouts.read({"opt": ours}, "adafactor_core", v, options=config), record)


def test_a_parameter_that_is_called_count():
    v, small = {"count": squares((3,))}, {"count": np.zeros(1, "f4")}
    record = layouts.read(Factored(np.int32(7), small, small, v), "optax", v)
    assert record.step == 7
    np.testing.assert_array_equal(array(record, "count", "full"), v["count"])


def test_counters_that_disagree_need_an_answer():
    v = {"a": squares((3,))}
    small = dict.fromkeys(v, np.zeros(1, "f4"))
    state = (Factored(np.int32(7), small, small, v), Ema(np.int32(5), v))
    with pytest.raises(af.StateError, match=r"counted 5 steps, and others 7.*Pass step"):
        layouts.read(state, "optax", v)
    assert layouts.read(state, "optax", v, step=7).step == 7
    record = layouts.read(state, "optax", v, approximate=True)
    assert record.step == 7
    assert "counted 5 steps" in record.notes[0]


@pytest.mark.parametrize("count", [-1, 1.5, np.int32(-3), np.zeros(2), "3", True, float("nan")])
def test_what_is_no_number_of_steps(count):
    v = {"a": squares((3,))}
    state = {"step": count, "a": {"exp_avg_sq": v["a"]}}
    with pytest.raises(af.DTypeError, match="'step' should be the number of completed steps"):
        layouts.read(state, "mlx", v)


def test_a_state_without_steps_needs_them():
    v = squares((3,))
    with pytest.raises(af.StateError, match="Pass step"):
        layouts.read([[v]], "trax", {"a": v})
    assert layouts.read([[v]], "trax", {"a": v}, step=3).step == 3


def test_trax_counts_leaves_in_the_order_of_a_sorted_tree():
    a, b = squares((3,)), squares((4,))
    record = layouts.read([[a], [b]], "trax", {"b": b, "a": a}, step=1)
    np.testing.assert_array_equal(array(record, "a", "full"), a)


def test_of_other_parameters():
    v = squares((7, 5))
    state = {"step": 1, "w": {"exp_avg_sq_row": mean(v, 1), "exp_avg_sq_col": mean(v, 0)}}
    with pytest.raises(af.StateError, match=r"'w' of shape \(7, 6\): expected rows of"):
        layouts.read(state, "mlx", {"w": np.zeros((7, 6), "f4")})
    with pytest.raises(af.StateError, match="nothing for any of 'other'"):
        layouts.read(state, "mlx", {"other": v})
    with pytest.raises(af.StateError, match="parameters are needed"):
        layouts.read(state, "mlx")
    with pytest.raises(af.DTypeError, match="has dtype int32"):
        layouts.read(state, "mlx", {"w": np.zeros((7, 5), "i4")})


def test_names_of_formats_and_options():
    with pytest.raises(af.ConfigError, match="Did you mean 'transformers'"):
        layouts.read({}, "transformer", {})
    one = {"step": 1, "a": {"exp_avg_sq": squares((3,))}}
    for given, told in {
        "min_dim_size": r"unknown option 'min_dim_size'\. Did you mean",
        "foo": r"unknown option 'foo'\. Options: ",
        "relative_step": r"unknown option 'relative_step'\. It is a word of",
    }.items():
        with pytest.raises(af.ConfigError, match=told):
            layouts.read(one, "mlx", {"a": squares((3,))}, options={given: 1})


def test_a_relative_step_as_json_has_it():
    one, v = {"step": 1, "a": {"exp_avg_sq": squares((3,))}}, {"a": squares((3,))}
    for given in ({"cap": None}, {"cap": 0.5, "warmup_init": True}, None):
        step = given if given is None else af.RelativeStep(**given)
        read = [layouts.read(one, "mlx", v, options={"lr": 0.1, "step_size": s})
                for s in (given, step)]  # fmt: skip
        assert read[0].options == read[1].options
        assert read[0].options.get("step_size") == (given and {"warmup_init": False, **given})
    for wrong in ({"cop": 1}, {3: 1}):
        with pytest.raises(af.ConfigError, match="step_size has the unknown entry"):
            layouts.read(one, "mlx", v, options={"step_size": wrong})
    with pytest.raises(af.ConfigError, match="step_size must be None or RelativeStep"):
        layouts.read(one, "mlx", v, options={"step_size": 3})
    with pytest.raises(af.ConfigError, match="unknown option"):
        layouts.read(one, "mlx", v, options={"rules": [("a", {"foo": 1})]})


def test_quantised_momentum_is_refused():
    v = {"a": squares((3,))}
    small = dict.fromkeys(v, np.zeros(1, "f4"))
    state = {"count": 1, "vr": small, "vc": small, "v": v, "m": {"a": np.zeros(3, "i1")}}
    with pytest.raises(af.StateError, match=r"'a': 'm\.a' is int8, quantised"):
        layouts.read(state, "praxis", v)


# ---- what cannot be converted exactly ----------------------------------------------------------


def losing(record, name, message, **given):
    """It raises; approximately it is done, and said."""
    with pytest.raises(af.StateError, match=message):
        layouts.write(record, name, **given)
    told = layouts.losses(record, name, **given)
    assert len(told) == 1
    return layouts.write(record, name, approximate=True, arrays="numpy", **given), told[0]


def test_a_factored_moment_becomes_a_full_one_only_approximately():
    v = squares((7, 5))
    r, c = mean(v, 1), mean(v, 0)
    state = {"step": 2, "w": {"exp_avg_sq_row": r, "exp_avg_sq_col": c}}
    record = layouts.read(state, "mlx", {"w": v})
    made, told = losing(record, "optax", "'w' cannot be converted exactly: its second moment")
    assert "'w'" in told
    wanted = np.outer(r.astype("f8") / r.mean(dtype="f8"), c.astype("f8"))
    np.testing.assert_allclose(made["0.v.w"], wanted, rtol=1e-6, atol=0)


def test_other_axes_only_approximately():
    config = af.Config(factored_dims="last")
    _, _, record = trained(config, {"w": (6, 2, 7)})
    row, col = array(record, "w", "row"), array(record, "w", "col")
    made, _ = losing(
        record, "optax", r"axes \(1,\) and \(2,\)", options={"min_dim_size_to_factor": 2}
    )
    full = row.astype("f8") / row.mean(axis=1, keepdims=True, dtype="f8") * col
    np.testing.assert_allclose(made["0.v_row.w"], full.mean(axis=2), rtol=1e-6)
    np.testing.assert_allclose(made["0.v_col.w"], full.mean(axis=0), rtol=1e-6)


def test_a_full_moment_becomes_what_the_factored_one_would_have_been():
    shapes = {"w": (7, 5), "kernel": (6, 5, 3, 3)}
    full = trained(af.Config(factored=False), shapes, steps=1)[2]
    want = trained(af.Config(), shapes, steps=1)[2]
    got = layouts.reshaped(full, af.Config())
    assert got.notes == ()
    for path in shapes:
        assert axes(got, path) == axes(want, path)
        for slot in ("row", "col"):
            np.testing.assert_allclose(array(got, path, slot), array(want, path, slot), rtol=3e-7)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1), (3, 1, 4)])
def test_an_axis_of_size_1_loses_nothing(shape):
    config = af.Config(factored_dims="last")
    factored = trained(config, {"w": shape})[2]
    full = trained(af.Config(factored=False), {"w": shape})[2]
    assert axes(factored, "w") != ((), ())
    got = layouts.reshaped(factored, af.Config(factored=False))
    again = layouts.reshaped(got, config)
    for slot in ("row", "col"):  # one of them is an average of the other
        np.testing.assert_allclose(array(again, "w", slot), array(factored, "w", slot), rtol=2e-7)
    np.testing.assert_allclose(array(got, "w", "full"), array(full, "w", "full"), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["torch", "optax", "mlx", "keras"])
def test_statistics_in_16_bits_are_a_loss(name, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    v = np.asarray(np.linspace(0.1, 3, 5), "f4")
    record = Record(1, (TensorRecord("b", (5,), dtype, (), (), {"full": raw(v)}),))
    given = {"params": {"b": ((5,), dtype)}}
    made, told = losing(record, name, f"full is rounded from float32 to {dtype}", **given)
    assert told == f"full is rounded from float32 to {dtype}: 'b'"
    found = [x for x in layouts.flat(made).values() if getattr(x, "shape", ()) == (5,)]
    np.testing.assert_array_equal(found[0], v.astype(kind))
    exact = np.asarray(found[0], "f4")
    record = Record(1, (TensorRecord("b", (5,), dtype, (), (), {"full": raw(exact)}),))
    layouts.write(record, name, arrays="numpy", **given)  # what fits is no loss


def test_a_library_that_is_not_here_is_named(monkeypatch):
    slots = {"full": raw(np.ones(5, "f4"))}
    record = Record(1, (TensorRecord("b", (5,), "float32", (), (), slots),))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(af.DTypeError, match=r"torch is not installed.*arrays='numpy'"):
        layouts.write(record, "torch", params={"b": ((5,), "float32")})


def test_rounding_is_to_nearest_and_once():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype="u4").view("f4")
    middles = (rng.integers(0, 2**16, 4000, dtype="u4") << 16 | 0x8000).view("f4")
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-45, 65520.0], "f4")
    for x in (bits, middles, special):
        for name in ("bfloat16", "float16"):
            with np.errstate(all="ignore"):
                want = x.astype(np.dtype(getattr(ml_dtypes, name, name)))
            got = numpy_array(converted(raw(x), name))
            np.testing.assert_array_equal(np.asarray(got, "f4"), np.asarray(want, "f4"))
    # Just above the middle between 1 and the next number of bfloat16: float32 is the middle itself.
    above = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8 - 2.0**-40])
    got = np.asarray(numpy_array(converted(raw(above), "bfloat16")), "f4")
    assert got.tolist() == [1 + 2.0**-7, 1.0]


def test_float64_parameters_in_a_format_of_float32():
    v = np.linspace(0.1, 3, 5)
    record = Record(1, (TensorRecord("b", (5,), "float64", (), (), {"full": raw(v)}),))
    made, _ = losing(record, "flax", "rounded from float64 to float32")
    np.testing.assert_array_equal(made["state.param_states.b.v"], v.astype("f4"))
    back = layouts.read(made, "flax", {"b": ((5,), "float64")})
    assert back.tensors[0].slots["full"].dtype == "float64"
    assert layouts.losses(record, "transformers", params={"b": ((5,), "float64")}) == ()


MOMENTUM = {"beta1": 0.9}


def test_momentum_that_the_target_does_not_keep():
    params, _, record = trained(af.Config(**FLOAT, **MOMENTUM), {"w": (7, 5)})
    with pytest.raises(af.StateError, match="momentum is dropped"):
        layouts.write(record, "torch", params=params)
    assert layouts.losses(record, "torch", params=params) == (
        "its momentum is dropped: the target keeps none: 'w'",
    )
    made = layouts.write(record, "torch", params=params, momentum=False, arrays="numpy")
    assert made["state"][0].keys() == {"row_var", "col_var", "step"}


def test_momentum_that_the_source_did_not_keep():
    params, _, record = trained(af.Config(**FLOAT), {"w": (7, 5)})
    given = {"params": params, "options": MOMENTUM}
    made, _ = losing(record, "transformers", "momentum starts at 0", **given)
    assert not made["state"][0]["exp_avg"].any()
    untouched = trained(af.Config(**FLOAT), {"w": (7, 5)}, steps=0)[2]
    assert layouts.losses(untouched, "transformers", **given) == ()


def test_momentum_of_another_kind_never():
    params, _, record = trained(af.Config(**FLOAT, **MOMENTUM), {"w": (7, 5)})
    for approximate in (False, True):
        with pytest.raises(af.StateError, match="'w': its momentum is an average of updates times"):
            layouts.write(
                record,
                "timm_bigvision",
                params=params,
                options={"min_dim_size_to_factor": 2},
                approximate=approximate,
            )
        with pytest.raises(af.StateError, match="momentum=False"):
            layouts.reshaped(
                record,
                af.Config(**FLOAT, **MOMENTUM, momentum_on="grad"),
                approximate=approximate,
            )
    left = layouts.reshaped(
        record, af.Config(**FLOAT, **MOMENTUM, momentum_on="grad"), momentum=False
    )
    assert not array(left, "w", "momentum").any()


def test_momentum_rounded_to_a_narrower_buffer():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    config = af.Config(**FLOAT, **MOMENTUM)
    params, _, record = trained(config, {"w": (7, 5)})
    made, _ = losing(
        record, "pytorch_optimizer", "momentum is rounded from float32 to bfloat16", params=params
    )
    wanted = array(record, "w", "momentum").astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(made["state"][0]["exp_avg"], wanted)
    wide = {"momentum_dtype": "float32"}
    assert layouts.losses(record, "pytorch_optimizer", params=params, options=wide) == ()


def test_momentum_in_int8_is_the_average_that_it_stands_for():
    shapes = {"w": (7, 300), "s": ()}
    record = trained(af.Config(**MOMENTUM, momentum_dtype="int8"), shapes)[2]
    made = layouts.write(record, "optax", arrays="numpy", options={"min_dim_size_to_factor": 2})
    q, scale = array(record, "w", "momentum"), array(record, "w", "momentum_scale")
    wanted = q.astype("f4") * np.repeat(scale, 128, axis=1)[:, :300]
    np.testing.assert_array_equal(made["4.ema.w"], wanted)
    wide = layouts.read(made, "optax", record)
    int8 = af.Config(**MOMENTUM, factored_dims="largest", momentum_dtype="int8")
    with pytest.raises(af.StateError, match="rounded from float32 to int8"):
        layouts.reshaped(wide, int8)
    again = layouts.reshaped(wide, int8, approximate=True)
    np.testing.assert_array_equal(array(again, "w", "momentum"), q)
    np.testing.assert_allclose(array(again, "w", "momentum_scale"), scale, rtol=1e-6)


def test_compensation_belongs_to_the_parameter_and_is_not_dropped_silently():
    pytest.importorskip("ml_dtypes")
    params, _, record = trained(
        af.Config(lr=1e-3, **FLOAT, rounding="kahan"), {"w": (7, 5)}, dtype="bfloat16"
    )
    made, _ = losing(record, "transformers", "compensation", params=params)
    assert made["state"][0].keys() == {"exp_avg_sq_row", "exp_avg_sq_col", "step"}
    start = layouts.reshaped(
        layouts.reshaped(record, af.Config(**FLOAT), approximate=True),
        af.Config(**FLOAT, rounding="kahan"),
    )
    assert not np.asarray(array(start, "w", "compensation"), "f4").any()


def test_skipped_steps_are_not_dropped_silently():
    config = af.Config(**FLOAT, nonfinite="skip_tensor")
    params = {"w": np.ones((7, 5), "f4"), "b": np.ones(5, "f4")}
    state = af.init(params, config)
    grads = {"w": np.full((7, 5), np.nan, "f4"), "b": np.ones(5, "f4")}
    params, state = af.step(params, grads, state, config)
    record = af.interchange.record(params, state, config)
    losing(record, "transformers", "'w' .* number of its skipped steps", params=params)
    back = layouts.write(record, "adafactor_core", state, options=config)
    assert int(back.moments["w"].skipped) == 1
    assert int(back.skipped) == 1
    same(layouts.read(back, "adafactor_core", params, options=config), record)


def test_tensors_with_their_own_numbers_of_steps():
    v = {"a": squares((3,)), "b": squares((4,))}
    state = {
        "state": {0: {"step": 5, "exp_avg_sq": v["a"]}, 1: {"step": 3, "exp_avg_sq": v["b"]}},
        "param_groups": [{"params": [0, 1]}],
    }
    record = layouts.read(state, "transformers", v)
    assert (record.step, [t.step for t in record.tensors]) == (5, [None, 3])
    again = layouts.write(record, "transformers", state, params=v, arrays="numpy")
    assert [again["state"][k]["step"] for k in (0, 1)] == [5, 3]
    losing(record, "optax", "'b' .* it has taken 3 steps, others 5")
    losing(record, "pytorch_optimizer", "its group has one number of steps", params=v)


def test_a_parameter_without_state_has_none_afterwards():
    v = {"a": squares((3,)), "frozen": squares((9, 4)), "b": squares((3,)) + 1}
    state = {
        "state": {0: {"step": 5, "exp_avg_sq": v["a"]}, 2: {"step": 5, "exp_avg_sq": v["b"]}},
        "param_groups": [{"params": [0, 1, 2]}],
    }
    record = layouts.read(state, "transformers", v)
    assert [(t.path, t.step) for t in record.tensors] == [("a", None), ("frozen", 0), ("b", None)]
    again = layouts.write(record, "transformers", state, params=v, arrays="numpy")
    assert again["state"].keys() == {0, 2}
    np.testing.assert_array_equal(again["state"][2]["exp_avg_sq"], v["b"])
    with pytest.raises(af.StateError, match=r"'frozen' .* it has taken 0 steps, others 5"):
        layouts.write(record, "optax", params=v, options={"min_dim_size_to_factor": 1})
    masked = {name: x for name, x in v.items() if name != "frozen"}
    made = layouts.write(record, "optax", params=masked)
    assert not any("frozen" in key for key in made)
    for params in (masked, None):
        again = layouts.write(record, "optax", made, params=params)
        assert again.keys() == made.keys()


def test_positions_mean_nothing_without_the_parameters():
    params, _, record = trained(af.Config(**FLOAT), {"a": (3,), "b": (3,)})
    for name in ("torch", "keras"):
        with pytest.raises(af.StateError, match="position alone"):
            layouts.write(record, name)
    made = layouts.write(record, "torch", params=dict(reversed(params.items())), arrays="numpy")
    assert made["param_groups"][0]["param_names"] == ["b", "a"]
    np.testing.assert_array_equal(made["state"][0]["variance"], array(record, "b", "full"))
    with pytest.raises(af.StateError, match=r"'a' has shape \(4,\), in the record \(3,\)"):
        layouts.write(record, "torch", params={"a": squares((4,)), "b": squares((3,))})


def test_a_template_has_to_be_of_the_same_parameters():
    _, _, record = trained(af.Config(**MOMENTUM), {"a": (3,), "b": (3,)})
    v = {"a": squares((3,)), "b": squares((3,))}
    small = dict.fromkeys(v, np.zeros(1, "f4"))
    template = Factored(np.int32(0), small, small, v)
    with pytest.raises(af.StateError, match="momentum is dropped"):
        layouts.write(record, "optax", template)
    made = layouts.write(record, "optax", template, momentum=False)
    assert int(made.count) == 3
    with pytest.raises(af.StateError, match="template has nothing for 'b'"):
        layouts.write(
            record, "optax", Factored(np.int32(0), *({"a": x["a"]} for x in (small, small, v)))
        )


def test_keras_estimates_are_rebuilt():
    config = af.Config(factored_dims="last")
    params, _, record = trained(config, {"w": (7, 5), "b": (5,)})
    made = layouts.write(record, "keras", params=params, arrays="numpy")
    row, col = array(record, "w", "row").astype("f8"), array(record, "w", "col")
    np.testing.assert_allclose(made["4"], row / row.mean() * col, rtol=1e-6)
    assert made["5"].shape == made["6"].shape == ()
    np.testing.assert_array_equal(made["7"], array(record, "b", "full"))


@dataclass(frozen=True)
class Slots:
    v_row: object
    v: object


def test_keras_without_a_variable_for_the_rate():
    params, _, record = trained(af.Config(**FLOAT), {"w": (7, 5), "b": (5,)})
    made = layouts.write(record, "keras", params=params, arrays="numpy")
    whole = [made.get(str(k), np.float32(0.001)) for k in range(8)]
    scheduled = [whole[0], *whole[2:]]
    for state in (whole, scheduled):
        same(layouts.read(state, "keras", params), record)
        again = layouts.write(record, "keras", state, params=params)
        assert all(np.array_equal(a, b) for a, b in zip(state, again, strict=True))
    with pytest.raises(af.StateError, match="6 variables, and 2 parameters have 3 each"):
        layouts.read(whole[2:], "keras", params)


def test_a_single_array():
    config = af.Config(**FLOAT)
    x = np.ones((7, 5), "float32")
    x, state = af.step(x, x, af.init(x, config), config)
    record = layouts.read(state, "adafactor_core", x, options=config)
    assert record.tensors[0].path == ""
    same(record, interchange.record(x, state, config))
    made = layouts.write(record, "optax", options={"min_dim_size_to_factor": 2}, arrays="numpy")
    assert made.keys() == {"0.v_row", "0.v_col", "0.v", "0.count"}
    same(layouts.reshaped(layouts.read(made, "optax", x), config), record)


def test_what_is_computed_is_let_go():
    calls = []

    def make():
        calls.append(1)
        return bytes(40)

    made = computed("float32", (10,), make)
    assert [bytes(made.read(a, a + 20)) for a in (0, 20)] == [bytes(20)] * 2
    assert len(calls) == 1
    made.read(0, 4)
    assert len(calls) == 2


def test_bfloat16_in_a_flat_npz_file(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ml_dtypes")
    monkeypatch.chdir(tmp_path)
    config = af.Config(beta1=0.9, momentum_dtype="bfloat16", **FLOAT)
    record = trained(config, {"w": (7, 5), "b": (5,)})[2]
    interchange.write("in.npz", record)
    options = ["--to-options", '{"momentum_dtype": "bfloat16"}']
    for end in ("npz", "safetensors"):
        assert main(["in.npz", f"flat.{end}", "--to", "transformers", *options]) == 1
        assert "files that end in .pt" in capsys.readouterr().err
        line = ["--to", "flax", "--to-options", '{"momentum_dtype": "bfloat16",'
                ' "min_dim_size_to_factor": 2, "factored_dims": "last"}']  # fmt: skip
        assert main(["in.npz", f"flat.{end}", *line]) == 0
        back = ["--from", "flax", "--from-options", line[3], "--params", "in.npz"]
        assert main([f"flat.{end}", "back.npz", *back]) == 0
        same(interchange.read("back.npz"), record)


def test_flat_and_filled_are_inverse():
    tree = {"a": [1, (2, None)], "b": Ema(np.zeros(2), {"x": 3.5}), "c": Slots(5, 6)}
    assert list(layouts.flat(tree)) == ["a.0", "a.1.0", "b.count", "b.ema.x", "c.v_row", "c.v"]
    made = layouts.filled(tree, {"a.1.0": 9, "b.ema.x": 4, "c.v": 7})
    assert made["a"] == [1, (9, None)]
    assert made["c"] == Slots(5, 7)
    assert type(made["b"]) is Ema
    assert made["b"].ema == {"x": 4}
    assert tree["a"] == [1, (2, None)]
    with pytest.raises(af.TreeError, match="no leaf 'd'"):
        layouts.filled(tree, {"d": 1})
    with pytest.raises(af.TreeError, match=r"two leaves have the key 'a\.b'"):
        layouts.flat({"a": {"b": 1}, "a.b": 2})


def test_nothing_is_read_before_it_is_needed():
    def fail(start, stop):
        raise AssertionError("read")

    full = Raw("float32", (5,), fail)
    state = {"step": 1, "b": {"exp_avg_sq": full}}
    record = layouts.read(state, "mlx", {"b": ((5,), "float32")})
    layouts.renamed(record, {"b": "c"})
    layouts.write(record, "optax")
    with pytest.raises(AssertionError, match="read"):
        record.tensors[0].slots["full"].bytes()


def test_a_file_is_converted_in_the_memory_of_a_few_chunks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = (4, 2**20, 4)  # 64 MiB of momentum
    blank = {"row": (4, 2**20, 1), "col": (4, 1, 4), "momentum": shape}
    slots = {slot: zeros("float32", s) for slot, s in blank.items()}
    record = Record(1, (TensorRecord("w", shape, "float32", (1,), (2,), slots),))
    interchange.write("in.safetensors", record)
    tracemalloc.start()
    try:
        assert main(["in.safetensors", "out.npz", "--to", "mlx"]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * CHUNK
    found, _ = interchange.read_arrays("out.npz")
    assert found["w.exp_avg"].nbytes == 2**26
