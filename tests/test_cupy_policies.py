"""adafactor_cupy's kernels under policies, with telemetry and by slices, against array API."""

import numpy as np
import optree
import pytest

import _emulated
import adafactor_core as af
from _close import close, close_entries, close_narrow
from _emulated import Emulated, Must, agree, follow
from _served import drawn
from _standin import Adafactor, Array, Device, SyncError, numpy, queue, reading, taping
from adafactor_cupy._passes import KernelPasses

if _emulated.COMPILER is None:
    pytest.skip("no C++ compiler to run the kernels with", allow_module_level=True)

SHAPES = {
    "w": (33, 20), "conv": (8, 6, 3, 3), "b": (20,), "s": (), "long": (4104,), "wide": (40, 1032),
    "none": (0, 4), "stack": (3, 12, 16), "between": (17, 3, 29),
}  # fmt: skip
POLICIES = ["propagate", "skip_tensor", "skip_step"]
WITH = {
    "default": {},
    "norm": {"max_grad_norm": 1.0},
    "norm, unclipped": {"max_grad_norm": 1.0, "clip_threshold": None, "beta1": 0.9},
    "unclipped": {"clip_threshold": None},
    "full": {"factored": False, "lr": 0.1, "weight_decay": 0.1},
    "full, norm": {"factored": False, "max_grad_norm": 1.0},
    "full, unclipped": {"factored": False, "clip_threshold": None},
    "unscaled": {"lr": 0.1, "scale_parameter": False, "eps1": 1e-3, "eps1_mode": "stats"},
    "adam": {"decay_type": "adam", "decay_rate": 0.99},
    "constant": {"decay_type": "constant", "decay_rate": 0.9},
    "telemetry": {"telemetry": True, "max_grad_norm": 1.0, "beta1": 0.9},
    "slices": {"rules": [("stack", {"batch_axes": 0})], "telemetry": True},
}  # fmt: skip
EVERYTHING = {
    "lr": 0.1, "rounding": "stochastic", "nonfinite": "skip_step", "max_grad_norm": 1.0,
    "telemetry": True, "seed": 2**40 + 3,
}  # fmt: skip


def tree(seed, dtype=np.float32, bad=None, places=("w", "b")):
    found = {n: drawn(s, dtype, 100 * seed + k) for k, (n, s) in enumerate(SHAPES.items())}
    for name in places if bad is not None else ():
        found[name][(3,) * found[name].ndim] = bad
    return found


def on_device(arrays, number=0):
    return optree.tree_map(lambda x: Array(np.array(x), Device(number)), arrays)


def bits(*trees):
    return [numpy(x).tobytes() for x in optree.tree_leaves(trees)]


def told(optimizer):
    return optimizer.metrics if optimizer.config.telemetry else ()


def split(params, state):
    """(arrays, counters of steps and of skips)."""
    with reading():
        counters = int(state.step), int(state.skipped)
    return optree.tree_map(numpy, (params, state._replace(step=None, skipped=None))), counters


def leaves(x):
    """(path, leaf) of a tree."""
    paths, found, _ = optree.tree_flatten_with_path(x)
    return zip(paths, found, strict=True)


def alike(got, want):
    """Parameters, moments, counters and metrics; trees of (params, state)."""
    for (path, x), (_, y) in zip(leaves(got), leaves(want), strict=True):
        signed = path[0] == 0 or path[-1] == af.Moments._fields.index("momentum")
        (close if signed else close_entries)(x, y, 1e-6 if signed else 1e-5, str(path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 3e19])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", WITH)
def test_what_is_not_finite(name, policy, bad):
    """A step with such gradients between two without."""
    config = af.Config(nonfinite=policy, **WITH[name])
    results = []
    for passes in ((Must(),), ()):
        params = tree(0)
        state = af.init(params, config)._replace(step=0)
        for t, odd in ((1, None), (2, bad), (3, None)):
            with np.errstate(all="ignore"):  # 1e30 squared, unless there is a policy
                params, state = af.step(params, tree(t, bad=odd), state, config, passes=passes)
        results.append((params, state))
    alike(*results)
    params, got = results[0]
    # A mean over a row is finite where the square of 3e19 is not: that depends on the options.
    if policy != "propagate" and bad != 3e19:
        assert all(np.isfinite(x).all() for x in params.values())
        assert (int(got.skipped), int(got.step)) == (1, 3 - (policy == "skip_step"))
        assert {n for n, m in got.moments.items() if m.skipped} == {"w", "b"}


