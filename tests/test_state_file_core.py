"""save_state and load_state for every array library: to the bit, by path, or a reason why not."""

import warnings

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _records import plain, tensor
from _run import normal
from _variety import BATCHED, CAREFUL, VARIETY
from adafactor_core import interchange
from adafactor_core.interchange import Record
from adafactor_core.interchange._arrays import raw_of

SHAPES = {"w": (6, 5), "b": (7,), "s": (), "c": (2, 3, 140), "empty": (0, 3)}
FACTORED = {"w": ((0,), (1,)), "c": ((1,), (2,))}


def params(backend, dtype):
    """With the nesting of a model."""
    x = {n: backend.asarray(normal(s), dtype) for n, s in SHAPES.items()}
    return {"b": x["b"], "layers": [{"w": x["w"], "c": x["c"]}, x["s"]], "empty": x["empty"]}


NESTED = {"w": "layers.0.w", "c": "layers.0.c", "s": "layers.1"}


def any_bits(dtype, buffer=None, kahan=False, counted=False):
    """A record of these tensors that holds any bits: NaNs with payloads, subnormals, -0."""
    rng = np.random.default_rng(0)
    tensors = []
    for name, shape in sorted(SHAPES.items(), key=lambda pair: NESTED.get(pair[0], pair[0])):
        axes = FACTORED.get(name, ((), ()))
        more = {"skipped": 1} if counted else {}
        path = NESTED.get(name, name)
        tensors.append(tensor(path, shape, dtype, *axes, rng, buffer, kahan, **more))
    return Record(5, tuple(tensors), 2 if counted else None)


