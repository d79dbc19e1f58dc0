"""A tensor's step as a call: one function per kind of tensor, the numbers of steps without it."""

import re
from collections import Counter

import numpy as np
import pytest

from _close import close
from _run import normal

try:
    import jax
    import jax.numpy as jnp

    from adafactor_jax import _calls, adafactor, make_step
except ImportError:  # then the fixture `backend` skips
    jax = None

pytestmark = [
    pytest.mark.backends("jax"),
    pytest.mark.usefixtures("backend"),
    pytest.mark.filterwarnings("ignore::adafactor_core.LowPrecisionWarning"),
]


@pytest.fixture
def in_one_piece(monkeypatch):
    """Small tensors too."""
    monkeypatch.setattr(_calls, "LARGE", 0)


SHAPES = {"a": (9, 7), "b": (9, 7), "c": (7, 9), "d": (9,), "e": ()}
OPTIONS = {
    "defaults": {},
    "a schedule, decay": {"lr": lambda t: 0.1 / t, "weight_decay": 0.1},
    "momentum, telemetry": {"lr": 0.1, "beta1": 0.9, "telemetry": True},
    "tensors skipped": {"lr": 0.1, "nonfinite": "skip_tensor"},
    "at random": {"lr": 0.1, "rounding": "stochastic", "seed": 3},
    "rules": {"lr": 0.1, "rules": [("b", {"clip_threshold": None}), ("*", {"weight_decay": 0.1})]},
}


def drawn(seed, dtype="float32"):
    rows = enumerate(SHAPES.items())
    return {n: jnp.asarray(normal(s, seed=10 * seed + k), dtype) for k, (n, s) in rows}


def traced(options, dtype="float32", shapes=SHAPES):
    init, step = make_step(**options)
    x = {n: jax.ShapeDtypeStruct(s, dtype) for n, s in shapes.items()}
    return step.trace(x, x, jax.eval_shape(init, x))


def functions(options, **more):
    """How often the program calls each function that is to stay in one piece."""
    text = traced(options, **more).lower().as_text()
    names = re.findall(r"call @(by_platform\w*)\(", text)
    return sorted(Counter(names).values())


@pytest.mark.usefixtures("in_one_piece")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_numbers_of_an_eager_step(name, dtype):
    """Eagerly nothing is called. Gradients of one tensor are not finite at the second step."""
    init, step = make_step(**OPTIONS[name])
    runs = []
    for run in (step, step.__wrapped__):
        x = drawn(0, dtype)
        state = init(x)
        for t in (1, 2, 3):
            g = drawn(t, dtype)
            if name == "tensors skipped" and t == 2:
                g["b"] = g["b"].at[2, 3].set(np.nan)
            x, state = run(x, g, state)
        runs.append((x, state))
    assert jax.tree.structure(runs[0]) == jax.tree.structure(runs[1])
    for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
        if dtype == "float32" or a.dtype != dtype:
            close(np.asarray(a), np.asarray(b), 2e-6 if a.dtype == "float32" else 0.0)
        else:  # a bit of a 16-bit number
            close(np.asarray(a, "float32"), np.asarray(b, "float32"), 2.0**-7)


MIXED = {
    "a": (jnp.float32, jnp.float32), "b": (jnp.float32, jnp.bfloat16),
    "c": (jnp.bfloat16, jnp.float32), "d": (jnp.bfloat16, jnp.bfloat16),
    "e": (jnp.float16, jnp.float16),
} if jax else {}  # fmt: skip


@pytest.mark.parametrize("shape", [(), (8,), (9, 7)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"clip_threshold": None}, {"nonfinite": "skip_tensor"}, {"eps1": "finfo"},
     {"beta1": 0.9, "clip_threshold": None}],
    ids=str,
)  # fmt: skip
def test_tensors_that_differ_in_their_types_alone(options, shape):
    """Each has a function of its own, which knows no other tensor's second moment."""
    x = {n: jnp.full(shape, 0.5 + k / 8, d) for k, (n, (d, _)) in enumerate(MIXED.items())}
    g = {n: jnp.full(shape, 10.0**-k, d) for k, (n, (_, d)) in enumerate(MIXED.items())}
    x["weak"], g["weak"] = jnp.full(shape, 0.7), jnp.full(shape, 3.0, jnp.float32)
    if shape == ():
        x["weak"] = jnp.asarray(0.7)  # weakly typed, as Python's floats are
    init, update = adafactor(0.1, **options)
    state = init(x)
    for (n, want), got in zip(
        update(g, state, x)[0].items(), jax.jit(update)(g, state, x)[0].values(), strict=True
    ):
        close(np.asarray(got, "float32"), np.asarray(want, "float32"), 2.0**-8, n)


