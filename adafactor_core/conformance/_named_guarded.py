"""Named cases: rounding of parameters and momentum, bad gradients, the global norm, loss scales."""

from typing import Any

from ._rows import ALL_RANKS, BLOCKS, Row, W, per_value

NAN, INF = float("nan"), float("inf")
ONES = {"s": (), "v": (5,), "u": (1,), "w": (4, 1), "c": (2, 3, 2), "d": (2, 1, 2, 3)}
SKIP = ("skip_tensor", "skip_step")
LAYERS = {"w": (2, 4, 3), "b": (2, 4)}

# fmt: off
ROUNDING = [
    *per_value("rounding-stochastic", "seed", [0, 1, 2**32 - 1, 2**32, 2**63 + 5],
               {"lr": 0.1, "rounding": "stochastic"}, shapes=ONES, steps=3),
    *(
        row
        for rounding in ("stochastic", "kahan")
        for row in (
            Row(f"rounding-{rounding}", {"lr": 0.1, "rounding": rounding}, ALL_RANKS),
            Row(f"rounding-{rounding}-small",  # most updates are below half a unit of bfloat16
                {"lr": 1e-3, "rounding": rounding}, steps=8),
            Row(f"rounding-{rounding}-decay",
                {"lr": 0.1, "rounding": rounding, "seed": 7, "weight_decay": 0.13,
                 "weight_decay_by": "none", "beta1": 0.8743}, ONES),
            Row(f"rounding-{rounding}-decay-first",
                {"lr": 0.3, "rounding": rounding, "weight_decay": 0.13, "weight_decay_by": "lr",
                 "weight_decay_first": True}),
            Row(f"rounding-{rounding}-batch",
                {"lr": 0.1, "rounding": rounding, "batch_axes": [0], "weight_decay": 0.37}, LAYERS),
            Row(f"rounding-{rounding}-zero-size",
                {"lr": 0.1, "rounding": rounding}, {"a": (0,), "b": (2, 0), "w": (2, 3)}, steps=2),
        )
    ),
    Row("rounding-one-array", {"lr": 0.1, "rounding": "stochastic", "seed": 3}, (3, 4)),
    Row("rounding-rules",
        {"lr": 0.1, "seed": 11, "weight_decay": 0.13,
         "rules": [["layers.0.*", {"rounding": "stochastic"}],
                   ["layers.1.*", {"rounding": "kahan", "beta1": 0.8743}]]},
        BLOCKS),
]
LONG = {"a": (2, 150), "s": ()}  # a whole block of 128, and a part of one
VECTOR = {"v": (140,), "c": (2, 3, 1)}
MOMENTUM = [
    *(
        Row(f"int8-{arithmetic}-{on}-{rounding}",  # as in momentum-*: 0.9 would meet ties
            {"lr": 0.1, "beta1": 0.8743, "momentum_on": on, "momentum_dtype": "int8",
             "momentum_arithmetic": arithmetic, "momentum_rounding": rounding}, shapes, steps=3)
        for arithmetic, on, rounding, shapes in [
            ("float32", "scaled_update", "nearest", LONG),
            ("float32", "update", "nearest", ALL_RANKS),
            ("float32", "grad", "nearest", VECTOR),
            ("buffer", "scaled_update", "nearest", VECTOR),
            ("buffer", "update", "nearest", ALL_RANKS),
            ("buffer", "grad", "nearest", W),
            ("float32", "scaled_update", "stochastic", VECTOR),
            ("float32", "grad", "stochastic", ALL_RANKS),
            ("buffer", "update", "stochastic", LONG),
        ]
    ),
    *(
        Row(f"momentum-{dtype}-{arithmetic}-stochastic",
            {"lr": 0.1, "beta1": 0.8743, "momentum_on": on, "momentum_dtype": dtype, "seed": 5,
             "momentum_arithmetic": arithmetic, "momentum_rounding": "stochastic"}, shapes)
        for dtype in ("bfloat16", "float16")
        for arithmetic, on, shapes in [
            ("float32", "scaled_update", W), ("buffer", "update", W), ("weak", "grad", W),
        ]
    ),
    Row("momentum-float32-stochastic",  # nothing to round
        {"lr": 0.1, "beta1": 0.75, "momentum_rounding": "stochastic"}),
    Row("int8-zero-size", {"lr": 0.1, "beta1": 0.8743, "momentum_dtype": "int8"},
        {"a": (0,), "b": (2, 0), "w": (2, 3)}, steps=2),
    Row("int8-dead", {"lr": 0.1, "beta1": 0.8743, "momentum_dtype": "int8"}, ALL_RANKS, "dead"),
    Row("int8-kahan", {"lr": 0.1, "beta1": 0.8743, "momentum_dtype": "int8", "rounding": "kahan",
                       "momentum_rounding": "stochastic", "weight_decay": 0.13}, ALL_RANKS),
]
SCALES = (1024.0, None, 3.0, 0.37, 65536.0)
NORM = [
    Row("norm", {"lr": 0.1, "max_grad_norm": 1.0}, ALL_RANKS, "spike"),
    Row("norm-inactive", {"lr": 0.1, "max_grad_norm": 1e3}, ALL_RANKS),
    Row("norm-sometimes", {"lr": 0.1, "max_grad_norm": 2.7, "beta1": 0.75, "momentum_on": "grad"},
        BLOCKS, "spike"),
    Row("norm-eps", {"lr": 0.1, "max_grad_norm": 0.5, "eps1": 0.5, "maximize": True}, BLOCKS),
    Row("norm-silent", {"lr": 0.1, "max_grad_norm": 0.5}, ALL_RANKS, "silent"),
    Row("norm-zero-size", {"lr": 0.1, "max_grad_norm": 0.5}, {"a": (0, 3), "w": (2, 3)}),
    Row("norm-scaled", {"lr": 0.1, "max_grad_norm": 0.5}, ALL_RANKS, grad_scale=SCALES),
    Row("scaled", {"lr": 0.1}, ALL_RANKS, grad_scale=SCALES),
    Row("scaled-eps", {"lr": 0.1, "eps1": 0.5, "eps1_mode": "stats", "beta1": 0.75,
                       "momentum_on": "grad"}, grad_scale=(4.0, 0.5, None, 2.0, 8.0)),
    Row("telemetry", {"lr": 0.1, "telemetry": True, "max_grad_norm": 1.0}, ALL_RANKS),
]
EVERYTHING: dict[str, Any] = {
    "lr": {"schedule": "inverse_sqrt", "peak": 0.5}, "beta1": 0.8743, "weight_decay": 0.13,
    "momentum_dtype": "int8", "momentum_rounding": "stochastic", "seed": 9,
    "max_grad_norm": 2.7, "telemetry": True,
    "rules": [["*.b", {"rounding": "kahan"}], ["layers.*", {"rounding": "stochastic"}]],
}
TWICE = ((1, "w", 2, NAN), (2, "w", 5, INF), (2, "v", 1, NAN), (4, "c", 0, -INF))


