"""How many launches a step of TritonPasses takes, however many tensors there are: docs/gpu.md.

Counted on CPU tensors, whose counters are treated as those on a GPU are: kernels, and besides every
operation of torch that is no view, each of which would be a launch there.
Run by tests/test_torch_triton.py: Triton has to be told to interpret before it is imported.
"""

import os
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes  # noqa: E402

import adafactor_torch._plan as plan  # noqa: E402
import adafactor_torch._rows as rows  # noqa: E402
from adafactor_torch import Adafactor, _triton  # noqa: E402
from adafactor_torch._triton import TritonPasses  # noqa: E402
from adafactor_torch._triton_table import Table  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
SHAPES = [(5, 8), (3,), (2, 4, 3)]
TENSORS = (3, 30)


class Operations(TorchDispatchMode):
    """Those that a GPU would be asked for."""

    def __init__(self, seen):
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        returns = [r.alias_info for r in op._schema.returns]
        view = bool(returns) and all(a is not None and not a.is_write for a in returns)
        if op.namespace == "aten" and not view:
            self._seen.append(str(op))
        return op(*args, **(kwargs or {}))


@pytest.fixture
def count(monkeypatch):
    """(kernels, what torch launches besides) of the second step; no kernel runs."""
    kernels, besides = [], []
    sent = Table._sent

    def copied(table, numbers, dtype):
        with _disable_current_modes():
            found = sent(table, numbers, dtype)
        besides.append("copy to the device")
        return found

    monkeypatch.setattr(plan, "on_cpu", lambda x: False)
    monkeypatch.setattr(rows, "on_cpu", lambda x: False)
    monkeypatch.setattr(plan, "kernel_passes", lambda wanted, params: (TritonPasses(("cpu",)),))
    monkeypatch.setattr(_triton, "launch", lambda kernel, *rest: kernels.append(kernel))
    monkeypatch.setattr(Table, "_sent", copied)

    def counted(number, groups=({},), between=lambda optimizer: None, **options):
        params = [torch.nn.Parameter(torch.randn(SHAPES[k % 3])) for k in range(number)]
        for p in params:
            p.grad = torch.randn_like(p)
        parts = [{"params": params[k :: len(groups)], **g} for k, g in enumerate(groups)]
        optimizer = Adafactor(parts, **options)
        optimizer.step()
        between(optimizer)
        kernels.clear(), besides.clear()
        with Operations(besides):
            optimizer.step()
        return len(kernels), list(besides)

    return counted


def table():
    """Options and figures of the page: the reader's table is what is tested."""
    lines = PAGE.read_text().split("| options |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    return {code.strip("`"): tuple(map(int, figures)) for code, *figures in cells}


@pytest.mark.parametrize("code", table())
def test_launches_are_what_the_page_says_for_any_number_of_tensors(count, code):
    options = {} if code == "the defaults" else eval(f"dict({code})")
    for number in TENSORS:
        kernels, besides = count(number, **options)
        assert (kernels, len(besides), kernels + len(besides)) == table()[code], besides


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.1}, {"weight_decay": 0.1, "beta1": 0.9}, {"lr": torch.tensor(0.1)},
     {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1, "weight_decay_by": "lr"},
     {"lr": 0.1, "decay_type": "constant", "clip_threshold": None},
     {"lr": 0.1, "step_size": {"cap": None, "warmup_init": False}}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("number", TENSORS)
def test_a_step_is_at_most_ten_launches(count, number, options):
    kernels, besides = count(number, **options)
    assert kernels + len(besides) <= 10, besides


GROUPS = {
    "decay or none": [{"weight_decay": 0.1}, {}],
    "many decays": [{"weight_decay": 0.1 * k} for k in range(5)],
    "lr": [{"lr": 0.1}, {"lr": 0.2, "weight_decay": 0.1}, {"lr": 0.3}],
    "momentum": [{"beta1": 0.9}, {"beta1": 0.5, "weight_decay": 0.1}],
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("number", [6, 30])
def test_groups_that_differ_in_numbers_are_one(count, groups, number):
    options = {"lr": 0.1, "beta1": groups[0].get("beta1")}
    kernels, besides = count(number, groups, **options)
    assert (kernels, len(besides)) == (5, 3), besides


def test_groups_under_the_relative_step(count):
    kernels, besides = count(30, GROUPS["decay or none"])
    assert kernels + len(besides) == 10, besides


def test_rates_of_groups_that_change_are_one_copy(count):
    def schedule(optimizer):
        for k, group in enumerate(optimizer.param_groups):
            group["lr"], group["weight_decay"] = 0.01 * (k + 1), 0.2 * (k + 1)

    kernels, besides = count(30, GROUPS["lr"], schedule, lr=0.1, weight_decay=0.1)
    assert kernels == 5
    assert besides.count("copy to the device") == 1
    assert len(besides) == 4


def test_groups_that_differ_in_more_are_batches_of_their_own(count):
    kernels, _ = count(30, [{}, {"clip_threshold": None}], lr=0.1)
    assert kernels == 5 + 4
