"""The implementations that are installed, each as one function, and ours beside them."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from _peer_inputs import Arrays

import adafactor_core as af

Rate = Callable[[int], float] | None
Run = Callable[[dict[str, Any], Arrays, list[Arrays], Rate], list[Arrays]]

# Name in the table to the distribution that it comes from.
DISTRIBUTIONS = {
    "torch": "torch",
    "transformers": "transformers",
    "timm": "timm",
    "timm_bigvision": "timm",
    "pytorch_optimizer": "pytorch_optimizer",
    "came": "came-pytorch",
    "adafactor8bit": "adafactor8bit",
    "optax": "optax",
    "keras": "keras",
    "mlx": "mlx",
}


def installed(name: str) -> str | None:
    """The version that is here, or None."""
    try:
        return version(DISTRIBUTIONS[name])
    except PackageNotFoundError:
        return None


def theirs(name: str) -> Run:
    """Raises ImportError where it is not installed."""
    if name == "optax":
        from _peer_jax import optax

        return optax
    if name in ("keras", "mlx"):
        import _peer_others

        return getattr(_peer_others, name)
    from _peer_torch import MAKERS, follow

    return lambda call, *rest: follow(MAKERS[name], call, *rest)


def ours(config: af.Config, params: Arrays, grads: list[Arrays]) -> list[Arrays]:
    """The core over NumPy."""
    x, state, after = params, af.init(params, config), []
    for gradient in grads:
        x, state = af.step(x, gradient, state, config)
        after.append(x)
    return after
