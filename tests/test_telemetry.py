"""`telemetry`: each number by its definition, no sweep and no host sync more, any logger."""

import math

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _close import PARAMS, close
from _mesh import Mesh
from _run import flat, normal, numbers, rms
from _variety import BATCHED, CAREFUL, VARIETY
from adafactor_core import _sweeps

SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4)}
BATCH = {"rules": [("c", {"batch_axes": 0})]}
ROWS = {
    "defaults": {},
    "a rate": {"lr": 0.3},
    "no scale": {"lr": 0.3, "scale_parameter": False},
    "full": {"lr": 0.3, "factored": False},
    "clip off": {"lr": 0.3, "clip_threshold": None},
    "clip off, full": {"lr": 0.3, "clip_threshold": None, "factored": False},
    "tight clip": {"lr": 0.3, "clip_threshold": 0.1},
    "momentum, decay": {"lr": 0.3, "beta1": 0.9, "weight_decay": 0.1},
    "batch axis": BATCH,
    "batch axis, tensor scopes": {
        "rules": [("c", {"batch_axes": 0, "scale_scope": "tensor", "clip_scope": "tensor"})],
    },
    "batch axis, clip off": {"clip_threshold": None, **BATCH},
    "norm": {"lr": 0.3, "max_grad_norm": 0.5},
    "skipping": {"lr": 0.3, "nonfinite": "skip_tensor", "clip_threshold": None},
    "in blocks": {"lr": 0.3, "max_scratch_bytes": 1024},
}  # fmt: skip
FEW = ("defaults", "clip off", "batch axis", "norm")


def drawn(seed, scale=1.0):
    lift = np.arange(1.0, 3.0)[:, None, None] ** 3  # the slices of "c" differ
    return {
        p: normal(s, seed=seed, scale=scale) * (lift if p == "c" else 1.0)
        for p, s in SHAPES.items()
    }


def by_definition(config, grads):
    """Metrics of the last step in float64, written out; t = 1, 2, ... and b = t^-0.8."""
    told, options = {}, dict(config.rules)
    norms = [math.sqrt(sum(np.sum(g**2) for g in tree.values())) for tree in grads]
    x = drawn(0)
    for path, shape in SHAPES.items():
        o = {**vars(config), **options.get(path, {})}
        batch = o["batch_axes"] in (0, (0,))
        inner = tuple(range(1, len(shape))) if batch else tuple(range(len(shape)))
        v = r = c = 0.0
        for t, tree in enumerate(grads, 1):
            g, b = tree[path] * min(1.0, (o["max_grad_norm"] or 1e30) / norms[t - 1]), t**-0.8
            square = g**2 + 1e-30
            if len(shape) < 2 or not o["factored"]:
                v = (1 - b) * v + b * square
            else:  # "c" is (2, 3, 4): its last two axes are the largest
                r = (1 - b) * r + b * square.mean(axis=-1, keepdims=True)
                c = (1 - b) * c + b * square.mean(axis=-2, keepdims=True)
                v = r * c / r.mean(axis=-2, keepdims=True)
        u = g / np.sqrt(v)
        scale = inner if o["scale_scope"] == "block" else None
        clip = inner if o["clip_scope"] == "block" else None
        over = np.maximum(1e-3, np.sqrt(np.mean(x[path] ** 2, axis=scale)))
        alpha = (o["lr"] or min(1e-2, t**-0.5)) * (over if o["scale_parameter"] else 1.0)
        limit = o["clip_threshold"] or math.inf
        factor = 1 / np.maximum(1.0, np.sqrt(np.mean(u**2, axis=clip)) / limit)
        told[path] = {
            "update_rms": rms(u), "param_rms": rms(x[path]), "learning_rate": np.mean(alpha),
            "clip_factor": np.min(factor), "grad_norm": math.sqrt(np.sum(tree[path] ** 2)),
            "second_moment_min": np.min(v), "second_moment_max": np.max(v),
        }  # fmt: skip
    return told


@pytest.mark.parametrize("name", ROWS)
def test_numbers_by_definition(backend, mode, name):
    if name not in FEW and (backend.name == "dask" or "jit" in backend.modes):
        pytest.skip("slow")
    if (backend.name, mode) == ("jax", "eager"):
        pytest.skip("takes half a minute")
    config = af.Config(**ROWS[name], telemetry=True)
    one = lambda x, g, s, by: af.step(x, g, s, config, grad_scale=by)  # noqa: E731
    step = backend.jit(one) if mode == "jit" else one
    x = backend.tree(drawn(0))
    state, grads = af.init(x, config), [drawn(1), drawn(2)]
    for g in grads[: 1 if backend.name == "dask" else 2]:
        # X stays as it is: what is told of it is of before the step.
        scaled = backend.tree({p: a * 8.0 for p, a in g.items()})
        _, state = step(x, scaled, state, backend.asarray(8.0))
    told = af.metrics(state)
    for path, want in by_definition(config, grads[: int(state.step)]).items():
        got = {n: a for n, a in told[path].items() if n != "skipped"}
        assert got.keys() == want.keys()
        for number, value in want.items():
            assert got[number].shape == ()
            close(backend.numpy(got[number]), np.array(value), 2e-6, f"{path} {number}")
        assert ("skipped" in told[path]) == (name == "skipping")
    assert {type(m) for m in state.metrics.values()} == {af.Metrics}