KINDS = {
    "float32": {},
    "float32, momentum": {"beta1": 0.9},
    "float32, int8": {"beta1": 0.9, "momentum_dtype": "int8"},
    "float32, bfloat16": {"beta1": 0.9, "momentum_dtype": "bfloat16"},
    "float32, counted": {"nonfinite": "skip_tensor"},
    "float64": {"beta1": 0.9},
    "bfloat16": {"rounding": "kahan", "beta1": 0.9, "momentum_dtype": "float16"},
    "float16": {"rounding": "kahan", "beta1": 0.9, "momentum_dtype": "int8"},
}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_bits_come_in_and_go_out(backend, kind, suffix, tmp_path):
    options, dtype = KINDS[kind], kind.split(",")[0]
    buffer = options.get("momentum_dtype", "float32" if "beta1" in options else None)
    need(backend, dtype, *{buffer} - {None, "int8"})
    buffer = "float64" if buffer == "float32" and dtype == "float64" else buffer
    made = any_bits(dtype, buffer, "rounding" in options, "nonfinite" in options)
    first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
    interchange.write(first, made)
    config = af.Config(**options)
    with backend.scope(dtype):
        x = params(backend, dtype)
        state = af.load_state(first, x, config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", af.LowPrecisionWarning)
            fresh = af.init(x, config)
        assert type(state.step) is type(fresh.step)
        for got, want in zip(leaves(state), leaves(fresh), strict=True):
            assert type(got) is type(want)
            assert got.shape == want.shape
            assert got.dtype == want.dtype
            if backend.name != "jax":
                assert getattr(got, "device", None) == getattr(want, "device", None)
        af.save_state(second, x, state, config, variant="v")
    (*_, got), (*_, want) = plain(interchange.read(second)), plain(made)
    assert got == want
    read = interchange.read(second)
    assert (read.step, read.skipped, read.variant) == (5, made.skipped, "v")
    assert {n: read.options[n] for n in options} == options


def leaves(state):
    import optree

    return optree.tree_leaves(state)


def test_training_goes_on_to_the_bit(backend, tmp_path):
    config = af.Config(0.1, beta1=0.9, weight_decay=0.1)
    x, state = params(backend, "float32"), None
    grads = [backend.tree(g) for g in ({"b": normal((7,), seed=t)} for t in range(1, 7))]
    x = {"b": x["b"]}
    state = af.init(x, config)
    for g in grads[:3]:
        x, state = af.step(x, g, state, config)
    af.save_state(tmp_path / "s", x, state, config)
    other = af.load_state(tmp_path / "s", x, config)
    y = x
    for g in grads[3:]:
        x, state = af.step(x, g, state, config)
        y, other = af.step(y, g, other, config)
    assert backend.bits(y["b"]) == backend.bits(x["b"])
    assert int(other.step) == 6


@pytest.mark.backends("numpy")
def test_arrays_of_other_memory_layouts(backend):
    """Transposed, reversed, cut: bytes are in C order, little-endian."""
    x = normal((6, 5)).astype(np.float32)
    for a in (x, x.T, x[::-1, ::2], x.T.astype("f8"), x[:0], x[1, 1]):
        raw = raw_of(np.asarray(a))
        little = np.asarray(a).astype(f"<f{a.dtype.itemsize}").tobytes("C")
        assert b"".join(map(bytes, raw.chunks(16))) == bytes(raw.bytes()) == little


def saved(tmp_path, shape=(4, 6), dtype="float32", **options):
    x = {"w": np.ones(shape, dtype), "b": np.ones(3, dtype)}
    config = af.Config(**options)
    af.save_state(tmp_path / "s", x, af.init(x, config), config)
    return tmp_path / "s"


REFUSED = {
    "missing": (
        {"v": (2,), "w": (4, 6)}, {}, {},
        r"of other tensors. Missing in it: 'v'; unknown to params: 'b'. Rename them",
    ),
    "shape": (
        {"w": (6, 4), "b": (3,)}, {}, {},
        r"tensor 'w' is of shape \(4, 6\), the tensor itself of \(6, 4\).*name map",
    ),
    "not factored": (
        {"w": (4, 6), "b": (3,)}, {}, {"factored": False},
        r"'w', shape \(4, 6\), has rows over axes \(0,\) and columns over \(1,\); the config wants "
        r"a full second moment \(factored=False\). Use factored_dims=\(\(0,\), \(1,\)\)",
    ),
    "factored": (
        {"w": (4, 6), "b": (3,)}, {"factored": False}, {},
        r"has a full second moment; the config wants rows .* Use factored=False",
    ),
    "other axes": (
        {"w": (4, 6), "b": (3,)}, {}, {"factored_dims": (1, 0)},
        r"wants rows over axes \(1,\) and columns over \(0,\)",
    ),
    "no momentum": (
        {"w": (4, 6), "b": (3,)}, {}, {"beta1": 0.9},
        r"tensor 'b', shape \(3,\), has momentum absent; the config needs it in float32 of shape "
        r"\(3,\). Load it with beta1=None, .*convert_state\(params, state, config\)",
    ),
    "momentum": (
        {"w": (4, 6), "b": (3,)}, {"beta1": 0.9, "momentum_dtype": "int8"}, {},
        r"has momentum in int8 of shape \(3,\); the config needs it absent. Load it with a beta1 "
        r"and momentum_dtype='int8'",
    ),
    "momentum of another dtype": (
        {"w": (4, 6), "b": (3,)}, {"beta1": 0.9}, {"beta1": 0.9, "momentum_dtype": "float16"},
        r"has momentum in float32 .* needs it in float16 .* Load it with a beta1 and "
        r"momentum_dtype='float32'",
    ),
    "counted": (
        {"w": (4, 6), "b": (3,)}, {"nonfinite": "skip_step"}, {},
        "has a counter of skipped steps, nonfinite='propagate' needs none. Load it with "
        "nonfinite='skip_step'",
    ),
    "not counted": (
        {"w": (4, 6), "b": (3,)}, {}, {"nonfinite": "skip_step"},
        "has no counter of skipped steps, nonfinite='skip_step' needs one. Load it with "
        "nonfinite='propagate'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_state_of_something_else_is_refused(tmp_path, what):
    shapes, before, after, words = REFUSED[what]
    file = saved(tmp_path, **before)
    x = {n: np.ones(s, np.float32) for n, s in shapes.items()}
    with pytest.raises(af.StateError, match=words) as caught:
        af.load_state(file, x, af.Config(**after))
    assert type(caught.value) is af.StateError


def test_a_wider_state_is_refused(tmp_path):
    file = saved(tmp_path, dtype="float64")
    x = {"w": np.ones((4, 6), np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(af.StateError, match=r"has full in float64 .*the tensor in float64, as it"):
        af.load_state(file, x)


def test_parameters_may_have_been_narrowed_since(tmp_path):
    """Where no slot has their dtype: rows and columns are float32 for both."""
    file = saved(tmp_path)
    x = {"w": np.ones((4, 6), np.float16), "b": np.ones(3, np.float16)}
    assert af.load_state(file, x).moments["w"].row.dtype == np.float32


def test_counters_per_parameter_are_refused_by_a_single_one(tmp_path):
    rng = np.random.default_rng(0)
    lagging = tensor("b", (3,), "float32", (), (), rng, step=2)
    together = tensor("b", (3,), "float32", (), (), rng, step=5)
    x = {"b": np.ones(3, np.float32)}
    for t in (lagging, together):
        interchange.write(tmp_path / "s", Record(5, (t,)))
        if t is together:
            assert int(af.load_state(tmp_path / "s", x).step) == 5
            continue
        with pytest.raises(af.StateError, match="'b' has made 2 steps, others 5"):
            af.load_state(tmp_path / "s", x)


def test_what_is_no_state_is_not_saved(tmp_path):
    x = {"w": np.ones((4, 6), np.float32)}
    state, config = af.init(x), af.Config(beta1=0.9)
    with pytest.raises(af.StateError, match="momentum should be"):
        af.save_state(tmp_path / "s", x, state, config)
    with pytest.raises(af.StateError, match="state must be a State"):
        af.save_state(tmp_path / "s", x, state.moments)
    with pytest.raises(af.TreeError, match="Missing: 'v'; unknown: 'w'"):
        af.save_state(tmp_path / "s", {"v": x["w"]}, state)
    assert not (tmp_path / "s").exists()


def test_options_are_kept_as_json(tmp_path):
    def warm(t):
        return 0.1 * t

    rules = [("w", {"weight_decay": 0.0, "momentum_dtype": np.dtype("float16"), "beta1": warm})]
    config = af.Config(
        lr=af.schedules.cosine(0.1, total=10), step_size=af.RelativeStep(cap=None),
        factored_dims=((0,), 1), weight_decay=np.float32(0.5), decay_type="adam", rules=rules,
    )  # fmt: skip
    x = {"w": np.ones((4, 6), np.float32)}
    af.save_state(tmp_path / "s", x, af.init(x, config), config)
    assert interchange.read(tmp_path / "s").options == {
        "lr": {"schedule": "cosine(peak=0.1, total=10, warmup=0, floor=0.0)"},
        "step_size": {"cap": None, "warmup_init": False},
        "factored_dims": [[0], [1]],
        "weight_decay": 0.5,
        "decay_type": "adam",
        "rules": [
            ["w", {"weight_decay": 0.0, "momentum_dtype": "float16", "beta1": {"schedule": "warm"}}]
        ],
    }
    af.save_state(tmp_path / "s", x, af.init(x))
    assert interchange.read(tmp_path / "s").options == {}


def test_metrics_start_anew(tmp_path):
    config = af.Config(telemetry=True)
    x = {"w": np.ones((4, 6), np.float32)}
    new, state = af.step(x, x, af.init(x, config), config)
    af.save_state(tmp_path / "s", new, state, config)
    loaded = af.load_state(tmp_path / "s", new, config)
    assert float(state.metrics["w"].update_rms) > 0 == float(loaded.metrics["w"].update_rms)
    af.step(new, x, loaded, config)


def test_paths_are_those_of_the_core(tmp_path):
    """A bare array has the path "", as everywhere."""
    x = np.ones((4, 6), np.float32)
    af.save_state(tmp_path / "s", x, af.init(x))
    assert [t.path for t in interchange.read(tmp_path / "s").tensors] == [""]
    assert af.load_state(tmp_path / "s", x).moments.row.shape == (4, 1)


@pytest.mark.parametrize("options", [*VARIETY, *BATCHED, *CAREFUL])
def test_every_set_of_options(tmp_path, options):
    """Trees of drawn shapes, whatever is factored in them: the state that was saved, to the bit."""
    config = af.Config(**{**VARIETY, **BATCHED, **CAREFUL}[options])
    rng = np.random.default_rng(len(options))
    for dtype in ("float32", "float16", "float64"):
        ranks = (3,) if options in BATCHED else (0, 1, 2, 2, 3, 4)
        x = {
            f"{k}/x": np.asarray(rng.normal(size=rng.integers(1, 9, size=rank)), dtype)
            for k, rank in enumerate(ranks)
        }
        state = af.init(x, config)
        for _ in range(3):
            g = {n: np.asarray(rng.normal(size=a.shape), dtype) for n, a in x.items()}
            x, state = af.step(x, g, state, config)
        af.save_state(tmp_path / "s", x, state, config)
        loaded = af.load_state(tmp_path / "s", x, config)
        kept = state._replace(metrics=None), loaded._replace(metrics=None)
        for a, b in zip(leaves(kept[0]), leaves(kept[1]), strict=True):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        af.step(x, g, loaded, config, donate=True)
