"""A program: adafactor_jax on eight virtual devices, every check by name, as JSON on stdout.

A program and not a test module, because the number of devices is fixed before JAX is imported.
"""

import json
import os
import re
import traceback
import warnings
from functools import cache
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adafactor_core as af
from adafactor_jax import adafactor, make_step, state_sharding

# Or programs overlap on few cores, and the all-reduces of one hold the threads that another needs:
# XLA gives up after 40 s.
jax.config.update("jax_cpu_enable_async_dispatch", False)

SPECS = {
    "w": P("x", "y"),
    "t": P(None, ("x", "y")),
    "h": {"k": P("y", None, "x"), "b": P("y")},
    "s": P(),
}
SHAPES = {"w": (16, 12), "t": (6, 24), "h": {"k": (4, 6, 8), "b": (10,)}, "s": ()}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.1},
    "all": {
        "lr": lambda t: 0.1 * t**-0.5, "beta1": 0.9, "weight_decay": 0.1, "telemetry": True,
        "nonfinite": "skip_step", "max_grad_norm": 1.0,
    },
    "kahan": {"lr": 0.1, "rounding": "kahan"},
    "stochastic": {"lr": 0.1, "rounding": "stochastic"},
}  # fmt: skip
CHECKS = {}


def check(function: Any) -> Any:
    CHECKS[function.__name__] = function
    return function


def is_leaf(x: Any) -> bool:
    return isinstance(x, tuple | P)


def mesh(mode: str, shape: tuple[int, int] = (4, 2)) -> Any:
    kinds = {"auto": (AxisType.Auto,) * 2, "explicit": (AxisType.Explicit,) * 2}
    kinds["mixed"] = (AxisType.Explicit, AxisType.Auto)
    return jax.make_mesh(shape, ("x", "y"), axis_types=kinds[mode])


def tree(seed: int = 0, dtype: str = "float32") -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.normal(size=s).astype(jax.numpy.dtype(dtype)), SHAPES, is_leaf=is_leaf
    )


def shardings(where: Any) -> Any:
    return jax.tree.map(lambda p: NamedSharding(where, p), SPECS, is_leaf=is_leaf)


def placed(where: Any, seed: int = 0, dtype: str = "float32") -> Any:
    return jax.device_put(tree(seed, dtype), shardings(where))


def lies(state: Any, wanted: Any) -> None:
    """Every array of the state where it should be."""
    rows = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, a), at in zip(rows, jax.tree.leaves(wanted), strict=True):
        assert a.sharding.is_equivalent_to(at, a.ndim), f"{path}: {a.sharding}, not {at}"


def error(got: Any, want: Any) -> float:
    def scaled(a: Any, b: Any) -> float:
        a, b = np.float64(a), np.float64(b)
        return float(np.abs(a - b).max() / (np.abs(b).max() or 1.0))

    return max(jax.tree.leaves(jax.tree.map(scaled, got, want)))


def dtype_of(options: str) -> str:
    return "bfloat16" if "rounding" in OPTIONS[options] else "float32"


@cache
def made(options: str) -> Any:
    """Kept, so that checks share compiled steps."""
    return make_step(**OPTIONS[options])


def run(options: str, where: Any, n: int = 4) -> tuple[Any, Any]:
    """Parameters and state after `n` steps, on a mesh or on one device."""
    init, step = made(options)
    put = placed if where is not None else lambda _, *rest: jax.device_put(tree(*rest))
    x = put(where, 0, dtype_of(options))
    state = init(x)
    for t in range(1, n + 1):
        x, state = step(x, put(where, t, dtype_of(options)), state)
    return x, state


@check
def placement_after_init(mode: str, options: str) -> None:
    where = mesh(mode)
    x = placed(where, 0, dtype_of(options))
    wanted = state_sharding(shardings(where), x, **OPTIONS[options])
    row, col = wanted.moments["w"].row, wanted.moments["w"].col
    assert (row.spec, col.spec) == (P("x", None), P(None, "y"))
    assert wanted.moments["t"].row.is_fully_replicated
    assert wanted.moments["h"]["b"].full.spec == P("y")
    assert wanted.step == NamedSharding(where, P())
    init = adafactor(**OPTIONS[options]).init
    lies(init(x), wanted)
    lies(jax.jit(init)(x), wanted)
    lies(jax.jit(init, out_shardings=wanted)(x), wanted)


