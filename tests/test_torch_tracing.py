"""The core under torch's tracers: a fake GPU catches host syncs, the compiler finds one graph."""

import pytest

import adafactor_core as af
from _close import close, dtype_of
from _run import flat, normal
from _variety import BATCHED, CAREFUL, VARIETY

pytestmark = pytest.mark.backends("torch")
EVERY = {**VARIETY, **BATCHED}
SHAPES = {"w": (6, 5), "b": (5,), "s": (), "c": (2, 3, 4)}


def config_of(name):
    """Batch axes as a rule, for the one tensor that has them."""
    options = {**EVERY, **CAREFUL}[name]
    if name not in BATCHED:
        return af.Config(**options)
    special = {k: options[k] for k in ("batch_axes", "factored_dims") if k in options}
    rest = {k: v for k, v in options.items() if k not in special}
    return af.Config(**rest, rules=[("c", special)])


def tensors(backend, seed=0):
    return {p: backend.asarray(normal(s, seed=seed)) for p, s in SHAPES.items()}


DTYPES = {"w": "float32", "b": "bfloat16", "s": "float64", "c": "bfloat16", "d": "float16"}


@pytest.mark.parametrize("name", EVERY)
def test_a_fake_gpu_sees_no_host_sync_and_no_other_device(backend, name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch, config = backend.lib, config_of(name)
    shapes = {**SHAPES, "d": (4, 3)}
    with FakeTensorMode():
        x = {
            p: torch.empty(s, dtype=backend.dtype(DTYPES[p]), device="cuda")
            for p, s in shapes.items()
        }
        g = {p: torch.empty_like(a) for p, a in x.items()}
        new, state = af.step(x, g, af.init(x, config), config)
        d, _ = af.update(g, state, x, config)
        outputs = [*flat(new).values(), *flat(state.moments).values(), state.step, *d.values()]
        assert {a.device.type for a in outputs} == {"cuda"}
        assert {p: dtype_of(a) for p, a in new.items()} == DTYPES


def test_a_fake_gpu_would_see_a_host_sync(backend):
    """The proof above can fail: a schedule that reads the counter on the host does."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    config = af.Config(lr=lambda t: 0.1 if t < 10 else 0.01)
    with FakeTensorMode():
        x = backend.lib.empty((3, 4), device="cuda")
        state = af.init(x, config)
        with pytest.raises(DataDependentOutputException):
            af.step(x, x, state, config)


@pytest.mark.parametrize("name", [*EVERY, *CAREFUL])
def test_streamed_and_donated_there_is_no_host_sync_either(backend, name):
    """On a fake CPU: without a driver torch cannot write into a part of a fake GPU tensor."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    shape = (3, 20, 30) if name in BATCHED else (20, 30)
    config = af.Config(**{**EVERY, **CAREFUL}[name], max_scratch_bytes=1024)
    with FakeTensorMode():
        x = backend.lib.empty(shape)
        new, _ = af.step(x, x, af.init(x, config), config, donate=True)
        assert new is x


def test_meta_tensors_have_a_state_and_a_report(backend):
    x = backend.lib.empty((4096, 8192), device="meta")
    moments = af.init(x).moments
    assert (moments.row.device.type, tuple(moments.col.shape)) == ("meta", (1, 8192))
    assert af.memory_report(x).state_bytes == 4 * (4096 + 8192)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize(
    "name",
    ["defaults", "like torch.optim", "adam decay, schedules", "batch axis", "everything",
     "tensors skipped, norm clipped"],
)  # fmt: skip
def test_compiles_to_one_graph_with_the_eager_result(backend, name):
    torch, config = backend.lib, config_of(name)
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    step = torch.compile(
        lambda x, g, state: af.step(x, g, state, config), fullgraph=True, backend=count
    )
    x, kept = tensors(backend), tensors(backend)
    state, kept_state = af.init(x, config), af.init(kept, config)
    for t in range(1, 4):
        x, state = step(x, tensors(backend, t), state)
        kept, kept_state = af.step(kept, tensors(backend, t), kept_state, config)
        for path, want in {**flat(kept), **flat(kept_state.moments)}.items():
            got = {**flat(x), **flat(state.moments)}[path]
            close(backend.numpy(got), backend.numpy(want), 1e-6, path)
    assert len(graphs) == 1
    assert int(state.step) == 3


def test_parameters_that_require_grad_are_updated_under_no_grad(backend):
    torch = backend.lib
    x = torch.nn.Parameter(backend.asarray(normal((4, 3))))
    g = backend.asarray(normal((4, 3), seed=1))
    before = x.detach().clone()
    with torch.no_grad():
        new, _ = af.step(x, g, af.init(x), donate=True)
    want, _ = af.step(before, g, af.init(before))
    close(backend.numpy(x), backend.numpy(want), 0.0)
    assert new is x


def test_strided_tensors(backend):
    """Transposed and sliced tensors, which share memory with more than themselves."""
    base, grad = backend.asarray(normal((8, 10))), backend.asarray(normal((8, 10), seed=1))
    for view in (lambda a: a.T, lambda a: a[::2, 1:]):
        x, g = view(base), view(grad)
        got, _ = af.step(x, g, af.init(x))
        want, _ = af.step(x.contiguous(), g.contiguous(), af.init(x))
        close(backend.numpy(got), backend.numpy(want), 1e-7)
