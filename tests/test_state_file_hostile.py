"""Files that are damaged, foreign or made to harm: one typed error that says what is wrong."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter

import numpy as np
import pytest

import adafactor_core as af
from _records import plain, record
from adafactor_core.interchange import Record, read, write

HUGE = 2**62


def packed(header, data=b"", length=None):
    """A safetensors file with this header, whatever it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), at=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at), **more}


def described(change=None, tensor=None, arrays=None, **metadata):
    """A state of one matrix, spoilt: `change` and `tensor` are for its record."""
    one = {
        "path": "w", "shape": [2, 3], "dtype": "float32", "row_axes": [0], "col_axes": [1],
        "slots": {"row": "float32", "col": "float32"}, "skipped": None, "step": None,
    }  # fmt: skip
    whole = {
        "step": 1, "skipped": None, "variant": "", "options": {}, "notes": [],
        "tensors": [one | (tensor or {})],
    } | (change or {})  # fmt: skip
    given = {"format": "adafactor-core state", "schema_version": "1", "record": json.dumps(whole)}
    header = {"row/w": entry(shape=(2, 1), at=(0, 8)), "col/w": entry(shape=(1, 3), at=(8, 20))}
    given = {k: v for k, v in (given | metadata).items() if v is not None}
    return packed({"__metadata__": given} | header | (arrays or {}), bytes(20))


