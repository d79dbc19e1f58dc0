"""The network in NumPy, with its backward pass by hand. Parameters are a list of layers."""

from __future__ import annotations

from typing import Any

import numpy as np

# {"weight": (in, out), "bias": (out,)} per layer: arrays of one framework
Params = list[dict[str, Any]]

ACTIVATIONS: dict[str, Any] = {  # in NumPy: the function, and its slope from its value
    "tanh": (np.tanh, lambda h: 1 - h * h),
    "relu": (lambda z: np.maximum(z, 0), lambda h: h > 0),
}


def by_hand(params: Params, x: np.ndarray, y: np.ndarray, activation: str) -> tuple[Any, Params]:
    """Mean cross-entropy and its gradient, in the dtype of the arrays."""
    inputs, logits = forward(params, x, activation)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))  # (batch, classes)
    loss = -(y * log_p).sum(axis=1).mean()
    slope = ACTIVATIONS[activation][1]
    delta = (np.exp(log_p) - y) / len(x)  # d loss / d logits
    grads: Params = []
    for layer, h in zip(reversed(params), reversed(inputs), strict=True):
        grads.append({"weight": h.T @ delta, "bias": delta.sum(axis=0)})
        delta = (delta @ layer["weight"].T) * slope(h)  # (batch, in), of the layer below
    return loss, grads[::-1]


def forward(params: Params, x: np.ndarray, activation: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The input of every layer, (batch, in) each, and the logits, (batch, classes)."""
    inputs = [x]
    for layer in params[:-1]:
        z = inputs[-1] @ layer["weight"] + layer["bias"]
        inputs.append(ACTIVATIONS[activation][0](z))
    return inputs, inputs[-1] @ params[-1]["weight"] + params[-1]["bias"]
