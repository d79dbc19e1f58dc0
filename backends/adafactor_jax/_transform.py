"""The gradient transformations, and the step. They hold no formula: the core has them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import adafactor_core as af

from ._options import config, direction
from ._passes import check_scan, passes
from ._sharding import fresh
from ._trees import Named, Tree, as_given, check_mesh, named, put_back, unnamed


class Transformation(NamedTuple):
    """An optax.GradientTransformationExtraArgs by another name, for where optax is not imported.

    `init(params) -> state`. `update(updates, state, params, **extra_args) -> (updates, state)`.
    Of extra arguments `grad_scale` counts, a number or 0-D array that gradients are divided by.
    """

    init: Callable[[Tree], af.State]
    update: Callable[..., tuple[Tree, af.State]]


class Step(NamedTuple):
    """`init(params) -> state` and `step(params, grads, state) -> (params, state)`.

    `step` also takes `grad_scale`, a number or 0-D array that gradients are divided by.
    """

    init: Callable[[Tree], af.State]
    step: Callable[..., tuple[Tree, af.State]]


def adafactor(
    lr: Any = None,
    *,
    weight_decay: Any = None,
    beta1: Any = None,
    decay_rate: Any = None,
    scan: bool | None = None,
    **options: Any,
) -> Transformation:
    """Adafactor for `optax.apply_updates`, and for all that wraps an optax transformation.

    Options by name as in docs/options.md; None is the default. With `variant="optax"` they are
    over those of a named variant (docs/variants.md). The four named here may also be 0-D arrays,
    traced ones too, or functions `f(t)` of t = completed steps + 1, a 0-D float array;
    `zero_based` makes one of an optax schedule, which counts from 0. `scan`: whether sums over
    large tensors are taken in a compiled loop, None for where that pays: on one CPU device.

    The state is an `adafactor_core.State`; `moments` is params' tree of Moments. An update has the
    wider dtype of parameter and gradient: for 16-bit pairs it is rounded once more than in
    `make_step`. Raises ConfigError at once; `init` and `update` raise TreeError, ShapeError,
    DTypeError and StateError, naming the tensor.
    """
    moving = {"lr": lr, "weight_decay": weight_decay, "beta1": beta1, "decay_rate": decay_rate}
    return _as_optax(_transformation(config({**moving, **options}), scan))


def scale_by_adafactor(
    *, beta1: Any = None, decay_rate: Any = None, scan: bool | None = None, **options: Any
) -> Transformation:
    """Gradients divided by their factored root mean squares and clipped: the direction alone.

    To be chained, as in `optax.chain(scale_by_adafactor(), optax.scale_by_learning_rate(1e-3))`;
    like optax's own it points along the gradient. Takes the options of `adafactor` but those that
    say how far to go (ConfigError). `params` are asked for their shapes and dtypes.
    """
    options |= {"beta1": beta1, "decay_rate": decay_rate}
    init, update = _transformation(direction(options), scan, rounds=False)

    def scaled(
        updates: Tree, state: af.State, params: Tree = None, **extra_args: Any
    ) -> tuple[Tree, af.State]:
        updates, state = update(updates, state, params, **extra_args)
        return jax.tree.map(lambda d: -d, updates), state

    return _as_optax(Transformation(init, scaled))


def make_step(
    lr: Any = None,
    *,
    weight_decay: Any = None,
    beta1: Any = None,
    decay_rate: Any = None,
    scan: bool | None = None,
    **options: Any,
) -> Step:
    """The whole step, jitted, with parameters rounded as `rounding` says.

    `params` and `state` are donated: their buffers are reused and must not be used again, nor
    stand twice among the arguments. Options and errors are those of `adafactor`; the latter come
    at trace time, so that the value of `grad_scale` is not looked at.
    """
    moving = {"lr": lr, "weight_decay": weight_decay, "beta1": beta1, "decay_rate": decay_rate}
    chosen = config({**moving, **options})
    check_scan(scan)
    if chosen.nonfinite == "raise":
        raise af.ConfigError(
            "nonfinite='raise' has to read a value, which a jitted step cannot. Use "
            "nonfinite='skip_step'."
        )

    def step(
        params: Tree, grads: Tree, state: af.State, grad_scale: Any = None
    ) -> tuple[Tree, af.State]:
        tree, flat, flat_state = _flat(params, grads, state)
        new, after = af.step(
            tree.leaves, flat, flat_state, chosen, grad_scale=grad_scale, passes=passes(scan)
        )
        return tree.tree(new), as_given(tree.state(put_back(after, flat_state)), state)

    return Step(_init(chosen), jax.jit(step, donate_argnums=(0, 2)))


def _init(options: af.Config, rounds: bool = True) -> Callable[[Tree], af.State]:
    def init(params: Tree) -> af.State:
        return fresh(params, options, rounds)

    return init


def _flat(params: Tree, grads: Tree, state: Any) -> tuple[Named, dict[str, Any], Any]:
    """The three as the core takes them, found to lie together."""
    tree, flat, flat_state = named(params), named(grads).leaves, unnamed(state)
    for path in tree.leaves.keys() & flat.keys():
        slots = flat_state.moments.get(path) if isinstance(flat_state, af.State) else None
        check_mesh(path, tree.leaves[path], flat[path], slots)
    return tree, flat, flat_state


def _as_optax(made: Transformation) -> Transformation:
    """Of optax's own class, where optax is imported: others it wraps, and drops extra arguments."""
    optax = sys.modules.get("optax")
    kind: type[Transformation] = getattr(optax, "GradientTransformationExtraArgs", Transformation)
    return kind(*made)


def _transformation(options: af.Config, scan: bool | None, rounds: bool = True) -> Transformation:
    check_scan(scan)

    def update(
        updates: Tree,
        state: af.State,
        params: Tree = None,
        *,
        grad_scale: Any = None,
        **extra_args: Any,
    ) -> tuple[Tree, af.State]:
        if params is None:
            raise af.TreeError(
                "Adafactor scales with the parameters, but update got none. Call "
                "update(grads, state, params)."
            )
        tree, grads, flat_state = _flat(params, updates, state)
        moved, after = af.update(
            grads, flat_state, tree.leaves, options, grad_scale=grad_scale, passes=passes(scan)
        )
        moved = {
            path: d.astype(_wider(tree.leaves[path], grads[path])) for path, d in moved.items()
        }
        return tree.tree(moved), as_given(tree.state(put_back(after, flat_state)), state)

    return Transformation(_init(options, rounds), update)


def _wider(x: Any, g: Any) -> Any:
    """The dtype of the update. So `optax.apply_if_finite` and strict promotion are content."""
    return g.dtype if g.dtype.itemsize > x.dtype.itemsize else x.dtype
