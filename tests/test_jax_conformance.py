"""adafactor_jax judged by the conformance kit: eager and jitted, whole and scanned."""

import pytest

from _jax import AsJax
from _torch import judge

pytestmark = [
    pytest.mark.backends("jax"),
    pytest.mark.usefixtures("backend"),
    pytest.mark.filterwarnings("ignore::adafactor_core.LowPrecisionWarning"),
]
SMALL = {"max_scratch_bytes": 1024}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_golden_vectors_eager(dtype):
    judge(AsJax("make_step", "eager"), dtype, checks=("golden",))


@pytest.mark.parametrize("scan", [False, True], ids=["whole", "scanned"])
def test_drawn_cases_jitted(scan):
    """The golden ones mean a compilation each; `nox -s conformance -- jax` has them."""
    judge(AsJax("make_step", "jit", scan, **SMALL), "float32", drawn=8, checks=("drawn",))
