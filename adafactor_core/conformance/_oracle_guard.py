"""What the oracle decides over all tensors: the loss scale, bad gradients, the global norm."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._rounding import FORMATS, wide

Array = npt.NDArray[np.float64]


class Verdict(NamedTuple):
    """`grads`: what the tensors see; `norms`: of each, before the global norm was cut.

    `bad`: the paths of tensors that are not finite; `still`: of those that do not move.
    """

    grads: dict[str, Array]
    norms: dict[str, float]
    bad: frozenset[str]
    still: frozenset[str]


@np.errstate(over="ignore", invalid="ignore")
def look(
    grads: Mapping[str, Array],
    params: Mapping[str, Array],
    o: Mapping[str, Any],
    dtype: str,
    grad_scale: float | None,
) -> Verdict:
    """Judge one step. Raises FloatingPointError where `nonfinite="raise"` does."""
    found = {path: g if grad_scale is None else g / grad_scale for path, g in grads.items()}
    norms = {path: float(np.sqrt(np.sum(g * g))) for path, g in found.items()}
    bad: frozenset[str] = frozenset()
    if o["nonfinite"] != "propagate":
        limit = FORMATS[wide(dtype)][2] ** 0.5
        bad = frozenset(
            path
            for path, g in found.items()
            if not all(np.all(np.abs(x) <= limit) for x in (g, params[path]))
        )
    if bad and o["nonfinite"] == "raise":
        raise FloatingPointError(f"not finite: {', '.join(sorted(bad))}")
    still = frozenset(found) if bad and o["nonfinite"] == "skip_step" else bad
    if o["max_grad_norm"] is not None:
        total = np.sqrt(sum(norm**2 for path, norm in norms.items() if path not in bad))
        # Not min(1, c / total): Python's min would drop the NaN, or not, by the order of the two.
        factor = 1.0 if total <= o["max_grad_norm"] else o["max_grad_norm"] / total
        found = {path: g * factor for path, g in found.items()}
    return Verdict(found, norms, bad, still)