@pytest.mark.parametrize("bad", [np.nan, 1e30])
@pytest.mark.parametrize("where", ["param", "grad"])
@pytest.mark.parametrize("norm", [None, 1.0])
@pytest.mark.parametrize("place", [n for n, s in SHAPES.items() if 0 not in s])
def test_any_one_tensor_that_is_not_finite_is_found(place, norm, where, bad):
    rules, found = [("stack", {"batch_axes": 0})], []
    config = af.Config(nonfinite="skip_tensor", max_grad_norm=norm, rules=rules)
    for passes in ((Must(),), ()):
        params, grads = tree(0), tree(1)
        array = {"param": params, "grad": grads}[where][place]
        array[tuple(n - 1 for n in array.shape)] = bad
        found.append(af.step(params, grads, af.init(params, config), config, passes=passes))
    alike(*found)
    assert {n for n, m in found[0][1].moments.items() if m.skipped} == {place}


@pytest.mark.parametrize("scope", ["block", "tensor"])
def test_sums_may_overflow_over_the_tensor_and_not_over_a_slice(scope):
    """The bounds of find_odd, which leave room for sums over shards: 5.2e33."""
    config = af.Config(nonfinite="skip_tensor", batch_axes=0, scale_scope=scope, lr=1e-3)
    x = np.full((3, 4, 8), np.sqrt(3e33 / 32), np.float32)
    found = [af.step(x, x, af.init(x, config), config, passes=p) for p in ((Must(),), ())]
    alike(*found)
    assert int(found[0][1].skipped) == (scope == "tensor")


@pytest.mark.parametrize("policy", POLICIES)
def test_what_the_norm_leaves_out_does_not_move(policy):
    """Sums over rows and columns are finite, and the sum over both is not."""
    config = af.Config(nonfinite=policy, max_grad_norm=1.0)
    params, grads, found = tree(0), tree(1), []
    grads["w"][...] = 1.22e19
    for passes in ((Must(),), ()):
        with np.errstate(all="ignore"):
            found.append(af.step(params, grads, af.init(params, config), config, passes=passes))
    alike(*found)
    if policy != "propagate":
        assert int(found[0][1].moments["w"].skipped) == 1
        assert int(found[0][1].moments["wide"].skipped) == 0


@pytest.mark.parametrize("name", ["norm", "full", "telemetry"])
def test_raising_names_the_tensors_and_changes_nothing(name):
    config = af.Config(nonfinite="raise", **WITH[name])
    messages = []
    for passes in ((Must(Array),), ()):
        params = on_device(tree(0))
        with reading():
            optimizer = Adafactor(params, config, passes=passes)
            optimizer.step(on_device(tree(1)))
            kept = bits(params, optimizer.state.moments, told(optimizer))
            with pytest.raises(af.NonFiniteError) as caught:
                optimizer.step(on_device(tree(2, bad=np.nan)))
            assert bits(params, optimizer.state.moments, told(optimizer)) == kept
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "'b' of shape (20,)" in messages[0]
    assert "'w' of shape (33, 20)" in messages[0]


def test_the_verdict_counts_the_tensors():
    found = []

    class Asking(Must):
        def judge(self, works):
            odd = super().judge(works)
            found.append((int(odd[0]), [bool(w.fine) for w in works]))
            return odd

    config, params = af.Config(nonfinite="skip_step"), tree(0)
    for bad in (np.nan, None):
        af.step(params, tree(1, bad=bad), af.init(params, config), config, passes=(Asking(),))
    names = sorted(n for n, s in SHAPES.items() if 0 not in s)
    assert found == [(2, [n not in ("w", "b") for n in names]), (0, [True] * len(names))]


STACKS = [(3, 12, 16), (4, 97, 89), (2, 300, 1032), (5, 3, 2), (300, 4, 6), (2, 3, 31, 17),
          (1, 40, 50), (3, 17, 3, 29), (2, 264, 5, 136)]  # fmt: skip


