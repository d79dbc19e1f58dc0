"""Keras, on its JAX backend, and MLX."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from _peer_inputs import Arrays

os.environ.setdefault("KERAS_BACKEND", "jax")


def keras(
    call: dict[str, Any],
    params: Arrays,
    grads: list[Arrays],
    rate: Callable[[int], float] | None = None,
) -> list[Arrays]:
    import keras
    from _peer_jax import wide

    with wide(params):
        own = {name: keras.Variable(x, dtype=str(x.dtype), name=name) for name, x in params.items()}
        optimizer, after = keras.optimizers.Adafactor(**call), []
        for t, gradient in enumerate(grads, 1):
            if rate is not None:
                optimizer.learning_rate = rate(t)
            optimizer.apply([gradient[name] for name in own], list(own.values()))
            after.append({name: np.array(x) for name, x in own.items()})
    return after


def mlx(
    call: dict[str, Any],
    params: Arrays,
    grads: list[Arrays],
    rate: Callable[[int], float] | None = None,
) -> list[Arrays]:
    import mlx.core as mx
    import mlx.optimizers as optimizers

    mx.set_default_device(mx.cpu)
    optimizer, after = optimizers.Adafactor(**call), []
    x = {name: mx.array(array) for name, array in params.items()}
    for t, gradient in enumerate(grads, 1):
        if rate is not None:
            optimizer.learning_rate = rate(t)
        g = {name: mx.array(array) for name, array in gradient.items()}
        x = optimizer.apply_gradients(g, x)
        mx.eval(x, optimizer.state)
        after.append({name: np.array(array) for name, array in x.items()})
    return after