@pytest.mark.parametrize("name", [*VARIETY, *CAREFUL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.backends("numpy", "strict", "torch", "cupy")
def test_parameters_are_the_same_with_and_without(backend, name, dtype):
    need(backend, dtype)
    options = {**VARIETY, **CAREFUL}[name]
    ends = []
    for telemetry in (False, True):
        config = af.Config(**{**options, "telemetry": telemetry})
        x = backend.tree(drawn(0), dtype)
        state = af.init(x, config)
        for t in (1, 2):
            x, state = af.step(x, backend.tree(drawn(t), dtype), state, config)
        ends.append({p: backend.bits(a) for p, a in flat([x, state.moments]).items()})
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", ["defaults", "clip off"])
@pytest.mark.backends("jax")
def test_parameters_under_a_compiler_are_the_same(backend, name):
    """XLA may fuse otherwise around further outputs: to rounding."""
    ends = []
    for telemetry in (False, True):
        config = af.Config(**ROWS[name], telemetry=telemetry)
        step = backend.jit(lambda x, g, s, c=config: af.step(x, g, s, c))
        x = backend.tree(drawn(0))
        x, _ = step(x, backend.tree(drawn(1)), af.init(x, config))
        ends.append(numbers(backend, x))
    for path, want in ends[0].items():
        close(ends[1][path], want, PARAMS["float32"], path)


def sweeps_of(monkeypatch, passes=(), sharding=None, **options):
    """How many tensors' passes over elements a step takes."""
    seen, real = [], _sweeps.sweep

    def counting(*args):
        seen.append(1)
        return real(*args)

    config = af.Config(**options)
    x, g = drawn(0), drawn(1)
    state = af.init(x, config, sharding=sharding)
    with monkeypatch.context() as patch:
        patch.setattr(_sweeps, "sweep", counting)
        af.step(x, g, state, config, passes=passes, sharding=sharding)
    return len(seen)


@pytest.mark.parametrize("options", [*VARIETY, *BATCHED])
def test_no_sweep_is_added_over_what_is_read_anyway(monkeypatch, options):
    if "factored_dims" in {**VARIETY, **BATCHED}[options] or options in BATCHED:
        options = {**VARIETY, **BATCHED}[options]
        rest = {k: v for k, v in options.items() if k not in ("batch_axes", "factored_dims")}
        special = {k: v for k, v in options.items() if k in ("batch_axes", "factored_dims")}
        options = {**rest, "rules": [("c", special)]}
    else:
        options = VARIETY[options]
    off, on = (sweeps_of(monkeypatch, telemetry=t, **options) for t in (False, True))
    # What nobody has looked at: X without a scale, and G without a clip or a factored average.
    unfactored = SHAPES if not options.get("factored", True) else ("b", "s")
    unseen = (not options.get("scale_parameter", True)) * len(SHAPES)
    unseen += (options.get("clip_threshold", 1.0) is None) * len(unfactored)
    assert off <= on <= off + unseen


def test_passes_are_called_as_often(monkeypatch):
    calls = {False: [], True: []}
    for telemetry in calls:

        class Counting(af.ArrayPasses):
            pass

        for name in ("observe", "advance", "measure", "scale", "apply", "squares", "judge"):

            def method(self, works, name=name, log=calls[telemetry]):
                log.append(name)
                return getattr(af.ArrayPasses, name)(self, works)

            setattr(Counting, name, method)
        sweeps_of(monkeypatch, passes=[Counting()], telemetry=telemetry, max_grad_norm=1.0)
    assert calls[False] == calls[True]


def test_sharded_there_are_two_reductions_and_the_numbers_of_the_whole():
    config = af.Config(0.3, telemetry=True, clip_threshold=None, max_grad_norm=0.5, **BATCH)
    cuts = {"w": {0: (0, [2])}, "b": {0: (0, [5])}, "s": {}, "c": {2: (0, [1])}}
    mesh = Mesh([2], cuts)
    shapes, x, g = SHAPES, drawn(0), drawn(1)

    def on(rank):
        local, grads = ({p: mesh.part(p, a, rank) for p, a in t.items()} for t in (x, g))
        sharding = af.Sharding(shapes, mesh.reduce(rank))
        return af.step(
            local, grads, af.init(local, config, sharding=sharding), config, sharding=sharding
        )

    _, want = af.step(x, g, af.init(x, config), config)
    for _, state in mesh.run(on).values():
        for path, metrics in want.metrics.items():
            for name, value in metrics._asdict().items():
                close(getattr(state.metrics[path], name), value, 1e-14, f"{path} {name}")
    assert set(mesh.calls.values()) == {2}


MOMENTS = {
    "matrix": ((6, 5), {}),
    "other axes": ((4, 3, 5, 2), {}),
    "two row axes": ((3, 4, 5), {"factored_dims": ((0, 1), 2)}),
    "columns first": ((6, 5), {"factored_dims": (1, 0)}),
    "stack": ((3, 4, 5), {"batch_axes": 0}),
    "stack of one row": ((3, 1, 5), {"batch_axes": 0, "factored_dims": "last"}),
    "stack of single entries": ((3, 1, 1), {"batch_axes": 0, "factored_dims": "last"}),
    "full": ((6, 5), {"factored": False}),
    "scalar": ((), {}),
    "products would underflow": ((6, 5), {"eps1": 1e-38}),
}


@pytest.mark.parametrize(("shape", "options"), MOMENTS.values(), ids=MOMENTS)
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_the_range_of_the_second_moment(backend, shape, options):
    config = af.Config(0.1, telemetry=True, **options)
    scale = 1e-14 if "eps1" in options else 1.0
    one = lambda x, g, s: af.step(x, g, s, config)  # noqa: E731
    step = backend.jit(one) if "jit" in backend.modes else one
    x = backend.asarray(normal(shape))
    _, state = step(x, backend.asarray(normal(shape, seed=1) * scale), af.init(x, config))
    told, m = af.metrics(state), state.moments
    if m.full is not None:
        v = backend.numpy(m.full)
    else:
        r, c = backend.numpy(m.row), backend.numpy(m.col)
        axes = tuple(
            a for a, (n, k) in enumerate(zip(r.shape, c.shape, strict=True)) if n != 1 and k == 1
        )
        v = r * c / r.mean(axis=axes, keepdims=True)
    close(backend.numpy(told["second_moment_min"]), np.min(v), 2e-6, "min")
    close(backend.numpy(told["second_moment_max"]), np.max(v), 2e-6, "max")


def test_before_the_first_step_all_is_zero():
    """Also what a logger reads of a tensor that has been skipped ever since."""
    config = af.Config(telemetry=True, nonfinite="skip_tensor", **BATCH)
    state = af.init(drawn(0), config)
    assert {float(a) for told in af.metrics(state).values() for a in told.values()} == {0.0}
    assert set(af.flat_metrics(state).values()) == {0}
    bad = {p: a * np.nan for p, a in drawn(1).items()}
    _, state = af.step(drawn(0), bad, state, config)
    told = af.metrics(state)
    assert all(told[p]["second_moment_max"] == told[p]["second_moment_min"] == 0 for p in SHAPES)
    assert all(told[p]["skipped"] == 1 for p in SHAPES)


@pytest.mark.parametrize("policy", ["propagate", "skip_tensor", "skip_step"])
@pytest.mark.backends("numpy", "torch", "cupy")
def test_flat_metrics_are_plain_numbers_for_any_logger(backend, policy):
    config = af.Config(telemetry=True, nonfinite=policy)
    x = {"layers": [backend.tree(drawn(0)), backend.tree(drawn(2))]}
    g = {"layers": [backend.tree(drawn(1)), backend.tree(drawn(3))]}
    _, state = af.step(x, g, af.init(x, config), config)
    flat_ = af.flat_metrics(state, prefix="train/")
    assert {type(v) for v in flat_.values()} <= {int, float}
    numbers_ = {*af.Metrics._fields, "second_moment_min", "second_moment_max"}
    numbers_ |= set() if policy == "propagate" else {"skipped"}
    keys = {f"train/layers.{i}.{p}/{n}" for i in (0, 1) for p in SHAPES for n in numbers_}
    common = {"train/grad_norm", "train/step"}
    assert set(flat_) == keys | common | (set() if policy == "propagate" else {"train/skipped"})
    assert flat_["train/step"] == 1
    of_all = math.sqrt(sum(np.sum(a**2) for t in (1, 3) for a in drawn(t).values()))
    assert flat_["train/grad_norm"] == pytest.approx(of_all, rel=1e-6)
    told = af.metrics(state)["layers"][1]["w"]["update_rms"]
    assert flat_["train/layers.1.w/update_rms"] == float(told)


def test_a_bare_array_has_bare_names_and_a_state_without_metrics_says_so():
    config = af.Config(telemetry=True)
    x, g = normal((3, 4)), normal((3, 4), seed=1)
    _, state = af.step(x, g, af.init(x, config), config)
    told = af.flat_metrics(state)
    assert set(told) == {*af.Metrics._fields, "second_moment_min", "second_moment_max", "step"}
    assert told["grad_norm"] == pytest.approx(math.sqrt(np.sum(g**2)), rel=1e-14)
    for read in (af.metrics, af.flat_metrics):
        with pytest.raises(af.StateError, match="telemetry=True"):
            read(af.init(x))