@pytest.mark.parametrize("scale_scope", ["block", "tensor"])
@pytest.mark.parametrize("clip_scope", ["block", "tensor"])
@pytest.mark.parametrize("shape", STACKS, ids=str)
def test_stacked_layers(shape, scale_scope, clip_scope):
    axes = tuple(range(len(shape) - 2))
    if shape in ((3, 17, 3, 29), (2, 264, 5, 136)):  # an axis between or behind the factored two
        axes = (0,)
    options = {
        "batch_axes": axes, "scale_scope": scale_scope, "clip_scope": clip_scope, "lr": 0.3,
        "beta1": 0.9, "weight_decay": 0.1, "telemetry": True, "factored_dims": (len(axes), -1),
        "nonfinite": "skip_tensor",
    }  # fmt: skip
    # Slices of all sizes, so that one's mean is no other's.
    by = (np.float32(4.0) ** np.arange(shape[0])).reshape(-1, *(1,) * (len(shape) - 1)) % 1e6
    x = drawn(shape, np.float32) * by.astype(np.float32)
    got, want = (follow(x, options, p, 2) for p in ((Must(),), ()))
    agree(got, want, str(shape))
    for a, b in zip(got[1].metrics, want[1].metrics, strict=True):
        close_entries(a, b, 1e-5)
    together = follow(x, options | {"batch_axes": ()}, (), 2)
    differs = shape[0] > 1 and "block" in (scale_scope, clip_scope)
    assert not np.allclose(got[0], together[0], rtol=1e-4) or not differs


