"""Options that every set of kernels serves, and what kernels are asked beside their numbers."""

import numpy as np

import adafactor_core as af

SERVED = {
    "default": {},
    "lr": {"lr": 0.1},
    "unclipped": {"clip_threshold": None},
    "unscaled": {"lr": 0.1, "scale_parameter": False},
    "neither": {"lr": 0.1, "scale_parameter": False, "clip_threshold": None},
    "momentum": {"beta1": 0.9},
    "momentum of updates": {"lr": 0.1, "beta1": 0.9, "momentum_on": "update"},
    "decay": {"lr": 0.1, "weight_decay": 0.1},
    "decay by lr, first": {
        "lr": 0.1, "weight_decay": 0.1, "weight_decay_by": "lr", "weight_decay_first": True,
    },
    "decay by itself": {"weight_decay": 0.01, "weight_decay_by": "none"},
    "eps in statistics": {"eps1": 1e-3, "eps1_mode": "stats"},
    "eps of the dtype": {"eps1": "finfo"},
    "largest": {"factored_dims": "largest"},
    "full": {"factored": False},
    "full, unclipped": {"factored": False, "clip_threshold": None, "beta1": 0.9},
    "adam": {"decay_type": "adam", "decay_rate": 0.99},
    "ascent": {"maximize": True, "beta1": 0.5, "weight_decay": 0.1},
    "capped scale": {"max_parameter_scale": 0.01},
}  # fmt: skip


def drawn(shape, dtype, seed=0):
    """Heavy-tailed, so that no two rows or columns look alike."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp(0.9 * rng.standard_normal(shape))
    return np.asarray(x).astype(dtype)


def check_dead_rows(passes):
    """Rows and columns that never had a gradient stay to the bit, at any size of the others."""
    x, g = drawn((33, 65), np.float32), drawn((33, 65), np.float32, 1)
    g[7] = g[:, 11] = 0
    for scale in (2.0**-60, 1.0, 2.0**60):
        y, _ = af.step(x, (g * scale).astype(np.float32), af.init(x), passes=passes)
        assert np.isfinite(y).all()
        assert np.array_equal(y[7], x[7])
        assert np.array_equal(y[:, 11], x[:, 11])


def check_propagates(passes, place, bad):
    """What is not finite spreads as far as in array API."""
    x, g = drawn((33, 65), np.float32), drawn((33, 65), np.float32, 1)
    g[place] = bad
    for o in ({}, {"factored": False}, {"factored": False, "beta1": 0.9}):
        config = af.Config(**o)
        with np.errstate(invalid="ignore"):
            want, _ = af.step(x, g, af.init(x, config), config)
            got, _ = af.step(x, g, af.init(x, config), config, passes=passes)
        assert np.array_equal(np.isnan(got), np.isnan(want))
