"""Steps inside backward: a gradient is used and let go as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adafactor_core import ConfigError

from ._optimizer import Adafactor
from ._options import agree


def attach_backward_hooks(optimizer: Adafactor, accumulate: int = 1) -> BackwardHooks:
    """From now on every parameter is stepped during backward, and its `grad` is None again.

    So one gradient is alive at a time, not the model's. `accumulate`: over how many backward
    passes gradients are added up first (then they are alive). `optimizer.step()` takes what is
    left over, usually nothing. State, state dict, groups and schedulers are the optimizer's as
    before; the numbers are those of the plain loop to the bit. Works with fully_shard; not with
    DistributedDataParallel, which averages gradients after the hooks have run.

    Raises ConfigError for options that decide over all gradients together: `max_grad_norm`, and
    `nonfinite="skip_step"` or "raise". `step` then raises it for closures and GradScaler.
    """
    if not isinstance(optimizer, Adafactor):
        raise ConfigError(
            f"attach_backward_hooks takes an adafactor_torch.Adafactor, got a "
            f"{type(optimizer).__name__}. Pass the optimizer itself, not what wraps it."
        )
    whole = isinstance(accumulate, int) and not isinstance(accumulate, bool)
    if not whole or accumulate < 1:
        raise ConfigError(f"accumulate must be an int >= 1, got {accumulate!r}.")
    if optimizer._backward is not None:
        raise ConfigError(
            "this optimizer has hooks already. Call remove() of what attach_backward_hooks "
            "returned before you attach others."
        )
    return BackwardHooks(optimizer, accumulate)


class BackwardHooks:
    """The hooks of one optimizer; `remove()` goes back to plain steps."""

    def __init__(self, optimizer: Adafactor, accumulate: int) -> None:
        self._optimizer, self._accumulate = optimizer, accumulate
        self._handles: dict[torch.Tensor, Any] = {}
        self._waiting: dict[int, int] = {}  # backward passes since the last step
        self._found: dict[int, tuple[Any, int, int, str]] = {}
        agree(optimizer.param_groups)
        for group in optimizer.param_groups:
            self.check(group)
        optimizer._attach(self)
        for index in range(len(optimizer.param_groups)):
            self.watch(index)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raises ConfigError for options that need all gradients at once."""
        if options["max_grad_norm"] is not None:
            raise ConfigError(
                f"max_grad_norm={options['max_grad_norm']} needs all gradients at once, but steps "
                f"in backward see one at a time. Leave it out (Adafactor clips every update: "
                f"clip_threshold), or do without attach_backward_hooks."
            )
        if options["nonfinite"] in ("skip_step", "raise"):
            raise ConfigError(
                f"nonfinite={options['nonfinite']!r} decides over all gradients at once, but steps "
                f"in backward see one at a time. Use nonfinite='skip_tensor', or do without "
                f"attach_backward_hooks."
            )

    def watch(self, index: int) -> None:
        """Adds the parameters of a group."""
        group = self._optimizer.param_groups[index]
        for p in group["params"]:
            if p.requires_grad and p not in self._handles:
                register: Any = p.register_post_accumulate_grad_hook
                self._handles[p] = register(self._hook)

    def _hook(self, p: torch.Tensor) -> None:
        at = self._at(p)
        if p.grad is None or at is None:  # another hook took it; or its group was taken out
            return
        waiting = self._waiting.get(id(p), 0) + 1
        self._waiting[id(p)] = waiting % self._accumulate
        if waiting == self._accumulate:
            self._optimizer._step_one(*at, p)
            p.grad = None

    def _at(self, p: torch.Tensor) -> tuple[int, str] | None:
        """The index of its group, and its path."""
        if not self._known(p):  # groups come and go, and load_state_dict replaces them
            self._found = {
                id(owned): (group, index, k, path)
                for index, group in enumerate(self._optimizer.param_groups)
                for k, (path, owned) in enumerate(self._optimizer._named(index, group))
            }
        if not self._known(p):
            return None
        _, index, _, path = self._found[id(p)]
        return index, path

    def _known(self, p: torch.Tensor) -> bool:
        group, index, k, _ = self._found.get(id(p), ({"params": []}, 0, 0, ""))
        groups, params = self._optimizer.param_groups, group["params"]
        return index < len(groups) and groups[index] is group and k < len(params) and params[k] is p

    def flushed(self) -> None:
        """All gradients are used up."""
        self._waiting.clear()

    def remove(self) -> None:
        """Takes the hooks off; gradients that wait stay where they are."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        if self._optimizer._backward is self:
            self._optimizer._attach(None)
