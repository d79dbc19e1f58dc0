"""The core against the float64 oracle: drawn shapes, options, dtypes and gradients, every library.

Tolerances are those of practice.md 2.9, in _close.py.
"""

import numpy as np
import pytest

import adafactor_core as af
from _backends import need
from _close import (
    DIGITS,
    FLIPS,
    PARAMS,
    STATE,
    UPDATE,
    close,
    close_entries,
    close_narrow,
    dtype_of,
)
from _run import core, oracle, rounded

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, event, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]  # other work shares the machine


def examples(count):
    """So many of them, or more in the profile `wide`, where the default is 1000 and not 100."""
    count = count * settings().max_examples // 100
    return settings(max_examples=count, suppress_health_check=QUIET)


SIZES = [2, 3, 5, 7, 13, 1, 0]  # Hypothesis prefers what comes first, here and below
# No short fractions among the rates: X + D would be a tie of 16-bit rounding, and go either way,
# far more often than once in a thousand (one in ten for a weight decay of 0.1).
OPTIONS = {
    "lr": [None, 0.1037, 2.9, lambda t: 0.49 * t**-0.5],
    "step_size": [None, af.RelativeStep(cap=0.6), af.RelativeStep(cap=None),
                  af.RelativeStep(cap=0.1, warmup_init=True)],
    "scale_parameter": [True, False],
    "eps2": [1e-3, 0.51],
    "max_parameter_scale": [None, 0.26],
    "factored": [True, True, False],
    "factored_dims": ["auto", "last", "largest", "largest_first", "conv", "explicit"],
    "min_dim_size_to_factor": [1, 3],
    "batch_axes": [(), 0, -1, (0, 1)],
    "scale_scope": ["block", "tensor"],
    "clip_scope": ["block", "tensor"],
    "eps1": [1e-30, 1e-8, 0.1, "finfo", 0.0],
    "eps1_mode": ["grad_sq", "stats", "clamp"],
    "decay_type": ["pow", "adam", "constant"],
    "decay_rate": [None, 0.5, lambda t: 0.75 - 0.5 / t],
    "decay_offset": [0, 2],
    "beta2_cap": [None, 0.5],
    "clip_threshold": [1.0, 0.26, None],
    "beta1": [None, 0.9, lambda t: 0.75 - 0.5 / t],
    "momentum_on": ["scaled_update", "update", "grad"],
    "momentum_arithmetic": ["float32", "buffer", "weak"],
    "weight_decay": [0.0, 0.1037, lambda t: 0.2037 / t],
    "weight_decay_by": ["alpha", "lr", "none"],
    "weight_decay_first": [False, True],
    "max_scratch_bytes": [None, 1024],
    "maximize": [False, True],
}  # fmt: skip
GROUPS = [  # what acts together is drawn together
    "lr step_size scale_parameter eps2 max_parameter_scale",
    "factored factored_dims min_dim_size_to_factor",
    "batch_axes scale_scope clip_scope",
    "eps1 eps1_mode",
    "decay_type decay_rate decay_offset beta2_cap",
    "clip_threshold",
    "beta1 momentum_on momentum_arithmetic",
    "weight_decay weight_decay_by weight_decay_first",
    "max_scratch_bytes maximize",
]


def dead(g, axis):
    """One index of an axis never sees a gradient."""
    if g.ndim and g.shape[axis % g.ndim]:
        np.moveaxis(g, axis % g.ndim, 0)[0] = 0.0
    return g


KINDS = {
    "plain": lambda g: g,
    "heavy tails": lambda g: g * np.exp2(4.0 * np.abs(g) - 8.0),
    "dead row and column": lambda g: dead(dead(g, 0), -1),
    "dead row": lambda g: dead(g, 0),
    "dead column": lambda g: dead(g, -1),
    "all zero": lambda g: g * 0.0,
}


