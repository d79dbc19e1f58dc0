"""What is decided over all tensors: the clip of the global norm, and whether a step is taken.

Both come from sums that the passes have anyway. Where those lie on a device, so do the decisions:
nothing here waits for one, except `nonfinite="raise"`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

from ._errors import ConfigError, NonFiniteError
from ._numerics import (
    LARGEST,
    TINY,
    Array,
    at_least,
    at_most,
    choose,
    device,
    dtype_name,
    exposed,
    move,
    namespace,
    on_host,
    product,
    square_root,
    sum_to,
    wide,
    wide_dtype,
)
from ._work import Partial, Whole, Work

MARGIN = 2.0**-16  # of partial sums: so many of them may still be added up over shards


def find_odd(w: Work) -> None:
    """Counts, as a partial sum over the tensor, what no step can be made of.

    A comparison and not isfinite: it is false for NaN, and a sum may be finite on each shard and
    yet overflow when all are added. R, C and V are looked at because float32 squares overflow.
    """
    xp, limit = w.xp, LARGEST[w.width]
    sums = [w.partials[name].value for name in ("x2", "u2") if name in w.partials]
    looked_at = [(value, limit * MARGIN) for value in sums]
    if w.whole.normed:  # what the norm leaves out must not move
        looked_at.append((w.partials["g2"].value, limit))
    whole = (w.new.row, w.new.col, w.peak)
    looked_at += [(value, limit) for value in whole if value is not None]
    ones = (1,) * len(w.param.shape)
    odd: Any = xp.zeros(ones, dtype=w.dtype, device=device(w.param))
    for value, bound in looked_at:
        odd = odd + sum_to(xp, xp.astype(xp.logical_not(value <= bound), w.dtype), ones)
    axes = tuple(range(len(ones)))
    w.partials["odd"] = Partial(w.path, "odd", odd, axes)


def judged(w: Work) -> Any:
    """Settles whether the tensor is finite; 0 or 1, in how many tensors something is odd."""
    odd = w.partials["odd"].value
    if on_host(odd):
        w.fine = bool(odd == 0)
        return int(not w.fine)
    w.fine = odd == 0
    return w.xp.reshape(w.xp.astype(odd > 0, w.dtype), ())


def marked(w: Work) -> Partial:
    """The squares of the gradient, infinite where something else keeps the tensor from moving.

    Before they are added up over shards, so that every rank leaves the same out of the norm, also
    for what a single one can see: its own slices of X and V.
    """
    g2, limit = w.partials["g2"], LARGEST[w.width]
    x2 = sum_to(w.xp, w.partials["x2"].value, tuple(g2.value.shape))
    value = choose(x2 <= limit * MARGIN, g2.value, math.inf)
    if w.peak is not None:
        value = choose(w.peak <= limit, value, math.inf)
    return g2._replace(value=value)


def share_of_norm(w: Work) -> Array:
    """(unit*G)**2 summed over the tensor, in the unit of the whole; of a skipped tensor nothing."""
    squares = w.partials["g2"].value
    if w.whole.guarded:
        squares = choose(squares <= LARGEST[w.width], squares, 0.0)
    return squares * (w.whole.unit / w.unit) ** 2


def gathered(values: Sequence[Any]) -> Any:
    """The sum of numbers and arrays of one element: a number if all are on the host, else a 0-D
    array on the device of one of them, in the widest dtype among them."""
    arrays = [v for v in values if not on_host(v)]
    on_hand = [float(v.item() if hasattr(v, "item") else v) for v in values if on_host(v)]
    total = sum(on_hand, 0.0)
    if not arrays:
        return total
    like = next((v for v in arrays if dtype_name(v) == "float64"), arrays[0])
    terms = [move(namespace(v).reshape(v, ()), like, like.dtype) for v in arrays]
    found = reduce(add, terms)
    return found + total if total else found


def clip_globally(whole: Whole, squares: Any) -> None:
    """Sets the gain of all gradients; `squares`: the sum of (unit*G)**2 over all tensors."""
    most: Any = whole.options.max_grad_norm
    before = 1.0 if whole.unscale is None else whole.unscale
    # A norm that overflowed would otherwise make every gradient 0, in silence.
    norm = exposed(product(square_root(squares) * (1.0 / whole.unit), before))
    # Where all gradients are 0, nothing is divided by 0; NaN in the norm comes through. An array
    # over an array: torch makes number/array a product with 1/array, which at the bound is not 1.
    width = "float64" if on_host(norm) else dtype_name(norm)
    most = min(most, LARGEST[width])
    low = max(0.5 * most, TINY[width])
    over = most if on_host(norm) else namespace(norm).full_like(norm, most)
    whole.gain = product(at_most(over / at_least(norm, low), 1.0), before)


def decide(whole: Whole, odd: Any, works: Sequence[Work]) -> None:
    """Sets whether all tensors move, or raises NonFiniteError; `odd`: how many are not finite."""
    policy = whole.options.nonfinite
    if policy == "raise":
        try:
            bad = bool(odd > 0)
        except TypeError as error:  # what JAX raises for a traced value
            raise ConfigError(
                "nonfinite='raise' has to read a value, which a traced step cannot. Use "
                "nonfinite='skip_step' under a compiler."
            ) from error
        if bad:
            raise NonFiniteError(_names(works))
    if policy == "skip_step":
        whole.fine = bool(odd == 0) if on_host(odd) else odd == 0


def _settled(fine: Any) -> bool:
    return fine if isinstance(fine, bool) else bool(namespace(fine).reshape(fine, ()))


def _names(works: Sequence[Work]) -> str:
    culprits = [w for w in works if w.fine is not None and not _settled(w.fine)]
    shown = ", ".join(
        f"{w.path!r} of shape {tuple(w.layout.shape)} and dtype {w.param.dtype}"
        for w in culprits[:5]
    )
    more = f" and {len(culprits) - 5} more" if len(culprits) > 5 else ""
    return (
        f"not finite: tensor {shown}{more}. Its gradient has NaN or infinity, or squares beyond "
        f"float32 (or the tensor itself has). Nothing was changed. Look at the loss and the data "
        f"of this step, lower the rate, or use nonfinite='skip_step' to go on without it."
    )


def unscaling(grad_scale: Any) -> Any:
    """1/grad_scale, None for None. Raises ConfigError unless it is positive, finite and 0-D."""
    if grad_scale is None:
        return None
    shape = getattr(grad_scale, "shape", ())
    if hasattr(grad_scale, "shape") and shape == () and not on_host(grad_scale):
        xp = namespace(grad_scale)  # widened first: in 16 bits the reciprocal is rounded
        return 1.0 / wide(xp, grad_scale, wide_dtype(xp, grad_scale))
    real = shape == () and not isinstance(grad_scale, str | bytes | bool)
    try:
        number = float(grad_scale) if real else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0.0):
        raise ConfigError(
            f"grad_scale must be a finite number > 0 or a 0-D array, got {grad_scale!r}. It is "
            f"the factor that the loss was multiplied by; leave it out if there is none."
        )
    return 1.0 / number


def skips(fine: Any) -> Any:
    """1 where not `fine`, else 0: an int for a bool, an int32 array for an array of bools."""
    if isinstance(fine, bool):
        return int(not fine)
    xp = namespace(fine)
    return xp.astype(xp.logical_not(fine), xp.int32)


def counted(old: Array | int, fine: Any) -> Array | int:
    """A counter of skips after a step; `fine`: a bool, or an array of one."""
    if isinstance(old, int):
        return skips(_single(fine)) + old
    if not isinstance(fine, bool):
        fine = move(_single(fine), old, fine.dtype)
    xp = namespace(old)
    return xp.asarray(old + skips(fine), dtype=old.dtype)


def advanced(step: Array | int, fine: Any) -> Array | int:
    """The number of completed steps after one that was taken if `fine`."""
    if isinstance(fine, bool):
        return counted(step, not fine)
    return counted(step, namespace(fine).logical_not(fine))


def advance(step: Array, fine: Any) -> None:
    """`advanced`, in place and in one operation, of a library that adds bools to integers."""
    step += int(fine) if isinstance(fine, bool) else move(_single(fine), step, fine.dtype)


def _single(fine: Any) -> Any:
    return fine if isinstance(fine, bool) else namespace(fine).reshape(fine, ())
