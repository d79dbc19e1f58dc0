"""JSON from strangers: UTF-8 only, no key twice, no NaN, and nothing but JSON's own types."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any


class MalformedError(ValueError):
    """What is wrong with a file, in words; whoever knows its name makes a StateFileError of it."""


def parse(text: bytes | str, what: str) -> Any:
    """The value of this JSON text. Raises MalformedError, naming `what` it is."""
    try:
        plain = text if isinstance(text, str) else text.decode("utf-8")
        found = json.loads(
            plain, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite
        )
        plain.encode("utf-8")  # a str may hold half a surrogate pair, which no file can
    except MalformedError as error:
        raise MalformedError(f"{what} {error}") from None
    except UnicodeError:
        raise MalformedError(f"{what} is not UTF-8") from None
    except RecursionError:
        raise MalformedError(f"{what} is nested too deep") from None
    except ValueError as error:
        # Its message is about a place; the text itself, which it does not quote, may be huge.
        raise MalformedError(f"{what} is not JSON ({error})") from None
    return found


def dump(value: Any) -> str:
    """The shortest JSON text. Raises ValueError for NaN, infinity and halves of surrogate pairs."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode("utf-8")
    return text


def is_int(value: Any) -> bool:
    """Whether it is an int and no bool, which Python takes for one."""
    return isinstance(value, int) and not isinstance(value, bool)


def text_of(value: Any) -> bool:
    """Whether it is a str that UTF-8 can write: JSON escapes may make halves of surrogates."""
    return isinstance(value, str) and not any(0xD800 <= ord(c) <= 0xDFFF for c in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(a for a, b in pairwise(keys) if a == b)
        raise MalformedError(f"has the key {twice[:100]!r} twice")
    return found


def _constant(name: str) -> Any:
    raise MalformedError(f"has {name} as a number, which JSON does not know")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedError(f"has the number {text[:30]}, which is beyond float64")
    return number