@st.composite
def problems(draw, dtype):
    """(params, gradients, options): a tensor of up to five axes and two or three steps."""
    rank = draw(st.sampled_from([2, 3, 2, 1, 4, 0, 5]))
    sizes = SIZES if rank < 4 else [2, 3, 5, 1]
    shape = tuple(draw(st.lists(st.sampled_from(sizes), min_size=rank, max_size=rank)))
    changed = [name for group in GROUPS if draw(st.booleans()) for name in group.split()]
    options = {name: draw(st.sampled_from(OPTIONS[name])) for name in changed}
    consistent(options, draw, rank)
    if dtype == "float16" and options.get("lr") == 2.9:
        options["lr"] = 0.29  # three steps of 2.9 leave its range
    if 0 in shape and not isinstance(options.get("factored_dims", ""), str):
        options["factored_dims"] = "auto"  # the oracle has no means over nothing
    kind = draw(st.sampled_from(list(KINDS)))
    # 2^60 squared is near the end of float32; float16 itself ends at 2^16. Tiny squares vanish in
    # float32 unless eps1 is added to them: then statistics have digits from 2^-45 on.
    bare = options.get("eps1_mode") == "clamp" or options.get("eps1") == 0.0
    low, high = (-10, 10) if dtype == "float16" else (-45 if bare else -60, 60)
    scale = draw(st.one_of(st.integers(-3, 3), st.integers(low, high)))
    event(f"{kind}, rank {rank}, {'empty' if 0 in shape else 'not empty'}")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def entries():
        # Away from 0, so that at 2^-60 squares are normal numbers: XLA flushes the others.
        return np.array(rng.choice([-1, 1], shape) * rng.uniform(0.25, 2.0, shape))

    grads = [KINDS[kind](entries()) * 2.0**scale for _ in range(draw(st.sampled_from([2, 3])))]
    return rounded(entries(), dtype), [rounded(g, dtype) for g in grads], options


def consistent(options, draw, rank):
    """Takes back what is an error, not a meaning: conflicts, and axes that are not there."""
    if options.get("lr") is None and getattr(options.get("step_size"), "cap", 1) is None:
        options["lr"] = 0.49
    if options.get("decay_type") == "constant":
        options.pop("decay_offset", None)
    if options.get("weight_decay_by", "alpha") == "alpha":
        options.pop("weight_decay_first", None)
    if options.get("eps1_mode") == "clamp" and options.get("eps1") == 0.0:
        options["eps1"] = 1e-12
    batch = options.get("batch_axes", ())
    batch = (batch,) if isinstance(batch, int) else batch
    if rank < 2 or len({axis % rank for axis in batch}) < len(batch) or len(batch) > rank - 1:
        batch = ()
    options["batch_axes"] = batch
    if options.get("factored_dims") == "explicit":
        free = [a for a in range(rank) if a not in {b % rank for b in batch}]
        free = draw(st.permutations(free))
        at = draw(st.integers(1, max(1, len(free) - 1)))
        pair = (tuple(free[:at]), tuple(free[at:])) if len(free) > 1 else "auto"
        options["factored_dims"] = pair


class Flips:
    """How many 16-bit entries fell on the other side of a rounding boundary, over all problems."""

    def __init__(self):
        self.flipped = self.entries = 0


def agree(backend, mode, dtype, problem, flips=None):
    params, grads, options = problem
    after, moments = core(backend, params, grads, af.Config(**options), dtype, mode)
    wide = "float64" if dtype == "float64" else "float32"
    expected, expected_moments, _ = oracle(params, grads, options, dtype)
    before = flips.flipped if flips else 0
    reached = {"": np.abs(params)}  # the largest values so far: what may have cancelled
    for t in range(len(grads)):
        for path, want in {**expected[t], **expected_moments[t]}.items():
            reached[path] = np.maximum(reached.get(path, 0.0), np.abs(want))
            scale = np.max(reached[path], initial=0.0)
            what = f"{path or 'params'} at step {t + 1}"
            if path == "" and dtype in PARAMS:
                close(after[t][path], want, PARAMS[dtype], what, scale)
            elif path == "":
                got = after[t][path]
                flips.flipped += close_narrow(got, want, dtype, what, reached[path], 1.0)
                flips.entries += want.size
            elif path == "momentum":
                # A flipped entry of a small tensor changes RMS(X), and with it every entry here.
                flip = 2.0 ** -DIGITS[dtype][0] if flips and flips.flipped > before else 0.0
                close(moments[t][path], want, max(STATE[wide], flip), what, scale)
            elif params.size:  # the state of an empty tensor has no one right form
                close_entries(moments[t][path], want, STATE[wide], what)
        if params.size:
            assert moments[t].keys() == expected_moments[t].keys()
    first_update(backend, dtype, problem, wide)


