"""optax, run op by op as its documentation shows it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _peer_inputs import Arrays


def wide(params: Arrays) -> AbstractContextManager[Any]:
    """JAX has float64 only where it is asked for."""
    is_wide = any(x.dtype == np.float64 for x in params.values())
    return jax.enable_x64(True) if is_wide else nullcontext()


def optax(
    call: dict[str, Any],
    params: Arrays,
    grads: list[Arrays],
    rate: Callable[[int], float] | None = None,
) -> list[Arrays]:
    import optax

    call = dict(call)
    if rate is not None:
        call["learning_rate"] = lambda count: rate(count + 1)
    with wide(params):
        transformation = optax.adafactor(**call)
        x = {name: jnp.asarray(array) for name, array in params.items()}
        state, after = transformation.init(x), []
        for gradient in grads:
            g = {name: jnp.asarray(array) for name, array in gradient.items()}
            updates, state = transformation.update(g, state, x)
            x = optax.apply_updates(x, updates)
            after.append({name: np.asarray(array) for name, array in x.items()})
    return after