@check
def trajectory(mode: str, options: str) -> None:
    """That of one device, the random draws included, and the state stays where it is."""
    where = mesh(mode)
    x, state = run(options, where)
    want, after = run(options, None)
    if dtype_of(options) == "float32":
        assert error(x, want) <= 1e-6, error(x, want)
        assert error(state.moments, after.moments) <= 1e-5
    else:  # a sum that is added up in another order may flip a rounding
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(want), strict=True):
            assert np.mean(np.asarray(a) != np.asarray(b)) <= 1 / 100
    lies(state, state_sharding(shardings(where), x, **OPTIONS[options]))
    lies(x, shardings(where))


@check
def collectives(mode: str, options: str) -> None:
    """No parameter and no gradient is gathered, everything given up is reused."""
    where = mesh(mode)
    init, step = made(options)
    x = placed(where, 0, dtype_of(options))
    g, state = placed(where, 1, dtype_of(options)), init(x)
    compiled = step.lower(x, g, state).compile()
    found = set(re.findall(r" (all-gather|all-to-all|collective-permute)", compiled.as_text()))
    assert not found, found
    held = jax.tree.leaves((x, state._replace(metrics=None)))
    local = sum(a.addressable_shards[0].data.nbytes for a in held)
    assert compiled.memory_analysis().alias_size_in_bytes >= local


@check
def one_compilation(mode: str, options: str) -> None:
    """The state of init lies as that of a step: nothing is compiled twice."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    where = mesh(mode)
    init, step = make_step(**OPTIONS[options])
    x, g = placed(where, 0, dtype_of(options)), placed(where, 1, dtype_of(options))
    state = init(x)
    x, state = step(x, g, state)
    compiled.clear()
    for _ in range(2):
        x, state = step(x, g, state)
    assert not compiled, compiled


@check
def other_mesh(mode: str, options: str) -> None:
    """State moved to a mesh of another shape continues the same trajectory."""
    where, there = mesh(mode), mesh(mode, (2, 4))
    specs = {**SPECS, "h": {"k": P("x", None, "y"), "b": P("x")}}
    at = jax.tree.map(lambda p: NamedSharding(there, p), specs, is_leaf=is_leaf)
    x, state = run(options, where, 2)
    _, step = made(options)
    state = jax.device_put(state, state_sharding(at, x, **OPTIONS[options]))
    x = jax.device_put(x, at)
    for t in (3, 4):
        x, state = step(x, jax.device_put(tree(t, dtype_of(options)), at), state)
    want, _ = run(options, None)
    if dtype_of(options) == "float32":
        assert error(x, want) <= 1e-6


@check
def int8_in_a_scan(mode: str, options: str) -> None:
    """Types say where the state lies, and a scan has to get back what it gave."""
    at = {"v": NamedSharding(mesh(mode), P("y"))}
    x = jax.device_put({"v": np.ones(250, np.float32)}, at)  # two scales, whole on every device
    chosen = {"lr": 0.1, "beta1": 0.9, "momentum_dtype": "int8"}
    init, step = make_step(**chosen)
    start = x, init(x)
    wanted = state_sharding(at, x, **chosen)
    (x, state), _ = jax.lax.scan(lambda now, _: (step(now[0], x, now[1]), None), start, length=2)
    lies(state, wanted)
    tx = adafactor(**chosen)
    lies(jax.jit(tx.update)(x, state, x)[1], wanted)


@check
def specs_alone(mode: str, options: str) -> None:
    leaf = {"w": jax.ShapeDtypeStruct((16, 12), np.float32)}
    made = state_sharding({"w": P("x")}, leaf, beta1=0.9)
    assert made.moments["w"][:4] == (P("x"), P(None), None, P("x"))
    assert made.step == P()


@check
def committed_device(mode: str, options: str) -> None:
    device = jax.devices()[3]
    x = jax.device_put(tree(), device)
    state = adafactor(0.1).init(x)
    assert {d for a in jax.tree.leaves(state) for d in a.devices()} == {device}
    assert all(a.committed for a in jax.tree.leaves(state))
    free = adafactor(0.1).init(jax.tree.map(jax.numpy.asarray, tree()))
    assert not any(a.committed for a in jax.tree.leaves(free))


@check
def wrong_mesh(mode: str, options: str) -> None:
    init, step = make_step(**OPTIONS[options])
    state = init(placed(mesh(mode)))
    other = {"w": jax.device_put(tree()["w"], NamedSharding(mesh(mode, (2, 4)), SPECS["w"]))}
    refused(af.StateError, "'w' lies on the mesh .x=4 .*, y=2 .*state_sharding", step, other, state)


@check
def gradient_placed_otherwise(mode: str, options: str) -> None:
    x = {"w": placed(mesh(mode))["w"]}
    g = {"w": jax.device_put(x["w"], NamedSharding(mesh(mode), P("y", "x")))}
    init, step = make_step(**OPTIONS[options])
    refused(af.ShapeError, "gradient of tensor 'w' has the sharding.*reshard", step, x, init(x), g)


@check
def axes_that_cannot_meet(mode: str, options: str) -> None:
    """Errors of ours, where JAX's name no tensor: other names, types or sizes, a crossed state."""
    init, step = make_step(**OPTIONS[options])
    x = {"w": placed(mesh(mode))["w"]}
    state, w = init(x), tree()["w"]
    kinds = (AxisType.Explicit,) * 2
    others = {
        "a=4 Explicit, b=2 Explicit": jax.make_mesh((4, 2), ("a", "b"), axis_types=kinds),
        "x=4 Explicit, y=2 Auto": mesh("mixed"),
        "x=2 Explicit, y=4 Explicit": mesh("explicit", (2, 4)),
        "x=1 Explicit, y=1 Explicit": mesh("explicit", (1, 1)),
    }
    for words, there in others.items():
        g = {"w": jax.device_put(w, NamedSharding(there, P(*there.axis_names)))}
        refused(af.ShapeError, f"gradient of tensor 'w' lies on .*{words}.*Move", step, x, state, g)
        refused(af.StateError, f"state of tensor 'w' lies on .*{words}.*Move", step, x, init(g), x)
    crossed = jax.device_put(state.moments["w"].momentum, NamedSharding(mesh(mode), P(None, "x")))
    state.moments["w"] = state.moments["w"]._replace(momentum=crossed)
    refused(af.StateError, "'w' has momentum with the sharding.*Move it", step, x, state)


