"""`adafactor_core.schedules`: values, boundaries, the same on host and device, and in use."""

import copy
import math
import pickle

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import flat, normal
from adafactor_core import ConfigError, DTypeError
from adafactor_core.schedules import cosine, inverse_sqrt, warmup, wsd

DEVICES = ("numpy", "strict", "torch", "jax", "dask", "cupy")
# 41 * (1 / 41) is not 1 in float32, and XLA divides like that.
TABLE = {
    "warmup": warmup(0.3, 41),
    "warmup of a schedule": warmup(cosine(0.3, 1000), 41),
    "warmup of a function": warmup(lambda t: 0.3 / t, 41),
    "no warmup": warmup(0.3, 0),
    "inverse_sqrt": inverse_sqrt(0.3, 41),
    "inverse_sqrt, cold": inverse_sqrt(0.3),
    "cosine": cosine(0.3, 1000, 41, 0.1),
    "cosine, cold": cosine(0.3, 1000),
    "cosine, long": cosine(0.3, 10_000_000, 1000),
    # 0.105 + (0.7 - 0.105) is above 0.7 in float32.
    "cosine, rounded up": cosine(0.7, 100_000, 41, 0.105),
    "wsd, linear": wsd(0.3, 1000, 41, 300, 0.1),
    "wsd, sqrt": wsd(0.3, 1000, 41, 300, 0.1, "sqrt"),
    "wsd, cosine": wsd(0.3, 1000, 41, 300, 0.1, "cosine"),
    "wsd, long": wsd(0.3, 10_000_000, 1000, 1_000_000, 0.0, "sqrt"),
}
TIMES = [0, 1, 2, 40, 41, 42, 699, 700, 701, 999, 1000, 1001, 9_999_999, 10_000_000]
OURS = {n: s for n, s in TABLE.items() if n != "warmup of a function"}
BOUNDED = {n: s for n, s in TABLE.items() if isinstance(s, cosine | wsd)}
each = pytest.mark.parametrize("schedule", TABLE.values(), ids=TABLE)
each_bounded = pytest.mark.parametrize("schedule", BOUNDED.values(), ids=BOUNDED)


def textbook(s, t):
    """The formulas as papers print them, in float64."""
    ramp = 1.0 if t >= getattr(s, "warmup", 0) else t / s.warmup
    if isinstance(s, warmup):
        inner = s.schedule(t) if callable(s.schedule) else s.schedule
        return inner * (min(1.0, t / s.steps) if s.steps else 1.0)
    if isinstance(s, inverse_sqrt):
        return s.peak * min(ramp, math.sqrt(max(s.warmup, 1) / t))
    start = s.warmup if isinstance(s, cosine) else s.total - s.decay
    p = min(max((t - start) / (s.total - start), 0.0), 1.0)
    shape = {
        "linear": 1 - p,
        "sqrt": 1 - math.sqrt(p),
        "cosine": (1 + math.cos(math.pi * p)) / 2,
    }
    fall = shape["cosine" if isinstance(s, cosine) else s.shape]
    return ramp * (s.floor + (s.peak - s.floor) * fall)


@each
def test_value_on_the_host(schedule):
    for t in TIMES[1:]:
        got = schedule(t)
        assert type(got) is float
        # The textbook cosine and 1 - sqrt(p) cancel near the end.
        assert got == pytest.approx(textbook(schedule, t), rel=1e-13, abs=1e-16)
        assert schedule(float(t)) == got


