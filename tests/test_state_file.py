"""State files: what goes in comes out, other tools read it, and a failed save changes nothing."""

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import adafactor_core as af
from _records import PATHS, plain, record, tensor
from adafactor_core.interchange import Raw, Record, TensorRecord, of_bytes, read, write

SUFFIXES = (".safetensors", ".npz")
both = pytest.mark.parametrize("suffix", SUFFIXES)


@both
@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read(tmp_path, suffix, seed):
    file, made = tmp_path / f"state{suffix}", record(seed)
    write(file, made)
    assert plain(read(file)) == plain(made)
    assert [t.path for t in made.tensors] == PATHS
    first = file.read_bytes()
    write(file, read(file))  # onto the file that it reads from
    assert file.read_bytes() == first
    assert os.listdir(tmp_path) == [file.name]


@both
def test_from_one_container_to_the_other(tmp_path, suffix):
    file, other = tmp_path / f"state{suffix}", tmp_path / f"other{SUFFIXES[suffix == SUFFIXES[0]]}"
    write(file, record())
    write(other, read(file))
    assert plain(read(other)) == plain(record())


@both
def test_an_empty_state(tmp_path, suffix):
    write(tmp_path / f"s{suffix}", Record(0, ()))
    assert read(tmp_path / f"s{suffix}") == Record(0, ())


def test_the_layout_of_the_bytes(tmp_path):
    """As docs/interchange.md has it, taken apart by hand."""
    rng = np.random.default_rng(0)
    t = tensor("a", (2, 3), "float32", (0,), (1,), rng, "bfloat16")
    write(tmp_path / "s", Record(5, (t,)))
    data = (tmp_path / "s").read_bytes()
    n = int.from_bytes(data[:8], "little")
    assert n % 8 == 0
    header = json.loads(data[8 : 8 + n])
    assert header["row/a"] == {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}
    assert header["col/a"] == {"dtype": "F32", "shape": [1, 3], "data_offsets": [8, 20]}
    assert header["momentum/a"] == {"dtype": "BF16", "shape": [2, 3], "data_offsets": [20, 32]}
    assert data[8 + n :] == b"".join(bytes(r.bytes()) for r in t.slots.values())
    meta = header["__metadata__"]
    assert (meta["format"], meta["schema_version"]) == ("adafactor-core state", "1")
    assert json.loads(meta["record"]) == {
        "step": 5, "skipped": None, "variant": "", "options": {}, "notes": [],
        "tensors": [{
            "path": "a", "shape": [2, 3], "dtype": "float32", "row_axes": [0], "col_axes": [1],
            "slots": {"row": "float32", "col": "float32", "momentum": "bfloat16"},
            "skipped": None, "step": None,
        }],
    }  # fmt: skip


@pytest.mark.parametrize("shapes", [[(3,), (1,)], [(5, 3), (7, 1)]])
def test_every_array_can_be_mapped(tmp_path, shapes):
    """It begins at a multiple of its width, whatever precedes it."""
    rng = np.random.default_rng(0)
    buffers = ["int8", "bfloat16"]
    rows = zip(shapes, buffers, strict=True)
    tensors = [tensor(f"t{k}", s, "float64", (), (), rng, b) for k, (s, b) in enumerate(rows)]
    write(tmp_path / "s", Record(0, tuple(tensors)))
    data = (tmp_path / "s").read_bytes()
    n = int.from_bytes(data[:8], "little")
    widths = {"F64": 8, "BF16": 2, "I8": 1}
    entries = [e for name, e in json.loads(data[8 : 8 + n]).items() if name != "__metadata__"]
    assert all(e["data_offsets"][0] % widths[e["dtype"]] == 0 for e in entries)


def bits(a):
    return a.tobytes(), tuple(a.shape), str(a.dtype)