def first_update(backend, dtype, problem, wide):
    """D is not hidden behind a large parameter, so it is what a wrong formula shows in."""
    params, grads, options = problem
    config = af.Config(**options)
    with backend.scope(dtype):
        x, g = backend.asarray(params, dtype), backend.asarray(grads[0], dtype)
        update, _ = af.update(g, af.init(x, config), x, config)
        assert dtype_of(update) == wide
        got = backend.numpy(update)
    want = oracle(params, grads[:1], options, dtype)[2][0][""]
    undecayed = {**options, "weight_decay": 0.0}  # with decay, all of a small tensor may cancel
    step = oracle(params, grads[:1], undecayed, dtype)[2][0][""]
    close(got, want, UPDATE[wide], "update", np.max(np.abs(step), initial=0.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.backends("numpy")
def test_numpy(backend, dtype):
    @examples(600)
    @given(problems(dtype))
    def check(problem):
        agree(backend, "eager", dtype, problem)

    check()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.backends("numpy", "torch", "cupy")
def test_narrow(backend, dtype):
    need(backend, dtype)

    flips = Flips()

    @examples(200)
    @given(problems(dtype))
    def check(problem):
        agree(backend, "eager", dtype, problem, flips)

    check()
    assert flips.flipped <= FLIPS * flips.entries, f"{flips.flipped} of {flips.entries}"


@pytest.mark.parametrize(
    ("dtype", "counts"),
    [("float32", {"strict": 100, "torch": 120, "dask": 5, "jax": 5, "jax-jit": 15, "cupy": 40}),
     ("float64", {"strict": 40, "torch": 60, "dask": 3, "jax": 3, "jax-jit": 8, "cupy": 20})],
    ids=["float32", "float64"],
)  # fmt: skip
@pytest.mark.backends("strict", "torch", "jax", "dask", "cupy")
def test_libraries(backend, mode, dtype, counts):
    @examples(counts.get(f"{backend}-{mode}", counts[backend.name]))
    @given(problems(dtype))
    def check(problem):
        agree(backend, mode, dtype, problem)

    check()


def test_every_option_is_drawn():
    assert sorted(" ".join(GROUPS).split()) == sorted(OPTIONS)


COMPANIONS = {  # what has to be on for an option to have something to act on
    "momentum_arithmetic": {"momentum_dtype": "bfloat16"},
    "eps1_mode": {"eps1": 0.1},
    "weight_decay_first": {"weight_decay_by": "lr"},
}


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"max_scratch_bytes", "factored_dims"}))
def test_the_drawn_problems_would_show_a_wrong(name):
    """The values of an option move the oracle apart, by a hundred times the tolerance."""
    rng = np.random.default_rng(0)
    params = rng.uniform(0.25, 2.0, (2, 2, 5)) * np.array([1.0, 0.2])[:, None, None]
    grads = [rng.normal(size=(2, 2, 5)) * 4.0**t for t in range(3)]
    base = {"lr": 0.1, "batch_axes": (0,), "weight_decay": 0.5, "beta1": 0.9}
    ends = []
    for value in OPTIONS[name]:
        options = {**base, **COMPANIONS.get(name, {}), name: value}
        consistent(options, None, 3)
        ends.append(oracle(params, grads, options, "float64")[0][-1][""])
    assert max(np.abs(end - ends[0]).max() for end in ends) > 100 * PARAMS["float32"]
