"""adafactor_cupy's kernels, run by a C++ compiler, against the array-API passes they replace."""

from itertools import pairwise

import numpy as np
import optree
import pytest

import _emulated
import adafactor_core as af
from _close import close, close_narrow
from _emulated import Emulated, Must, agree, follow
from _served import SERVED, check_dead_rows, check_propagates, drawn
from _standin import Adafactor, Array, numpy
from adafactor_core._box import Box
from adafactor_cupy import _cut
from adafactor_cupy._passes import KernelPasses

if _emulated.COMPILER is None:
    pytest.skip("no C++ compiler to run the kernels with", allow_module_level=True)

OPTIONS = SERVED | {
    "narrow momentum": {"beta1": 0.9, "momentum_dtype": "float16"},
    "first and last": {"factored_dims": (0, -1)},
    "last and first": {"factored_dims": (-1, 0)},
    "norm": {"max_grad_norm": 0.5},
    "norm, unclipped": {"max_grad_norm": 0.5, "clip_threshold": None, "beta1": 0.9},
    "full, norm": {"factored": False, "max_grad_norm": 0.5, "weight_decay": 0.1},
    "little scratch": {"max_scratch_bytes": 4096},
}
# Lengths that vectors divide and that they do not, one tile and several, one lane and several,
# axes before, between and behind the factored two.
SHAPES = [
    (), (1,), (7,), (4104,), (70_001,), (1, 1), (13, 1), (5, 7), (97, 89), (300, 1032), (40_003, 2),
    (3, 4, 5), (2, 3, 31, 17), (17, 3, 29), (64, 32, 3, 3), (3, 3, 16, 24), (5, 264, 136),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_are_array_api_to_rounding(shape, options):
    if isinstance(options.get("factored_dims"), tuple) and len(shape) < 2:
        pytest.skip("no such axes")
    x = drawn(shape, np.float32)
    agree(follow(x, options, (Must(),)), follow(x, options, ()), str(shape))


def named(dtype):
    if dtype == "bfloat16":
        return pytest.importorskip("ml_dtypes", reason="no bfloat16").bfloat16
    return dtype


PAIRS = [("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float32"),
         ("float16", "bfloat16"), ("float32", "bfloat16"), ("float32", "float16")]  # fmt: skip


@pytest.mark.parametrize("name", ["default", "momentum", "decay", "full", "full, unclipped"])
@pytest.mark.parametrize(("param", "grad"), PAIRS)
def test_every_dtype(param, grad, name):
    for shape in [(97, 89), (7,), (4104,), (300, 1032), (64, 32, 3, 3), (5, 264, 136)]:
        x = drawn(shape, named(param))
        # One step: a rounding that falls the other way is more than 2 units of what becomes a
        # smaller value later.
        got, want = (follow(x, OPTIONS[name], p, 1, named(grad)) for p in ((Must(),), ()))
        agree(got, want, str(shape))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "shape", [(97, 89), (300, 1032), (64, 32, 3, 3), (70_001,), (60, 50, 1), ()], ids=str
)
def test_random_roundings_are_the_same_draws(dtype, shape):
    """A draw that differed would show in half of the entries."""
    x = drawn(shape, named(dtype))
    options = {"rounding": "stochastic", "lr": 0.1, "seed": 2**40 + 3}
    got, want = (follow(x, options, p, 1) for p in ((Must(),), ()))
    agree(got, want, str(shape), 2e-3)  # a draw has more boundaries to fall on either side of
    nearest = follow(x, {"lr": 0.1}, (), 1)
    assert x.size < 10 or np.mean(nearest[0] != got[0]) > 0.2


@pytest.mark.parametrize("beta1", [None, 0.9])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_rounding_leaves_over_is_kept(dtype, beta1):
    options = {"rounding": "kahan", "lr": 0.01, "weight_decay": 0.1, "beta1": beta1}
    options |= {} if beta1 is None else {"momentum_dtype": dtype}
    for shape in [(97, 89), (4104,), (300, 1032), (64, 32, 3, 3)]:
        x = drawn(shape, named(dtype))
        (got, state), (want, other) = (follow(x, options, p, 2) for p in ((Must(),), ()))
        close_narrow(got, want, dtype, str(shape), share=3e-3)
        kept, whole = (
            a.astype(np.float64) + s.moments.compensation.astype(np.float64)
            for a, s in ((got, state), (want, other))
        )
        close(kept, whole, 1e-5, f"{shape}, both parts")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bits_of_16_bit_floats_are_numpys(dtype):
    """X + 0 for every value, and then for sums that lie between two values."""
    dtype = named(dtype)
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    x = every[np.isfinite(every.astype(np.float32))].reshape(-1, 8)
    still = {"lr": 0.0, "scale_parameter": False, "clip_threshold": None}
    got = follow(x, still, (Must(),), 1, np.float32)[0]
    assert np.array_equal(got.view(np.uint16) & 0x7FFF, x.view(np.uint16) & 0x7FFF)
    moving = {"lr": 1.0, "scale_parameter": False, "weight_decay": 0.37, "factored": False}
    with np.errstate(over="ignore"):
        got, want = (follow(x, moving, p, 1, np.float32)[0] for p in ((Must(),), ()))
    same = got.view(np.uint16) == want.view(np.uint16)
    assert np.mean(same) > 0.999