BY_HAND = [
    (warmup(0.5, 4), [0.125, 0.25, 0.375, 0.5, 0.5]),
    (warmup(lambda t: 8.0 * t, 4), [2.0, 8.0, 18.0, 32.0, 40.0]),
    (inverse_sqrt(0.5), [0.5, 0.5 / math.sqrt(2), 0.5 / math.sqrt(3), 0.25]),
    (inverse_sqrt(1.0, 2), [0.5, 1.0, math.sqrt(2 / 3), math.sqrt(0.5)]),
    (cosine(1.0, 5, 2), [0.5, 1.0, 0.75, 0.25, 0.0, 0.0]),
    (cosine(3.0, 5, 2, 1.0), [1.5, 3.0, 2.5, 1.5, 1.0, 1.0]),
    (cosine(1.0, 2), [0.5, 0.0, 0.0]),
    (wsd(1.0, 6, 1, 4), [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
    (wsd(3.0, 6, 2, 4, 1.0), [1.5, 3.0, 2.5, 2.0, 1.5, 1.0, 1.0]),
    (wsd(1.0, 5, 0, 4, 0.0, "sqrt"), [1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0.0]),
    (wsd(1.0, 4, 0, 3, 0.0, "cosine"), [1.0, 0.75, 0.25, 0.0]),
]


@pytest.mark.parametrize(("schedule", "values"), BY_HAND)
def test_value_by_hand(schedule, values):
    assert [schedule(t + 1) for t in range(len(values))] == pytest.approx(values, rel=1e-14)


def test_inverse_sqrt_under_its_other_names():
    attention, t5x = inverse_sqrt((512 * 4000) ** -0.5, 4000), inverse_sqrt(2.0 / 100, 10_000)
    for n in (1, 399, 4000, 9999, 10_000, 123_456):
        assert attention(n) == pytest.approx(512**-0.5 * min(n**-0.5, n * 4000**-1.5), rel=1e-14)
        rsqrt_decay = 1 / math.sqrt(max(n, 10_000))
        assert t5x(n) == pytest.approx(2.0 * min(1, n / 10_000) * rsqrt_decay, rel=1e-14)


@each
def test_before_the_first_step(schedule):
    """Where 0-based schedules start: 0 with a warm-up, else the peak."""
    if not isinstance(schedule, warmup):
        assert schedule(0) == (0.0 if schedule.warmup else schedule.peak)
    elif not callable(schedule.schedule):
        assert schedule(0) == (0.0 if schedule.steps else 0.3)


@each
@pytest.mark.backends(*DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_gives_the_same_value(schedule, dtype, backend, mode):
    with backend.scope(dtype):
        run = backend.jit(schedule) if mode == "jit" else schedule
        for t in TIMES[1:]:
            got = run(backend.asarray(float(t), dtype))
            assert got.shape == ()
            assert str(got.dtype).endswith(dtype)
            rel = 1e-6 if dtype == "float32" else 1e-14
            assert float(backend.numpy(got)) == pytest.approx(schedule(t), rel=rel, abs=0)


@pytest.mark.backends(*DEVICES)
@pytest.mark.parametrize("n", [1, 41, 47, 1000, 999_999])
@pytest.mark.parametrize("peak", [0.1, 0.3, 1.0])
def test_boundaries_are_exact(peak, n, backend, mode):
    """Bit for bit, on the host and as float32."""
    floor, end = peak / 7, 3 * n + 4
    schedules = {
        warmup(peak, n): (n, n + 1, 10 * n),
        inverse_sqrt(peak, n): (n,),
        cosine(peak, end, n, floor): (n,),
        cosine(peak, end, n): (n,),
        **{
            wsd(peak, end, n, n, floor, s): (n, 2 * n, 2 * n + 4)
            for s in ("linear", "sqrt", "cosine")
        },
    }
    for schedule, at_peak in schedules.items():
        run = backend.jit(schedule) if mode == "jit" else schedule
        at_end = (end, end + 1, 10 * end) if hasattr(schedule, "floor") else ()
        for times, want in ((at_peak, peak), (at_end, getattr(schedule, "floor", 0.0))):
            for t in times:
                assert schedule(t) == want
                assert backend.numpy(run(backend.asarray(float(t)))) == np.float32(want)


@pytest.mark.parametrize("steps", [1, 3, 41, 1000])
def test_the_first_step_is_exact(steps):
    assert warmup(1.0, steps)(1) == 1 / steps
    assert cosine(1.0, 2000, steps)(1) == inverse_sqrt(1.0, steps)(1) == 1 / steps
    assert inverse_sqrt(0.3)(1) == 0.3


def some_times(schedule):
    """Every step around the corners, and some of the rest."""
    end = schedule.total
    near = {*range(schedule.warmup + 3000), *range(end - 3000, end + 9), *range(0, end, 997)}
    return np.array(sorted(t for t in near if t >= 0))


def rises_falls_and_stays_between(schedule, times, values, peak, floor, slack=0.0):
    rising, falling = times <= schedule.warmup, times >= schedule.warmup
    assert (np.diff(values[rising]) >= 0).all()
    assert (np.diff(values[falling]) <= slack).all()
    assert values.max() == peak
    assert values[falling].min() == floor
    assert (values[times >= schedule.total] == floor).all()


@each_bounded
def test_host_values_rise_fall_and_stay_between(schedule):
    times = some_times(schedule)
    values = np.array([schedule(int(t)) for t in times])
    rises_falls_and_stays_between(schedule, times, values, schedule.peak, schedule.floor)


def test_rounding_does_not_exceed_the_peak():
    assert 0.03 + (0.3 - 0.03) > 0.3
    assert cosine(0.3, 10**9, floor=0.03)(1) == 0.3


def test_a_floor_as_high_as_the_peak_is_a_constant():
    for schedule in (cosine(0.3, 9, floor=0.3), wsd(0.3, 9, 0, 9, 0.3, "sqrt")):
        assert {schedule(t) for t in range(20)} == {0.3}


@each_bounded
@pytest.mark.backends("numpy", "strict", "torch", "jax", "cupy")
def test_float32_values_rise_fall_and_stay_between(schedule, backend, mode):
    """All steps at once: schedules act on each element alone."""
    run = backend.jit(schedule) if mode == "jit" else schedule
    times = some_times(schedule)
    values = backend.numpy(run(backend.asarray(times)))
    peak, floor = np.float32(schedule.peak), np.float32(schedule.floor)
    # Where it is flat, a library's sine may waver in the last place.
    slack = peak * 2**-23
    rises_falls_and_stays_between(schedule, times, values, peak, floor, slack)


@pytest.mark.parametrize("t", [9_999_999, np.asarray(9_999_999, np.float32)], ids=["host", "array"])
def test_the_last_step_has_all_its_digits(t):
    """1 + cos and 1 - sqrt would be 0, or some multiple of 6e-8, in float32."""
    n = 10_000_000
    assert cosine(1.0, n)(t) == pytest.approx((math.pi / 2 / n) ** 2, rel=1e-6, abs=0)
    assert wsd(1.0, n, 0, n, 0.0, "sqrt")(t) == pytest.approx(0.5 / n, rel=1e-6, abs=0)


@pytest.mark.parametrize("schedule", OURS.values(), ids=OURS)
@pytest.mark.backends("numpy", "torch", "jax", "cupy")
def test_an_integer_counter_is_read_as_float32(schedule, backend, mode):
    run = backend.jit(schedule) if mode == "jit" else schedule
    for t in (1, 41, 701, 1000):
        got = run(backend.asarray(t, "int32"))
        assert str(got.dtype).endswith("float32")
        assert backend.numpy(got) == backend.numpy(run(backend.asarray(t)))


BAD = {
    "peak is text": (lambda: cosine("0.1", 10), "cosine.peak must be a finite number >= 0, got '0"),
    "peak is a schedule": (lambda: cosine(len, 10), "cosine.peak must be a finite number"),
    "peak is negative": (lambda: inverse_sqrt(-1), r"inverse_sqrt.peak must .* >= 0, got -1"),
    "peak is NaN": (lambda: wsd(math.nan, 9, 1, 1), "wsd.peak must be a finite number >= 0"),
    "peak is infinite": (lambda: warmup(math.inf, 9), "warmup.schedule must be a finite number"),
    "floor is negative": (lambda: cosine(1, 9, floor=-0.1), "cosine.floor must be .* >= 0"),
    "floor above": (
        lambda: cosine(0.1, 9, 0, 0.2),
        r"cosine.floor=0.2 is above peak=0.1.*lower it",
    ),
    "wsd floor above": (lambda: wsd(0.1, 9, 0, 1, 1), r"wsd.floor=1 is above peak=0.1"),
    "steps is a float": (lambda: warmup(0.1, 10.0), "warmup.steps must be an int >= 0, got 10.0"),
    "steps is a bool": (lambda: warmup(0.1, True), "warmup.steps must be an int >= 0, got True"),
    "steps is negative": (lambda: warmup(0.1, -1), "warmup.steps must be an int >= 0, got -1"),
    "warmup is negative": (lambda: inverse_sqrt(1, -1), "inverse_sqrt.warmup must be an int >= 0"),
    "total is 0": (lambda: cosine(0.1, 0), "cosine.total must be an int >= 1, got 0"),
    "total is a float": (lambda: wsd(0.1, 1e3, 1, 1), "wsd.total must be an int >= 1, got 1000.0"),
    "decay is 0": (lambda: wsd(0.1, 9, 1, 0), "wsd.decay must be an int >= 1, got 0"),
    "warmup is all": (
        lambda: cosine(1, 9, 9),
        r"cosine.warmup=9 leaves no.*< total=9.*total of 18",
    ),
    "too long": (lambda: wsd(1, 9, 5, 5), r"warmup=5 and decay=5 do not fit.*total=9.*least 10"),
    "shape": (lambda: wsd(1, 9, 1, 1, 0, "exp"), "wsd.shape must be one of 'linear', 'sqrt', 'cos"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_is_no_counter_is_refused():
    for t in ("1", None, True, [1]):
        with pytest.raises(DTypeError, match="t is a"):
            cosine(0.1, 10)(t)


@each
def test_schedules_are_values(schedule):
    twin = copy.deepcopy(schedule)
    assert twin == schedule
    assert hash(twin) == hash(schedule)
    assert len({schedule, twin, *TABLE.values()}) == len(TABLE)
    with pytest.raises(AttributeError):
        schedule.floor = 0.0
    if schedule in OURS.values():
        assert pickle.loads(pickle.dumps(schedule)) == schedule
        assert eval(repr(schedule)) == schedule


def test_arguments_become_plain_python():
    got = cosine(np.float32(1), np.int64(10), warmup=np.int32(2))
    assert repr(got) == "cosine(peak=1.0, total=10, warmup=2, floor=0.0)"
    assert [type(v) for v in vars(got).values()] == [float, int, int, float]
    assert af.Config(lr=got) == af.Config(lr=cosine(1, 10, 2))
    assert hash(af.Config(lr=got)) == hash(af.Config(lr=cosine(1, 10, 2)))


OPTIONS = {
    "lr": wsd(0.3, 4, 1, 2, 0.1, "sqrt"),
    "weight_decay": warmup(0.1, 3),
    "beta1": cosine(0.9, 4, 1, 0.5),
    "decay_rate": inverse_sqrt(0.8, 2),
}


@pytest.mark.backends(*DEVICES)
def test_options_of_a_step(backend, mode):
    """Four steps under schedules are four steps with their numbers."""
    config = af.Config(**OPTIONS)

    def one(x, g, state):
        return af.step(x, g, state, config)

    step = backend.jit(one) if mode == "jit" else one
    x, want = backend.asarray(normal((6, 5))), normal((6, 5)).astype(np.float32)
    state, want_state = af.init(x, config), af.init(want, config)
    for t in range(1, 5):
        g = normal((6, 5), seed=t)
        x, state = step(x, backend.asarray(g), state)
        numbers = af.Config(**{name: schedule(t) for name, schedule in OPTIONS.items()})
        want, want_state = af.step(want, g.astype(np.float32), want_state, numbers)
        close(backend.numpy(x), want, 2e-6)


@pytest.mark.backends("jax")
def test_equal_schedules_share_a_trace_and_nothing_is_transferred(backend):
    traces = []

    def step(x, state, config):
        traces.append(1)
        return af.step(x, x, state, config)

    step = backend.lib.jit(step, static_argnames="config")
    x = backend.asarray(normal((4, 3)))
    state = af.init(x)
    for _ in range(2):
        x, state = step(x, state, config=af.Config(lr=cosine(0.1, 100, 10)))
    assert len(traces) == 1
    config = af.Config(lr=cosine(0.1, 100, 10))
    with backend.lib.transfer_guard("disallow"):
        step(x, state, config=config)


@each
@pytest.mark.backends("torch")
def test_a_fake_gpu_sees_no_host_sync(schedule, backend):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        for dtype in ("float32", "float64"):
            t = backend.lib.empty((), dtype=backend.dtype(dtype), device="cuda")
            got = schedule(t)
            assert (got.device.type, got.dtype, got.shape) == ("cuda", t.dtype, t.shape)


@each
@pytest.mark.backends("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_torch_compiles_a_schedule_to_one_graph(schedule, backend):
    backend.lib._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    run = backend.lib.compile(schedule, fullgraph=True, backend=count)
    for t in TIMES[1:]:
        clock = backend.asarray(float(t))
        assert backend.numpy(run(clock)) == backend.numpy(schedule(clock))
    assert len(graphs) == 1


@pytest.mark.backends("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_torch_compiles_a_step_with_schedules_to_one_graph(backend):
    config = af.Config(**OPTIONS)
    backend.lib._dynamo.reset()
    step = backend.lib.compile(
        lambda x, g, state: af.step(x, g, state, config), fullgraph=True, backend="eager"
    )
    x = want = backend.asarray(normal((6, 5)))
    state = want_state = af.init(x, config)
    for t in range(1, 5):
        g = backend.asarray(normal((6, 5), seed=t))
        x, state = step(x, g, state)
        want, want_state = af.step(want, g, want_state, config)
        for path, array in flat(want_state.moments).items():
            close(backend.numpy(flat(state.moments)[path]), backend.numpy(array), 1e-6)
        close(backend.numpy(x), backend.numpy(want), 1e-6)


@pytest.mark.backends("torch")
def test_in_a_torch_lambda_lr(backend):
    torch, schedule = backend.lib, cosine(0.3, 10, 2)

    def make(lr, multiplier):
        optimizer = torch.optim.SGD([torch.nn.Parameter(backend.asarray(normal((3,))))], lr=lr)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)

    plain, scheduler = make(1.0, lambda k: schedule(k + 1))
    divided, its_scheduler = make(0.3, lambda k: schedule(k + 1) / schedule.peak)
    for t in range(1, 12):
        assert scheduler.get_last_lr() == [schedule(t)]
        assert its_scheduler.get_last_lr() == pytest.approx([schedule(t)], rel=1e-15)
        for moving in (plain, divided, scheduler, its_scheduler):
            moving.step()
    # LambdaLR keeps a callable that is no function in its state.
    saved = make(1.0, cosine(0.3, 10, 2))[1].state_dict()
    restored = make(1.0, cosine(0.9, 20))[1]
    restored.load_state_dict(saved)
    assert restored.lr_lambdas == [schedule]


HUGGING_FACE = {
    "get_constant_schedule_with_warmup": ({"num_warmup_steps": 7}, warmup(1.0, 7)),
    "get_inverse_sqrt_schedule": ({"num_warmup_steps": 7}, inverse_sqrt(1.0, 7)),
    "get_cosine_schedule_with_warmup": (
        {"num_warmup_steps": 7, "num_training_steps": 50},
        cosine(1.0, 50, 7),
    ),
    "get_cosine_with_min_lr_schedule_with_warmup": (
        {"num_warmup_steps": 7, "num_training_steps": 50, "min_lr": 0.2},
        cosine(1.0, 50, 7, 0.2),
    ),
    **{
        f"get_wsd_schedule {shape}": (
            {
                "num_warmup_steps": 7,
                "num_decay_steps": 20,
                "num_training_steps": 50,
                "decay_type": shape,
            },
            wsd(1.0, 50, 7, 20, 0.0, shape.removeprefix("1-")),
        )
        for shape in ("linear", "cosine", "1-sqrt")
    },
}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face_counts_from_zero(name, backend):
    theirs = pytest.importorskip("transformers.optimization", reason="transformers is missing")
    options, ours = HUGGING_FACE[name]
    optimizer = backend.lib.optim.SGD([backend.lib.nn.Parameter(backend.asarray([1.0]))], lr=1.0)
    scheduler = getattr(theirs, name.split()[0])(optimizer, **options)
    for k in range(51):
        want = scheduler.lr_lambdas[0](k)
        assert ours(k) == pytest.approx(want, rel=1e-13, abs=1e-15), k


@pytest.mark.backends("jax")
def test_in_optax(backend):
    optax = pytest.importorskip("optax", reason="optax is missing")
    schedule = cosine(0.5, 50, 7, 0.1)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.5, 7, 50, 0.1)
    their_cold, cold = optax.cosine_decay_schedule(0.5, 50, 0.2), cosine(0.5, 50, floor=0.1)
    for k in range(60):
        assert schedule(k) == pytest.approx(float(theirs(k)), rel=1e-5, abs=0)
        assert cold(k) == pytest.approx(float(their_cold(k)), rel=1e-5, abs=0)
    optimizer = optax.sgd(lambda count: schedule(count + 1))

    @backend.jit
    def step(state):
        return optimizer.update(backend.asarray([1.0]), state)

    state = optimizer.init(backend.asarray([0.0]))
    for t in range(1, 55):
        update, state = step(state)
        assert backend.numpy(update)[0] == pytest.approx(-schedule(t), rel=1e-6)
