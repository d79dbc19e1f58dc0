"""The script for machines with a GPU, on one without: its arithmetic, its parts, what it writes."""

import json
import re
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.backends("torch")

import _bench  # noqa: E402
import _on_jax  # noqa: E402
import _others  # noqa: E402
import _parts  # noqa: E402
import check  # noqa: E402


def test_the_gpu_script_without_a_gpu(backend, capsys, tmp_path):
    if not torch.cuda.is_available():
        assert check.main(["--out", str(tmp_path / "x.json")]) == 2
        assert "no GPU" in capsys.readouterr().out
    assert len(_bench.transformer()) > 300
    # 2**26 elements of 2 bytes in 6 streams are 0.8 GB: in 1 ms at 1.6 TB/s, half of a copy's.
    assert _bench.share(1.0, 1 << 26, 2, 1.6e12) == pytest.approx(0.503, abs=1e-3)
    row = {"work": "w", "dtype": "d", "name": "n", "graph": True}
    assert "n (graph)" in _bench.as_line({**row, "ms": 1.0, "of_copy": 0.5})
    assert _bench.as_line({**row, "error": "Bad: x"}).endswith("Bad: x")


def test_a_check_that_fails_is_a_verdict(backend, capsys):
    assert check.attempt(lambda: "fine") == {"verdict": "ok", "said": "fine"}
    failed = check.attempt(lambda: 1 // 0)
    assert failed["verdict"] == "failed"
    assert "ZeroDivisionError" in failed["said"]


def test_the_libraries_of_the_script_agree(backend):
    """On the CPU here; the comparison notices a step that is left out."""
    torch_steps = _others.torch_steps("cpu")
    assert _others.agreement({"torch": torch_steps}).startswith("torch ")
    with pytest.raises(AssertionError, match="lazy "):
        _others.agreement({"lazy": lambda params, grads: torch_steps(params, grads[1:])})


def test_a_library_that_fails_does_not_hide_the_next(backend):
    def broken(params, grads):
        raise RuntimeError("no such kernel")

    with pytest.raises(AssertionError, match=r"broken RuntimeError: no such kernel, torch \d"):
        _others.agreement({"broken": broken, "torch": _others.torch_steps("cpu")})


TOLD = "import sys; sys.path.insert(0, {0!r}); from _parts import tell; "
CHILDREN = {
    "sound": "print('hello'); tell({'row': {'ms': 1}}); tell({'verdict': 'ok', 'said': 'fine'})",
    "wrong": "tell({'verdict': 'failed', 'said': 'Bad: x'}); sys.exit(1)",
    "dead": "tell({'row': {'ms': 2}}); print('last words', flush=True); import os; os.abort()",
    "stuck": "import time; print('here', flush=True); time.sleep(60)",
    "after": "tell({'verdict': 'ok', 'said': ''})",
}


def follow(path, names, jobs, seconds=60.0):
    book = _parts.Book(path, {"card": "none"})
    start = TOLD.format(str(_parts.__file__).rpartition("/")[0])
    until = time.monotonic() + seconds

    def command(name):
        return [sys.executable, "-c", start + CHILDREN[name]]

    _parts.run(book, names, command, jobs, limit=3.0, until=until)
    return book, json.loads(path.read_text())


@pytest.mark.parametrize("jobs", [1, 3])
def test_parts_that_die_cost_no_other_its_turn(backend, monkeypatch, tmp_path, jobs):
    monkeypatch.setattr(_parts, "LEAST", 1)
    book, found = follow(tmp_path / "x.json", list(CHILDREN), jobs)
    parts = found["parts"]
    assert found["card"] == "none"
    assert {n: p["verdict"] for n, p in parts.items()} == {
        "sound": "ok", "wrong": "failed", "dead": "failed", "stuck": "failed", "after": "ok",
    }  # fmt: skip
    assert parts["sound"]["rows"] == [{"ms": 1}]
    assert parts["wrong"]["said"] == "Bad: x"
    assert parts["dead"]["rows"] == [{"ms": 2}]
    assert "exit code -6: last words" in parts["dead"]["said"]
    assert parts["stuck"]["said"].startswith("stopped after 3 s: here")
    assert 3 <= parts["stuck"]["seconds"] < 30
    assert not book.sound


def test_parts_for_which_no_time_is_left_say_so(backend, tmp_path):
    book, found = follow(tmp_path / "x.json", ["sound", "after"], 1, seconds=1.0)
    assert {p["verdict"] for p in found["parts"].values()} == {"not run"}
    assert not book.sound


def test_what_is_written_is_whole_while_parts_run(backend, tmp_path):
    book = _parts.Book(tmp_path / "x.json", {"card": "c"})
    for k in range(3):
        book.enter("part", {"row": {"k": k}})
        rows = json.loads((tmp_path / "x.json").read_text())["parts"]["part"]["rows"]
        assert [r["k"] for r in rows] == list(range(k + 1))


def test_the_script_runs_its_parts_in_children(backend, monkeypatch, tmp_path, capfd):
    """All of `main`, with a card that is not there: one part that passes, and one that cannot."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(check, "described", lambda: {"card": "made up"})
    monkeypatch.setattr(check, "MISSING", {"CuPy": lambda: "no CuPy", "JAX": lambda: "no JAX"})
    path, own = tmp_path / "x.json", "torch, CuPy, JAX and NumPy agree"
    names = ["kernels serve", own, "CuPy: CUDA graph"]
    assert check.main(["--out", str(path), "--jobs", "2", "--only", *names]) == 1
    found = json.loads(path.read_text())
    assert found["lacking"] == {"CuPy": "no CuPy", "JAX": "no JAX"}
    assert found["parts"]["CuPy: CUDA graph"]["said"] == "no CuPy"
    if torch.version.cuda is None:  # a child of its own has no card, and says so
        for name in names[:2]:
            assert found["parts"][name]["verdict"] == "failed"
            assert "CUDA" in found["parts"][name]["said"]
            assert found["parts"][name]["seconds"] > 0


def test_a_row_that_fails_is_told_and_stops_no_other(backend, monkeypatch):
    told = []
    monkeypatch.setattr(_bench, "copy_bandwidth", lambda: 1e12)
    monkeypatch.setattr(_bench, "works", lambda: [("w", [(1000, 1000)], "bfloat16")])

    def timed(shapes, dtype):
        return [("bad", False, lambda: 1 / 0), ("good", True, lambda: 0.1)]

    with pytest.raises(AssertionError, match="bad, w, bfloat16"):
        _bench.rows(told.append, timed)
    (copy, bad, good) = told
    assert copy == {"copy": 1e12}
    assert "ZeroDivisionError" in bad["row"]["error"]
    assert good["row"]["of_copy"] == pytest.approx(0.12)


def test_jax_part_on_the_cpu(backend, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr(_on_jax, "GOLDEN", {"float32": ["default"], "bfloat16": ["default"]})
    assert _on_jax.conformance() == "2 cases"
    for make in _on_jax.steppers([(8, 4), (4,)], "bfloat16").values():
        assert _on_jax.median_ms(make(), 2, 1) > 0


def test_what_the_profiler_sees_is_counted_without_names_of_steps(backend, monkeypatch):
    from types import SimpleNamespace

    from torch import profiler
    from torch.autograd import DeviceType

    rows = [(DeviceType.CUDA, False), (DeviceType.CUDA, True), (DeviceType.CPU, False)]
    events = [SimpleNamespace(device_type=d, is_user_annotation=u) for d, u in rows]

    class Seen:
        def __init__(self, activities):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def events(self):
            return events

    monkeypatch.setattr(profiler, "profile", Seen)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert _bench.launched(lambda: None) == 1


def test_the_page_names_every_part(backend):
    page = (Path(__file__).parents[1] / "docs" / "gpu.md").read_text()
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    named = re.findall(r"`([^`]+)`", " ".join(rows))
    assert [name for name in check.EVERY if name not in named] == []
