"""What every check is, and how it goes through its cases."""

from collections.abc import Callable, Iterable
from pathlib import Path
from traceback import walk_tb
from typing import Protocol, TypeVar

from ._compare import MismatchError, Tally
from ._trial import Trial

Check = Callable[[Trial], Tally]


class Named(Protocol):
    """What a check goes through one by one: cases, or rows of a table."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def each(tally: Tally, cases: Iterable[T], judge: Callable[[T], None]) -> Tally:
    """Judge every case; an exception fails its case and lets the others speak."""
    for case in cases:
        try:
            judge(case)
        except MismatchError as error:
            tally.fail(case.name, str(error))
        except Exception as error:  # the subject is someone else's code: anything may come
            *_, (frame, number) = walk_tb(error.__traceback__)
            place = f"{Path(frame.f_code.co_filename).name}:{number}"
            tally.fail(case.name, f"{type(error).__name__} at {place}: {error}")
    return tally