def _faulty(policy: str) -> list[Row]:
    base = {"lr": 0.1, "nonfinite": policy}
    name = f"fault-{policy}"
    return [
        Row(f"{name}-none", base, ALL_RANKS),
        Row(f"{name}-first", base, ALL_RANKS, faults=[(0, "w", 5, NAN)]),
        Row(f"{name}-middle", {**base, "beta1": 0.75}, ALL_RANKS, faults=[(2, "v", 1, INF)]),
        Row(f"{name}-last", {**base, "factored": False, "clip_threshold": None}, ALL_RANKS,
            faults=[(4, "c", 11, -INF)]),
        Row(f"{name}-scalar", base, ALL_RANKS, faults=[(1, "s", 0, NAN)]),
        Row(f"{name}-twice", {**base, "weight_decay": 0.25, "decay_rate": 0.5}, ALL_RANKS,
            faults=TWICE),
        Row(f"{name}-all", {**base, "decay_type": "adam", "decay_offset": 1}, W,
            faults=[(1, "w", 0, NAN)]),
        Row(f"{name}-parameter", base, ALL_RANKS, faults=[(None, "v", 0, NAN), (3, "s", 0, INF)]),
        Row(f"{name}-batch", {**base, "batch_axes": [0], "decay_type": "constant"}, LAYERS,
            faults=[(1, "w", 23, NAN)]),
        Row(f"{name}-norm", {**base, "max_grad_norm": 0.5}, ALL_RANKS, "spike", faults=TWICE),
        Row(f"{name}-norm-scaled", {**base, "max_grad_norm": 0.5, "rounding": "stochastic"},
            ALL_RANKS, faults=TWICE, grad_scale=SCALES),
        Row(f"{name}-kahan", {**base, "rounding": "kahan", "beta1": 0.8743, "weight_decay": 0.13,
                              "momentum_dtype": "bfloat16"}, ALL_RANKS, faults=TWICE),
        Row(f"{name}-everything", {**EVERYTHING, "nonfinite": policy}, BLOCKS,
            faults=[(0, "layers.0.w", 3, NAN), (2, "layers.1.b", 1, INF),
                    (3, "layers.1.b", 0, NAN), (3, "head", 2, -INF)],
            grad_scale=(1024.0, 1024.0, 512.0, None, 256.0)),
    ]


# NaN alone: where an infinity turns into a NaN, and where into 0, is up to the order of factors.
PROPAGATED = [
    Row("nan", {"lr": 0.1}, ALL_RANKS, faults=[(2, "w", 4, NAN)]),
    Row("nan-momentum", {"lr": 0.1, "beta1": 0.75, "weight_decay": 0.25}, ALL_RANKS,
        faults=[(1, "v", 1, NAN), (3, "c", 4, NAN)]),
    Row("nan-full", {"lr": 0.1, "factored": False, "clip_threshold": None,
                     "scale_parameter": False}, faults=[(1, "w", 7, NAN)]),
    Row("nan-batch", {"lr": 0.1, "batch_axes": [0]}, LAYERS, faults=[(1, "w", 2, NAN)]),
    Row("nan-rounding", {"lr": 0.1, "rounding": "stochastic", "beta1": 0.8743,
                         "momentum_dtype": "int8"}, ALL_RANKS, faults=[(1, "w", 2, NAN)], steps=3),
    Row("nan-norm", {"lr": 0.1, "max_grad_norm": 0.5}, ALL_RANKS, faults=[(3, "w", 4, NAN)]),
]
# fmt: on
FAULTS = [row for policy in SKIP for row in _faulty(policy)] + PROPAGATED
TABLE = [*ROUNDING, *MOMENTUM, *NORM, *FAULTS]
