"""Every check as a test of its own, without a file of yours:

    pytest -p adafactor_core.conformance.plugin --pyargs adafactor_core.conformance.suite \\
        --adafactor-namespace numpy
"""

from collections.abc import Callable


def test_conformance(adafactor_check: Callable[[], None]) -> None:
    """The core on a library, in a mode and a dtype, passes a check."""
    adafactor_check()
