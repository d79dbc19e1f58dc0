"""One subject in one dtype: its cases, what it made of them, and what it should have."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from ._cases import Case
from ._compare import MismatchError, Tally, largest_so_far, scaled_error, ulps
from ._drawn import draw_case
from ._named import Row, build
from ._oracle import Trajectory
from ._oracle_rounding import SIXTEEN_BIT as SIXTEEN_BIT
from ._subjects import Subject
from ._tolerances import TABLE
from ._trees import leaves
from ._vectors import read


class Trial:
    """What the checks run on. Trajectories are kept, since several checks look at the same ones.

    `drawn`: how many cases `draw_case` adds, from `seed` on. `tick`: told what runs, for progress.
    """

    def __init__(
        self,
        subject: Subject,
        dtype: str,
        drawn: int = 20,
        seed: int = 0,
        tick: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.subject, self.dtype, self.tolerance = subject, dtype, TABLE[dtype]
        self.seeds, self.tick = range(seed, seed + drawn), tick
        self.done: dict[str, Trajectory] = {}
        self.asked: dict[str, Trajectory] = {}

    @cached_property
    def named(self) -> list[Case]:
        """The golden cases that this dtype has the range for and this subject the buffers for."""
        return [case for case, _ in read().values() if self.can(case)]

    @cached_property
    def drawn(self) -> list[Case]:
        """The random cases that this dtype and subject can run, with a clear result."""
        cases = [case for case in map(draw_case, self.seeds) if self.can(case)]
        return [case for case in cases if not self.oracle(case).close]

    def build(self, *rows: Row) -> list[Case]:
        """Cases of a check's own."""
        return [case for case in map(build, rows) if self.can(case)]

    def can(self, case: Case) -> bool:
        """Whether the dtype has the range for the case, and the library has all its buffers."""
        buffers = [options.get("momentum_dtype") for options in all_options(case)]
        wanted = [buffer for buffer in buffers if buffer in SIXTEEN_BIT]
        return case.fits(self.dtype) and not any(map(self.subject.lacks, wanted))

    def actual(self, case: Case) -> Trajectory:
        """What the subject made of the case."""
        if case.name not in self.done:
            self.tick(case.name)
            self.done[case.name] = self.subject.trajectory(case, self.dtype)
        return self.done[case.name]

    def oracle(self, case: Case) -> Trajectory:
        """What the oracle makes of the case, all of it."""
        if case.name not in self.asked:
            self.asked[case.name] = case.expected(self.dtype)
        return self.asked[case.name]

    def expected(self, case: Case) -> Trajectory:
        """The oracle's trajectory: from the file where that holds, computed where it does not."""
        same_eps = all(options.get("eps1") != "finfo" for options in all_options(case))
        if self.dtype == "float64" or (self.dtype == "float32" and same_eps):
            stored, trajectory = read().get(case.name, (None, None))
            if stored is case and trajectory:
                return trajectory
        return self.oracle(case)

    def compare_params(
        self, tally: Tally, case: Case, actual: Trajectory, expected: Trajectory
    ) -> None:
        """All parameters after all steps, by the metric of the dtype; and the state's counters."""
        for name in ("steps", "skipped"):
            ours, theirs = list(getattr(actual, name)), list(getattr(expected, name))
            if ours and ours != theirs:
                raise MismatchError(f"{case.name} counts {name} {ours}, expected {theirs}")
        start = leaves(case.params)
        histories = largest_so_far(start, expected.params)
        steps = zip(actual.params, expected.params, histories, strict=True)
        for step, (here, there, so_far) in enumerate(steps, 1):
            if here.keys() != there.keys():
                raise MismatchError(f"tensors {sorted(here)}, expected {sorted(there)}")
            for path, x in there.items():
                where = f"{case.name} step {step} {path!r}"
                if self.dtype in SIXTEEN_BIT:
                    distance = ulps(here[path], x, self.dtype, so_far[path])
                    tally.note_ulps(where, distance, last=step == len(expected.params))
                else:
                    tally.note(where, scaled_error(here[path], x, so_far[path]))

    def params_tally(self) -> Tally:
        """An empty tally for parameters."""
        return Tally(self.tolerance.params, self.tolerance.unit)


def all_options(case: Case) -> Iterator[Mapping[str, Any]]:
    """The case's options and those of its rules."""
    yield case.options
    for _, options in case.options.get("rules", ()):
        yield options
