"""The paper's algorithms, each written out once more in its own terms."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import drawn, rms, run


def adam(x, grads, lr, beta1, beta2):
    """Paper, Algorithm 1, with epsilon going to 0."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        x = x - lr * (m / (1 - beta1**t)) / np.sqrt(v / (1 - beta2**t))
    return x


def test_algorithm_1_is_adam():
    x, grads = drawn((6, 5), steps=8)
    config = af.variants.algorithm1(lr=0.01, beta1=0.9, beta2=0.99)
    new, _ = run(x, grads, config)
    close(new, adam(x, grads, 0.01, 0.9, 0.99), 1e-14)


def factored_adam(x, grads, lr, beta2, clip=None):
    """Paper, Algorithms 2 and 3: sums over rows and columns, bias corrected, no first moment."""
    n, m = x.shape
    r, c = np.zeros(n), np.zeros(m)
    for t, g in enumerate(grads, 1):
        r = beta2 * r + (1 - beta2) * (g**2) @ np.ones(m)
        c = beta2 * c + (1 - beta2) * np.ones(n) @ (g**2)
        v = np.outer(r, c) / r.sum() / (1 - beta2**t)
        u = g / np.sqrt(v)
        x = x - lr * (u if clip is None else u / max(1.0, rms(u) / clip))
    return x


@pytest.mark.parametrize("clip", [None, 0.7], ids=["algorithm 2", "algorithm 3"])
def test_algorithms_2_and_3_are_factored_adam(clip):
    x, grads = drawn((6, 5), steps=8)
    if clip is None:
        config = af.variants.algorithm2(lr=0.01, beta2=0.99)
    else:
        config = af.variants.algorithm3(lr=0.01, beta2=0.99, clip_threshold=clip)
    new, _ = run(x, grads, config)
    close(new, factored_adam(x, grads, 0.01, 0.99, clip), 1e-14)


def test_algorithm_3_clips_at_1_by_default():
    assert af.variants.algorithm3() == af.variants.algorithm2(clip_threshold=1.0)


def paper(x, grads):
    """Algorithms 4 and 5 with the settings of 6, for a matrix or a vector."""
    r = c = v = 0.0
    for t, g in enumerate(grads, 1):
        alpha = max(1e-3, rms(x)) * min(1e-2, t**-0.5)
        beta2 = 1 - t**-0.8
        squares = g**2 + 1e-30
        if x.ndim == 2:
            r = beta2 * r + (1 - beta2) * squares.sum(axis=1)
            c = beta2 * c + (1 - beta2) * squares.sum(axis=0)
            v = np.outer(r, c) / r.sum()
        else:
            v = beta2 * v + (1 - beta2) * squares
        u = g / np.sqrt(v)
        x = x - alpha * u / max(1.0, rms(u))
    return x


@pytest.mark.parametrize("shape", [(6, 5), (7,)], ids=["algorithm 4", "algorithm 5"])
def test_the_defaults_are_the_papers(shape):
    x, grads = drawn(shape, steps=8)
    assert af.variants.paper() == af.Config()
    close(run(x, grads)[0], paper(x, grads), 1e-14)


@pytest.mark.parametrize(
    "make", [af.variants.algorithm1, af.variants.algorithm2, af.variants.algorithm3]
)
def test_variants_take_further_options(make):
    config = make(weight_decay=0.1, maximize=True)
    assert isinstance(config, af.Config)
    assert config.weight_decay == 0.1
    assert config.maximize
    with pytest.raises(TypeError):
        make(no_such_option=1)
