"""Records to write, drawn, and how to look at what was read."""

import numpy as np

from adafactor_core.interchange import Record, TensorRecord, of_bytes

PATHS = [
    "w",
    "",
    "a/b",
    "../up",
    "layers.0.w",
    "ü\u4e2d\U0001f600",
    "a b\\c\n",
    "nul\0",
    "__metadata__",
    "row/w",
]
WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
BLOCK = 128


def drawn(dtype, shape, rng):
    """Any bits: NaNs with payloads, infinities, subnormals, -0."""
    return of_bytes(dtype, shape, rng.bytes(int(np.prod(shape, dtype=int)) * WIDTHS[dtype]))


def tensor(path, shape, dtype, rows, cols, rng, buffer=None, kahan=False, **more):
    wide = "float64" if dtype == "float64" else "float32"
    slots = {}
    if rows:
        slots["row"] = drawn(wide, tuple(1 if a in cols else n for a, n in enumerate(shape)), rng)
        slots["col"] = drawn(wide, tuple(1 if a in rows else n for a, n in enumerate(shape)), rng)
    else:
        slots["full"] = drawn(wide, shape, rng)
    if buffer:
        slots["momentum"] = drawn(buffer, shape, rng)
    if buffer == "int8":
        scales = (*shape[:-1], -(-shape[-1] // BLOCK)) if shape else ()
        slots["momentum_scale"] = drawn(wide, scales, rng)
    if kahan:
        slots["compensation"] = drawn(dtype, shape, rng)
    return TensorRecord(path, shape, dtype, rows, cols, slots, **more)


def record(seed=0):
    """Every dtype, slot and awkward shape."""
    rng = np.random.default_rng(seed)
    tensors = [
        tensor("w", (6, 5), "float32", (0,), (1,), rng, "float32"),
        tensor("", (4, 3), "float64", (0,), (1,), rng, "float64", step=3),
        tensor("a/b", (7,), "bfloat16", (), (), rng, "bfloat16", kahan=True),
        tensor("../up", (2, 3, 4), "float16", (0, 2), (1,), rng, "float16", kahan=True, skipped=2),
        tensor("layers.0.w", (3, 300), "float32", (1,), (0,), rng, "int8", skipped=0),
        tensor("ü\u4e2d\U0001f600", (), "bfloat16", (), (), rng, "int8"),
        tensor("a b\\c\n", (0, 3), "float32", (), (), rng, "float32"),
        tensor("nul\0", (1, 1), "float16", (0,), (1,), rng),
        tensor("__metadata__", (5,), "float32", (), (), rng),
        tensor("row/w", (5, 2, 2), "float64", (), (), rng),
    ]
    options = {
        "beta1": 0.9,
        "rules": [["a*", {"lr": {"schedule": "cosine"}}]],
        "lr": None,
        "ü": True,
    }
    return Record(7, tuple(tensors), 2, "paper", options, ("approximated: nothing",))


def plain(r):
    """All that a record says, bytes included, to be compared."""
    tensors = [
        (
            t.path, tuple(t.shape), t.dtype, t.row_axes, t.col_axes, t.skipped, t.step,
            {s: (raw.dtype, tuple(raw.shape), bytes(raw.bytes())) for s, raw in t.slots.items()},
        )
        for t in r.tensors
    ]  # fmt: skip
    return r.step, r.skipped, r.variant, dict(r.options), tuple(r.notes), tensors