def test_a_state_of_numpy_arrays_that_a_jit_closes_over():
    init, update = adafactor(0.1)
    x, g = drawn(0), drawn(1)
    state = jax.tree.map(np.asarray, init(x))
    got, _ = jax.jit(lambda g, x: update(g, state, x))(g, x)
    want, _ = update(g, init(x), x)
    for n in SHAPES:
        close(np.asarray(got[n]), np.asarray(want[n]), 2e-6, n)


@pytest.mark.usefixtures("in_one_piece")
def test_one_function_for_all_tensors_of_a_kind():
    assert functions({"lr": 0.1}) == [1, 1, 1, 2]
    assert functions(OPTIONS["rules"]) == [1] * 5  # a and b have options of their own
    assert functions(OPTIONS["at random"], dtype="bfloat16") == [1] * 5  # and bits of their own
    assert functions({"lr": 0.1, "max_grad_norm": 1.0}) == []  # they wait for each other
    assert functions({"lr": 0.1, "nonfinite": "skip_step"}) == []


def test_small_tensors_are_not_calls():
    text = traced({"lr": 0.1}).lower().as_text()
    assert "call @by_platform" in text  # which is traced once for all of a kind
    assert "inlineable" not in text


@pytest.mark.usefixtures("in_one_piece")
def test_for_another_platform_nothing_is_kept_in_one_piece():
    text = traced({"lr": 0.1}).lower(lowering_platforms=("cuda",)).as_text()
    assert "call @by_platform" in text
    assert "inlineable" not in text
    large = {"w": (2048, 2048)}  # of more than one block
    here, there = (
        traced({"lr": 0.1}, "bfloat16", large).lower(lowering_platforms=(name,)).as_text()
        for name in ("cpu", "tpu")
    )
    assert "optimization_barrier" in here
    assert "optimization_barrier" not in there


def test_temporaries_are_those_of_one_tensor():
    def temporary(n):
        shapes = {f"w{k}": (256, 512) for k in range(n)}
        compiled = traced({"lr": 0.1}, shapes=shapes).lower().compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(12) < temporary(1) + 256 * 512 * 4


def test_an_eager_vmap_compiles_nothing():
    """A function made in each step would be compiled in each step."""
    init, update = adafactor(0.1)
    x, g = (jnp.stack([drawn(seed + k)["a"] for k in range(3)]) for seed in (0, 3))
    d, _ = jax.vmap(lambda g, x: update(g, init(x), x))(g, x)
    alone, _ = update(g[1], init(x[1]), x[1])
    close(np.asarray(d[1]), np.asarray(alone), 1e-6)


def test_no_value_of_a_trace_is_left_behind():
    init, update = adafactor(0.1)
    with jax.check_tracer_leaks():
        jax.jit(lambda g, x: update(g, init(x), x))(drawn(1), drawn(0))


@pytest.mark.usefixtures("in_one_piece")
def test_a_derivative_through_calls():
    def after(lr, scan):
        init, update = adafactor(lr, scan=scan)
        x = drawn(0)
        d, _ = update(drawn(1), init(x), x)
        return sum(jnp.sum(a * a) for a in jax.tree.leaves(d))

    jitted = jax.jit(jax.grad(after), static_argnums=1)(0.1, None)
    close(np.asarray(jitted), np.asarray(jax.grad(after)(0.1, None)), 1e-5)


@pytest.mark.usefixtures("in_one_piece")
def test_steps_in_a_scan():
    init, step = make_step(0.1)
    x = drawn(0)
    grads = jax.tree.map(lambda *gs: jnp.stack(gs), *(drawn(t) for t in (1, 2, 3)))

    def body(carry, g):
        return step(*carry[:1], g, carry[1]), None

    (got, _), _ = jax.jit(lambda x: jax.lax.scan(body, (x, init(x)), grads))(x)
    want, state = x, init(x)
    for t in (1, 2, 3):
        want, state = step.__wrapped__(want, drawn(t), state)
    for name in SHAPES:
        close(np.asarray(got[name]), np.asarray(want[name]), 1e-6, name)