NOT_READ = {
    "empty": (b"", "it has 0 bytes, and a header's length alone takes 8"),
    "seven bytes": (bytes(7), "it has 7 bytes"),
    "header beyond the file": (packed({}, length=3), "should have 3 bytes, and 2 are left"),
    "header beyond the bound": (packed({}, length=10**9), "would have 1000000000 bytes"),
    "header beyond everything": (packed({}, length=2**64 - 1), "18446744073709551615 bytes"),
    "no header": (packed(b""), "its header is not JSON"),
    "not UTF-8": (packed(b'{"a\xff": 1}'), "its header is not UTF-8"),
    "not JSON": (packed(b"{row: 1}"), "its header is not JSON"),
    "two values": (packed(b"{} {}"), "its header is not JSON"),
    "no object": (packed([]), "its header is no JSON object"),
    "a key twice": (packed(b'{"a": 1, "a": 1}'), "its header has the key 'a' twice"),
    "too deep": (packed(b"[" * 200_000), "its header is nested too deep"),
    "deep objects": (packed(b'{"a":' * 200_000), "its header is nested too deep"),
    "NaN": (packed(b'{"a": NaN}'), "has NaN as a number"),
    "infinity": (packed(b'{"a": -Infinity}'), "has -Infinity as a number"),
    "beyond float64": (packed(b'{"a": 1e999}'), "the number 1e999, which is beyond float64"),
    "an endless int": (packed(b'{"a": ' + b"9" * 10_000 + b"}"), "its header is not JSON"),
    "half a character": (packed(b'{"a\\ud800": 1}'), "no JSON object|described by"),
    "no entry": (packed({"a": 1}), "array 'a' is described by no JSON object"),
    "an entry too many": (packed({"a": entry(more=1)}, bytes(4)), "dtype, shape and data_offsets"),
    "no dtype": (packed({"a": entry(dtype=None)}, bytes(4)), "unknown dtype 'None'"),
    "unknown dtype": (packed({"a": entry(dtype="F128")}, bytes(4)), "unknown dtype 'F128'"),
    "shape of floats": (packed({"a": entry(shape=(1.0,))}, bytes(4)), "not made of ints"),
    "shape of bools": (packed({"a": entry(shape=(True,))}, bytes(4)), "not made of ints"),
    "negative size": (packed({"a": entry(shape=(-1,))}, bytes(4)), "not made of ints"),
    "endless shape": (packed({"a": entry(shape=[1] * 65)}, bytes(4)), "at most 64 sizes"),
    "shape of none": (packed({"a": entry() | {"shape": None}}, bytes(4)), "at most 64 sizes"),
    "overflow": (packed({"a": entry(shape=(2**32, 2**32))}, bytes(4)), r"2\*\*60 elements"),
    "overflow to 0": (packed({"a": entry(shape=(HUGE, HUGE, 0), at=(0, 0))}), r"2\*\*60 elements"),
    "too large a size": (packed({"a": entry(shape=(2**63,))}, bytes(4)), r"0 to 2\*\*63 - 1"),
    "offsets": (packed({"a": entry(at=(0, 4, 8))}, bytes(4)), "two ints"),
    "offsets of bools": (packed({"a": entry(at=(False, 4))}, bytes(4)), "two ints"),
    "offsets of floats": (packed({"a": entry(at=(0.0, 4.0))}, bytes(4)), "two ints"),
    "negative offset": (packed({"a": entry(at=(-4, 0))}, bytes(4)), "two ints >= 0"),
    "backwards": (packed({"a": entry(at=(4, 0))}, bytes(4)), "takes 4 bytes, .* leave it -4"),
    "too few bytes": (packed({"a": entry(at=(0, 3))}, bytes(3)), "takes 4 bytes, .* leave it 3"),
    "overlap": (packed({"a": entry(), "b": entry(at=(2, 6))}, bytes(6)), "'b' overlaps"),
    "the same bytes": (packed({"a": entry(), "b": entry()}, bytes(4)), "'b' overlaps"),
    "hole": (packed({"a": entry(), "b": entry(at=(8, 12))}, bytes(12)), "'b' leaves a hole"),
    "late": (packed({"a": entry(at=(4, 8))}, bytes(8)), "'a' leaves a hole"),
    "truncated": (packed({"a": entry()}, bytes(3)), "it is cut short"),
    "more": (packed({"a": entry()}, bytes(5)), "bytes that belong to nothing"),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "no object of strings"),
    "metadata of none": (packed({"__metadata__": None}), "no object of strings"),
    "no metadata": (packed({"a": entry()}, bytes(4)), "does not say format='adafactor-core state'"),
    "foreign metadata": (
        packed({"__metadata__": {"format": "pt"}, "a": entry()}, bytes(4)), "does not say format"
    ),
    "no version": (described(schema_version=None), "schema version '', which is no number"),
    "version": (described(schema_version="one"), "schema version 'one', which is no number"),
    "Arabic digits": (described(schema_version="\u0661"), "which is no number"),
    "the future": (
        described(schema_version="2"),
        "has schema version 2, .* reads 1. Update it: pip install --upgrade adafactor-core",
    ),
    "no record": (described(record=None), "its record is not JSON"),
    "record of a list": (described(record="[]"), "its record is no object of notes, options"),
    "more in the record": (described({"more": 1}), "its record is no object of"),
    "a key twice in the record": (described(record='{"step":1,"step":1}'), "'step' twice"),
    "NaN in the record": (described({"options": {"lr": float("nan")}}), "its record has NaN"),
    "step": (described({"step": -1}), "its step is no int from 0"),
    "step of bool": (described({"step": True}), "its step is no int from 0"),
    "step of float": (described({"step": 1.0}), "its step is no int from 0"),
    "skipped": (described({"skipped": -1}), "its count of skipped steps"),
    "variant": (described({"variant": None}), "its variant is no text"),
    "options": (described({"options": []}), "its options are no object"),
    "notes": (described({"notes": [1]}), "its notes are no texts"),
    "notes of none": (described({"notes": None}), "none of notes"),
    "tensors": (described({"tensors": {}}), "no list of tensors"),
    "a tensor of none": (described({"tensors": [None]}), "a tensor is no object of"),
    "more in a tensor": (described(tensor={"more": 1}), "a tensor is no object of"),
    "path": (described(tensor={"path": 1}), "a path that is no text"),
    "half a path": (described(tensor={"path": "\ud800"}), "a path that is no text"),
    "another path": (described(tensor={"path": "v"}), "'v' should have 'row', and no array"),
    "slots": (described(tensor={"slots": []}), "slots that are no object"),
    "unnamed array": (described(tensor={"slots": {"row": "float32"}}), "the array 'col/w', which"),
    "other dtype": (
        described(tensor={"slots": {"row": "int8", "col": "float32"}}), "its record says 'int8'"
    ),
    "no dtype in the record": (
        described(tensor={"slots": {"row": None, "col": "float32"}}), "its record says None"
    ),
    "shape": (described(tensor={"shape": [3, 2]}), r"should have it in float32 of shape \(3, 1\)"),
    "shape in the record": (described(tensor={"shape": [HUGE, HUGE]}), r"2\*\*60 elements"),
    "axes swapped": (described(tensor={"row_axes": [1], "col_axes": [0]}), r"of shape \(1, 3\)"),
    "axes out of range": (described(tensor={"col_axes": [2]}), "cannot have the row axes"),
    "negative axes": (described(tensor={"col_axes": [-1]}), "cannot have the row axes"),
    "axes twice": (described(tensor={"col_axes": [1, 1]}), "cannot have the row axes"),
    "axes in common": (described(tensor={"col_axes": [0, 1]}), "cannot have the row axes"),
    "axes of bools": (described(tensor={"col_axes": [True]}), "axes that are no list of ints"),
    "axes on one side": (described(tensor={"col_axes": []}), "or axes on a side"),
    "no axes": (described(tensor={"row_axes": [], "col_axes": []}), "lacks one of full"),
    "dtype": (described(tensor={"dtype": "int8"}), "a dtype that is none of float16, bfloat16"),
    "dtype of a list": (described(tensor={"dtype": []}), "a dtype that is none of"),
    "its skipped": (described(tensor={"skipped": "1"}), "the skipped steps of tensor 'w'"),
    "its step": (described(tensor={"step": 2**31}), "the step of tensor 'w' is no int"),
    "unknown slot": (
        described(
            tensor={"slots": {"row": "float32", "col": "float32", "more": "float32"}},
            arrays={"more/w": entry(shape=(0,), at=(20, 20))},
        ),
        "has 'more', which it cannot have",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_READ)