@pytest.mark.parametrize("place", [(3, 5), (0, 0), (32, 64)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_gradients_propagate_as_in_array_api(place, bad):
    check_propagates((Must(),), place, bad)


def test_dead_rows_and_columns_stay_exactly():
    check_dead_rows((Must(),))


def test_a_step_is_ten_launches_at_most_and_uploads_pointers_once():
    """Twelve tensors, of one kind: as many launches as for one."""
    shapes = [(5, 7), (9,), (64, 64), (), (300, 1032), (0, 4), (3, 1, 5), (70_001,), (33, 2), (8,)]
    arrays = [drawn(s, np.float32, i) for i, s in enumerate(shapes)]
    params, passes = [Array(x.copy()) for x in arrays], Must()
    passes.kernels.address = lambda x: (
        x if isinstance(x, np.ndarray) else x._values
    ).__array_interface__["data"][0]
    optimizer, state = Adafactor(params, passes=(passes,)), af.init(arrays)
    grads = [Array(drawn(s, np.float32, i + 50)) for i, s in enumerate(shapes)]
    for _ in range(2):
        passes.kernels.launches.clear()
        uploads = passes.kernels.uploads
        optimizer.step(grads)
        arrays, state = af.step(arrays, [numpy(g) for g in grads], state)
    assert passes.kernels.launches == ["observe", "advance", "measure", "scale", "apply"]
    assert passes.kernels.uploads == uploads
    for got, want in zip(params, arrays, strict=True):
        close(numpy(got), want, 1e-6)
    optimizer.step([Array(numpy(g)) for g in grads])
    assert passes.kernels.uploads == uploads + 1


def test_the_norm_goes_over_what_kernels_and_array_api_take():
    """In units of their own: of the large ones alone, float32 squares would overflow."""
    shapes = {"w": (97, 89), "b": (4104,), "c": (5, 264, 136), "left": (4, 5)}
    rules = [("left", {"eps1": 1e-3, "eps1_mode": "clamp"}), ("b", {"beta1": 0.9})]
    config = af.Config(max_grad_norm=3.0, rules=rules)
    params = {n: drawn(s, np.float32) for n, s in shapes.items()}
    for scale in (1e-3, 1.0, 2.0**54):
        grads = {n: drawn(s, np.float32, 1) * np.float32(scale) for n, s in shapes.items()}
        state = af.init(params, config)
        passes = (KernelPasses(Emulated()),)
        got, _ = af.step(params, grads, state, config, passes=passes, grad_scale=4.0)
        want, _ = af.step(params, grads, state, config, grad_scale=4.0)
        for name in shapes:
            close(got[name], want[name], 1e-6, name)


class OnDevice(Must):
    """Takes rates and the gain of gradients as arrays, as schedules and loss scalers may give."""

    def observe(self, works):
        held = {
            n: None if x is None else np.float32([x]) for n, x in works[0].rates._asdict().items()
        }
        works[0].rates = works[0].rates._replace(**held)
        works[0].whole.gain = np.full((), works[0].whole.gain, np.float32)
        super().observe(works)


@pytest.mark.parametrize("shape", [(97, 89), (70,)], ids=str)
@pytest.mark.parametrize("name", ["default", "momentum", "decay by lr, first"])
def test_rates_may_lie_on_the_device(shape, name):
    x, config = drawn(shape, np.float32), af.Config(**OPTIONS[name])
    got, want = (
        af.step(x, x, af.init(x, config), config, passes=p, grad_scale=8.0)
        for p in ((OnDevice(),), ())
    )
    agree(got, want, name)


@pytest.mark.parametrize("shape", [(64, 136), (4104,)], ids=str)
@pytest.mark.parametrize("which", ["param", "grad", "both"])
def test_memory_that_vectors_cannot_reach_is_taken_by_the_entry(shape, which):
    """An access of 16 bytes at such an address is a fault, on a GPU and here."""

    def shifted(x):
        buffer = np.empty(x.size + 5, x.dtype)
        skip = -(buffer.ctypes.data // x.itemsize) % 4 + 1
        view = buffer[skip : skip + x.size].reshape(x.shape)
        view[...] = x
        assert view.ctypes.data % 16
        return view

    x, g = drawn(shape, np.float32), drawn(shape, np.float32, 1)
    config = af.Config(beta1=0.9)
    want, _ = af.step(x, g, af.init(x, config), config)
    x, g = (shifted(a) if which in (n, "both") else a for n, a in (("param", x), ("grad", g)))
    got, _ = af.step(x, g, af.init(x, config), config, donate=True, passes=(Must(),))
    assert got is x
    close(got, want, 1e-6)


REFUSED = {
    "eps1_mode='clamp'": {"eps1": 1e-3, "eps1_mode": "clamp"},
    "momentum_on='grad'": {"beta1": 0.9, "momentum_on": "grad"},
    "momentum_dtype='int8'": {"beta1": 0.9, "momentum_dtype": "int8"},
    "momentum_rounding='stochastic'": {
        "beta1": 0.9,
        "momentum_dtype": "float16",
        "momentum_rounding": "stochastic",
    },
    "telemetry with clip_threshold=None": {"telemetry": True, "clip_threshold": None},
    "batch_axes that are not the leading axes": {"batch_axes": (2,)},
    "several axes on one side": {"factored_dims": ((0, 1), 2)},
}


class Listening(KernelPasses):
    """Remembers what it answered."""

    def __init__(self):
        super().__init__(Emulated())
        self.seen = set()

    def serves(self, work):
        self.seen.add(super().serves(work))
        return super().serves(work)


@pytest.mark.parametrize(("reason", "options"), REFUSED.items(), ids=REFUSED)
def test_refused_options_run_in_array_api_and_say_why(reason, options):
    x, passes = drawn((4, 5, 6), np.float32), Listening()
    got, want = follow(x, options, (passes,), 2), follow(x, options, (), 2)
    assert passes.seen == {reason}
    assert np.array_equal(got[0], want[0])


def test_refused_arrays():
    x = drawn((8, 6), np.float32)
    for param, grad, options, reason in [
        (x.T, x.T, {}, "not contiguous in C order"),
        (x, np.asfortranarray(x), {}, "not contiguous in C order"),
        (x.astype(np.float64), x, {}, "float64 parameters"),
        (x, x.astype(np.float64), {}, "float64 gradients"),
    ]:
        passes, config = Listening(), af.Config(**options)
        af.step(param, grad, af.init(param, config), config, passes=(passes,))
        assert passes.seen == {reason}


def test_pure_unless_donated():
    x, g = drawn((50, 60), np.float32), drawn((50, 60), np.float32, 1)
    state = af.init(x)
    kept = x.tobytes(), g.tobytes(), state.moments.row.tobytes()
    y, _ = af.step(x, g, state, passes=(Must(),))
    assert (x.tobytes(), g.tobytes(), state.moments.row.tobytes()) == kept
    z, _ = af.step(x, g, state, donate=True, passes=(Must(),))
    assert z is x
    assert np.array_equal(y, z)


SIDES = [
    (1, 8192, 1, 8192, 1), (1, 4096, 1, 4096, 1), (1, 32000, 1, 4096, 1), (1, 2, 1, 1 << 20, 1),
    (1, 1 << 20, 1, 2, 1), (24, 512, 1, 512, 1), (1, 512, 1, 512, 9), (1, 1, 1, 70_001, 1),
]  # fmt: skip


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("itemsize", [2, 4])
def test_items_cover_every_element_once_and_partial_sums_stay_small(sides, itemsize):
    box = Box(*sides, False)
    factored = box.r > 1
    (how,) = _cut.cuts([box], [factored], itemsize, None)
    for items in (_cut.coarse(0, box, how, factored), _cut.fine(0, box, 1.0, factored)):
        count = sum((r1 - r0) * (j1 - j0) for _, _, r0, r1, j0, j1, _, _ in items)
        assert count == box.a * box.r * box.length
        spans = sorted({(a, r0, r1) for _, a, r0, r1, *_ in items})
        for (a, _, end), (b, start, _) in pairwise(spans):
            assert start == (end if a == b else 0)
        tiled = factored and box.b * box.d == 1
        assert not tiled or all(j1 - j0 <= _cut.TILE for *_, j0, j1, _, _ in items)
    scratch = 4 * (how.lanes * box.cols + how.tiles * box.rows) * factored
    least = 4 * (box.cols + -(-box.length // _cut.TILE) * box.rows)
    assert scratch <= max(least, _cut.FLOOR, 0.01 * itemsize * box.a * box.r * box.length)


@pytest.mark.parametrize("options", [{}, {"nonfinite": "skip_step", "max_grad_norm": 1.0}], ids=str)
def test_scratch_of_a_large_matrix_is_below_one_percent(options):
    passes = Must()
    x = np.zeros((4096, 4096), named("bfloat16"))
    passes.observe = passes.advance = passes.measure = passes.scale = lambda works: None
    passes.squares = passes.judge = lambda works: 0.0
    passes.apply = lambda works: [setattr(w, "result", w.param) for w in works]
    config = af.Config(rounding="stochastic", **options)
    af.step(x, x, af.init(x, config), config, donate=True, passes=(passes,))
    assert 0.001 * x.nbytes <= 4 * passes.kernels.entries <= 0.01 * x.nbytes


def test_steps_have_the_same_bits_each_time():
    x = drawn((300, 1032), np.float32)
    one, two = (follow(x, {"beta1": 0.9}, (Must(),)) for _ in range(2))
    assert optree.tree_all(optree.tree_map(np.array_equal, one, two))