def test_the_safetensors_package_reads_ours_and_we_read_its(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    from safetensors import safe_open

    made = record()
    made = replace(made, tensors=tuple(t for t in made.tensors if "nul" not in t.path))
    write(tmp_path / "ours", made)
    with safe_open(tmp_path / "ours", "np") as opened:
        metadata = opened.metadata()
        assert set(opened.keys()) == {f"{s}/{t.path}" for t in made.tensors for s in t.slots}
        for t in made.tensors:
            for slot, raw in t.slots.items():
                if raw.dtype != "bfloat16":  # NumPy's half of the package may not know it
                    got = opened.get_tensor(f"{slot}/{t.path}")
                    assert bits(got) == (bytes(raw.bytes()), tuple(raw.shape), raw.dtype)
    wide = replace(
        made, tensors=tuple(t for t in made.tensors if t.dtype in ("float32", "float64"))
    )
    write(tmp_path / "wide", wide)
    arrays = numpy.load_file(tmp_path / "wide")
    with safe_open(tmp_path / "wide", "np") as opened:
        metadata = opened.metadata()
    numpy.save_file(arrays, tmp_path / "theirs", metadata=metadata)
    assert plain(read(tmp_path / "theirs")) == plain(wide)


def test_numpy_reads_ours_and_we_read_its(tmp_path):
    made = record()
    write(tmp_path / "ours.npz", made)
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as found:
        arrays = dict(found.items())
    assert arrays["full/a%2Fb"].shape == (7,)
    assert arrays["momentum/a%2Fb"].dtype == np.uint16
    for slot, raw in made.tensors[0].slots.items():
        assert bits(arrays[f"{slot}/w"]) == (bytes(raw.bytes()), tuple(raw.shape), raw.dtype)
    np.savez(tmp_path / "theirs.npz", **arrays)
    assert plain(read(tmp_path / "theirs.npz")) == plain(made)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    with pytest.raises(af.StateFileError, match=r"compressed; save it with np\.savez"):
        read(tmp_path / "small.npz")


BAD = {
    "step": (lambda r: replace(r, step=-1), "its step is no int"),
    "step too large": (lambda r: replace(r, step=2**31), "its step is no int from 0 to 2147483647"),
    "skipped": (lambda r: replace(r, skipped=1.5), "its count of skipped steps"),
    "path twice": (lambda r: replace(r, tensors=r.tensors[:1] * 2), "has tensor 'w' twice"),
    "options": (lambda r: replace(r, options={"lr": float("nan")}), "the record cannot be JSON"),
    "options of objects": (lambda r: replace(r, options={"lr": object()}), "cannot be JSON"),
    "half a character": (
        lambda r: replace(r, tensors=(replace(r.tensors[0], path="\ud800"),)),
        r"the path '\\ud800' is no text that UTF-8 can hold",
    ),
    "axes": (
        lambda r: replace(r, tensors=(replace(r.tensors[0], row_axes=(2,)),)),
        r"tensor 'w' of shape \(6, 5\) cannot have the row axes \(2,\)",
    ),
    "axes on one side": (
        lambda r: replace(r, tensors=(replace(r.tensors[0], row_axes=()),)), "or axes on a side"
    ),
    "a slot's shape": (
        lambda r: replace(r, tensors=(replace(r.tensors[0], row_axes=(1,), col_axes=(0,)),)),
        r"tensor 'w' of float32 and shape \(6, 5\) has row in float32 of shape \(6, 1\), and "
        r"should have it in float32 of shape \(1, 5\)",
    ),
    "a slot's dtype": (
        lambda r: replace(r, tensors=(replace(r.tensors[0], dtype="float64"),)),
        "has momentum in float32|has row in float32 .* should have it in float64",
    ),
    "no second moment": (
        lambda r: replace(r, tensors=(replace(r.tensors[0], slots={}),)), "lacks one of col, row"
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("what", BAD)
def test_a_record_that_contradicts_itself_is_not_written(tmp_path, suffix, what):
    spoil, words = BAD[what]
    file = tmp_path / f"s{suffix}"
    write(file, record(1))
    before = file.read_bytes()
    with pytest.raises(af.StateFileError, match=f"not written: .*{words}.* Nothing was written"):
        write(file, spoil(record()))
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == [file.name]


def failing(error, after):
    """A record whose second array fails when it is read."""
    rng = np.random.default_rng(0)
    first, second = (tensor(n, (300,), "float32", (), (), rng) for n in "ab")

    def broken(start, stop):
        if after == "short":
            return bytes(stop - start - 1)
        raise error

    slots = {"full": Raw("float32", (300,), broken)}
    return Record(0, (first, replace(second, slots=slots)))


@both
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError(), None],
    ids=["disk full", "interrupted", "no memory", "short"],
)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, suffix, error):
    file = tmp_path / f"s{suffix}"
    write(file, record())
    before = file.read_bytes()
    kind = type(error) if error else af.StateError
    with pytest.raises(kind):
        write(file, failing(error, "" if error else "short"))
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == [file.name]


