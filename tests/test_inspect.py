"""python -m adafactor_core inspect: what it says of states, of sick ones and of foreign files."""

import subprocess
import sys

import numpy as np
import pytest

from _records import record, tensor
from adafactor_core._cli import main
from adafactor_core.interchange import Record, of_bytes, write
from adafactor_core.interchange._progress import on_terminal


def inspect(capsys, *words):
    status = main(["inspect", *map(str, words)])
    return status, capsys.readouterr()


def of_numbers(values, dtype="float32", **more):
    """A state of one vector."""
    rng = np.random.default_rng(0)
    t = tensor("b", (len(values),), "float32", (), (), rng, **more)
    t.slots["full"] = of_bytes("float32", (len(values),), np.array(values, dtype).tobytes())
    return Record(3, (t,), options={"lr": 0.5}, variant="paper")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_state(tmp_path, capsys, suffix):
    file = tmp_path / f"s{suffix}"
    write(file, of_numbers([0.0, 0.25, 4.0], skipped=1, step=2))
    status, said = inspect(capsys, file)
    assert status == 0
    assert not said.err
    assert said.out.splitlines() == [
        "adafactor-core state, schema version 1",
        "step       3",
        "variant    paper",
        'options    {"lr":0.5}',
        "tensors    1, 3 parameters",
        "bytes      12; Adam's state would have 24",
        "",
        "b  float32 [3], not factored, step 2, 1 skipped",
        "    full float32 [3] 12 B",
        "    full 0 to 4, 1 of 3 are 0",
    ]
    status, said = inspect(capsys, "--no-health", file)
    assert status == 0
    assert said.out.splitlines()[-1] == "    full float32 [3] 12 B"


WRONG = {
    "NaN": ([np.nan, 1.0], "full 1 to 1, 1 NaN: WRONG"),
    "infinity": ([np.inf, np.inf], "full nothing finite, 2 infinite: WRONG"),
    "negative": ([-1.0, np.nan], "full -1 to -1, 1 NaN, 1 negative: WRONG"),
}


@pytest.mark.parametrize("what", WRONG)
def test_numbers_that_cannot_be(tmp_path, capsys, what):
    values, words = WRONG[what]
    write(tmp_path / "s", of_numbers(values))
    status, said = inspect(capsys, tmp_path / "s")
    assert status == 1
    assert f"    {words}\n" in said.out
    assert said.out.endswith("not well: full of 'b'\n")
    assert inspect(capsys, "--no-health", tmp_path / "s")[0] == 0


@pytest.mark.parametrize("slot", ["row", "col", "momentum_scale"])
def test_means_of_squares_and_scales_are_not_negative(tmp_path, capsys, slot):
    t = tensor("w", (2, 3), "float32", (0,), (1,), np.random.default_rng(0), "int8")
    for name, raw in t.slots.items():
        if name != "momentum":
            sign = -1.0 if name == slot else 1.0
            data = np.full(raw.shape, sign, "<f4").tobytes()
            t.slots[name] = of_bytes("float32", raw.shape, data)
    write(tmp_path / "s", Record(1, (t,)))
    status, said = inspect(capsys, tmp_path / "s")
    assert status == 1
    assert f"not well: {slot} of 'w'\n" in said.out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_numbers_of_every_dtype(tmp_path, capsys, dtype):
    """-2, 0 and 1.5 or 1 as momentum, which may be negative."""
    values = {
        "float32": np.array([-2, 0, 1.5], "<f4").tobytes(),
        "float16": np.array([-2, 0, 1.5], "<f2").tobytes(),
        "bfloat16": (np.array([-2, 0, 1.5], "<f4").view("<u4") >> 16).astype("<u2").tobytes(),
        "int8": np.array([-2, 0, 1], "i1").tobytes(),
    }
    made = of_numbers([1.0, 1.0, 1.0], buffer=dtype)
    made.tensors[0].slots["momentum"] = of_bytes(dtype, (3,), values[dtype])
    if dtype == "int8":
        made.tensors[0].slots["momentum_scale"] = of_bytes(
            "float32", (1,), np.ones(1, "<f4").tobytes()
        )
    write(tmp_path / "s", made)
    status, said = inspect(capsys, tmp_path / "s")
    assert status == 0
    assert f"    momentum -2 to {1 if dtype == 'int8' else 1.5}, 1 of 3 are 0\n" in said.out


def test_odd_names_do_not_reach_the_terminal(tmp_path, capsys):
    write(tmp_path / "s", record())
    status, said = inspect(capsys, tmp_path / "s")
    assert status == 1  # any bits: NaNs are among them
    assert "'a b\\\\c\\n'  float32" in said.out
    assert "'nul\\x00'  float16" in said.out
    assert "(the bare array)  float64" in said.out


def test_a_foreign_file(tmp_path, capsys):
    np.savez(tmp_path / "s.npz", **{f"w{k}": np.zeros((2, k)) for k in range(25)})
    status, said = inspect(capsys, tmp_path / "s.npz")
    assert status == 1
    assert "s.npz is no state file that can be read: its metadata does not say" in said.err
    lines = said.out.splitlines()
    assert lines[0] == "npz, but no adafactor-core state: 25 arrays, 4,800 bytes"
    assert "w3  float64 [2, 3] 48 B" in lines
    assert lines[-1] == "and 5 more"


def test_what_cannot_be_opened(tmp_path, capsys):
    assert inspect(capsys, tmp_path / "none")[0] == 2
    (tmp_path / "s").write_bytes(b"no")
    status, said = inspect(capsys, tmp_path / "s")
    assert (status, said.out) == (1, "")
    assert "it has 2 bytes" in said.err
    for words in ([], ["--what"], ["a", "b"]):
        with pytest.raises(SystemExit) as caught:
            inspect(capsys, *words)
        assert caught.value.code == 2


def test_as_a_program_without_numpy(tmp_path):
    write(tmp_path / "s", of_numbers([1.0]))
    hide = "import sys; sys.modules['numpy'] = None; from adafactor_core._cli import main; "
    run = hide + "sys.exit(main(['inspect', *sys.argv[1:]]))"
    words = [sys.executable, "-c", run, str(tmp_path / "s")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install numpy" in done.stderr
    done = subprocess.run([*words, "--no-health"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "step       3" in done.stdout


def test_progress_is_for_terminals(monkeypatch, capsys):
    assert on_terminal("writing") is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    show = on_terminal("writing")
    show(1, 1000)
    assert not capsys.readouterr().err  # small
    show(10**9, 10**9)
    assert "\rwriting: 1,000 of 1,000 MB" in capsys.readouterr().err
