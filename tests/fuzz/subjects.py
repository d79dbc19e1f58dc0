"""What a case is run through. Each returns a Snap per step, of copies."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

import adafactor_core as af
from adafactor_numpy import Adafactor

from .draw import DTYPES, Arrays, FuzzCase

SLOTS = ("row", "col", "full", "momentum", "momentum_scale", "compensation")


@dataclass
class Snap:
    """After one step. `odd`: tensors found not finite, "" if some were, but nobody says which."""

    params: Arrays
    slots: Arrays  # "w.row": ...
    step: int
    skipped: int | None
    counts: dict[str, int]  # moments.skipped by path
    odd: frozenset[str]
    moved: bool

    def stayed(self, path: str) -> bool:
        """Whether this tensor was skipped, in whatever way."""
        return not self.moved or path in self.odd


def frozen(tree: Any) -> Any:
    """The tree, whose arrays cannot be written any more: what would write to them raises."""
    if isinstance(tree, np.ndarray):
        tree.flags.writeable = False
    elif isinstance(tree, dict):
        [frozen(x) for x in tree.values()]
    elif isinstance(tree, tuple):
        [frozen(x) for x in tree]
    return tree


def copied(tree: Any) -> Any:
    """Deep copies of NumPy arrays in dicts, tuples and states."""
    return pickle.loads(pickle.dumps(tree, protocol=5))


def snap(params: Arrays, state: af.State, before: Snap | None, raised: str = "") -> Snap:
    """`raised`: what NonFiniteError said, if it did."""
    slots, counts = {}, {}
    for path, moments in state.moments.items():
        for name in SLOTS:
            array = getattr(moments, name)
            if array is not None:
                slots[f"{path}.{name}"] = np.array(array)
        if moments.skipped is not None:
            counts[path] = int(moments.skipped)
    past = before.counts if before else {}
    odd = frozenset(p for p, n in counts.items() if n != past.get(p, 0))
    if raised:
        odd = frozenset(p for p in params if f"{p!r} of shape" in raised)
    step = int(state.step)
    skipped = None if state.skipped is None else int(state.skipped)
    moved = step != (before.step if before else 0)
    return Snap(
        {p: np.array(x) for p, x in params.items()}, slots, step, skipped, counts, odd, moved
    )


Step = Callable[..., tuple[Any, af.State]]


def pure(
    case: FuzzCase,
    *,
    config: af.Config | None = None,
    donate: bool = False,
    passes: Sequence[Any] = (),
    step: Step = af.step,
    resume: int = -1,
    grads: Sequence[Arrays] | None = None,
) -> list[Snap]:
    """The core on NumPy. `resume`: before which step the state goes through copies."""
    config = config or case.config
    params = {p: x.copy() for p, x in case.params.items()}
    state = af.init(params, config)
    found: list[Snap] = []
    before: Snap | None = None
    for at, g in enumerate(case.grads if grads is None else grads):
        if at == resume:
            params, state = copied((params, state))
        raised = ""
        try:
            more = {"donate": True} if donate else {}
            frozen(g if donate else (params, g, state))
            params, state = step(
                params, g, state, config, grad_scale=case.grad_scale, passes=passes, **more
            )
        except af.NonFiniteError as error:
            raised = str(error)
        before = snap(params, state, before, raised)
        found.append(before)
    return found


def in_place(case: FuzzCase, compiled: bool | None = None, resume: int = -1) -> list[Snap]:
    """adafactor_numpy.Adafactor; `resume`: before which step a new one takes the state over."""
    params = {p: x.copy() for p, x in case.params.items()}
    optimizer = Adafactor(params, case.config, compiled=compiled)
    scale = None if case.grad_scale is None else float(case.grad_scale)
    found: list[Snap] = []
    before: Snap | None = None
    for at, g in enumerate(case.grads):
        if at == resume:
            params, state = copied((params, optimizer.state))
            optimizer = Adafactor(params, case.config, compiled=compiled)
            optimizer.state = state
        raised = ""
        try:
            optimizer.step(g, grad_scale=scale)
        except af.NonFiniteError as error:
            raised = str(error)
        before = snap(params, optimizer.state, before, raised)
        found.append(before)
    return found


def elsewhere(case: FuzzCase, library: str) -> list[Snap]:
    """The core on torch's or array-api-strict's arrays."""
    to, back = _torch() if library == "torch" else _strict()
    scale = None if case.grad_scale is None else float(case.grad_scale)
    config = case.config
    params = {p: to(x) for p, x in case.params.items()}
    state = af.init(params, config)
    found: list[Snap] = []
    before: Snap | None = None
    for g in case.grads:
        raised = ""
        try:
            g = {p: to(x) for p, x in g.items()}
            params, state = af.step(params, g, state, config, grad_scale=scale)
        except af.NonFiniteError as error:
            raised = str(error)
        here = {p: back(x) for p, x in params.items()}
        moments = {
            p: af.Moments(*(None if a is None else back(a) for a in m))
            for p, m in state.moments.items()
        }
        skipped = None if state.skipped is None else back(state.skipped)
        there = af.State(back(state.step), moments, skipped)
        before = snap(here, there, before, raised)
        found.append(before)
    return found


def _torch() -> tuple[Any, Any]:
    import torch

    def to(x: np.ndarray) -> Any:
        if x.dtype == DTYPES["bfloat16"]:
            return torch.tensor(x.view(np.int16).copy()).view(torch.bfloat16)
        return torch.tensor(x.copy())

    def back(x: Any) -> np.ndarray:
        if x.dtype == torch.bfloat16:
            return x.clone().view(torch.int16).numpy().view(DTYPES["bfloat16"])
        return x.clone().numpy()

    return to, back


def _strict() -> tuple[Any, Any]:
    import array_api_strict as strict

    return strict.asarray, lambda x: np.array(x)


def lacks(case: FuzzCase, library: str) -> bool:
    """Whether the library is not here, or has not the dtypes: array-api-strict has few."""
    if find_spec({"strict": "array_api_strict"}.get(library, library)) is None:
        return True
    if library != "strict":
        return False
    arrays = [*case.params.values(), *case.grads[0].values()]
    buffers = [case.of(p) for p in case.params]
    plain = all(a.dtype in (np.float32, np.float64) for a in arrays)
    return not plain or any(
        o["beta1"] is not None and o["momentum_dtype"] in ("bfloat16", "float16") for o in buffers
    )


def common(case: FuzzCase) -> bool:
    """Whether kernels for these dtypes are among the few that a campaign compiles."""
    grads = {p: g.dtype.name for p, g in case.grads[0].items()}
    own = {p: x.dtype.name for p, x in case.params.items()}
    return all(grads[p] == name or grads[p] == "float32" for p, name in own.items())