@both
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(tmp_path, suffix, monkeypatch):
    """The system's own error, at the first flush or the last."""
    real = open

    def full(name, mode="r", *args, **kwargs):
        out = real(name, mode, *args, **kwargs)
        if mode == "xb":
            disk = real("/dev/full", "wb", buffering=0)
            os.dup2(disk.fileno(), out.fileno())
            disk.close()
        return out

    file = tmp_path / f"s{suffix}"
    write(file, record())
    before = file.read_bytes()
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="No space left"):
        write(file, record(1))
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == [file.name]


SAVES = """
import sys
sys.path[:0] = {path!r}
from _records import record
from adafactor_core.interchange import write
made = [record(k) for k in range(2)]
print("ready", flush=True)
for k in range(10**9):
    write({file!r}, made[k % 2])
"""


@both
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path, suffix):
    file = tmp_path / f"s{suffix}"
    write(file, record())
    whole = [plain(record(k)) for k in range(2)]
    program = SAVES.format(path=sys.path, file=str(file))
    rng, caught = np.random.default_rng(0), 0
    for _ in range(12):
        run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert run.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(rng.uniform(0.001, 0.05))
        run.kill()
        run.wait()
        run.stdout.close()
        assert plain(read(file)) in whole
        left = [name for name in os.listdir(tmp_path) if name != file.name]
        caught += len(left)
        for name in left:
            assert name.startswith(f".{file.name}.")
            (tmp_path / name).unlink()
    assert caught  # some were killed while they wrote


def test_links_are_followed_and_modes_are_the_usual(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    write(real, record())
    link.symlink_to(real)
    write(link, record(1))
    assert link.is_symlink()
    assert plain(read(real)) == plain(record(1))
    (tmp_path / "plain").write_bytes(b"")
    assert os.stat(real).st_mode == os.stat(tmp_path / "plain").st_mode


def test_a_file_that_was_replaced_is_not_mixed_with_the_new_one(tmp_path):
    file = tmp_path / "s"
    write(file, record())
    old = read(file)
    write(file, record(1))
    with pytest.raises(af.StateFileError, match="has changed since it was read"):
        old.tensors[0].slots["row"].bytes()


class Zeros:
    """A large array that is nowhere."""

    def __init__(self, nbytes):
        self.raw = Raw("float32", (nbytes // 4,), lambda a, b: bytes(b - a))


@both
def test_memory_stays_small_whatever_the_state(tmp_path, suffix):
    big = TensorRecord("big", (1 << 24,), "float32", (), (), {"full": Zeros(1 << 26).raw})
    seen = []
    tracemalloc.start()
    write(tmp_path / f"a{suffix}", Record(1, (big,)), progress=lambda *at: seen.append(at))
    write(tmp_path / f"b{suffix}", read(tmp_path / f"a{suffix}"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6 < 1 << 26
    assert seen[-1] == (1 << 26, 1 << 26)
    assert [a for a, _ in seen] == sorted({a for a, _ in seen})
    assert len(seen) == 8


def test_files_are_not_kept_open(tmp_path):
    """Windows could not replace them."""
    fds = "/proc/self/fd"
    if not os.path.isdir(fds):
        pytest.skip("no /proc here")
    write(tmp_path / "s", record())
    before = len(os.listdir(fds))
    found = read(tmp_path / "s")
    found.tensors[0].slots["row"].bytes()
    assert len(os.listdir(fds)) == before


def test_reading_needs_no_library(tmp_path):
    write(tmp_path / "s.safetensors", record())
    write(tmp_path / "s.npz", record())
    program = (
        "import sys; sys.modules['numpy'] = None; from adafactor_core import interchange\n"
        "for f in sys.argv[1:]:\n"
        "    r = interchange.read(f); interchange.write(f, r); print(r.step, len(r.tensors))"
    )
    files = [str(tmp_path / f"s{suffix}") for suffix in SUFFIXES]
    done = subprocess.run(
        [sys.executable, "-c", program, *files], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["7", "10"] * 2
    assert plain(read(files[0])) == plain(record())


def test_bytes_like_and_reshaped(tmp_path):
    raw = of_bytes("float32", (2, 3), bytes(24))
    assert raw.reshape((3, 2)).shape == (3, 2)
    with pytest.raises(af.ShapeError, match="6 elements"):
        raw.reshape((4,))
