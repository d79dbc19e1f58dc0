"""The kit, and nothing else in this package, computes with NumPy; say so where it is missing."""

try:
    import numpy as numpy
except ImportError as error:
    raise ImportError(
        'the conformance kit needs NumPy for its oracle: pip install "adafactor-core[numpy]"'
    ) from error
