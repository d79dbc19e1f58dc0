"""A decoder-only transformer over characters, in plain torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """Of the model and its batches."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    context: int = 64
    batch: int = 16


def start(size: Size, characters: int, seed: int) -> Params:
    """Initial values, float32: normal, of variance 1 / inputs; gains 1."""
    draw = torch.Generator().manual_seed(seed)
    n = size.width

    def normal(rows: int, columns: int, deviation: float) -> Tensor:
        return torch.randn(rows, columns, generator=draw) * deviation

    params = {"embed": normal(characters, n, 0.5), "place": normal(size.context, n, 0.5)}
    for k in range(size.layers):
        params |= {
            f"{k}.gain1": torch.ones(n),
            f"{k}.qkv": normal(n, 3 * n, n**-0.5),
            f"{k}.join": normal(n, n, n**-0.5 / math.sqrt(2 * size.layers)),
            f"{k}.gain2": torch.ones(n),
            f"{k}.up": normal(n, 4 * n, n**-0.5),
            f"{k}.down": normal(4 * n, n, (4 * n) ** -0.5 / math.sqrt(2 * size.layers)),
        }
    return params | {"gain": torch.ones(n), "out": normal(n, characters, n**-0.5)}


def logits(params: Params, size: Size, tokens: Tensor) -> Tensor:
    """(batch, context) to (batch, context, characters), all in the parameters' dtype."""
    x = params["embed"][tokens] + params["place"]
    for k in range(size.layers):
        p = {
            name: params[f"{k}.{name}"] for name in ("gain1", "qkv", "join", "gain2", "up", "down")
        }
        x = x + _attention(_norm(x, p["gain1"]) @ p["qkv"], size.heads) @ p["join"]
        x = x + F.gelu(_norm(x, p["gain2"]) @ p["up"]) @ p["down"]
    return _norm(x, params["gain"]) @ params["out"]


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, gain.shape, gain)


def _attention(qkv: Tensor, heads: int) -> Tensor:
    b, t, n = qkv.shape
    q, k, v = qkv.view(b, t, 3, heads, n // 3 // heads).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).reshape(b, t, n // 3)


def loss(params: Params, size: Size, windows: Tensor) -> Tensor:
    """Mean cross-entropy in nats of (batch, context + 1) characters; float32 from the logits on."""
    scores = logits(params, size, windows[:, :-1]).float()
    return F.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(params: Params, size: Size, text: Tensor) -> float:
    """Over all whole windows of the text that do not overlap, in the parameters' dtype."""
    windows = text.unfold(0, size.context + 1, size.context)
    parts = windows.split(64)
    return sum(float(loss(params, size, w)) * len(w) for w in parts) / len(windows)
