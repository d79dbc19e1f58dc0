"""`python -m adafactor_core variants`, and its page in the documentation."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adafactor_core as af
from adafactor_core import variants
from adafactor_core._cli import COMMANDS, main

DOCS = Path(__file__).parent.parent / "docs"


def printed(capsys, *words):
    assert main(["variants", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_table_has_every_variant_its_options_and_its_source(capsys):
    out = printed(capsys)
    assert max(map(len, out.splitlines())) <= 100
    starts = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert starts == ["name", *variants.names()]
    flowing = " ".join(out.split())
    for name in variants.names():
        record = variants.get(name)
        assert record.citation in flowing
        assert all(f"{option}=" in flowing for option in record.options)
    assert "lr=(to be given)" in out


@pytest.mark.parametrize("name", variants.names())
def test_a_record_is_printed_whole(name, capsys):
    flowing = " ".join(printed(capsys, name).split())
    record = variants.get(name)
    for text in (
        record.project, record.file, record.version, record.reproduced, *record.left_out,
        *record.not_reproduced, *record.notes,
    ):  # fmt: skip
        assert " ".join(text.split()) in flowing


def test_a_diff_shows_options_and_a_drawn_example(capsys):
    out = printed(capsys, "diff", "transformers", "torch")
    assert re.search(r"^eps1_mode +'grad_sq' +'clamp'$", out, re.M)
    assert re.search(r"^step_size +None +RelativeStep\(cap=None\)$", out, re.M)
    assert "factored_dims" not in out
    rows = {m[1]: m[0].split() for m in re.finditer(r"^(matrix|vector|kernel) .*$", out, re.M)}
    assert rows.keys() == {"matrix", "vector", "kernel"}
    for cells in rows.values():
        first, last, worst, step = cells[-4:]
        assert 0 < float(first) <= float(worst)
        assert 0 < float(last) <= float(worst) <= 1
        assert 1 <= int(step) <= 10


def test_the_numbers_of_a_diff_are_those_of_the_core(capsys):
    from adafactor_core.variants import _diff

    out = printed(capsys, "diff", "trax", "came_vectors", "--lr", "0.03", "--weight-decay", "0.2")
    rng = np.random.default_rng(_diff.SEED)
    start = {n: rng.standard_normal(s).astype(np.float32) for n, s in _diff.SHAPES.items()}
    grads = [
        {n: _diff._gradient(rng, s) for n, s in _diff.SHAPES.items()} for _ in range(_diff.STEPS)
    ]
    paths = []
    for record in (variants.trax, variants.came_vectors):
        config, x, after = record(0.03, weight_decay=0.2), start, []
        state = af.init(x, config)
        for g in grads:
            x, state = af.step(x, g, state, config)
            after.append(x["vector"])
        paths.append(after)
    errors = [np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(*paths, strict=True)]
    shown = re.search(r"^vector .*$", out, re.M)[0].split()[-4:]
    assert [float(cell) for cell in shown[:3]] == pytest.approx(
        [errors[0], errors[-1], max(errors)], rel=0.06
    )
    assert int(shown[3]) == int(np.argmax(errors)) + 1


def test_a_diff_of_the_same_options_is_nothing(capsys):
    out = printed(capsys, "diff", "kohya", "onetrainer")
    assert out.startswith("no option differs")
    assert re.search(r"^matrix .* 0 +0 +0 +-$", out, re.M)


def test_a_rate_that_is_required_is_made_up_and_said(capsys):
    assert "lr=0.01 for flax, which has none of its own" in printed(capsys, "diff", "flax", "optax")
    assert "none of its own" not in printed(capsys, "diff", "flax", "optax", "--lr", "0.1")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["kera"], "Did you mean 'keras'"),
        (["diff", "torch"], "diff takes two names"),
        (["diff", "torch", "kera"], "Did you mean 'keras'"),
        (["torch", "keras"], "one name at a time"),
        (["diff", "torch", "keras", "--lr", "-1"], "lr must be"),
    ],
)
def test_wrong_words_are_answered_with_status_2(words, why, capsys):
    assert main(["variants", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert why in captured.err


def test_only_the_diff_needs_numpy():
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from adafactor_core._cli import main\n"
        "print(main(['variants']), main(['variants', 'optax']))\n"
        "print(main(['variants', 'diff', 'optax', 'torch']))"
    )
    run = [sys.executable, "-W", "error", "-c", code]
    got = subprocess.run(run, check=True, capture_output=True, text=True)
    assert got.stdout.splitlines()[-2:] == ["0 0", "2"]
    assert "adafactor-core[numpy]" in got.stderr


def test_options_may_stand_among_the_names(capsys):
    last = printed(capsys, "diff", "t5x", "optax", "--lr", "1e-3")
    assert printed(capsys, "diff", "--lr", "1e-3", "t5x", "optax") == last
    assert printed(capsys, "--lr", "1e-3", "diff", "t5x", "optax") == last


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"adafactor-core {af.__version__}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["variants"],
        ["variants", "--help"],
        ["variants", "optax"],
        ["variants", "diff", "optax", "torch"],
        ["convert", "--formats"],
        ["memory", "shapes.json"],
        ["inspect", "state.npz"],
        ["conformance", "--namespace", "numpy", "--dtype", "float32", "--cases", "1"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "at once"])
def test_a_reader_who_leaves_ends_a_command_quietly(words, buffered, tmp_path):
    (tmp_path / "shapes.json").write_text('{"w": [4, 6]}')
    x = {"w": np.ones((4, 6), np.float32)}
    af.save_state(tmp_path / "state.npz", x, af.init(x))
    read, write = os.pipe()
    os.close(read)  # before the first line, so that no timing decides
    run = [sys.executable, "-m", "adafactor_core", *words]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "PYTHONUNBUFFERED": "" if buffered else "1",
    }
    done = subprocess.run(
        run, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, env=env, check=False
    )
    os.close(write)
    assert done.stderr.decode() == ""
    swallowed = "--help" in words and not buffered  # by argparse itself
    assert done.returncode == (0 if swallowed else 128 + signal.SIGPIPE)


def test_every_command_is_there_and_explained(capsys):
    for module, purpose in COMMANDS.values():
        assert importlib.util.find_spec(module, "adafactor_core") is not None
        assert purpose
    with pytest.raises(SystemExit):
        main(["--help"])
    assert all(name in capsys.readouterr().out for name in ["variants"])


def test_the_page_is_what_the_records_say():
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generate_variants.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    found = json.loads((DOCS / "parity.json").read_text())
    page = (DOCS / "variants.md").read_text()
    assert page == generate.page(found)
    assert {row["peer"] for row in found["rows"]} == {
        "torch", "transformers", "timm", "timm_bigvision", "pytorch_optimizer", "came",
        "adafactor8bit", "optax", "keras", "mlx",
    }  # fmt: skip
    assert all(f"### {name}\n" in page for name in variants.names())
