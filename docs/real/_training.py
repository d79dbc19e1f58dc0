"""One training run of a small T5: an optimizer, a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch
from _optimizers import Build, state_bytes
from _texts import ALPHABET, batches, read_text
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

START = 0  # the token that the decoder starts with; characters are 1 and up


@dataclass(frozen=True)
class Setting:
    """The model, its task and its batches; lengths in characters."""

    width: int = 64
    inner: int = 128  # of the feed-forward layers
    heads: int = 4
    layers: int = 2  # of the encoder, and of the decoder
    prefix: int = 64  # what the encoder reads
    continuation: int = 32  # what the decoder is to write
    batch: int = 16
    steps: int = 300
    every: int = 15  # steps between evaluations; the first one before the first step
    held_out: int = 12_288
    snapshots: tuple[int, ...] = (1, 10, 100, 300)  # steps after which parameters are compared


@dataclass(frozen=True)
class Kind:
    """What differs between runs. `nudged`: see there."""

    build: Build
    nudged: bool = False


@dataclass
class Run:
    """What came out. Losses: mean cross-entropy in nats per character of the continuation."""

    train: list[float] = field(default_factory=list)  # of the batch of every step
    held_out: list[float] = field(default_factory=list)
    snapshots: dict[int, list[Tensor]] = field(default_factory=dict)  # 0: as initialised
    step_seconds: list[float] = field(default_factory=list)  # of the optimizer's part
    seconds: float = 0.0
    state_bytes: int = 0


def start(setting: Setting, seed: int) -> T5ForConditionalGeneration:
    """A float32 T5 with random weights as its class draws them, and no dropout.

    The feed-forward layers are those of T5 1.1: smooth, so that rounding stays rounding. (README)
    """
    config = T5Config(
        vocab_size=1 + len(ALPHABET),
        d_model=setting.width,
        d_ff=setting.inner,
        d_kv=setting.width // setting.heads,
        num_heads=setting.heads,
        num_layers=setting.layers,
        num_decoder_layers=setting.layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=START,
        decoder_start_token_id=START,
        use_cache=False,
    )
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(config)


def loss(model: T5ForConditionalGeneration, setting: Setting, windows: Tensor) -> Tensor:
    """Of (batch, prefix + continuation) characters, each given all that are before it."""
    tokens = windows + 1
    read, write = tokens[:, : setting.prefix], tokens[:, setting.prefix :]
    return model(input_ids=read, labels=write.contiguous()).loss


@torch.no_grad()
def held_out_loss(model: T5ForConditionalGeneration, setting: Setting, text: Tensor) -> float:
    """Over all whole windows of the text that do not overlap."""
    length = setting.prefix + setting.continuation
    parts = text[: setting.held_out].unfold(0, length, length).split(64)
    total = sum(float(loss(model, setting, part)) * len(part) for part in parts)
    return total / sum(map(len, parts))


@torch.no_grad()
def nudge(model: torch.nn.Module) -> None:
    """Every parameter grows by one or two units in the last place: what rounding could do."""
    for p in model.parameters():
        p.mul_(1 + torch.finfo(p.dtype).eps)


def train(kind: Kind, setting: Setting, seed: int, tick: Callable[[], object]) -> Run:
    """The same seed gives the same initial values and the same batches. `tick`: once per step."""
    torch.set_num_threads(1)
    began, run, text = perf_counter(), Run(), read_text("topics")
    model = start(setting, seed)
    if kind.nudged:
        nudge(model)
    optimizer = kind.build(model)

    def look(t: int) -> None:
        if t % setting.every == 0:
            run.held_out.append(held_out_loss(model, setting, text.held_out))
        if t in (0, *setting.snapshots):
            run.snapshots[t] = [p.detach().clone() for p in model.parameters()]

    look(0)
    length = setting.prefix + setting.continuation
    drawn = batches(text.train, length, setting.batch, setting.steps, seed)
    for t, windows in enumerate(drawn, 1):
        value = loss(model, setting, windows)
        optimizer.zero_grad()
        value.backward()
        before = perf_counter()
        optimizer.step()
        run.step_seconds.append(perf_counter() - before)
        run.train.append(value.item())
        look(t)
        tick()
    run.state_bytes = state_bytes(optimizer)
    run.seconds = perf_counter() - began
    return run