@check
def int8_without_jit(mode: str, options: str) -> None:
    """Its blocks of 128, whether they fill the last axis or not; refused where devices cut them."""
    tx = adafactor(0.1, beta1=0.9, momentum_dtype="int8")
    at = NamedSharding(mesh(mode), P("x", "y"))
    w = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32)
    x = {"whole": w, "rest": w[:, :200]}
    apart = jax.device_put(x, at)
    got, want = (apart, tx.init(apart)), (x, tx.init(x))
    for _ in range(2):
        got = tx.update(apart, got[1], apart)
        want = jax.jit(tx.update)(x, want[1], x)
    assert error(got[0], want[0]) <= 1e-6
    one = {"w": jax.device_put(w, NamedSharding(at.mesh, P(None, ("x", "y"))))}
    with pytest.raises(af.ShapeError, match=r"'w' of shape .8, 256. .*bfloat16"):
        jax.jit(tx.update).lower(one, tx.init(one), one)


def refused(error: Any, words: str, step: Any, x: Any, state: Any, g: Any = None) -> None:
    state = state._replace(moments={"w": state.moments["w"]})
    with pytest.raises(error, match=words):
        step.lower(x, x if g is None else g, state)


def cases() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [
        (name, mode, options)
        for name in ("placement_after_init", "trajectory", "collectives")
        for mode in ("auto", "explicit", "mixed")
        for options in OPTIONS
        if mode != "mixed" or options == "all"
    ]
    few = ("one_compilation", "other_mesh")
    found += [(name, mode, "all") for name in few for mode in ("auto", "explicit")]
    found += [("wrong_mesh", mode, "plain") for mode in ("auto", "explicit")]
    found.append(("gradient_placed_otherwise", "explicit", "plain"))
    found.append(("axes_that_cannot_meet", "explicit", "all"))
    found.append(("int8_without_jit", "explicit", "plain"))
    found.append(("int8_in_a_scan", "explicit", "plain"))
    return [*found, *((name, "auto", "plain") for name in ("specs_alone", "committed_device"))]


def main(cases: list[tuple[str, ...]]) -> None:
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    results = {}
    for case in cases:
        name, *arguments = case
        try:
            CHECKS[name](*arguments)
            results["-".join(case)] = ""
        except Exception:
            results["-".join(case)] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(cases())
