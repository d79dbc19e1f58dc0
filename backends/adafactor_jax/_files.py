"""State files, for states of JAX's own trees."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import adafactor_core as af
from adafactor_core import interchange
from adafactor_core.interchange._arrays import array_of, numpy_array

from ._options import config
from ._sharding import place, reduced
from ._trees import Tree, named, unnamed

File = str | os.PathLike[str]


def save_state(
    file: File,
    params: Tree,
    state: af.State,
    lr: Any = None,
    *,
    variant: str | af.variants.Variant | None = None,
    progress: Callable[[int, int], None] | None = None,
    scan: bool | None = None,
    **options: Any,
) -> None:
    """Writes the state, and not the parameters, to a file that every framework can read.

    `state`: what `adafactor` or `make_step` returned; out of an optax chain, its own element. The
    options are those that it was made with, `variant` among them; `scan` makes no difference.
    Waits for the arrays, and gathers those that lie on several devices, one at a time. As
    `adafactor_core.save_state`, which says more. Raises StateError, TreeError, ConfigError and
    OSError.
    """
    tree, flat = named(params), unnamed(state)
    for x in jax.tree.leaves(flat):
        if isinstance(x, jax.Array) and not getattr(x, "is_fully_addressable", True):
            raise af.StateError(
                "the state lies on devices of several processes, and one process writes a file. "
                "Gather it on all of them, with jax.experimental.multihost_utils."
                "process_allgather(state, tiled=True), and save the result in one."
            )
    chosen = config({"lr": lr, "variant": variant, **options})
    af.save_state(file, tree.leaves, flat, chosen, variant=variant, progress=progress)


def load_state(
    file: File, params: Tree, lr: Any = None, *, scan: bool | None = None, **options: Any
) -> af.State:
    """The state in this file for these parameters, by path, whatever framework wrote it.

    Nested as `adafactor(...).init(params)` is, with every slot placed as there: cut as its
    parameter is, on the axes that it has. Raises StateFileError for a file that is damaged or no
    state; StateError, naming the tensor, where it is of other tensors or options;
    FileNotFoundError, TreeError, ConfigError.
    """
    tree = named(params)

    def put(raw: interchange.Raw, x: Any) -> Any:
        at = place(x)
        where = None if at is None else reduced(at, tuple(x.shape), raw.shape)
        if where is None:
            return array_of(raw, jnp.empty(0))
        return jax.device_put(numpy_array(raw), where)

    found, chosen = interchange.read(file), config({"lr": lr, **options})
    made = interchange.state(found, tree.leaves, chosen, put=put)
    seats = (at for x in tree.leaves.values() if (at := place(x)) is not None)
    if made.metrics is not None and (first := next(seats, None)) is not None:
        made = made._replace(metrics=jax.device_put(made.metrics, reduced(first, (), ())))
    return tree.state(made)
