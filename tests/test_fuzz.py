"""The campaign of tests/fuzz on a few seeds, and that its checks fail where they should."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ml_dtypes")

import adafactor_core as af
from fuzz import against_oracle, exact, reference, refused, report, run, subjects
from fuzz.campaign import judge
from fuzz.draw import draw
from fuzz.tally import Tally

CASES, PARTS = 150, 5


@pytest.mark.parametrize("part", range(PARTS))
def test_drawn_cases(part):
    tally = Tally()
    for seed in range(part * CASES // PARTS, (part + 1) * CASES // PARTS):
        judge(seed, tally, few=True)
    hints = [
        f"python tests/fuzz/run.py --seed {s} --cases 1 -v: {c}: {w}" for s, c, w in tally.failures
    ]
    assert not tally.failures, "\n".join(hints)
    assert tally.applied["finite where the oracle is"] > 200
    assert tally.applied["oracle: parameters"] > 50


def test_the_same_seed_draws_the_same_case():
    a, b = draw(11), draw(11)
    assert a.words() == b.words()
    assert not exact.differing(a.params, b.params)
    assert all(not exact.differing(x, y) for x, y in zip(a.grads, b.grads, strict=True))


def failures(seeds, look, **subject):
    """Names of the checks that fail when `look` gets a subject of the core with broken passes."""
    tally = Tally()
    with np.errstate(all="ignore"):
        for seed in seeds:
            case = draw(seed)
            look(case, subjects.pure(case, **subject), tally)
    return {check for _, check, _ in tally.failures}


def against(case, snaps, tally):
    tracks = reference.follow(case, snaps)
    against_oracle.verdicts(case, snaps, tracks, tally)
    against_oracle.numbers("broken", case, snaps, tracks, tally)


class Broken(af.ArrayPasses):
    """Changes each result after apply."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def apply(self, works):
        super().apply(works)
        for w in works:
            if w.result.size and w.stays is False:
                w.result = self.change(np.array(w.result))


def one_nan(x):
    x.reshape(-1)[-1] = np.nan
    return x


def a_little_off(x):
    return np.asarray(x * (1 + 1e-2)).astype(x.dtype)


class Early(af.ArrayPasses):
    """Writes to what it was given before anything is decided."""

    def measure(self, works):
        super().measure(works)
        for w in works:
            for array in w.into.values():
                array *= 2


class Blind(af.ArrayPasses):
    """Finds every tensor finite."""

    def judge(self, works):
        for w in works:
            w.fine = True
        return 0


class Timid(af.ArrayPasses):
    """Finds no tensor finite."""

    def judge(self, works):
        for w in works:
            w.fine = False
        return len(works)


SOME = range(40)


@pytest.mark.parametrize(
    ("passes", "check"),
    [
        (Broken(one_nan), "finite where the oracle is"),
        (Broken(a_little_off), "oracle: parameters"),
        (Blind(), "odd is seen"),
        (Timid(), "fine is not skipped"),
    ],
    ids=["leaks NaN", "a little off", "sees nothing", "skips all"],
)
def test_a_broken_subject_fails(passes, check):
    assert check in failures(SOME, against, passes=(passes,))


def test_writing_before_the_decision_fails():
    found = failures(SOME, exact.skips, donate=True, passes=(Early(),))
    assert found == {"skipped tensors keep every bit, pure"}
    assert not failures(SOME, exact.skips, donate=True)


def test_a_lost_counter_fails():
    def uncounted(case, snaps, tally):
        against_oracle.verdicts(case, [replace(s, skipped=0) for s in snaps],
                                reference.follow(case, snaps), tally)  # fmt: skip

    cases = [s for s in range(60) if draw(s).options["nonfinite"] in ("skip_tensor", "skip_step")]
    assert "counters" in failures(cases, uncounted)


def test_one_bit_fails():
    case = draw(3)
    base, other = subjects.pure(case), subjects.pure(case)
    path = next(p for p, x in case.params.items() if x.size)
    last = other[-1].params[path].reshape(-1).view(np.uint8)
    last[0] ^= 1
    tally = Tally()
    assert not exact.compare("same", other, base, tally)
    assert exact.compare("same", base, base, tally)


@pytest.mark.parametrize(
    ("error", "check"),
    [(af.ShapeError("late"), "refused calls change nothing"), (ValueError("plain"), "refused, ")],
)
def test_an_error_after_a_change_and_an_untyped_one_fail(monkeypatch, error, check):
    true = af.step

    def step(params, grads, state, config, **more):
        try:
            return true(params, grads, state, config, **more)
        except af.NonFiniteError:
            raise
        except af.AdafactorError:
            for x in params.values():
                if type(error) is af.ShapeError and x.size:
                    x.reshape(-1)[0] += 1
            raise error from None

    monkeypatch.setattr(af, "step", step)
    tally = Tally()
    with np.errstate(all="ignore"):
        for seed in SOME:
            case = draw(seed)
            refused.refuse(case, subjects.pure(case), tally)
    assert any(name.startswith(check) for _, name, _ in tally.failures)


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    if "jax" in sys.modules:
        pytest.skip("its workers are forks, and JAX runs threads in this process")
    out = tmp_path / "fuzz.json"
    out.with_suffix(".md").write_text(f"words\n{report.MARK}\nold")
    monkeypatch.setattr(run, "CHUNK", 1)
    monkeypatch.setattr("fuzz.campaign._compiled", lambda case, few: False)
    for cases in (1, 2, 2):
        words = ["run.py", "--cases", str(cases), "--seed", "2", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", words)
        assert run.main() == 0
    record = json.loads(out.read_text())
    assert record["ranges"] == [[2, 3], [3, 4]]
    assert record["applied"]["no other error"] == 2
    assert "2 of 2 cases" in capsys.readouterr().out
    page = out.with_suffix(".md").read_text()
    assert page.startswith("words\n")
    assert "| no other error | 2 |" in page
    assert "old" not in page
