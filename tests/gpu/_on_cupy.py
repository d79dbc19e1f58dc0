"""What check.py does with CuPy. None of it has run on a GPU yet."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import _others as others


def conformance() -> str:
    import cupy

    from _cupy import InPlace
    from adafactor_core import conformance as kit
    from adafactor_cupy import Adafactor

    def whole(x: Any) -> Any:
        return cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else x

    subject = InPlace("cupy", Adafactor, cupy.asarray, whole, "cuda")
    results = list(kit.run(subject, kit.DTYPES, drawn=6))
    bad = [str(r) for r in results if r.verdict not in ("ok", "skipped")]
    assert not bad, bad
    return f"{sum(r.verdict == 'ok' for r in results)} rows"


def graph() -> str:
    """A captured step launched again is the step itself, bit by bit."""
    import cupy

    from adafactor_cupy import Adafactor

    grads = {n: cupy.asarray(a) for n, a in others.drawn(1).items()}
    runs = []
    for captured in (False, True):
        x = {n: cupy.asarray(a) for n, a in others.drawn(0).items()}
        optimizer = Adafactor(x, lr=0.1, nonfinite="skip_step")  # whose counter is on the device
        cupy.cuda.Device().synchronize()  # such a stream does not wait for the default one's copies
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            optimizer.step(grads)
            if captured:
                # Of its own, and kept: the common one knows of no graphs, and would give what the
                # step has let go to somebody else.
                pool = cupy.cuda.MemoryPool()
                with cupy.cuda.using_allocator(pool.malloc):
                    stream.begin_capture()
                    optimizer.step(grads)
                    recorded = stream.end_capture()
                for _ in range(3):
                    recorded.launch(stream)
            else:
                for _ in range(3):
                    optimizer.step(grads)
            stream.synchronize()
        runs.append(x)
    assert all(bool((runs[0][n] == runs[1][n]).all()) for n in others.SHAPES)
    return "1 step and 3 launches"


def memory() -> str:
    """What a step takes from the pool beside parameters, gradients and state."""
    import cupy

    from adafactor_cupy import Adafactor

    pool = cupy.get_default_memory_pool()
    x, g = (cupy.ones((8192, 8192), cupy.float32) for _ in range(2))
    optimizer = Adafactor(x)
    pool.free_all_blocks()
    before = pool.total_bytes()
    optimizer.step(g)
    cupy.cuda.Device().synchronize()
    extra = (pool.total_bytes() - before) / x.nbytes
    assert extra < 0.01, f"{extra:.3%} of the parameters"
    return f"{extra:.3%} of the parameters"


def stepper(shapes: Sequence[tuple[int, ...]], dtype: str) -> Callable[[], Any]:
    import cupy
    import ml_dtypes

    from adafactor_cupy import Adafactor

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype

    def filled(shape: tuple[int, ...], start: int) -> Any:  # without cuRAND, which may be missing
        x = cupy.sin(cupy.arange(start, start + prod(shape), dtype=cupy.float32))
        return x.reshape(shape).astype(kind)

    x, g = ([filled(s, k) for s in shapes] for k in (1, 2))
    optimizer = Adafactor(x)
    return lambda: optimizer.step(g)


def median_ms(step: Callable[[], Any], repeats: int = 30) -> float:
    """The median of a step, by events on the current stream."""
    import cupy

    for _ in range(5):
        step()
    times = []
    for _ in range(repeats):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        step()
        stop.record()
        stop.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, stop))
    return statistics.median(times)
