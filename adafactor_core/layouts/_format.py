"""What a checkpoint format is: data, which two functions read for every implementation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .._numerics import Shape


@dataclass(frozen=True)
class Format:
    """Where one implementation keeps what, in the flattened form of its state.

    Keys are the containers' keys, indices and field names, joined by ".". In a key stand: `{path}`
    the parameter's path; `{index}` its position; `{id}` and `{group}` what a torch state dict calls
    it and its group; `{first}`, `{second}`, `{third}` its variables' numbers, three for each
    parameter, after the one or two that belong to none; and at the beginning a name of any other
    kind (`{at}`, `{ema}`) for whatever containers lie around it, so that the position in a chain,
    or a wrapper, makes no difference.
    """

    of: str
    """The class, in words."""
    family: Literal["torch", "tree"]
    """What the state is nested in: a torch state dict, or anything else."""
    factored: Mapping[str, str]
    """Of a factored tensor: our slot -> key."""
    unfactored: Mapping[str, str]
    counters: tuple[str, ...]
    """Keys of the number of completed steps; () where it is kept elsewhere."""
    keepdims: bool = False
    """Whether the axes that statistics are averaged over stay, with size 1."""
    counter_dtype: str = "int"
    """"int": a Python int; else the dtype of a 0-D array."""
    statistics: Literal["wide", "float32", "param"] = "wide"
    """Their dtype: float32 or that of a float64 parameter; float32; that of the parameter."""
    momentum_dtype: Literal["option", "param"] = "option"
    """That of the option `momentum_dtype`, or that of the parameter."""
    placeholder: Shape | None = None
    """The shape of slots that a tensor has no use for, where they are there all the same."""
    placeholder_dtype: str = ""
    """Its dtype; "" for that of the statistics."""
    placed_momentum: bool = False
    """Whether momentum, too, has a placeholder where there is none."""
    averages: str = ""
    """The key of a torch group that is not None where there is momentum."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """What stands for `{at}` and the like where no template tells."""
    unfactored_options: Mapping[str, Any] = field(default_factory=dict)
    """Where options of tensors that are not factored differ."""
    tree_order: bool = False
    """Whether `{index}` counts leaves in the order of JAX, which sorts the keys of a dict."""
    skipped: tuple[str, str] | None = None
    """Keys of a tensor's and of all skipped steps."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Of a factored tensor: what follows from the other slots, "full" -> key."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Options that torch groups have under our names, and what to add to numbers."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Slots that cannot be converted, by the end of their key, and why."""
    ours: bool = False
    """Of this package: all options of Config apply, and those of torch groups are read."""
    note: str = ""
