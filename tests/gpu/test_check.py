"""The parts of check.py for torch, on CPU tensors and interpreted kernels, with a made-up device.

They have no GPU to run on before the day when they have one for minutes: here they are seen to
pass where all is well, and to fail where it is not.
"""

import contextlib
from types import SimpleNamespace

import _bench
import check
import pytest
from _interpreted import Must, torch

from adafactor_torch import _plan, _rows, _triton_table
from adafactor_torch._triton import TritonPasses


class Card:
    """What torch.cuda was told, and what it is to say of its memory."""

    def __init__(self):
        self.mode, self.modes, self.peak = "default", [], 0

    def set_sync_debug_mode(self, mode):
        self.mode = mode
        self.modes.append(mode)

    def memory_allocated(self):
        return 1000

    def max_memory_allocated(self):
        return 1000 + self.peak


@pytest.fixture
def card(monkeypatch):
    found, cuda = Card(), torch.cuda
    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "synchronize": lambda: None, "set_sync_debug_mode": found.set_sync_debug_mode,
        "memory_allocated": found.memory_allocated, "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": found.max_memory_allocated, "empty_cache": lambda: None,
        "Stream": lambda: stream, "current_stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(cuda, name, fake)
    monkeypatch.setattr(_bench, "DEVICE", "cpu")
    for module in (_plan, _rows):  # counters are read as on a GPU
        monkeypatch.setattr(module, "on_cpu", lambda x: False)

    def passes(wanted, params):
        return () if wanted is False else (Must(),)

    monkeypatch.setattr(_plan, "kernel_passes", passes)
    monkeypatch.setattr(check, "SHAPES", [(33, 17), (7,), (), (4, 2, 3, 3)])
    monkeypatch.setattr(check, "FEW", [(16, 24), (24,)])
    return found


def test_kernels_serve(card, monkeypatch):
    monkeypatch.setattr(_plan, "kernel_passes", lambda w, p: (TritonPasses(("cpu",)),))
    assert check.kernels_serve() == "one batch"
    monkeypatch.setattr(_plan, "kernel_passes", lambda w, p: ())
    with pytest.raises(AssertionError, match="ArrayPasses"):
        check.kernels_serve()


def test_kernels_agree(card, monkeypatch):
    assert check.kernels_agree().startswith("worst scaled error ")
    numbers = _triton_table._numbers

    def wrong(w, c):
        return {**numbers(w, c), "PER_X": 1.01 * numbers(w, c)["PER_X"]}

    monkeypatch.setattr(_triton_table, "_numbers", wrong)
    with pytest.raises(AssertionError):
        check.kernels_agree()


def test_no_sync(card, monkeypatch):
    assert check.no_sync().startswith("4 steps")
    assert card.modes == ["error", "default"] * 2
    ours = _bench.ours
    seeds = iter(range(9))
    monkeypatch.setattr(_bench, "ours", lambda p, **o: ours(p, **{**o, "seed": next(seeds)}))
    with pytest.raises(AssertionError):  # other bits
        check.no_sync()

    def waits(params, **options):
        if card.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    def ours_waits(params, **options):
        optimizer = ours(params, **options)
        optimizer.register_step_pre_hook(lambda *given: waits(params))
        return optimizer

    monkeypatch.setattr(_bench, "ours", ours_waits)
    assert "synchronizing" in check.attempt(check.no_sync)["said"]
    assert card.mode == "default"


class Recorded:
    """Its replay takes the step that was recorded; recording itself had no effect."""

    def replay(self):
        self.step()


def test_graph(card, monkeypatch):
    params, ours = [], _bench.ours

    def remembered(given, **options):
        params.append(given)
        optimizer = ours(given, **options)
        steps.append(optimizer)
        return optimizer

    steps = []

    @contextlib.contextmanager
    def recording(graph):
        before = [p.detach().clone() for p in params[-1]]
        states = [{n: a.clone() for n, a in s.items()} for s in steps[-1].state.values()]
        yield
        with torch.no_grad():
            for p, b in zip(params[-1], before, strict=True):
                p.copy_(b)
            for s, old in zip(steps[-1].state.values(), states, strict=True):
                for n, a in old.items():
                    s[n].copy_(a)
        graph.step = steps[-1].step

    monkeypatch.setattr(_bench, "ours", remembered)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    assert check.graph() == "1 step and 3 replays"
    monkeypatch.setattr(Recorded, "replay", lambda self: None)
    with pytest.raises(AssertionError):
        check.graph()


def test_launches(card, monkeypatch):
    monkeypatch.setattr(_bench, "launched", lambda step: 10)
    monkeypatch.setattr(_bench, "transformer", lambda layers, width: [(4, 3)] * layers)
    assert "30 tensors {'lr': 0.1}: 10" in check.launches()
    counts = iter(range(1, 9))
    monkeypatch.setattr(_bench, "launched", lambda step: next(counts))
    with pytest.raises(AssertionError):
        check.launches()
    monkeypatch.setattr(_bench, "launched", lambda step: 0)
    with pytest.raises(AssertionError, match="the profiler saw nothing"):
        check.launches()


def test_peak_memory(card, monkeypatch):
    made = _bench.model
    monkeypatch.setattr(_bench, "model", lambda shapes, dtype: made([(64, 64)], dtype))
    card.peak = 4 * (64 + 64) + 4 + 80  # the state, and 1 % of what the parameters take
    assert check.peak_memory().endswith("of the parameters")
    card.peak += 4
    with pytest.raises(AssertionError, match=r"1\.\d+% of the parameters"):
        check.peak_memory()
