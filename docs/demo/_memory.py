"""Shapes from the real world, and what their optimizer state costs. Nothing is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import adafactor_core as af

Shape = tuple[int, ...]


class MemoryPoint(NamedTuple):
    """Parameters as a count, state in bytes."""

    name: str
    params: int
    adafactor: int
    adam: int


def gpt2(width: int = 768, layers: int = 12, words: int = 50257, length: int = 1024) -> list[Shape]:
    """GPT-2: biases everywhere, output tied to the embedding. 124 M parameters."""
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    feed_forward = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    layer = attention + feed_forward + 4 * [(width,)]  # two layer norms
    return [(words, width), (length, width), *layers * layer, (width,), (width,)]


def llama(width: int = 4096, inner: int = 11008, layers: int = 32) -> list[Shape]:
    """Llama 2 7B: no biases. 6.7 G parameters."""
    layer = 4 * [(width, width)] + 2 * [(width, inner)] + [(inner, width)] + 2 * [(width,)]
    words = [(32000, width)]  # embedding and output are two matrices
    return [*words, *layers * layer, (width,), *words]


def resnet50() -> list[Shape]:
    """Convolutions (out, in, height, width) and batch norms. 25.6 M parameters."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            outs = [(width, inside, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                outs.append((4 * width, inside, 1, 1))  # the shortcut
            shapes += [s for out in outs for s in (out, (out[0],), (out[0],))]
            inside = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


MODELS: dict[str, list[Shape]] = {
    "ResNet-50": resnet50(),
    "GPT-2 small": gpt2(),
    "Llama 2 7B": llama(),
}


def point(name: str, shapes: Sequence[Shape]) -> MemoryPoint:
    """float32 parameters of these shapes, with the default options."""
    zero = np.float32(0)
    report = af.memory_report([np.broadcast_to(zero, s) for s in shapes])  # views of one number
    return MemoryPoint(name, report.param_bytes // 4, report.state_bytes, report.adam_bytes)