@pytest.mark.parametrize("scale", [None, 8.0, "array"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("norm", [None, 0.5])
def test_telemetry_tells_what_array_api_does(policy, norm, scale):
    rules = [("long", {"scale_parameter": False, "beta1": 0.9}), ("stack", {"batch_axes": 0})]
    config = af.Config(lr=0.1, telemetry=True, nonfinite=policy, max_grad_norm=norm, rules=rules,
                       max_parameter_scale=0.5)  # fmt: skip
    results = []
    for passes in ((Must(Array),), ()):
        params = on_device(tree(0))
        optimizer = Adafactor(params, config, passes=passes)
        for t, bad in ((1, None), (2, np.nan if policy != "propagate" else None)):
            by = Array(np.float32(8)) if scale == "array" else scale
            optimizer.step(on_device(tree(t, bad=bad)), grad_scale=by)
        before = optimizer.metrics
        optimizer.step(on_device(tree(3)), grad_scale=by)  # what was told stays as it was
        results.append(optree.tree_map(numpy, (before, optimizer.metrics)))
    for a, b in zip(*map(optree.tree_leaves, results), strict=True):
        assert a.shape == b.shape == ()
        assert a.dtype == b.dtype
        close_entries(a, b, 2e-6)


def test_the_smallest_clip_factor_of_many_slices():
    config = af.Config(lr=0.1, telemetry=True, batch_axes=0)
    x, found = drawn((600, 4, 6), np.float32), []
    for passes in ((Must(),), ()):
        state = af.init(x, config)._replace(step=0)
        for t in (1, 2):
            g = drawn(x.shape, np.float32, t)
            g[5, 1, 1] += 100.0 * (t - 1)
            _, state = af.step(x, g, state, config, passes=passes)
        found.append(state.metrics)
    assert float(found[0].clip_factor) < 0.8
    for a, b in zip(*found, strict=True):
        close_entries(a, b, 2e-6)


def test_telemetry_changes_no_bit():
    one, two = (
        follow(drawn((300, 1032), np.float32), {"telemetry": on, "beta1": 0.9}, (Must(),))[0]
        for on in (False, True)
    )
    assert np.array_equal(one, two)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_that_must_survive_is_served_whole(dtype):
    """Random roundings by a counter on the device, which a refused step does not move."""
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes", reason="no bfloat16").bfloat16
    results = []
    for passes in ((Must(Array),), ()):
        params = on_device(tree(0, dtype))
        optimizer = Adafactor(params, af.Config(**EVERYTHING), passes=passes)
        counter = optimizer.state.step
        for t, bad in ((1, None), (2, np.inf), (3, None)):
            optimizer.step(on_device(tree(t, dtype, bad)))
        assert optimizer.state.step is counter  # a captured step finds it there
        results.append(optree.tree_map(numpy, (params, optimizer.state)))
    (got, state), (want, other) = results
    for name, x in want.items():
        # Of two steps: a draw that differed would show in half of the entries.
        flipped = np.mean(got[name] != x) if x.size else 0.0
        assert flipped <= max(4e-3, 1.0 / max(1, x.size)), f"{name}: {flipped}"
    assert int(state.step) == int(other.step) == 2
    assert int(state.skipped) == 1
    for a, b in zip(*map(optree.tree_leaves, (state.metrics, other.metrics)), strict=True):
        close_entries(a, b, 1e-3)  # of parameters in 16 bits


RUNS = {
    "everything": (EVERYTHING, 8),
    "skip_tensor": ({"nonfinite": "skip_tensor", "lr": 0.1}, 6),
    "skip_tensor, norm": ({"nonfinite": "skip_tensor", "max_grad_norm": 1.0, "beta1": 0.9}, 8),
    "skip_step, unclipped": ({"nonfinite": "skip_step", "clip_threshold": None}, 5),
    "default": ({}, 5),
}


@pytest.mark.parametrize(("options", "most"), RUNS.values(), ids=RUNS)
def test_launches_and_array_operations_do_not_grow_with_the_number_of_tensors(options, most):
    """Nor does anything read a value: the stand-in would raise."""
    counts = []
    for number in (3, 30):
        shapes = [(5, 8), (3,), (3, 4, 6)] * (number // 3)
        params = [Array(drawn(s, np.float16, k)) for k, s in enumerate(shapes)]
        grads = [Array(drawn(s, np.float16, k + 50)) for k, s in enumerate(shapes)]
        passes = Must(Array)
        config = af.Config(**{"rounding": "kahan"} | options)
        optimizer = Adafactor(params, config, passes=(passes,))
        optimizer.step(grads)
        passes.kernels.launches.clear()
        uploads, entries = passes.kernels.uploads, passes.kernels.entries
        with taping() as tape:
            optimizer.step(grads)
        counts.append((len(passes.kernels.launches), len(tape)))
        # Nothing is copied to the device, and no memory made, so that a graph can hold the step.
        assert (passes.kernels.uploads, passes.kernels.entries) == (uploads, entries)
    assert counts[0] == counts[1]
    assert counts[0][0] == most


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step"])
@pytest.mark.parametrize("spoilt", [("w",), ("b",), ("w", "b")])
def test_a_verdict_goes_over_what_kernels_and_array_api_take(policy, spoilt):
    """One of the spoilt tensors is the kernels', the other is not."""
    rules = [("b", {"eps1": 1e-3, "eps1_mode": "clamp"}), ("long", {"beta1": 0.9})]
    config, found = af.Config(nonfinite=policy, max_grad_norm=1.0, rules=rules), []
    for passes in ((KernelPasses(Emulated(Array)),), ()):
        params = on_device(tree(0))
        optimizer = Adafactor(params, config, passes=passes)
        for t, bad in ((1, None), (2, np.inf), (3, None)):
            optimizer.step(on_device(tree(t, bad=bad, places=spoilt)))
        found.append(split(params, optimizer.state))
    alike(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == (3 - (policy == "skip_step"), 1)


class Queued(Must):
    """Kernels that the tape plays again, too."""

    def __init__(self):
        super().__init__(Array)
        launch = self.kernels.launch
        self.kernels.launch = lambda *arguments: queue(lambda: launch(*arguments))


@pytest.mark.parametrize("options", [EVERYTHING, {"nonfinite": "skip_step"}], ids=str)
def test_a_step_played_again_is_the_next_step(options):
    """As a captured CUDA graph is: in the same memory, with the counter on the device."""
    results = []
    for plays in (False, True):
        params, grads = on_device(tree(0, np.float16)), on_device(tree(1, np.float16))
        optimizer = Adafactor(params, af.Config(**options), passes=(Queued(),))
        optimizer.step(grads)
        with taping() as tape:
            optimizer.step(grads)
        for t, bad in ((3, None), (4, np.nan), (5, None)):
            for name, g in tree(t, np.float16, bad).items():
                grads[name]._values[...] = g
            if plays:
                for work in tape:
                    work()
            else:
                optimizer.step(grads)
        results.append(optree.tree_map(numpy, (params, optimizer.state)))
    assert optree.tree_all(optree.tree_map(lambda a, b: np.array_equal(a, b, True), *results))
    assert int(results[0][1].step) == 4


def test_metrics_are_one_launch_more_whoever_asks():
    for options, names in (({}, ["squares", "metrics"]), ({"max_grad_norm": 1.0}, ["metrics"])):
        passes = Must(Array)
        optimizer = Adafactor(on_device(tree(0)), telemetry=True, passes=(passes,), **options)
        optimizer.step(on_device(tree(1)))
        passes.kernels.launches.clear()
        assert optimizer.metrics is not None
        assert passes.kernels.launches == names


def test_the_stand_in_notices_a_read():
    with pytest.raises(SyncError):
        float(Must(Array).kernels.room(1))


@pytest.mark.parametrize("policy", ["skip_tensor", "skip_step"])
def test_tensors_on_several_devices(policy):
    """Each device judges its own; the step is decided on the first one's."""
    config = af.Config(nonfinite=policy, max_grad_norm=1.0, telemetry=True)
    params, one = on_device(tree(0)), on_device(tree(0))
    for number, name in ((1, "w"), (2, "long"), (1, "stack")):
        params[name] = Array(numpy(params[name]), Device(number))
    optimizer = Adafactor(params, config, passes=(Must(Array),))
    single = Adafactor(one, config, passes=(Must(Array),))
    for t, bad in ((1, None), (2, np.inf), (3, None)):
        grads = on_device(tree(t, bad=bad))
        moved = {n: Array(numpy(g), params[n].device) for n, g in grads.items()}
        with Device(5):
            optimizer.step(moved)
        single.step(grads)

    (got, counters), (want, others) = split(params, optimizer.state), split(one, single.state)
    alike(got, want)
    assert counters == others == (3 - (policy == "skip_step"), 1)


def drawn_case(seed):
    """(shapes, dtypes of parameters and gradients, options, a value that spoils one tensor)."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    size = (1, 2, 3, 7, 8, 16, 31, 33, 64, 130, 264)
    shapes = [
        tuple(pick(*size[: 11 - 2 * rank]) for _ in range(rank)) for rank in (0, 1, 2, 2, 3, 4)
    ]
    kinds = pick(("float32", "float32"), ("float16", "float16"), ("float32", "float16"))
    options = {
        "nonfinite": pick("propagate", "skip_tensor", "skip_step"),
        "telemetry": bool(rng.integers(2)),
        "max_grad_norm": pick(None, 0.3, 30.0),
        "clip_threshold": pick(1.0, 0.5),
        "beta1": pick(None, 0.9),
        "weight_decay": pick(0.0, 0.1),
        "factored": bool(rng.integers(4)),
        "factored_dims": pick("auto", "largest", "last"),
        "scale_parameter": bool(rng.integers(3)),
        "scale_scope": pick("block", "tensor"),
        "clip_scope": pick("block", "tensor"),
        "eps1_mode": pick("grad_sq", "stats"),
        "rounding": pick("nearest", "stochastic", "kahan"),
        "lr": pick(0.01, 0.3),
    }  # fmt: skip
    # Leading batch axes, of tensors that are factored: the kernels take no others.
    rules = [(str(k), {"batch_axes": 0, "factored_dims": (1, 2), "factored": True}) for k in (4, 5)]
    options["rules"] = rules if rng.integers(2) else []
    return shapes, kinds, options, pick(None, None, np.nan, np.inf, 1e30)


@pytest.mark.parametrize("seed", range(60))
def test_drawn_shapes_dtypes_and_options(seed):
    shapes, (kind, grad), options, bad = drawn_case(seed)
    config, results = af.Config(**options), []
    for passes in ((Must(),), ()):
        rng = np.random.default_rng(seed)
        params = [drawn(s, kind, k) for k, s in enumerate(shapes)]
        grads = [drawn(s, grad, 90 + k) for k, s in enumerate(shapes)]
        if bad is not None:
            spoilt = grads[rng.integers(len(grads))]
            with np.errstate(over="ignore"):
                spoilt[tuple(rng.integers(n) for n in spoilt.shape)] = bad
        state = af.init(params, config)._replace(step=0)
        with np.errstate(all="ignore"):
            results.append(af.step(params, grads, state, config, passes=passes, grad_scale=2.0))
    (params, got), (others, want) = results
    for x, y in zip(params, others, strict=True):
        if kind == "float32":
            close(x, y, 1e-6)
        else:  # a draw has more boundaries to fall on either side of
            close_narrow(x, y, kind, share=4e-3)
    for (path, a), (_, b) in zip(leaves(got), leaves(want), strict=True):
        slot = path[-1] if path[0] == 1 else None
        if slot == af.Moments._fields.index("compensation"):
            continue  # where it falls the other way, so does what is left over
        signed = slot == af.Moments._fields.index("momentum")
        (close if signed else close_entries)(a, b, 1e-5, str(path))
