"""The comparison helpers fail on wrong input; one that does not would make every test green."""

import numpy as np
import pytest

from _close import close, close_entries, close_narrow, spacing

ONE = np.linspace(1.0, 2.0, 12).reshape(3, 4)
NAN = np.where(ONE > 1.9, np.nan, ONE)
INF = np.where(ONE > 1.9, np.inf, ONE)
ZEROS = np.zeros((3, 4))


@pytest.mark.parametrize("compare", [close, close_entries], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        pytest.param(ONE * (1 + 1e-5), ONE, id="ten times the tolerance"),
        pytest.param(ONE[:, :1], ONE, id="a shape that would broadcast"),
        pytest.param(ONE[None], ONE, id="another rank"),
        pytest.param(NAN, ONE, id="NaN where a number is expected"),
        pytest.param(ONE, NAN, id="a number where NaN is expected"),
        pytest.param(INF, ONE, id="infinity where a number is expected"),
        pytest.param(-INF, INF, id="the other infinity"),
        pytest.param(ZEROS, ONE, id="nothing at all"),
        pytest.param(ZEROS + 1e-5, ZEROS, id="something where 0 is expected"),
    ],
)
def test_comparison_fails_on(compare, actual, expected):
    with pytest.raises(AssertionError):
        compare(actual, expected, 1e-6)


@pytest.mark.parametrize("compare", [close, close_entries], ids=lambda f: f.__name__)
@pytest.mark.parametrize("value", [ONE, NAN, INF, ZEROS, ZEROS[:0], np.array(3.0)])
def test_comparison_accepts_rounding_and_the_same_nan(compare, value):
    assert compare(value * (1 + 1e-7), value, 1e-6) <= 1e-6


def test_the_scaled_error_forgives_entries_near_zero_and_the_entrywise_one_does_not():
    expected = np.array([1.0, 1e-9])
    assert close(expected + 1e-8, expected, 1e-6) == pytest.approx(1e-8)
    with pytest.raises(AssertionError, match="relative error"):
        close_entries(expected + 1e-8, expected, 1e-6)


@pytest.mark.parametrize(("dtype", "ulp"), [("bfloat16", 2.0**-7), ("float16", 2.0**-10)])
def test_narrow_comparison_counts_units_in_the_last_place(dtype, ulp):
    ones = np.ones(4000)
    assert spacing(np.array([1.0, 1.99, 2.0]), dtype).tolist() == [ulp, ulp, 2 * ulp]
    one_flip = ones + np.eye(1, 4000)[0] * ulp
    assert close_narrow(one_flip, ones, dtype) == 1
    with pytest.raises(AssertionError, match="ulp"):
        close_narrow(ones + np.eye(1, 4000)[0] * 3 * ulp, ones, dtype)
    with pytest.raises(AssertionError, match="differ"):
        close_narrow(ones + ulp, ones, dtype)
    with pytest.raises(AssertionError, match="where"):
        close_narrow(np.full(4000, np.nan), ones, dtype)
