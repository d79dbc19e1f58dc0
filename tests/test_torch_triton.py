"""The Triton passes without a GPU: run by the interpreter, compiled for GPUs, chosen and missing.

What the kernels compute is tested in tests/gpu/test_*.py, which this file runs in processes of
their own: Triton has to know that it is to interpret before it is imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import adafactor_core as af

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.backends("torch")

import _gpu_kernels as kernels  # noqa: E402

from adafactor_torch import _kernels as choice  # noqa: E402

HERE = Path(__file__).parent


@pytest.mark.skipif(sys.platform == "win32", reason="Triton has no interpreter there")
@pytest.mark.parametrize("file", sorted(HERE.glob("gpu/test_*.py")), ids=lambda file: file.stem)
def test_under_the_interpreter(backend, file):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", str(file)]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


@pytest.mark.parametrize("target", kernels.TARGETS)
@pytest.mark.parametrize("dtype", ["bfloat16"])  # report.py compiles them for every dtype
def test_kernels_compile_without_spills(backend, dtype, target):
    for name, (kernel, constants) in kernels.variants(dtype).items():
        built = kernels.build(kernel, constants, kernels.TARGETS[target])
        assert built.spills == 0, f"{name}: {built.spills}"
        # Two programs and more have to fit into the registers of a multiprocessor (65536).
        assert built.registers <= 128, name
        if target != "gfx942" and name == "apply":
            whole = built.code
            assert whole.count("ld.global.v4") == 2 * (2 if dtype == "bfloat16" else 4)


def test_importing_the_adapter_imports_no_triton(backend):
    code = "import sys, adafactor_torch; print([m for m in sys.modules if '_triton' in m])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "adafactor_torch._triton" not in done.stdout


class OnGpu(torch.nn.Parameter):
    """Says that it is on a GPU; a kind of tensor that is not plain."""

    device = torch.device("cuda", 0)


def test_missing_triton_is_plain_passes_or_an_error(backend, monkeypatch):
    monkeypatch.setattr(choice, "PLAIN", (*choice.PLAIN, OnGpu))
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    x = [OnGpu(torch.zeros(3))]
    assert choice.kernel_passes(None, x) == choice.kernel_passes(False, x) == ()
    with pytest.raises(af.ConfigError, match=r"compiled=True needs Triton"):
        choice.kernel_passes(True, x)


def test_triton_that_cannot_compile_is_a_warning_or_an_error(backend, monkeypatch):
    from adafactor_torch import _triton

    monkeypatch.setattr(choice, "PLAIN", (*choice.PLAIN, OnGpu))
    monkeypatch.setattr(_triton, "unusable", lambda device: "RuntimeError: no C compiler")
    x = [OnGpu(torch.zeros(3))]
    with pytest.warns(UserWarning, match=r"plain passes.*no C compiler"):
        assert choice.kernel_passes(None, x) == ()
    with pytest.raises(af.ConfigError, match=r"no C compiler"):
        choice.kernel_passes(True, x)
    monkeypatch.setattr(_triton, "unusable", lambda device: "")
    (passes,) = choice.kernel_passes(None, x)
    assert isinstance(passes, _triton.TritonPasses)


def test_fake_tensors_take_no_kernels(backend):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert choice.kernel_passes(None, [torch.zeros(3, device="cuda")]) == ()
