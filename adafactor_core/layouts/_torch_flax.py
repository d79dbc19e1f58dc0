"""Which tensor of a torch module is which of a flax tree, by what both usually call them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, NoReturn

from .._errors import TreeError
from .._numerics import Shape
from ._names import LINEAR, New, to_channels_last
from ._params import Param, described

_WRAPPERS = {"module", "orig", "mod", "params", "model"}


class _Match(NamedTuple):
    param: Param
    axes: Shape | None


def torch_to_flax(torch_params: Any, flax_params: Any) -> dict[str, New]:
    """A name map from the parameters of a torch module to those of a flax one (linen or nnx).

    Both as `read` takes them. `weight` is `kernel` (a linear layer's transposed, a convolution's
    from (out, in, *window) to (*window, in, out)), `embedding`, or a norm's `scale`; any other
    name is the same on both sides. Modules are matched by name, with "layers.0" as "layers_0";
    what is left, by shape, where only one of each has it. Raises TreeError, with the candidates,
    unless exactly one pairing remains. Not covered, because shapes do not tell: transposed
    convolutions, and kernels with split heads; name those yourself.
    """
    ours, theirs = described(torch_params), described(flax_params)
    found: dict[str, _Match] = {}
    taken: set[str] = set()

    def candidates(p: Param) -> list[_Match]:
        free = (f for f in theirs if f.path not in taken)
        return [m for f in free if (m := _match(p, f)) is not None]

    for p in ours:
        named = [m for m in candidates(p) if _module(m.param.path) == _module(p.path)]
        if len(named) > 1:
            _refuse(p, named)
        if named:
            found[p.path] = named[0]
            taken.add(named[0].param.path)
    while pending := [p for p in ours if p.path not in found]:
        options = {p.path: candidates(p) for p in pending}
        wanted = [m.param.path for ms in options.values() for m in ms]
        sure = [
            p
            for p in pending
            if len(options[p.path]) == 1 and wanted.count(options[p.path][0].param.path) == 1
        ]
        if not sure:
            worst = min(pending, key=lambda p: (len(options[p.path]) > 0, p.path))
            _refuse(worst, options[worst.path])
        for p in sure:
            found[p.path] = options[p.path][0]
            taken.add(found[p.path].param.path)
    left = [f for f in theirs if f.path not in taken]
    if left:
        raise TreeError(
            f"the flax tree has {left[0].path!r} of shape {left[0].shape}, and no torch tensor is "
            f"left for it. Pass the same model on both sides, or name the tensors yourself."
        )
    return {
        path: m.param.path if m.axes is None else (m.param.path, m.axes)
        for path, m in found.items()
    }


def _match(p: Param, f: Param) -> _Match | None:
    """With the order of axes, if one can be the other."""
    leaf, other = p.path.rsplit(".", 1)[-1], f.path.rsplit(".", 1)[-1]
    rank = len(p.shape)
    if leaf == "weight" and other == "kernel" and rank >= 2:
        axes = LINEAR if rank == 2 else to_channels_last(rank)
        return _Match(f, axes) if tuple(p.shape[a] for a in axes) == f.shape else None
    if p.shape != f.shape:
        return None
    same = {"weight": ("embedding",) if rank == 2 else ("scale", "weight")}.get(leaf, (leaf,))
    return _Match(f, None) if other in same else None


def _module(path: str) -> list[str]:
    """ "module.layers.0.self_attn.weight" -> layers, 0, self, attn"""
    parts = [w for w in re.split(r"[._/]", path.rpartition(".")[0].lower()) if w]
    while parts and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return parts


def _refuse(p: Param, candidates: list[_Match]) -> NoReturn:
    words = ", ".join(f"{m.param.path!r} of shape {m.param.shape}" for m in candidates[:5])
    raise TreeError(
        f"the torch tensor {p.path!r} of shape {p.shape} could be "
        f"{words or 'none of the flax tree'}. Give a name map: {{{p.path!r}: (new path, axes), "
        f"...}}."
    )
