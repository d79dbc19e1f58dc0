"""What the models read: text that comes with every Python, as character numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the JAX example has no torch
    from torch import Tensor

MODULES = (
    *("argparse", "ast", "dataclasses", "datetime", "difflib", "doctest", "enum", "functools"),
    *("inspect", "optparse", "statistics", "subprocess", "tarfile", "threading", "typing"),
    "zipfile",
)
HELD_OUT_MODULES = ("calendar", "textwrap")


@dataclass(frozen=True)
class Text:
    """Character numbers, (length,) int64 each."""

    train: Tensor
    held_out: Tensor
    sha256: str


def _topics() -> list[str]:
    return [topics[name] for name in sorted(topics)]


ALPHABET = {c: k for k, c in enumerate(sorted(set("".join(_topics()))))}


@cache
def read_text(name: str) -> Text:
    """The texts of `read_pages` as tensors."""
    import torch

    train, held_out = read_pages(name)
    digest = hashlib.sha256("".join(train + held_out).encode()).hexdigest()
    return Text(torch.from_numpy(encoded(train)), torch.from_numpy(encoded(held_out)), digest)


def read_pages(name: str) -> tuple[list[str], list[str]]:
    """To train on, and held out.

    "topics": the help pages, English prose about Python, every tenth page held out.
    "source": modules of the standard library, two held out.
    """
    if name == "topics":
        pages = _topics()
        return [p for k, p in enumerate(pages) if k % 10 != 5], pages[5::10]
    return [_source(m) for m in MODULES], [_source(m) for m in HELD_OUT_MODULES]


def encoded(pages: list[str]) -> np.ndarray:
    """(length,) int64, without the few characters that the help pages lack."""
    return np.array([ALPHABET[c] for c in "".join(pages) if c in ALPHABET])


def _source(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def batches(text: Tensor, length: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """(batch, length) characters per step, from places drawn with replacement."""
    import torch

    windows = text.unfold(0, length, 1)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield windows[torch.from_numpy(rng.integers(len(windows), size=batch))]
