"""Run by latency.py in a process of its own: times import and first steps, prints JSON."""

import time

start = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

import numpy as np  # noqa: E402

numpy_imported = time.perf_counter()

import adafactor_numpy  # noqa: E402

imported = time.perf_counter()

dtype = np.dtype(sys.argv[1]) if sys.argv[1] != "bfloat16" else None
if dtype is None:
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16)

# A factored and an unfactored tensor: all the kernels that a usual model needs.
params = [np.full((256, 256), 0.05, dtype), np.full(256, 0.05, dtype)]
grads = [np.full(p.shape, 1e-3, dtype) for p in params]

begin = time.perf_counter()
optimizer = adafactor_numpy.Adafactor(params, compiled=True)
built = time.perf_counter()
optimizer.step(grads)
first = time.perf_counter()
optimizer.step(grads)
second = time.perf_counter()

json.dump(
    {
        "numpy_import_s": numpy_imported - start,
        "import_s": imported - numpy_imported,
        "build_s": built - begin,
        "first_step_s": first - built,
        "second_step_s": second - first,
        "cpu_s": time.process_time(),
    },
    sys.stdout,
)