def test_safetensors(tmp_path, what):
    data, words = NOT_READ[what]
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(af.StateFileError, match=f"s is no state file .*{words}.*convert") as caught:
        read(tmp_path / "s")
    assert len(str(caught.value)) < 700


def test_the_same_file_unspoilt_is_read(tmp_path):
    (tmp_path / "s").write_bytes(described())
    assert read(tmp_path / "s").tensors[0].path == "w"


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(af.StateFileError, match="it is a folder"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def good(tmp_path):
    write(tmp_path / "good.npz", record())
    with zipfile.ZipFile(tmp_path / "good.npz") as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(members, file, **how):
    with zipfile.ZipFile(file, "w", how.pop("compression", zipfile.ZIP_STORED)) as archive:
        for name, data in members:
            archive.writestr(name, data)


def saved(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


class Bomb:
    """Unpickled, it would leave a mark."""

    fired = False

    def __reduce__(self):
        return setattr, (Bomb, "fired", True)


def npz_of(tmp_path, what):
    """A spoilt npz file, and what is said about it."""
    members, file = good(tmp_path), tmp_path / "bad.npz"
    name = "full/row%2Fw.npy"
    data = members[name]
    spoilt = {
        "objects": (saved(np.array([Bomb()], dtype=object)), "Python objects, which are never"),
        "a pickle": (pickle.dumps(Bomb()), "no .npy of a version that is known"),
        "big-endian": (saved(np.zeros((5, 2, 2), ">f8")), "'>f8': an unknown dtype"),
        "structured": (saved(np.zeros(5, [("a", "f4")])), "header that NumPy would not write"),
        "Fortran's order": (saved(np.zeros((5, 2, 2), order="F")), "in Fortran's order"),
        "short": (data[:-1], "takes 160 bytes, and its member has 159"),
        "long": (data + b"\0", "takes 160 bytes, and its member has 161"),
        "a bomb": (data[:128].replace(b"(5, 2, 2)", b"(5, 2,8**9)"), "NumPy would not write"),
        "huge": (data.replace(b"(5, 2, 2), } ", b"(9999999999,)} "), "NumPy would not write"),
        "large": (data.replace(b"(5, 2, 2), }    ", b"(5, 2, 2222), } "), "takes 177760 bytes"),
        "header's length": (data[:8] + b"\xff\xff" + data[10:], "header of 65535 bytes"),
        "code": (data.replace(b"'fortran_order': False", b"'fortran_order':exit()"), "would not"),
        "nothing": (b"", "no .npy of a version"),
        "other shape": (saved(np.zeros((2, 5, 2))), r"should have it in float64 of shape \(5,"),
    }
    if what in spoilt:
        members[name], words = spoilt[what]
        zipped(members.items(), file)
    elif what == "compressed":
        zipped(members.items(), file, compression=zipfile.ZIP_DEFLATED)
        words = "is compressed; save it with np.savez"
    elif what == "a member twice":
        with pytest.warns(UserWarning, match="Duplicate name"):
            zipped([*members.items(), (name, data)], file)
        words = "has the member 'full/row%2Fw' twice"
    elif what == "an odd member":
        zipped([*members.items(), ("../../evil.txt", b"x")], file)
        words = "'../../evil.txt' is encrypted, or no .npy"
    elif what == "an odd array":
        zipped([*members.items(), ("../../evil.npy", data)], file)
        words = "the array '../../evil', which its record does not name"
    elif what == "no metadata":
        del members["__metadata__.npy"]
        zipped(members.items(), file)
        words = "does not say format"
    elif what == "metadata of floats":
        members["__metadata__.npy"] = saved(np.zeros(3))
        zipped(members.items(), file)
        words = "its __metadata__ is not JSON in bytes"
    elif what == "metadata of text":
        members["__metadata__.npy"] = saved(np.frombuffer(b"{", np.uint8))
        zipped(members.items(), file)
        words = "its __metadata__ is not JSON"
    elif what == "not a zip":
        file.write_bytes(b"PK\x03\x04" + bytes(100))
        words = "its zip directory cannot be read"
    elif what == "cut short":
        file.write_bytes((tmp_path / "good.npz").read_bytes()[:-30])
        words = "its zip directory cannot be read"
    else:
        whole = bytearray((tmp_path / "good.npz").read_bytes())
        start = whole.rindex(b"PK\x05\x06")
        directory = int.from_bytes(whole[start + 16 : start + 20], "little")
        at = {"two in one place": 42, "declared size": 24, "method": 10, "encrypted": 8}[what]
        second = whole.index(b"PK\x01\x02", directory + 1)
        if what == "two in one place":
            whole[second + at : second + at + 4] = bytes(4)
            words = "overlaps another|takes"
        elif what == "declared size":
            whole[second + at : second + at + 4] = struct.pack("<I", 2**32 - 2)
            words = "is compressed"
        else:
            whole[second + at] = {"method": 99, "encrypted": 1}[what]
            words = "is compressed|is encrypted"
        file.write_bytes(whole)
    return file, words


SPOILT = (
    "objects", "a pickle", "big-endian", "structured", "Fortran's order", "short", "long", "a bomb",
    "huge", "large", "header's length", "code", "nothing", "other shape", "compressed",
    "a member twice", "an odd member", "an odd array", "no metadata", "metadata of floats",
    "metadata of text", "not a zip", "cut short", "two in one place", "declared size", "method",
    "encrypted",
)  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_npz(tmp_path, what):
    file, words = npz_of(tmp_path, what)
    with pytest.raises(af.StateFileError, match=f"bad.npz is no state file .*({words})"):
        read(file)
    assert not Bomb.fired


def test_two_members_in_one_place(tmp_path):
    """Of equal sizes, so that nothing else is wrong with them."""
    zipped([(f"{n}.npy", saved(np.zeros(3))) for n in "ab"], tmp_path / "s")
    data = bytearray((tmp_path / "s").read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[second + 42 : second + 46] = bytes(4)
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(af.StateFileError, match="its member 'b' overlaps another"):
        read(tmp_path / "s")


def test_a_directory_that_claims_gigabytes(tmp_path):
    """It is a sparse file, so the claim is true."""
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, 2**31, 4, 0)
    with open(tmp_path / "s", "wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(4 + 2**31)
        file.seek(0, io.SEEK_END)
        file.write(end)
    with pytest.raises(af.StateFileError, match="its directory would have 2147483648 bytes"):
        read(tmp_path / "s")


def mutated(rng, whole):
    """One of the ways in which files break, and in which people break them."""
    data = bytearray(whole)
    how = rng.integers(8)
    if how == 0:  # bits anywhere
        for at in rng.integers(len(data), size=rng.integers(1, 6)):
            data[at] ^= 1 << rng.integers(8)
    elif how == 1:  # bits in the header, or in the directory
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(min(len(data), 4000))
            data[at if rng.random() < 0.5 else -1 - at] ^= 1 << rng.integers(8)
    elif how == 2:
        del data[rng.integers(len(data)) :]
    elif how == 3:  # a piece of it is missing, or comes twice
        start, stop = sorted(rng.integers(len(data), size=2))
        stop = min(stop, start + 40)
        data[start:stop] = data[start:stop] * 2 if rng.random() < 0.5 else b""
    elif how == 4:  # another length of the header
        data[:8] = int(rng.integers(0, 2 * len(data))).to_bytes(8, "little")
    elif how == 5:  # a digit, of a shape or an offset or a step
        digits = [k for k, c in enumerate(data) if 48 <= c < 58]
        for at in rng.choice(digits, size=rng.integers(1, 4)):
            data[at] = rng.choice(list(b"0123456789-.e"))
    elif how == 6:  # a word of JSON in the place of another
        words = [b"null", b"true", b"[]", b"{}", b"NaN", b"-1", b"1e999", b'"x"', b"[[[[", b"0.5"]
        at = rng.integers(8, min(len(data), 4000))
        word = bytes(rng.choice(words))
        data[at : at + len(word)] = word
    else:  # noise at the end
        data += rng.bytes(rng.integers(1, 50))
    return bytes(data)


def spliced(rng, whole):
    """Its header, with its own values in each other's places, and the right length."""
    n = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + n])
    inner = json.loads(header["__metadata__"]["record"])

    def places(value, out):
        for key in list(value if isinstance(value, dict) else range(len(value))):
            out.append((value, key))
            if isinstance(value[key], dict | list):
                places(value[key], out)
        return out

    for tree in (inner, header)[: rng.integers(1, 3)]:
        found = places(tree, [])
        odd = [None, True, -1, 2**63, 1.5, "", [], {}, "F32", "float32", [1], [0, 4], {"a": 1}]
        for _ in range(rng.integers(1, 3)):
            holder, key = found[rng.integers(len(found))]
            source, other = found[rng.integers(len(found))]
            value = odd[rng.integers(len(odd))] if rng.random() < 0.6 else source[other]
            holder[key] = json.loads(json.dumps(value))  # a copy: no cycles
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["record"] = json.dumps(inner)
    return packed(header, whole[8 + n :])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_mutated_files_are_read_or_refused(tmp_path, suffix):
    """And nothing else: no other error, no hang, no memory beyond what the file has."""
    file = tmp_path / f"s{suffix}"
    write(file, record())
    whole, verdicts, longest = file.read_bytes(), Counter(), 0
    rng = np.random.default_rng(0)
    for k in range(2000):
        splice = suffix == ".safetensors" and k % 3 == 0
        file.write_bytes((spliced if splice else mutated)(rng, whole))
        try:
            found = read(file)
        except af.StateFileError as error:
            verdicts["refused"] += 1
            longest = max(longest, len(str(error)))
            continue
        assert isinstance(found, Record)
        verdicts["read"] += 1
        if verdicts["read"] % 10 == 0:  # what is read can be written, and is the same
            write(tmp_path / "again", found)
            assert plain(read(tmp_path / "again")) == plain(found)
    assert min(verdicts["read"], verdicts["refused"]) > 100, verdicts
    assert longest < 1500


def test_reading_hostile_files_takes_little_memory(tmp_path):
    """Of the process, as the system sees it, over all of the above that claim to be large."""
    if sys.platform != "linux":
        pytest.skip("ru_maxrss is in kilobytes on Linux alone")
    names = [k for k in NOT_READ if any(w in k for w in ("beyond", "overflow", "deep", "endless"))]
    for k, name in enumerate(names):
        (tmp_path / str(k)).write_bytes(NOT_READ[name][0])
    program = (
        "import resource, sys\n"
        "from adafactor_core import StateFileError, interchange\n"
        "at = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = at()\n"
        "for f in sys.argv[1:]:\n"
        "    try: interchange.read(f); raise SystemExit(f'{f} was read')\n"
        "    except StateFileError: pass\n"
        "print(at() - before)"
    )
    files = [str(tmp_path / str(k)) for k in range(len(names))]
    run = [sys.executable, "-c", program, *files]
    done = subprocess.run(run, check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) < 20_000
