"""What torch optimizers do not do by themselves: tell their order, and load without rounding."""

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


def load_torch(optimizer: Any, state: Any) -> None:
    """`optimizer.load_state_dict(state)`, with every dtype kept as it is in `state`.

    torch rounds the state of a 16-bit parameter to the parameter's dtype, also where the optimizer
    goes on in float32. `state`: as `write` returns it. Groups keep the options of `optimizer` that
    `state` does not have. Raises what the optimizer raises.
    """
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    merged = [
        {**{k: v for k, v in ours.items() if k != "params"}, **theirs} for ours, theirs in groups
    ]
    optimizer.load_state_dict({**state, "param_groups": merged})
    ids = [id_ for group in state["param_groups"] for id_ in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for id_, p in zip(ids, params, strict=True):
        for name, x in state["state"].get(id_, {}).items():
            loaded = optimizer.state[p].get(name)
            if hasattr(loaded, "dtype") and loaded.dtype != x.dtype:
                optimizer.state[p][name] = x.to(loaded.device, copy=True)
