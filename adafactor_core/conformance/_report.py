"""Results: one per subject, dtype and check, and the readable table of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ._checks import CHECKS
from ._core_checks import CORE_CHECKS
from ._each import Check
from ._subjects import CoreSubject, Subject
from ._tolerances import FLIPPED
from ._trial import Trial

OK, FAILED, SKIPPED = "ok", "FAIL", "skipped"
SHOWN, LONG = 4, 150  # failures per check, and characters of each; -v shows all


@dataclass(frozen=True)
class Result:
    """One line of the table. `error` and `tolerance` are in `unit`.

    `detail`: where the worst error was, or each failure, or why nothing was compared.
    """

    backend: str
    device: str
    mode: str
    dtype: str
    check: str
    error: float | None
    tolerance: float | None
    unit: str
    verdict: str
    detail: tuple[str, ...] = ()


def checks_for(subject: Subject) -> dict[str, Check]:
    """Check names and functions; only the core can be asked for purity, donation and `update`."""
    return CORE_CHECKS if isinstance(subject, CoreSubject) else CHECKS


def judge(trial: Trial, name: str) -> Result:
    """Run one check. Raises nothing of the subject's: what it raises becomes a failure."""
    subject = trial.subject
    head = (subject.name, subject.device, subject.mode, trial.dtype, name)
    tally = checks_for(subject)[name](trial)
    if tally.too_many_flips(FLIPPED):
        tally.fail("roundings", f"{tally.flipped} of {tally.entries} 16-bit entries differ")
    if not tally.compared and not tally.failures:
        return Result(*head, None, None, "", SKIPPED, ("nothing to compare",))
    verdict = FAILED if tally.failures else OK
    detail = tuple(tally.failures) or (tally.where,)
    return Result(*head, tally.worst, tally.tolerance, tally.unit, verdict, detail)


def run(
    subject: Subject,
    dtypes: Sequence[str],
    checks: Sequence[str] = (),
    drawn: int = 20,
    seed: int = 0,
    tick: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Every check (or those named) in every dtype; one that the subject lacks is one result."""
    for dtype in dtypes:
        head = (subject.name, subject.device, subject.mode, dtype)
        if reason := subject.lacks(dtype):
            yield Result(*head, "all", None, None, "", SKIPPED, (reason,))
            continue
        trial = Trial(subject, dtype, drawn, seed)
        for name in checks_for(subject):
            if not checks or name in checks:
                label = f"{subject.name} {subject.mode} {dtype} {name}: "
                trial.tick = lambda case, label=label: tick(label + case)  # type: ignore[misc]
                yield judge(trial, name)


HEADINGS = ("backend", "device", "mode", "dtype", "check", "error", "limit", "unit", "verdict")
WIDTHS = (17, 12, 6, 9, 12, 9, 8, 9, 8)


def headings() -> str:
    """The first line of the table."""
    return _columns(HEADINGS)


def line(result: Result, verbose: bool = False) -> str:
    """A result as one line of the table, and its failures (the first few) below."""
    numbers = ("" if x is None else f"{x:.2g}" for x in (result.error, result.tolerance))
    device = result.device.removeprefix("array_api_strict.")
    head = (result.backend, device, result.mode, result.dtype, result.check)
    text = _columns((*head, *numbers, result.unit, result.verdict))
    if result.verdict == SKIPPED or (verbose and result.verdict == OK):
        return f"{text}  {result.detail[0]}"
    if result.verdict == OK:
        return text
    shown = result.detail if verbose else [text[:LONG] for text in result.detail[:SHOWN]]
    more = [f"... and {len(result.detail) - len(shown)} more"] * (len(shown) < len(result.detail))
    return "\n    ".join([text, *shown, *more])


def _columns(cells: Sequence[str]) -> str:
    return " ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def summary(results: Sequence[Result]) -> str:
    """The last line: how many of each verdict, and who failed."""
    counts = dict.fromkeys((OK, FAILED, SKIPPED), 0)
    for result in results:
        counts[result.verdict] += 1
    failing = sorted({f"{r.backend} {r.mode} {r.dtype}" for r in results if r.verdict == FAILED})
    text = f"{counts[OK]} ok, {counts[FAILED]} failed, {counts[SKIPPED]} skipped"
    return f"{text}: {', '.join(failing)}" if failing else text


def exit_code(results: Sequence[Result]) -> int:
    """0 if something was judged and nothing failed, else 1."""
    verdicts = {result.verdict for result in results}
    return int(FAILED in verdicts or OK not in verdicts)
