"""The order in which a torch optimizer counts its parameters, which is that of its groups."""

from __future__ import annotations

from typing import Any

from .._errors import TreeError


def torch_order(optimizer: Any, module: Any) -> list[tuple[str, Any]]:
    """(name, parameter) for every parameter of a torch optimizer, by its position in a state dict.

    `module`: a torch module, or pairs as its `named_parameters()`. Groups, such as one without
    weight decay, change the order, and a state dict holds no names: give this to `read` and
    `write`. Raises TreeError for a parameter that the module does not have.
    """
    pairs = module.named_parameters() if hasattr(module, "named_parameters") else module
    names = {id(p): name for name, p in pairs}
    every = [p for group in optimizer.param_groups for p in group["params"]]
    for k, p in enumerate(every):
        if id(p) not in names:
            raise TreeError(
                f"parameter {k} of the optimizer, of shape {tuple(p.shape)}, is none of the "
                f"module's. Pass the module that the optimizer was built for."
            )
    return [(names[id(p)], p) for p in every]
