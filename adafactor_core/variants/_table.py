"""Records as text: the columns of the table, and everything about one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._config import RelativeStep
from ._from import CALLS
from ._record import GIVEN, Variant, When


def shown(value: Any) -> str:
    """An option's value in few characters, as it would be written."""
    if isinstance(value, RelativeStep):
        return f"RelativeStep({_listed(vars(value), vars(RelativeStep()))})"
    return getattr(value, "__name__", None) or repr(value)


def _listed(values: Mapping[str, Any], without: Mapping[str, Any]) -> str:
    return listed({n: v for n, v in values.items() if v != without.get(n)})


def listed(options: Mapping[str, Any]) -> str:
    """`name=value, ...`."""
    return ", ".join(f"{name}={shown(value)}" for name, value in options.items())


def required(v: Variant) -> str:
    return ", ".join(f"{name}=(to be given)" for name in v.required)


def summary(v: Variant) -> str:
    """The options of a variant in one line."""
    parts = [required(v), listed(v.options), *(condition(case) for case in v.when)]
    return "; ".join(part for part in parts if part) or "the defaults of Config"


def condition(case: When) -> str:
    words = [f"{n} is given" if v == GIVEN else f"{n}={shown(v)}" for n, v in case.these.items()]
    return f"if {' and '.join(words)}: {listed(case.options)}"


CHECKED = {
    "run": "against the real implementation",
    "formulas": "against golden vectors of its published formulas",
    "settings": "an implementation of another name, with these settings",
}


def accuracy(v: Variant) -> str:
    bounds = ", ".join(f"{bound:g} in {dtype}" for dtype, bound in v.accuracy.items())
    return f"{CHECKED[v.checked]}: {bounds}" if v.checked != "settings" else CHECKED[v.checked]


def details(v: Variant) -> Sequence[tuple[str, Sequence[str]]]:
    """Headings and what belongs under each, for the whole record."""
    call = CALLS.get(v.name)
    rows: list[tuple[str, Sequence[str]]] = [
        ("source", [v.citation]),
        ("options", [summary(v)]),
        ("reproduced", [v.reproduced]),
        ("checked", [accuracy(v)]),
        ("left out on purpose", v.left_out),
        ("not reproduced", v.not_reproduced),
        ("notes", v.notes),
        ("translates", [f"from_{v.name}_kwargs: {call.name}"] if call else []),
    ]
    return [(heading, lines) for heading, lines in rows if lines]
